"""The reference's image flow -> our flow_spec and tensors (docs/checkpoint_format.md)."""

import math
import re

import numpy as np

from .butterfly import butterfly
from .errors import ImportRefused
from .image_settings import DEFAULT_SIDE
from .pickle_machine import Tensor
from .settings import agree
from .state_dict import Source, check_counts
from .torch_file import TorchFile

_STEP = re.compile(r"blocks\.([0-9]+)\.(?:steps\.([0-9]+)|prior)\..*")
_FACTOR = re.compile(r"(?:blocks\.([0-9]+)\..*)?butterfly\.model\.([0-9]{1,3})\.w1")
CHANNEL_NAMES = {1: ("grey",), 3: ("red", "green", "blue")}
CODES = 256  # of a pixel


def read_permutation(path, size):
    """What random_perm_NAME.pth holds: out[k] = in[permutation[k]], on the whole image."""
    file = TorchFile(path, "--permutation")
    try:
        value = file.value
        tensor = value[0] if isinstance(value, (list, tuple)) and len(value) == 1 else None
        if not isinstance(tensor, Tensor) or tensor.dtype != "int64":
            raise ImportRefused("--permutation: expected a list with one int64 tensor, as the reference writes it")
        if tensor.shape != (size,):
            raise ImportRefused(
                f"--permutation: has shape {list(tensor.shape)}, expected [{size}], one for each value of the image"
            )
        permutation = file.array(tensor, "--permutation")
    finally:
        file.close()
    if not np.array_equal(np.sort(permutation), np.arange(size)):
        raise ImportRefused(f"--permutation: not a permutation of 0 to {size - 1}")
    return permutation.astype(np.int64)


def _permutation(path, size, settings):
    """The tensor, or None where images are not permuted."""
    if settings.permuted and not path:
        raise ImportRefused(
            "--permutation is missing: the config says that images are permuted, and the permutation is part of the "
            "model; the reference keeps it in random_perm_NAME.pth beside its program"
        )
    if path and settings.permuted is False:
        raise ImportRefused("--permutation is given, but the config says that images are not permuted")
    if not path and settings.permuted is None:
        settings.assumed.append("no_data_permute true (the reference permutes images unless it is run with that flag)")
    return read_permutation(path, size) if path else None


def _coupling(source, prefix, channels):
    changed = channels // 2
    name = prefix + "net.conv1.conv.bias"
    hidden = source.shape(name)
    if len(hidden) != 1 or hidden[0] < 1:
        raise ImportRefused(f"FILE: {name} has shape {list(hidden)}, expected [the hidden channels]")
    hidden = hidden[0]
    tensors = {}
    for n, (out, inside, side) in enumerate(
        ((hidden, channels - changed, 3), (hidden, hidden, 1), (2 * changed, hidden, 3))
    ):
        conv = f"{prefix}net.conv{n + 1}.conv."
        direction = source.take(conv + "weight_v", out, inside, side, side)
        if not direction.any(axis=(1, 2, 3)).all():
            raise ImportRefused(f"FILE: {conv}weight_v is 0 in all of an output channel: it has no direction")
        tensors[f"net.{n}.direction"] = direction
        tensors[f"net.{n}.gain"] = source.take(conv + "weight_g", out, 1, 1, 1).reshape(out)
        tensors[f"net.{n}.bias"] = source.take(conv + "bias", out)
    return {"kind": "conv2d_coupling", "hidden": hidden}, tensors


