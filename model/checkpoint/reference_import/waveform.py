"""The reference's waveform flow -> our flow_spec and tensors (docs/checkpoint_format.md)."""

import re

import numpy as np

from .butterfly import butterfly
from .errors import ImportRefused, shown
from .settings import agree
from .state_dict import Source, check_counts

_WRAPPERS = r"(?:module\.)*(?:target_flow\.)?(?:(?:module|flow)\.)*"  # DataParallel, resumed runs
_KEY = re.compile(_WRAPPERS + r"(blocks\.([0-9]{1,4})\.([a-z_]+)_([0-9]{1,4})_([0-9]{1,4})\.([A-Za-z0-9_.]+))")


def normalised(name):
    """The name below the flow, `blocks.L.LAYER_L_J.rest`, or None for what is no tensor of a waveform flow."""
    match = _KEY.fullmatch(name)
    return match.group(1) if match and match.group(2) == match.group(4) else None


def _below_butterflies(name):
    # The average of the butterflies alone is named butterfly_L_J.model.K.w1.
    match = re.fullmatch(r"(?:module\.)*butterfly_([0-9]{1,4})_([0-9]{1,4})\.[A-Za-z0-9_.]+", name)
    return f"blocks.{match.group(1)}.{name[name.index('butterfly'):]}" if match else None


def below_flow(tensors):
    """The tensors by their names below the flow."""
    found = {}
    for name, tensor in tensors.items():
        short = normalised(name) or _below_butterflies(name)
        if short is None:
            raise ImportRefused(f"FILE: {shown(name)!r}: no tensor of a waveform flow")
        if short in found:
            raise ImportRefused(f"FILE: {shown(short)} occurs twice, under different prefixes")
        found[short] = tensor
    return found


class _Source(Source):
    """Beside the checkpoint's tensors those of --extra, each handed out once."""

    def __init__(self, file, tensors, extra):
        super().__init__(file, tensors)
        self._extra = extra
        self.missing_extra = []

    def take_extra(self, name, *shape):
        """None where it is missing: all of these are listed together."""
        array = self._extra.pop(name, None)
        if array is None:
            self.missing_extra.append("target_flow." + name)
        elif array.shape != shape:
            raise ImportRefused(f"--extra: {name} has shape {list(array.shape)}, expected {list(shape)}")
        return array

    def finish(self):
        super().finish()
        if self.missing_extra:
            raise ImportRefused(
                "the reference does not save the permutation P and the signs sign_S of its LU layers with the weights; "
                "without them the model cannot be restored. --extra=FILE.safetensors must hold "
                + ", ".join(self.missing_extra)
            )
        if self._extra:
            raise ImportRefused(f"--extra: {shown(next(iter(self._extra)))}: no such layer in the checkpoint")


def _permutation(matrix, name):
    """Columns of the ones: P[i, permutation[i]] = 1."""
    size = len(matrix)
    permutation = np.argmax(matrix, axis=1)
    if not np.array_equal(matrix, np.eye(size)[permutation]) or len(set(permutation)) != size:
        raise ImportRefused(f"--extra: {name}: not a permutation matrix")
    return permutation.astype(np.int64)


def _lu(source, prefix, channels):
    """W = P (strict_tril(L) + I) (strict_triu(U) + diag(sign_S exp(log_S))), y = x W: the same in both."""
    p = source.take_extra(prefix + "P", channels, channels)
    sign = source.take_extra(prefix + "sign_S", channels)
    tensors = {
        "lower": source.take(prefix + "L", channels, channels),
        "upper": source.take(prefix + "U", channels, channels),
        "log_diagonal": source.take(prefix + "log_S", channels),
    }
    if p is not None:
        tensors["permutation"] = _permutation(p, prefix + "P")
    if sign is not None:
        if not np.isin(sign, (-1, 1)).all():
            raise ImportRefused(f"--extra: {prefix}sign_S: expected 1 and -1 only")
        tensors["diagonal_sign"] = sign.astype(np.float32)
    return tensors


def _coupling(source, prefix, half):
    """Linear layers 0, 2, 4 of both nets; the activations between them are 1 and 3."""
    hidden = source.shape(prefix + "scale_net.0.bias")
    hidden = hidden[0] if len(hidden) == 1 else 0
    tensors = {}
    for theirs, ours in (("scale_net", "scale_net"), ("translate_net", "shift_net")):
        for n, (out, inside) in enumerate(((hidden, half), (hidden, hidden), (half, hidden))):
            tensors[f"{ours}.{n}.weight"] = source.take(f"{prefix}{theirs}.{2 * n}.weight", out, inside)
            tensors[f"{ours}.{n}.bias"] = source.take(f"{prefix}{theirs}.{2 * n}.bias", out)
    return {"kind": "affine_coupling", "hidden": hidden}, tensors


