"""The config JSON: what the reference's programs read, and what a model of ours needs beyond it."""

from .errors import ImportRefused, shown
from .safetensors_io import load_json

CONFIG_BYTES_MAX = 1 << 20


class Fields:
    """Fields of the config's top level and of its section `flow`, where the reference keeps the architecture."""

    def __init__(self, config):
        self._config = config
        flow = config.get("flow", {})
        self._flow = flow if isinstance(flow, dict) else {}
        self.assumed = []  # what the config did not say, for the user

    def value(self, *names):
        """(name, value) of the first of `names` that is there, as it is, or (None, None)."""
        for name in names:
            for section in (self._flow, self._config):
                if section.get(name) is not None:
                    return name, section[name]
        return None, None

    def get(self, kind, *names):
        """The value under the first of `names` that is there, of type `kind`, or None."""
        name, value = self.value(*names)
        return None if name is None else _checked(value, kind, name)

    def get_or(self, kind, name, default):
        value = self.get(kind, name)
        if value is None:
            self.assumed.append(f"{name} {default}")
            return default
        return value


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


def event_shape(fields, *names):
    """The field of that name, one size for each of `names`, or None."""
    event = fields.get(list, "event_shape")
    if event is not None and not (len(event) == len(names) and all(type(n) is int and 0 < n < 2**31 for n in event)):
        raise ImportRefused(f"--config: event_shape: expected [{', '.join(names)}]")
    return event


def agree(what, config, checkpoint):
    """What the config says, if it says anything, must be what the checkpoint holds."""
    if config is not None and config != checkpoint:
        raise ImportRefused(f"--config: {what} is {shown(config)}, the checkpoint has {shown(checkpoint)}")


def read(path):
    """The config as a dict."""
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
    return config