class _Converter:
    """Takes the layers one after the other; what the config says about each must be so."""

    def __init__(self, source, settings, names):
        self._source, self._settings = source, settings
        # Present anywhere: then nowhere missing.
        self.has_conv1x1 = any(".conv1x1." in name for name in names)
        self._most = {}  # factors by level, None: before the first one
        for level, factor in (_FACTOR.fullmatch(name).groups() for name in names if _FACTOR.fullmatch(name)):
            level = None if level is None else int(level)
            self._most[level] = max(self._most.get(level, 0), int(factor) + 1)
        in_steps = any(level is not None for level in self._most)
        if in_steps and None in self._most:
            raise ImportRefused("FILE: has butterflies both before the first level and in its steps")
        if self._most:
            agree("use_intermediate_perm", settings.use_intermediate_perm, in_steps)
        agree("use_conv1by1", settings.use_conv1by1, self.has_conv1x1)
        self.in_steps = in_steps

    def butterfly(self, prefix, level, size):
        """`level`: None for the butterfly before the first one."""
        for k in range(self._most.get(level, 0)):
            self._source.shape(f"{prefix}model.{k}.w1")
        fields, tensors = butterfly(self._source, prefix, size, may_share=False)
        if fields is None:
            return None, {}
        # With bi_direction the reference builds the mirrored factors and keeps the first half: widest first, whatever
        # reverse_perm says.
        reverse_perm = self._settings.reverse_perm
        if self._settings.bi_direction and "order" in fields:
            reverse_perm = True
        else:
            agree("bi_direction", self._settings.bi_direction, "bi_direction" in fields)
        if fields["factors"] > 1 and "order" in fields:
            agree("reverse_perm", reverse_perm, fields["order"] == "widest_first")
        return fields | {"flatten": "hwc" if self._settings.permute_channel else "chw"}, tensors

    def block(self, place, level, shape, coupling):
        """[(fields, tensors)] of a step, or of the like that precedes a split."""
        source, channels = self._source, shape[0]
        norm = {n: source.take(f"{place}actnorm.{n}", channels, 1, 1).reshape(channels) for n in ("log_scale", "bias")}
        layers = [({"kind": "act_norm"}, norm)]
        if self.has_conv1x1:
            weight = source.take(place + "conv1x1.weight", channels, channels)
            layers.append(({"kind": "conv1x1"}, {"weight": weight}))
        found = self.butterfly(place + "butterfly.", level, math.prod(shape))
        if found[0]:
            layers.append(found)
        layers.append(_coupling(source, f"{place}{coupling}.", channels))
        agree("hidden_channels", self._settings.hidden, layers[-1][0]["hidden"])
        return layers


def _check_factors(settings, levels, before):
    """One factor less on each level."""
    counts = []
    for level, blocks in enumerate(levels):
        found = {layer[0]["factors"] for block in blocks for layer in block if layer[0]["kind"] == "butterfly"}
        if len(found) > 1:
            raise ImportRefused(f"FILE: the butterflies of level {level} have {sorted(found)} factors: not all alike")
        counts.append(next(iter(found), 0))
    if settings.factors is not None:
        first = before or counts[0]
        agree("perm_layers, the number of butterfly factors,", settings.factors, first)
    if before:
        return
    for level, count in enumerate(counts):
        expected = max(counts[0] - level, 0)
        if count != expected:
            raise ImportRefused(
                f"FILE: the butterflies of level {level} have {count} factors, expected {expected}, one less per level"
            )


