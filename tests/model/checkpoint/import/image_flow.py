"""The image flow that a flow_spec describes, in float64: a small evaluation of what the importer writes, for its tests.

With numpy alone; x [B, C, H, W] in the scaled unit.
"""

import math

import numpy as np


def _flat(x, layer):
    return (np.moveaxis(x, 1, -1) if layer["flatten"] == "hwc" else x).reshape(len(x), -1)


def _unflat(v, shape, layer):
    b, c, h, w = shape
    return np.moveaxis(v.reshape(b, h, w, c), -1, 1) if layer["flatten"] == "hwc" else v.reshape(shape)


def _butterfly(x, layer, weights):
    v, log_det = _flat(x, layer), 0.0
    n = layer["factors"]
    up = list(range(n))
    order = up if layer.get("order", "widest_first") == "widest_first" else up[::-1]
    order = up + up[::-1] if layer.get("bi_direction") else order
    assert len(order) == sum(name.startswith("factors.") for name in weights)
    for k, level in enumerate(order):
        w = weights[f"factors.{k}"]
        assert w.shape == (2**level, 2, v.shape[1] >> (level + 1), 2)
        pairs = v.reshape(len(v), 2**level, 2, -1)
        v = np.einsum("nbhj,bhjo->nboj", pairs, w).reshape(len(v), -1)
        log_det += np.linalg.slogdet(np.moveaxis(w, 2, 1))[1].sum()
    return _unflat(v, x.shape, layer), log_det


def _convolution(x, weights, n):
    direction, gain = weights[f"net.{n}.direction"], weights[f"net.{n}.gain"]
    w = direction * (gain / np.linalg.norm(direction.reshape(len(gain), -1), axis=1))[:, None, None, None]
    edge = w.shape[2] // 2
    windows = np.lib.stride_tricks.sliding_window_view(
        np.pad(x, ((0, 0), (0, 0), (edge, edge), (edge, edge))), w.shape[2:], axis=(2, 3)
    )
    return np.einsum("nchwij,ocij->nohw", windows, w) + weights[f"net.{n}.bias"][:, None, None]


def _coupling(x, layer, weights):
    assert len(weights["net.0.bias"]) == layer["hidden"]
    changed = x.shape[1] // 2
    kept = x[:, : x.shape[1] - changed]
    y = kept
    for n in range(3):
        y = _convolution(y, weights, n)
        if n < 2:
            y = np.where(y > 0, y, np.exp(np.minimum(y, 0)) - 1)
    shift, s = y[:, :changed], y[:, changed:]
    log_scale = -np.logaddexp(0, -(s + 2))
    return np.concatenate([kept, x[:, -changed:] * np.exp(log_scale) + shift], 1), log_scale.sum(axis=(1, 2, 3))


def _layer(x, layer, weights):
    kind, pixels = layer["kind"], x.shape[2] * x.shape[3]
    if kind == "act_norm":
        log_scale = weights["log_scale"]
        y = x * np.exp(log_scale)[:, None, None] + weights["bias"][:, None, None]
        return y, pixels * log_scale.sum()
    if kind == "conv1x1":
        return np.einsum("oc,nchw->nohw", weights["weight"], x), pixels * np.linalg.slogdet(weights["weight"])[1]
    if kind == "butterfly":
        return _butterfly(x, layer, weights)
    if kind == "conv2d_coupling":
        return _coupling(x, layer, weights)
    if kind == "permutation":
        return x.reshape(len(x), -1)[:, weights["permutation"]].reshape(x.shape), 0.0
    assert kind == "logit"
    q = 1e-6 + (1 - 2e-6) * (x + 1) / 2
    log_det = (math.log((1 - 2e-6) / 2) - np.log(q) - np.log(1 - q)).sum(axis=(1, 2, 3))
    return np.log(q) - np.log(1 - q), log_det


def _squeeze(x):
    b, c, h, w = x.shape
    return np.concatenate([x[:, :, fh::2, fw::2] for fh in (0, 1) for fw in (0, 1)], 1)


def _unsqueeze(x):
    b, c, h, w = x.shape
    y = np.empty((b, c // 4, 2 * h, 2 * w))
    for place, part in enumerate(np.split(x, 4, 1)):
        y[:, :, place // 2 :: 2, place % 2 :: 2] = part
    return y


class _Tensors:
    def __init__(self, tensors):
        self._tensors = tensors
        self.left = set(tensors)

    def below(self, prefix):
        names = [name for name in self._tensors if name.startswith(prefix)]
        self.left -= set(names)
        return {name[len(prefix) :]: self._tensors[name] for name in names}


def evaluate(spec, tensors, x):
    """(z [B, C, H, W], log_det [B], log_p [B]); every tensor must be of use."""
    tensors = _Tensors({n: a.astype(np.float64) if a.dtype.kind == "f" else a for n, a in tensors.items()})
    log_det = np.zeros(len(x))

    def run(x, layers, prefix):
        nonlocal log_det
        for k, layer in enumerate(layers):
            x, change = _layer(x, layer, tensors.below(f"{prefix}{k}."))
            log_det = log_det + change
        return x

    assert list(x.shape[1:]) == spec["event_shape"]
    x = run(x, spec["pre"], "pre.")
    latents = []
    for l, level in enumerate(spec["levels"]):
        assert level["squeeze"] == 2
        x = _squeeze(x)
        for j, block in enumerate(level["blocks"]):
            x = run(x, block, f"levels.{l}.blocks.{j}.")
        x = run(x, level.get("prior", []), f"levels.{l}.prior.")
        if level["split"]:
            half = x.shape[1] // 2
            latents.append(x[:, half:])
            x = x[:, :half]
    assert not tensors.left, tensors.left
    z = _unsqueeze(x)
    for latent in reversed(latents):
        z = _unsqueeze(np.concatenate([z, latent], 1))
    log_p = log_det - (z**2 + math.log(2 * math.pi)).sum(axis=(1, 2, 3)) / 2
    return z, log_det, log_p
