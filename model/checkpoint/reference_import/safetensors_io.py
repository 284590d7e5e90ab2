"""Safetensors files: 8 bytes little-endian header length N, N bytes of JSON, the data."""

import json
import math
import struct

import numpy as np

from .errors import ImportRefused, shown

FILE_BYTES_MAX = 64 << 20  # of a file to be read: permutations and signs only
HEADER_BYTES_MAX = 16 << 20
DTYPES = {"F32": np.dtype("<f4"), "F64": np.dtype("<f8"), "I64": np.dtype("<i8")}


def unique_keys(pairs):
    """For json.loads: a key that occurs twice is an error."""
    keys = dict(pairs)
    if len(keys) != len(pairs):
        raise ValueError("a key occurs twice")
    return keys


def load_json(text):
    """Raises ValueError for anything that is not strict JSON."""

    def refuse(constant):
        raise ValueError(f"{constant} is not JSON")

    try:
        return json.loads(text, object_pairs_hook=unique_keys, parse_constant=refuse)
    except RecursionError:
        raise ValueError("nested too deep") from None


def _is_count(value):
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**48


def _tensor(entry, body):
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if dtype not in DTYPES:
        raise ValueError(f"dtype {shown(dtype)}, expected F32, F64 or I64")
    if not (isinstance(shape, list) and len(shape) <= 8 and all(map(_is_count, shape))):
        raise ValueError("an impossible shape")
    if not (isinstance(offsets, list) and len(offsets) == 2 and all(map(_is_count, offsets))):
        raise ValueError("impossible data_offsets")
    begin, end = offsets
    if not (begin <= end <= len(body) and end - begin == math.prod(shape) * DTYPES[dtype].itemsize):
        raise ValueError(f"data_offsets {offsets} do not fit shape {shape} in {len(body)} bytes")
    return np.frombuffer(body[begin:end], DTYPES[dtype]).reshape(shape)


def read(path, what):
    """Arrays by name."""
    try:
        with open(path, "rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ImportRefused(f"{what}: cannot be read: {error.strerror}") from None
    if len(data) > FILE_BYTES_MAX:
        raise ImportRefused(f"{what}: more than {FILE_BYTES_MAX} bytes")
    length = struct.unpack("<Q", data[:8])[0] if len(data) >= 8 else len(data)
    if length > min(HEADER_BYTES_MAX, len(data) - 8):
        raise ImportRefused(f"{what}: not a safetensors file, or a truncated one")
    try:
        header = load_json(data[8 : 8 + length].decode("utf-8"))
        if not isinstance(header, dict):
            raise ValueError("not an object")
    except ValueError as error:
        raise ImportRefused(f"{what}: the header is no JSON object: {shown(str(error))}") from None
    body, tensors = data[8 + length :], {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        try:
            if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
                raise ValueError("expected dtype, shape and data_offsets")
            tensors[name] = _tensor(entry, body)
        except (ValueError, TypeError) as error:
            raise ImportRefused(f"{what}: tensor {shown(name)}: {shown(str(error), 200)}") from None
    return tensors


def serialize(tensors, metadata):
    """The bytes of a file; float32 and int64 arrays only."""
    names = {np.dtype("float32"): "F32", np.dtype("int64"): "I64"}
    header, parts, offset = {"__metadata__": metadata}, [], 0
    for name, array in tensors.items():
        part = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<")).tobytes()
        header[name] = {
            "dtype": names[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [offset, offset + len(part)],
        }
        parts.append(part)
        offset += len(part)
    text = json.dumps(header).encode("ascii")
    return b"".join([struct.pack("<Q", len(text)), text, *parts])
