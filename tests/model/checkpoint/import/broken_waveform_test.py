"""Waveform checkpoints that must be refused: tensors that do not fit their storages or the model, wrong extras."""

import collections
import unittest

import numpy as np

from importing import CHECKPOINT, DATA, golden_extra, golden_weights, safetensors_io
from torch_writer import T, archive, records_of, torch_bytes
from watched import WatchedCase

WEIGHTS = golden_weights()
FIRST = "target_flow.blocks.0.bn_flow_0_0.weight"


def state(**changed):
    value = collections.OrderedDict((name, T(array)) for name, array in WEIGHTS.items())
    value.update(changed)
    return value


class BrokenWaveformTest(WatchedCase):
    def tensor(self, array, **changed):
        return torch_bytes(state(**{FIRST: T(array, **changed)}))

    def test_tensors_that_do_not_fit_their_storage(self):
        good = WEIGHTS[FIRST]  # [1, 4]
        for changed, words in (
            ({"stride": (-4, 1)}, "with stride (-4, 1)"),
            ({"stride": (4, 2)}, "in a storage of 4 elements"),
            ({"offset": -1}, "with offset (-1)"),
            ({"offset": 1}, "in a storage"),
            ({"size": (1, 5)}, "in a storage"),
            ({"size": (2**40, 2**40)}, "in a storage"),
            ({"size": (2**64, 4)}, "with shape (18446744073709551616"),
            ({"size": (2**30, 4), "stride": (0, 1)}, "in a storage"),
            ({"size": (4,)}, "do not fit each other"),
            ({"size": [1, 4]}, "do not fit each other"),
            ({"size": (1, True)}, "with shape (1, True)"),
            ({"size": (1,) * 9 + (4,), "stride": (4,) * 9 + (1,)}, "do not fit each other"),
            ({"size": (1, 2.5)}, "with shape (1, 2.5)"),
            ({"size": (1, ((),) * 3)}, "with shape (1, tuple)"),
            ({"offset": 2**62}, "with offset"),
        ):
            with self.subTest(changed=changed):
                self.refused(words, self.tensor(good, **changed))
        records = records_of(state())
        for size, words in ((b"", "has 0 bytes"), (bytes(15), "has 15 bytes"), (bytes(4096), "has 4096 bytes")):
            self.refused("record data/0 " + words, archive(records | {"data/0": size}))
        del records["data/3"]
        self.refused("record data/3 is missing", archive(records))
        text = records_of(state())["data.pkl"]
        two_ways = text.replace(b"X\x01\x00\x00\x002", b"X\x01\x00\x00\x000", 1)
        self.refused("storage 0 is described in two ways", archive(records_of(state()) | {"data.pkl": two_ways}))
        other = text.replace(b"FloatStorage", b"FlatsStorage")
        self.refused("names torch.FlatsStorage", archive(records_of(state()) | {"data.pkl": other}))

    def test_weights_that_do_not_fit_the_model(self):
        good = WEIGHTS[FIRST]
        not_finite = good.copy()
        not_finite[0, 1] = np.nan
        for what, value, words in (
            ("float64", T(good.astype(np.float64)), "dtype float64"),
            ("int64", T(good.astype(np.int64)), "dtype int64"),
            ("float16", T(good.astype(np.float16)), "dtype float16"),
            ("transposed", T(good.T), "has shape [4, 1]"),
            ("NaN", T(not_finite), "not finite"),
            ("a number", 3, "is a int, expected a tensor"),
            ("a list", [1], "is a list"),
        ):
            with self.subTest(what=what):
                self.refused(words, torch_bytes(state(**{FIRST: value})))
        missing = state()
        del missing["target_flow.blocks.1.coupling_1_1.scale_net.2.bias"]
        self.refused("blocks.1.coupling_1_1.scale_net.2.bias is missing", torch_bytes(missing))
        for name, words in (
            ("target_flow.blocks.0.bn_flow_0_0.more", "an unexpected tensor"),
            ("target_flow.other", "no tensor of a waveform"),
            ("target_flow.blocks.0.bn_flow_1_0.weight", "no tensor of a waveform"),
            ("module." + FIRST, "occurs twice"),
            ("target_flow.blocks.9999.bn_flow_9999_0.weight", "levels"),
            ("target_flow.blocks.0.bn_flow_0_2.bias", "blocks"),
            ("target_flow.blocks.0.butterfly_0_0.model.7.w1", "an unexpected tensor"),
            ("flow.flow.blocks.0.steps.0.actnorm.bias", "no tensor of an image flow"),
        ):
            with self.subTest(name=name):
                self.refused(words, torch_bytes(state(**{name: T(good)})))
        factor = "target_flow.blocks.0.butterfly_0_0.model.0.w1"
        for shape in ((3, 2, 1, 2), (1, 2, 2, 2), (128, 2, 1, 2), (1, 2, 1, 3), (4,), (0, 2, 1, 2)):
            with self.subTest(shape=shape):
                self.refused("no factor of a butterfly", torch_bytes(state(**{factor: T(np.ones(shape, np.float32))})))
        self.refused("in no order", torch_bytes(state(**{factor: T(np.ones((4, 2, 1, 2), np.float32))})))
        for value in ({}, [], 3, "text", {"model": {}}, {"model": [1]}, {"epoch": 3}):
            self.refused("FILE: ", torch_bytes(value))
        # Finite, but no model: found by our program.
        singular = torch_bytes(state(**{factor: T(np.zeros((1, 2, 1, 2), np.float32))}))
        code, _ = self.run_import(self.write("singular.pt", singular))
        self.assertEqual(code, 65)
        self.assertFalse(self.repository.exists())

    def test_extras_that_do_not_fit(self):
        p, sign = "target_flow.blocks.0.luinvmm_0_0.P", "target_flow.blocks.0.luinvmm_0_0.sign_S"
        extra, eye = golden_extra(), np.eye(4, dtype=np.float32)
        for change, words in (
            ({p: eye * 2}, "not a permutation matrix"),
            ({p: eye[[0, 0, 1, 2]]}, "not a permutation matrix"),
            ({p: eye[:3]}, "has shape [3, 4]"),
            ({p: eye * np.float32(np.nan)}, "not a permutation matrix"),
            ({sign: np.float32([1, -1, 0, 1])}, "1 and -1"),
            ({sign: np.float32([1, 1])}, "has shape [2]"),
            ({"target_flow.other": extra[sign]}, "target_flow.other"),
            ({"module." + p: eye}, "each once"),
            ({"target_flow.blocks.0.luinvmm_0_0.L": eye}, "no such layer"),
            ({"target_flow.blocks.5.luinvmm_5_0.P": eye}, "no such"),
        ):
            with self.subTest(change=list(change)):
                data = self.write("extra.safetensors", safetensors_io.serialize(extra | change, {}))
                self.refused(words, CHECKPOINT, extra=data)
        good = (DATA / "ck_wave.extra.safetensors").read_bytes()
        for length in (0, 7, 8, 9, 100, len(good) - 1):
            self.refused("--extra: ", CHECKPOINT, extra=self.write("cut.safetensors", good[:length]))
        for old, new in (
            (b'"F32"', b'"F16"'),
            (b"[4,4]", b"[4,5]"),
            (b"[0,64]", b"[0,-1]"),
            (b"[0,64]", b"[9,73]"),
            (b'"shape"', b'"SHAPE"'),
            (b"[4,4]", b"{}   "),
        ):
            self.refused("--extra: ", CHECKPOINT, extra=self.write("bad.safetensors", good.replace(old, new, 1)))
        self.refused("--extra: cannot be read", CHECKPOINT, extra=self.folder / "none")

if __name__ == "__main__":
    unittest.main()