def _block(source, level, block, steps, channels):
    """[(fields, tensors)] of one block."""
    name = lambda layer: f"blocks.{level}.{layer}_{level}_{block}."
    norm = {
        "log_scale": source.take(name("bn_flow") + "weight", 1, channels).reshape(channels),
        "bias": source.take(name("bn_flow") + "bias", 1, channels).reshape(channels),
    }
    layers = [
        ({"kind": "act_norm"}, norm),
        ({"kind": "lu_matmul"}, _lu(source, name("luinvmm"), channels)),
        butterfly(source, name("butterfly"), steps * channels, may_share=True),
        _coupling(source, name("coupling"), channels // 2),
    ]
    return [layer for layer in layers if layer[0] is not None]


def _counts(tensors):
    """Levels and blocks, as far as any name goes."""
    levels = blocks = 0
    for name in tensors:
        _, level, _, _, block, _ = _KEY.fullmatch(name).groups()
        levels, blocks = max(levels, int(level) + 1), max(blocks, int(block) + 1)
    check_counts(levels, levels * blocks)
    return levels, blocks


def _agree_layer(settings, level, fields):
    if fields["kind"] == "affine_coupling":
        agree("hidden", settings.hidden, fields["hidden"])
    if fields["kind"] != "butterfly":
        return
    if settings.factors is not None:
        agree(f"the number of factors on level {level}", max(settings.factors - level, 0), fields["factors"])
    agree("bi_direction", settings.bi_direction, fields.get("bi_direction", False))
    if fields["factors"] > 1 and "order" in fields:
        agree("reverse_perm", settings.reverse_perm, fields["order"] == "widest_first")
    if not fields["shared"]:
        agree("shared", settings.shared, False)


def _flow_spec(settings, channel_count, levels):
    names = settings.signal_names
    if len(names) != channel_count:
        names = [f"channel{c}" for c in range(channel_count)]
    # Real numbers in the scaled unit need no converter (both ends 0: no range declared); of codes all must be told.
    defaults = {"input_min": 0, "input_max": 0, "lo": -1, "hi": 1} if settings.dequantisation == "none" else {}
    channels = [defaults | channel for channel in settings.channels or [{"name": name} for name in names]]
    return {
        "format": 1,
        "architecture": "waveform",
        "event_shape": [settings.time_steps, channel_count],
        "sampling_rate_hz": settings.sampling_rate_hz,
        "sensitivity": settings.sensitivity,
        "allow_sampling": settings.allow_sampling,
        "channels": channels,
        "dequantisation": settings.dequantisation,
        "levels": levels,
        "base": {"kind": "normal"},
    }


def convert(file, tensors, extra, settings):
    """(flow_spec, tensors under our names)."""
    shorter = {}
    for name, array in extra.items():
        short = normalised(name)
        if short is None or short in shorter:
            raise ImportRefused(
                f"--extra: {shown(name)}: expected target_flow.blocks.L.luinvmm_L_J.P and .sign_S, each once"
            )
        shorter[short] = array
    level_count, block_count = _counts(tensors)
    agree("the number of levels", settings.levels, level_count)
    agree("the number of blocks", settings.blocks, block_count)
    source = _Source(file, tensors, shorter)
    first = source.shape("blocks.0.bn_flow_0_0.weight")
    channels = first[1] if len(first) == 2 else 0
    if channels < 2 or channels % 2:
        raise ImportRefused(
            f"FILE: blocks.0.bn_flow_0_0.weight has shape {list(first)}, expected [1, an even number of channels]"
        )
    agree("the number of channels", settings.channel_count, channels // 2)
    levels, converted, steps = [], {}, settings.time_steps
    for level in range(level_count):
        # Squeeze doubles the channels; the split before it halved them: the same number on every level.
        if steps < 2 or steps % 2:
            raise ImportRefused(f"--config: T is {settings.time_steps}, which 2^{level_count} does not divide")
        steps //= 2
        blocks = [_block(source, level, block, steps, channels) for block in range(block_count)]
        for b, block in enumerate(blocks):
            if (
                settings.factors is not None
                and settings.factors > level
                and not any(f["kind"] == "butterfly" for f, _ in block)
            ):
                agree(f"the number of factors on level {level}", settings.factors - level, 0)
            for k, (fields, arrays) in enumerate(block):
                _agree_layer(settings, level, fields)
                converted.update({f"levels.{level}.blocks.{b}.{k}.{name}": array for name, array in arrays.items()})
        levels.append(
            {"squeeze": 2, "split": level + 1 < level_count, "blocks": [[f for f, _ in block] for block in blocks]}
        )
    source.finish()
    return _flow_spec(settings, channels // 2, levels), converted
