"""What the importer takes from the config of an image model."""

from dataclasses import dataclass, field

from .errors import ImportRefused, shown
from .settings import Fields, event_shape

# What the reference assumes.
DEFAULT_SIDE, DEFAULT_BITS = 32, 8


@dataclass
class Settings:
    # None: whatever the checkpoint says.
    channel_count: int | None
    size: tuple | None  # height, width
    levels: int | None
    steps: list | int | None  # by level, or the same on all
    factors: int | None  # of the butterflies on the first level
    hidden: int | None
    use_conv1by1: bool | None
    use_intermediate_perm: bool | None
    reverse_perm: bool | None
    bi_direction: bool | None
    # Not to be seen in a checkpoint.
    permute_channel: bool
    use_logits: bool
    bits: int
    permuted: bool | None  # None: not told
    sensitivity: str
    allow_sampling: bool
    assumed: list = field(default_factory=list)  # what the config did not say, for the user


def _image_shape(fields):
    """(channels, (height, width)), None for what is not told. The reference's images are square."""
    event = event_shape(fields, "channels", "height", "width")
    channels = fields.get(int, "in_channels", "C")
    if event:
        return event[0], (event[1], event[2])
    height, width = fields.get(int, "H"), fields.get(int, "W")
    if (height is None) != (width is None):
        raise ImportRefused("--config: H and W: one is there without the other")
    side = fields.get(int, "image_size")
    if height is None and side is None:
        return channels, None
    return channels, (side, side) if height is None else (height, width)


def _steps(fields):
    name, steps = fields.value("num_steps", "steps")
    if not isinstance(steps, list):
        return fields.get(int, "num_steps", "steps")
    if not all(type(n) is int and n > 0 for n in steps):
        raise ImportRefused(f"--config: {name}: expected the number of steps on each level")
    return steps


def _factors(fields):
    """Of the butterflies. A list under `factors` is of the squeezes, one for each level."""
    _, squeezes = fields.value("factors")
    if isinstance(squeezes, list):
        if any(type(n) is not int or n != 2 for n in squeezes):
            raise ImportRefused("--config: factors: the squeeze of every level must be 2")
        factors = fields.get(int, "perm_layers")
    else:
        factors = fields.get(int, "perm_layers", "factors")
    return 0 if fields.get(bool, "use_perm") is False else factors


def _permuted(fields):
    told = {}
    for name, meaning in (("no_data_permute", False), ("data_permute", True), ("fixed_permutation", True)):
        value = fields.get(bool, name)
        if value is not None:
            told[name] = value is meaning
    if len(set(told.values())) > 1:
        raise ImportRefused(f"--config: {' and '.join(told)}: these contradict each other")
    return next(iter(told.values()), None)


def _refuse_what_is_not_supported(fields):
    for names, expected in (
        (("dequantisation", "dequant"), "uniform"),
        (("scale",), True),  # couplings without a scale
        (("shared",), False),
        (("rotate",), False),
    ):
        for name in names:
            value = fields.get(type(expected), name)
            if value is not None and value != expected:
                raise ImportRefused(
                    f"--config: {name}: {shown(value)} is not supported for images, only {shown(expected)}"
                )
    if fields.value("butterfly_partitions")[0]:
        raise ImportRefused("--config: butterfly_partitions: not supported; the reference's program cannot use it")


def _bits(fields):
    bits = fields.get(int, "n_bits", "bits")
    if bits is None:
        fields.assumed.append(f"n_bits {DEFAULT_BITS}")
        return DEFAULT_BITS
    if not 1 <= bits <= 8:
        raise ImportRefused(f"--config: n_bits: expected 1 to 8 bits, found {bits}")
    return bits


def parse(config):
    """Settings of a parsed config. The reference's own configs may hold any other field."""
    fields = Fields(config)
    _refuse_what_is_not_supported(fields)
    channel_count, size = _image_shape(fields)
    return Settings(
        channel_count=channel_count,
        size=size,
        levels=fields.get(int, "levels"),
        steps=_steps(fields),
        factors=_factors(fields),
        hidden=fields.get(int, "hidden_channels", "hidden"),
        use_conv1by1=fields.get(bool, "use_conv1by1"),
        use_intermediate_perm=fields.get(bool, "use_intermediate_perm"),
        reverse_perm=fields.get(bool, "reverse_perm"),
        bi_direction=fields.get(bool, "bi_direction"),
        permute_channel=fields.get(bool, "permute_channel") is True,
        use_logits=fields.get(bool, "use_logits") is True,
        bits=_bits(fields),
        permuted=_permuted(fields),
        sensitivity=fields.get(str, "sensitivity") or "none",
        allow_sampling=fields.get(bool, "allow_sampling") is not False,
        assumed=fields.assumed,
    )
