"""What the importer takes from the config of a waveform model."""

from dataclasses import dataclass, field

from .errors import ImportRefused, shown
from .settings import Fields, event_shape

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
    fields = Fields(config)
    mimic = config.get("dataset") == MIMIC
    event = event_shape(fields, "time steps", "channels")
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
