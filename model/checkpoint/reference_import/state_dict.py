"""What the checkpoints of both programs of the reference share: where the weights lie, and which of them to take."""

import re
from dataclasses import dataclass

import numpy as np

from .errors import ImportRefused, shown
from .pickle_machine import Tensor

LEVELS_MAX, BLOCKS_MAX = 16, 1024  # docs/checkpoint_format.md
_RAW = re.compile(r"(?:module\.)*ema_model\.")  # the weights in training, where an average is kept
_COPY = re.compile(r"(?:module\.)*ema_model_copy\.")  # the average as of the last evaluation


def weights_of(value):
    """The weights by name, from an OrderedDict or from a dict with one in `model`."""
    if not isinstance(value, dict):
        raise ImportRefused(f"FILE: holds a {type(value).__name__}, expected a dict of tensors")
    weights = value["model"] if isinstance(value.get("model"), dict) else value
    if not weights:
        raise ImportRefused("FILE: holds no tensors")
    for name, tensor in weights.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise ImportRefused(
                f"FILE: {shown(name)!r} is a {type(tensor).__name__}, expected a tensor: this is neither a "
                "state dict nor a checkpoint with one in `model`"
            )
    return weights


def _helper(value, weights):
    """The averages that a checkpoint keeps beside the model; {} if it keeps none."""
    found = value.get("ema_helper") if weights is not value else None
    if not isinstance(found, dict):
        return {}
    for name, tensor in found.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise ImportRefused(f"FILE: ema_helper: {shown(name)!r} is a {type(tensor).__name__}, expected a tensor")
    return found


@dataclass
class Weights:
    tensors: dict  # by the name below the flow
    averaged: bool  # some are moving averages


def select(value, below_flow, raw):
    """The moving averages where there are any, else, or where `raw`, the weights as they were trained.

    `below_flow({name: tensor})` gives tensors their names below the flow and refuses those of no flow.
    """
    weights = weights_of(value)
    flow, trained, copy = {}, {}, {}
    for name, tensor in weights.items():
        is_copy, is_trained = _COPY.match(name), _RAW.match(name)
        if is_copy:
            copy[name[is_copy.end() :]] = tensor
        elif is_trained:
            trained[name[is_trained.end() :]] = tensor
        else:
            flow[name] = tensor
    chosen, trained = below_flow(flow), below_flow(trained)
    average = below_flow(_helper(value, weights) or copy)
    for name, tensor in (trained if raw else average).items():
        if name not in chosen:
            raise ImportRefused(f"FILE: {shown(name)} is in a copy of the weights, but not in the model")
        chosen[name] = tensor
    return Weights(chosen, averaged=bool(average) and not raw)


class Source:
    """Hands out each tensor once, checked; what is left at the end is an error."""

    def __init__(self, file, tensors):
        self._file, self._tensors = file, dict(tensors)

    def __contains__(self, name):
        return name in self._tensors

    def shape(self, name):
        if name not in self._tensors:
            raise ImportRefused(f"FILE: {name} is missing")
        return self._tensors[name].shape

    def take(self, name, *shape):
        found = self.shape(name)
        if found != shape:
            raise ImportRefused(f"FILE: {name} has shape {list(found)}, expected {list(shape)}")
        tensor = self._tensors.pop(name)
        if tensor.dtype != "float32":
            raise ImportRefused(f"FILE: {name} has dtype {tensor.dtype}, the reference's weights are float32")
        array = self._file.array(tensor, name)
        if not np.isfinite(array).all():
            raise ImportRefused(f"FILE: {name} has values that are not finite")
        return array

    def finish(self):
        if self._tensors:
            raise ImportRefused(f"FILE: {shown(next(iter(self._tensors)))}: an unexpected tensor")


def check_counts(levels, blocks):
    """Before anything is made for each of them."""
    if levels > LEVELS_MAX or blocks > BLOCKS_MAX:
        raise ImportRefused(
            f"FILE: {levels} levels and {blocks} blocks in all, at most {LEVELS_MAX} levels and {BLOCKS_MAX} blocks"
        )