def _image_shape(source, settings):
    """(channels, height, width). Where the config does not tell the size, it is read from the first butterfly."""
    name = "blocks.0.steps.0.actnorm.log_scale"
    first = source.shape(name)
    if len(first) != 3 or first[0] < 4 or first[0] % 4:
        raise ImportRefused(f"FILE: {name} has shape {list(first)}, expected [4 times the image's channels, 1, 1]")
    channels = first[0] // 4
    agree("in_channels", settings.channel_count, channels)
    factors = [f for f in ("blocks.0.steps.0.butterfly.model.0.w1", "butterfly.model.0.w1") if f in source]
    factor = source.shape(factors[0]) if factors else ()
    values = 2 * factor[0] * factor[2] if len(factor) == 4 else 0
    if settings.size is None:
        side = math.isqrt(values // channels) if values else DEFAULT_SIDE
        if not values:
            settings.assumed.append(f"image_size {DEFAULT_SIDE}")
        elif channels * side * side != values:
            raise ImportRefused(f"--config: image_size is missing; {values} values of {channels} channels: no square")
        settings.size = (side, side)
    height, width = settings.size
    if values and values != channels * height * width:
        raise ImportRefused(
            f"--config: image_size: {channels} x {height} x {width} values, "
            f"the checkpoint's butterflies act on {values}"
        )
    return channels, height, width


def _step_counts(tensors):
    """Steps by level, as far as any name goes."""
    counts = {}
    for match in filter(None, map(_STEP.fullmatch, tensors)):
        level, step = int(match.group(1)), match.group(2)
        counts[level] = max(counts.get(level, 1), 1 if step is None else int(step) + 1)
    levels = max(counts, default=-1) + 1
    check_counts(levels, sum(counts.values()))
    return [counts.get(level, 1) for level in range(levels)]


def _flow_spec(settings, shape, pre, levels):
    names = CHANNEL_NAMES.get(shape[0], [f"channel{c}" for c in range(shape[0])])
    step = 2 ** (8 - settings.bits)
    channel = {"input_min": 0, "input_max": CODES - 1, "step": step, "lo": 0, "hi": CODES}
    return {
        "format": 1,
        "architecture": "image",
        "event_shape": list(shape),
        "sensitivity": settings.sensitivity,
        "allow_sampling": settings.allow_sampling,
        "channels": [{"name": name} | channel for name in names],
        "dequantisation": "uniform",
        "pre": pre,
        "levels": levels,
        "base": {"kind": "normal"},
    }


def _before_levels(converter, permutation_path, size, settings):
    """[(fields, tensors)] of the layers on the whole image, in the order applied."""
    layers = []
    permutation = _permutation(permutation_path, size, settings)
    if permutation is not None:
        layers.append(({"kind": "permutation"}, {"permutation": permutation}))
    if settings.use_logits:
        layers.append(({"kind": "logit"}, {}))
    butterflies = converter.butterfly("butterfly.", None, size)
    return layers + ([butterflies] if butterflies[0] else [])


def _level(converter, level, shape, steps, is_last):
    """(the level's fields, its blocks by the prefix of their tensors)"""
    blocks = {
        f"levels.{level}.blocks.{s}.": converter.block(f"blocks.{level}.steps.{s}.", level, shape, "coupling")
        for s in range(steps)
    }
    fields = {"squeeze": 2, "blocks": [_fields(block) for block in blocks.values()]}
    if not is_last:
        prior = converter.block(f"blocks.{level}.prior.", level, shape, "nice")
        blocks[f"levels.{level}.prior."] = prior
        fields["prior"] = _fields(prior)
    return fields | {"split": not is_last}, blocks


def _fields(layers):
    return [fields for fields, _ in layers]


def _check_architecture(counts, settings):
    agree("the number of levels", settings.levels, len(counts))
    if settings.steps is not None:
        steps = [settings.steps] * len(counts) if isinstance(settings.steps, int) else settings.steps
        agree("num_steps", ", ".join(map(str, steps)), ", ".join(map(str, counts)))


def convert(file, tensors, permutation_path, settings):
    """(flow_spec, tensors under our names)."""
    counts = _step_counts(tensors)
    _check_architecture(counts, settings)
    # A buffer that the reference refreshes once an epoch.
    tensors = {name: tensor for name, tensor in tensors.items() if not name.endswith(".conv1x1.weight_inv")}
    source = Source(file, tensors)
    shape = channels, height, width = _image_shape(source, settings)
    if height < 1 or width < 1 or height % 2 ** len(counts) or width % 2 ** len(counts):
        raise ImportRefused(
            f"--config: image_size: {height} x {width}, which 2^{len(counts)} (a squeeze on each level) does not divide"
        )
    converter = _Converter(source, settings, tensors)
    pre = _before_levels(converter, permutation_path, math.prod(shape), settings)
    blocks, levels, specs = {"pre.": pre}, [], []
    for level, steps in enumerate(counts):
        # The split before a level left half of the channels.
        channels, height, width = channels * (2 if level else 4), height // 2, width // 2
        spec, found = _level(converter, level, (channels, height, width), steps, level + 1 == len(counts))
        blocks |= found
        levels.append(found.values())
        specs.append(spec)
    source.finish()
    _check_factors(settings, levels, next((f["factors"] for f in _fields(pre) if f["kind"] == "butterfly"), 0))
    named = {
        f"{prefix}{k}.{name}": array
        for prefix, layers in blocks.items()
        for k, (_, arrays) in enumerate(layers)
        for name, array in arrays.items()
    }
    return _flow_spec(settings, shape, _fields(pre), specs), named
