#!/usr/bin/env python3
"""Writes corpus/*.safetensors and corpus/index.json: small broken model files, each named by what is wrong
with it, and the part of the message with which it must be refused. Standard library only; the output
depends on nothing but this file."""
import copy
import json
import pathlib
import struct

FOLDER = pathlib.Path(__file__).resolve().parent / "corpus"
PREFIX = "levels.0.blocks.0."
CHANNEL = {"unit": "mV", "gain": 1, "baseline": 0, "step": 1, "input_min": -10, "input_max": 10,
           "lo": -10, "hi": 10}
SPEC = {"format": 1, "architecture": "waveform", "event_shape": [4, 1], "sampling_rate_hz": 125,
        "sensitivity": "none", "channels": [dict(CHANNEL, name="II")], "dequantisation": "uniform",
        "levels": [{"squeeze": 2, "blocks": [[{"kind": "act_norm"}, {"kind": "lu_matmul"},
                                              {"kind": "butterfly", "factors": 2}]]}]}


def floats(*values):
    return struct.pack(f"<{len(values)}f", *values)


def tensors():
    """Name: [dtype, shape, bytes]."""
    return {
        PREFIX + "0.log_scale": ["F32", [2], floats(0.1, 0.2)],
        PREFIX + "0.bias": ["F32", [2], floats(0, 1)],
        PREFIX + "1.lower": ["F32", [2, 2], floats(0, 0, 0.5, 0)],
        PREFIX + "1.upper": ["F32", [2, 2], floats(0, 0.5, 0, 0)],
        PREFIX + "1.log_diagonal": ["F32", [2], floats(0, 0.25)],
        PREFIX + "1.diagonal_sign": ["F32", [2], floats(1, -1)],
        PREFIX + "1.permutation": ["I64", [2], struct.pack("<2q", 1, 0)],
        PREFIX + "2.factors.0": ["F32", [1, 2, 1, 2], floats(1, 0, 0, 1)],
        PREFIX + "2.factors.1": ["F32", [2, 2, 1, 2], floats(1, 0, 0, 1, 0, -1, 1, 0)],
    }


