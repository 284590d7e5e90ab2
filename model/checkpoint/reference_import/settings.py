"""The config JSON: what the reference's programs read, and what a model of ours needs beyond it."""

from dataclasses import dataclass, field

from .errors import ImportRefused, shown
from .safetensors_io import load_json

CONFIG_BYTES_MAX = 1 << 20
# The reference's waveform program knows one data set: windows of 1,024 samples at 125 Hz of two signals.
MIMIC = "mimic"
MIMIC_WINDOW, MIMIC_SIGNALS = 1024, ("PLETH", "ABP")
DEFAULT_RATE_HZ = 125
CHANNEL_FIELDS = ("name", "unit", "gain", "baseline", "step", "input_min", "input_max", "lo", "hi")


@dataclass
class Settings:
    time_steps: int
    # None: whatever the checkpoint says.
    channel_count: int | None
    levels: int | None
    blocks: int | None
    factors: int | None
    hidden: int | None
    reverse_perm: bool | None
    bi_direction: bool | None
    shared: bool | None
    channels: list | None  # as in flow_spec
    sampling_rate_hz: float
    sensitivity: str
    dequantisation: str
    allow_sampling: bool
    signal_names: tuple = ()
    assumed: list = field(default_factory=list)  # what the config did not say, for the user


class _Fields:
    """Fields of the config's top level and of its section `flow`, where the reference keeps the architecture."""

    def __init__(self, config):
        self._config = config
        flow = config.get("flow", {})
        self._flow = flow if isinstance(flow, dict) else {}
        self.assumed = []

    def get(self, kind, *names):
        """The value under the first of `names` that is there, or None."""
        for name in names:
            for section in (self._flow, self._config):
                if section.get(name) is not None:
                    return self._checked(section[name], kind, name)
        return None

    def get_or(self, kind, name, default):
        value = self.get(kind, name)
        if value is None:
            self.assumed.append(f"{name} {default}")
            return default
        return value

    @staticmethod
    def _checked(value, kind, name):
        good = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
        if kind is int:
            good = good and 0 <= value < 2**31
        if not good:
            names = {
                int: "a whole number",
                bool: "true or false",
                str: "a text",
                list: "an array",
                (int, float): "a number",
            }
            raise ImportRefused(f"--config: {name}: expected {names[kind]}, found {shown(value)!r}")
        return value


def _channels(config):
    """Descriptions of channels, or None. Configs of experiments keep numbers of channels under the same name."""
    channels = config.get("channels")
    if not isinstance(channels, list) or not channels or all(type(c) is int for c in channels):
        return None
    for index, channel in enumerate(channels):
        if not isinstance(channel, dict) or not isinstance(channel.get("name"), str):
            raise ImportRefused(f"--config: channels[{index}]: expected an object with a name")
        unknown = sorted(set(channel) - set(CHANNEL_FIELDS))
        if unknown:
            raise ImportRefused(f"--config: channels[{index}].{shown(unknown[0])}: unknown field")
    return channels


def parse(config):
    """Settings of a parsed config. The reference's own configs may hold any other field."""
    fields = _Fields(config)
    mimic = config.get("dataset") == MIMIC
    event = fields.get(list, "event_shape")
    if event is not None and not (len(event) == 2 and all(type(n) is int and 0 < n < 2**31 for n in event)):
        raise ImportRefused("--config: event_shape: expected [time steps, channels]")
    time_steps = event[0] if event else fields.get(int, "T")
    if time_steps is None and mimic:
        time_steps = MIMIC_WINDOW
    if time_steps is None:
        raise ImportRefused(
            '--config: T is missing: the number of time steps of a window, which the checkpoint does not hold'
        )
    channels = _channels(config)
    return Settings(
        time_steps=time_steps,
        channel_count=event[1] if event else len(channels) if channels else fields.get(int, "C"),
        levels=fields.get(int, "levels"),
        blocks=fields.get(int, "num_blocks", "blocks"),
        factors=fields.get(int, "perm_layers", "factors"),
        hidden=fields.get(int, "hidden"),
        reverse_perm=fields.get(bool, "reverse_perm"),
        bi_direction=fields.get(bool, "bi_direction"),
        shared=fields.get(bool, "shared"),
        channels=channels,
        sampling_rate_hz=fields.get_or((int, float), "sampling_rate_hz", DEFAULT_RATE_HZ),
        sensitivity=fields.get_or(str, "sensitivity", "patient"),
        dequantisation=fields.get_or(str, "dequantisation", "none"),
        allow_sampling=fields.get(bool, "allow_sampling") is not False,
        signal_names=MIMIC_SIGNALS if mimic else (),
        assumed=fields.assumed,
    )


def read(path):
    try:
        with open(path, "rb") as file:
            data = file.read(CONFIG_BYTES_MAX + 1)
    except OSError as error:
        raise ImportRefused(f"--config: cannot be read: {error.strerror}") from None
    if len(data) > CONFIG_BYTES_MAX:
        raise ImportRefused(f"--config: more than {CONFIG_BYTES_MAX} bytes")
    try:
        config = load_json(data.decode("utf-8"))
    except ValueError as error:
        raise ImportRefused(f"--config: no JSON: {shown(str(error))}") from None
    if not isinstance(config, dict):
        raise ImportRefused("--config: expected an object")
    return parse(config)
