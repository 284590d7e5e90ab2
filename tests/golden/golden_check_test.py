#!/usr/bin/env python3
"""golden_check as a user runs it: on good vectors, on vectors spoilt in one value, on unusable input.

usage: golden_check_test.py GOLDEN_CHECK DATA
"""
import json
import pathlib
import shutil
import struct
import subprocess
import sys
import tempfile
import unittest

PROGRAM, DATA = sys.argv[1], pathlib.Path(sys.argv[2])
CASES = json.loads((DATA / "index.json").read_text())["cases"]


def run(*arguments):
    done = subprocess.run([PROGRAM, *map(str, arguments)], capture_output=True, text=True, timeout=250)
    return done.returncode, done.stdout, done.stderr


def spoil(path, tensor, change):
    """Applies `change` to the first float64 of a tensor of a safetensors file."""
    data = bytearray(path.read_bytes())
    header, = struct.unpack("<Q", data[:8])
    begin = 8 + header + json.loads(data[8:8 + header])[tensor]["data_offsets"][0]
    value, = struct.unpack("<d", data[begin:begin + 8])
    data[begin:begin + 8] = struct.pack("<d", change(value))
    path.write_bytes(data)


class GoldenCheckTest(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="bflow_golden_"))
        self.addCleanup(shutil.rmtree, self.folder)

    def write(self, cases):
        for case in cases:
            if (DATA / case["file"]).exists():
                shutil.copyfile(DATA / case["file"], self.folder / case["file"])
        (self.folder / "index.json").write_text(json.dumps({"cases": cases}))

    def one(self, kind):
        case = next(c for c in CASES if c["kind"] == kind)
        self.write([case])
        return self.folder / case["file"]

    def test_good_vectors_pass(self):
        code, out, _ = run(DATA)
        self.assertEqual(code, 0, out)
        lines = out.splitlines()
        self.assertEqual(len(lines), len(CASES) + 1)
        self.assertEqual(sum(line.startswith("ok ") for line in lines), len(CASES) - 1)
        self.assertEqual(sum(line.startswith("skip ") for line in lines), 1)
        self.assertIn("0 failed", lines[-1])

    def test_kinds_select(self):
        code, out, _ = run(DATA, "--kinds=squeeze1d,lu_matmul")
        self.assertEqual(code, 0, out)
        wanted = [c for c in CASES if c["kind"] in ("squeeze1d", "lu_matmul")]
        self.assertEqual(len(out.splitlines()), len(wanted) + 1)
        self.assertEqual(run(DATA, "--kinds=nothing")[0], 65)

    def test_a_spoilt_result_fails(self):
        for kind, tensor in (("butterfly_factor", "out.y"), ("butterfly_layer", "out.logdet"),
                             ("butterfly_partition", "out.inverse_of_y"), ("actnorm1d", "w.weight"),
                             ("actnorm1d", "init.y"), ("lu_matmul", "derived.W"),
                             ("coupling1d", "mid.t"), ("coupling1d", "mid.log_s"),
                             ("squeeze1d", "out.y"), ("latents1d", "out.latent_level1"),
                             ("actnorm2d", "w.log_scale"), ("conv1x1", "out.logdet"),
                             ("coupling2d", "after_init.conv2.conv.weight_g"),
                             ("coupling2d", "out.inverse_of_y"), ("latents2d", "out.latent_level0"),
                             ("butterfly_image", "out.y"), ("squeeze2d", "out.y"),
                             ("preprocess", "out.v_permuted"), ("preprocess", "out.logit_logdet"),
                             ("glow_step", "out.y"), ("prior_step", "out.logdet"),
                             ("image_flow", "out.bpd"), ("image_flow", "out.z"),
                             ("image_flow", "out.decoded_logp"), ("waveform_flow", "out.logp"), ("waveform_flow", "out.decoded"),
                             ("waveform_flow", "trace.coupling_1_0.y")):
            with self.subTest(kind=kind, tensor=tensor):
                path = self.one(kind)
                self.assertEqual(run(self.folder)[0], 0)
                spoil(path, tensor, lambda v: v + 1e-6)
                code, out, _ = run(self.folder)
                self.assertEqual(code, 1, out)
                self.assertTrue(out.startswith("FAIL "), out)

    def test_a_result_that_is_not_finite_fails(self):
        spoil(self.one("lu_matmul"), "out.y", lambda v: float("nan"))
        self.assertEqual(run(self.folder)[0], 1)

    def test_an_unsupported_kind_fails(self):
        self.write([{"name": "a", "kind": "spline", "file": "a.safetensors", "config": {}}])
        code, out, _ = run(self.folder)
        self.assertEqual(code, 1)
        self.assertIn("unsupported kind", out)

    def test_unusable_input_is_65(self):
        self.assertEqual(run(self.folder)[0], 65)  # no index
        for text in ("{", "[]", '{"cases": 1}', '{"cases": [{"name": "a"}]}', '{"cases": []}'):
            (self.folder / "index.json").write_text(text)
            code, _, _ = run(self.folder)
            self.assertEqual(code, 65, text)
        path = self.one("lu_matmul")
        path.write_bytes(path.read_bytes()[:-9])
        code, out, _ = run(self.folder)
        self.assertEqual(code, 65)
        self.assertTrue(out.startswith("FAIL "), out)
        path.unlink()
        self.assertEqual(run(self.folder)[0], 65)

    def test_wrong_usage_is_64(self):
        self.assertEqual(run()[0], 64)
        self.assertEqual(run(DATA, "--no_such_flag")[0], 64)
        self.assertEqual(run("--help")[0], 0)
        self.assertEqual(run("--version")[0], 0)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