def build(entries, spec=None, edit=None, raw=None, tail=b""):
    """The bytes of a file. `edit` changes the header object, `raw` its text."""
    header = {"__metadata__": {"format": "butterflyflow/1", "producer": "make_corpus",
                               "flow_spec": json.dumps(spec or SPEC)}}
    data = b""
    for name, (dtype, shape, content) in entries.items():
        header[name] = {"dtype": dtype, "shape": shape,
                        "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    if edit:
        edit(header)
    text = json.dumps(header, separators=(",", ":"))
    if raw:
        text = raw(text)
    encoded = text if isinstance(text, bytes) else text.encode()
    return struct.pack("<Q", len(encoded)) + encoded + data + tail


def with_tensor(name, dtype=None, shape=None, content=None):
    entries = tensors()
    old = entries[PREFIX + name]
    entries[PREFIX + name] = [dtype or old[0], shape or old[1],
                              old[2] if content is None else content]
    return build(entries)


def without(name):
    entries = tensors()
    del entries[PREFIX + name]
    return build(entries)


def edited(name, field, value):
    def edit(header):
        header[PREFIX + name][field] = value
    return build(tensors(), edit=edit)


def with_spec(path, value):
    spec = copy.deepcopy(SPEC)
    target = spec
    for step in path[:-1]:
        target = target[step]
    target[path[-1]] = value
    return build(tensors(), spec=spec)


def cases():
    nan, inf = float("nan"), float("inf")
    bias = "tensor " + PREFIX + "0.bias: "
    shape_bias = '"shape":[2],"data_offsets":[8,16]'
    extra = dict(tensors(), **{"levels.9.bias": ["F32", [1], floats(0)]})
    good = build(tensors())
    layer = ["levels", 0, "blocks", 0, 2]
    return {
        "valid": (good, ""),
        "mixed_f32_f64": (with_tensor("0.bias", "F64", [2], struct.pack("<2d", 0, 1)),
                                   bias + "is F64, the float tensors before it are F32"),
        "nan_weight": (with_tensor("0.bias", content=floats(0, nan)), bias + "element 1"),
        "infinite_weight": (with_tensor("0.bias", content=floats(-inf, 0)), bias + "element 0"),
        "singular_2x2": (with_tensor("2.factors.1", content=floats(1, 0, 0, 1, 1, 2, 2, 4)),
                         "tensor " + PREFIX + "2.factors.1: 2x2 matrix [1,:,0,:]"),
        "tiny_determinant": (with_tensor("2.factors.0", content=floats(1e-6, 0, 0, 1e-6)),
                             "tensor " + PREFIX + "2.factors.0: 2x2"),
        "log_diagonal_out_of_range": (with_tensor("1.log_diagonal", content=floats(0, 20.5)),
                                      "tensor " + PREFIX + "1.log_diagonal: element 1"),
        "sign_is_not_one": (with_tensor("1.diagonal_sign", content=floats(1, 0)),
                            "tensor " + PREFIX + "1.diagonal_sign: element 1"),
        "permutation_repeats": (with_tensor("1.permutation", content=struct.pack("<2q", 1, 1)),
                                "tensor " + PREFIX + "1.permutation: is not a permutation"),
        "permutation_negative": (with_tensor("1.permutation", content=struct.pack("<2q", 0, -1)),
                                 "tensor " + PREFIX + "1.permutation: is not a permutation"),
        "permutation_is_float": (with_tensor("1.permutation", "F64"),
                                 "tensor " + PREFIX + "1.permutation: is F64, expected I64"),
        "missing_tensor": (without("1.permutation"),
                           "tensor " + PREFIX + "1.permutation: missing"),
        "extra_tensor": (build(extra), "tensor levels.9.bias: the flow_spec has no such tensor"),
        "transposed_shape": (edited("1.lower", "shape", [4]),
                             "tensor " + PREFIX + "1.lower: has shape [4], expected [2, 2]"),
        "overlap": (edited("0.bias", "data_offsets", [4, 12]), bias + "its data overlaps"),
        "hole": (edited("0.bias", "data_offsets", [12, 20]), bias + "a hole"),
        "reversed_offsets": (edited("0.bias", "data_offsets", [8, 0]), bias + "data_offsets do not"),
        "shape_overflows_64_bits": (edited("0.bias", "shape", [2**62, 4]), bias + "the size"),
        "shape_2_to_63": (edited("0.bias", "shape", [2**63]), bias + "shape has a number"),
        "zero_dimension": (edited("0.bias", "shape", [0]), bias + "shape has a dimension of 0"),
        "rank_9": (edited("0.bias", "shape", [1] * 8 + [2]), bias + "shape has more than 8"),
        "unknown_dtype": (edited("0.bias", "dtype", "BF16"), bias + "dtype is none of"),
        "unknown_field": (edited("0.bias", "comment", "x"), bias + "has a field besides"),
        "exponent": (build(tensors(), raw=lambda t: t.replace(
            shape_bias, shape_bias.replace("[2]", "[2e0]"))), bias + "shape has a number"),
        "minus_zero": (build(tensors(), raw=lambda t: t.replace("[0,8]", "[-0,8]")),
                       "tensor " + PREFIX + "0.log_scale: data_offsets has a number with a sign"),
        "duplicate_tensor": (build(tensors(), raw=lambda t: t[:-1] + ',"' + PREFIX + '0.bias":{}}'),
                             "duplicate key " + PREFIX + "0.bias"),
        "name_with_slash": (build(tensors(), raw=lambda t: t.replace(PREFIX + "0.bias", "../bias")),
                            "tensor number 1: its name"),
        "deep_nesting": (build(tensors(), raw=lambda t: t.replace(
            shape_bias, '"shape":' + "[" * 100 + "]" * 100)), bias + "shape"),
        "not_utf8": (build(tensors(), raw=lambda t: t.encode().replace(b"make_corpus", b"\xff\xfe")),
                     "not valid JSON"),
        "nul_then_more": (build(tensors(), raw=lambda t: t + "\0}"), "NUL"),
        "newline_after_brace": (build(tensors(), raw=lambda t: t + "\n"), "other than spaces"),
        "leading_space": (build(tensors(), raw=lambda t: " " + t), "does not start with"),
        "trailing_bytes": (build(tensors(), tail=b"\0"), "1 bytes behind the last tensor"),
        "polyglot_zip": (build(tensors(), tail=b"PK\5\6" + bytes(18)), "22 bytes behind"),
        "header_length_huge": (b"\xff" * 8 + good[8:], "header length"),
        "header_length_zero": (bytes(8) + good[8:], "header length"),
        "empty": (b"", "no header fits"),
        "valid_longer_event": (with_spec(["event_shape"], [8, 1]), ""),
        "spec_needs_more": (with_spec(layer + ["shared"], False),
                            "tensor " + PREFIX + "2.factors.0: has shape [1, 2, 1, 2]"),
        "spec_too_many_factors": (with_spec(layer + ["factors"], 3),
                                  "levels[0].blocks[0][2].factors: is 3"),
        "spec_unknown_field": (with_spec(layer + ["bias"], True),
                               "levels[0].blocks[0][2].bias: unknown field"),
    }


def main():
    FOLDER.mkdir(exist_ok=True)
    index = {}
    for name, (content, message) in cases().items():
        (FOLDER / f"{name}.safetensors").write_bytes(content)
        index[f"{name}.safetensors"] = message
    (FOLDER / "index.json").write_text(json.dumps(index, indent=1) + "\n")


if __name__ == "__main__":
    main()
