"""Names of an image checkpoint of the reference: it holds each weight 8 or 16 times (docs/import.md)."""

import re

from .errors import ImportRefused, shown

# flow.flow.blocks... without module_dict is what the reference computes with. target_flow.* is the same module, and
# so is the flow below module_dict but for the butterflies of prior steps, which are not always those in use.
_NAME = re.compile(r"((?:(?:module|flow|target_flow)\.)*)((?:blocks|butterfly|module_dict)\..+)")
_KEY = re.compile(
    r"blocks\.[0-9]{1,4}\.(?:steps\.[0-9]{1,4}|prior)\.(?:actnorm|conv1x1|butterfly|coupling|nice)\.[A-Za-z0-9_.]+"
    r"|butterfly\.[A-Za-z0-9_.]+"
)
_IMAGE = re.compile(r"(?:^|\.)blocks\.[0-9]+\.(?:module_dict\.)?(?:steps|prior)\.")


def recognises(names):
    """Whether any of the names is one of an image flow."""
    return any(_IMAGE.search(name) for name in names)


def _rank(wrappers):
    """Which of several copies is taken: the first."""
    parts = set(wrappers.split(".")) - {"", "module"}
    return 2 if "target_flow" in parts else 0 if parts else 1


def below_flow(tensors):
    """The tensors by their names below the flow, `blocks.L.steps.S...`, `blocks.L.prior...` or `butterfly...`."""
    ranks, copies = {}, {}
    for name, tensor in tensors.items():
        match = _NAME.fullmatch(name)
        short = match.group(2).replace("module_dict.", "") if match else ""
        if not _KEY.fullmatch(short):
            raise ImportRefused(f"FILE: {shown(name)!r}: no tensor of an image flow")
        if "module_dict." in match.group(2):
            copies[name] = short
            continue
        found = ranks.setdefault(_rank(match.group(1)), {})
        if short in found:
            raise ImportRefused(f"FILE: {shown(short)} occurs twice, under different prefixes")
        found[short] = tensor
    chosen = ranks.pop(min(ranks), {}) if ranks else {}
    for found in ranks.values():
        copies.update(zip(found, found))
    for name, short in copies.items():
        if short not in chosen:
            raise ImportRefused(f"FILE: {shown(short)} is missing, though {shown(name)!r}, a copy of it, is there")
    return chosen
