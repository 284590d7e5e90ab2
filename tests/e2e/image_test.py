"""Models of images behind a real server, through a client generated from proto/ and through bflow."""
import csv
import gzip
import math
import os
import pathlib
import re
import shutil
import signal
import struct
import subprocess
import tempfile
import unittest
import zlib

import grpc
import numpy as np

import programs
from programs import BIN, ROOT

flow, flow_grpc = programs.generate_stubs()
CENTER = flow.Dequantization(kind=flow.Dequantization.KIND_CENTER)
FP64 = flow.RequestOptions(score_dtype=flow.DATA_TYPE_FP64)


def tensor(x):
    x = np.ascontiguousarray(x)
    dtype = {np.uint8: flow.DATA_TYPE_UINT8, np.float32: flow.DATA_TYPE_FP32}[x.dtype.type]
    return flow.Tensor(dtype=dtype, shape=x.shape, data=x.tobytes())


def values(message):
    dtypes = {flow.DATA_TYPE_UINT8: "u1", flow.DATA_TYPE_INT16: "<i2", flow.DATA_TYPE_FP32: "<f4", flow.DATA_TYPE_FP64: "<f8"}
    return np.frombuffer(message.data, dtypes[message.dtype]).reshape(message.shape)


def png(image, bits=8):
    """A PNG file of an image [1 or 3, H, W]."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    channels, height, width = image.shape
    rows = image.transpose(1, 2, 0).reshape(height, -1).astype(">u2" if bits == 16 else "u1")
    lines = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", width, height, bits, {1: 0, 3: 2}[channels], 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def png_size(data):
    return struct.unpack(">II", data[16:24])


class ImageTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
        repository = cls.folder / "models"
        subprocess.run([BIN.parent / "tests/make_image_models", repository], check=True)
        shutil.copytree(ROOT / "deploy/models/icu-ecg", repository / "icu-ecg")
        cls.server = cls.enterClassContext(programs.Server(repository))
        cls.stub = flow_grpc.FlowServiceStub(cls.server.channel)
        cls.x = np.random.default_rng(1).integers(0, 256, (150, 3, 8, 8), np.uint8)

    def bflow(self, *args, code=0):
        done = programs.run("bflow", *args, f"--server={self.server.address}")
        self.assertEqual(done.returncode, code, f"{args}: {done.stdout}{done.stderr}")
        return done

    def rows(self, command, model, path, *flags):
        self.bflow(command, model, path, f"--out={self.folder}/rows.csv", *flags)
        with open(self.folder / "rows.csv", newline="") as file:
            return list(csv.DictReader(file))

    def loglik(self, model, path, *flags):
        rows = self.rows("loglik", model, path, "--seed=3", *flags)
        self.assertEqual([int(row["row"]) for row in rows], list(range(len(rows))))
        return [tuple(row[name] for name in ("row_status", "log_prob", "nats_per_dim", "bits_per_dim")) for row in rows]

    def request(self, x, model="pixels", **fields):
        return flow.LogLikelihoodRequest(model=flow.ModelSelector(name=model), x=tensor(x), options=FP64, **fields)

    def refused(self, code, text, call, request):
        with self.assertRaises(grpc.RpcError) as caught:
            call(request, timeout=30)
        self.assertEqual(caught.exception.code(), code, caught.exception.details())
        self.assertIn(text, caught.exception.details())

    def test_the_same_pixels_score_the_same_in_every_file(self):
        grey = self.x[:70, :1]
        folder = self.folder / "pngs"
        folder.mkdir()
        for i, image in enumerate(grey):
            (folder / f"{i:03}.png").write_bytes(png(image))
        idx = struct.pack(">IIII", 0x803, *grey[:, 0].shape) + grey.tobytes()
        (self.folder / "idx3-ubyte").write_bytes(idx)
        (self.folder / "idx3-ubyte.gz").write_bytes(gzip.compress(idx))
        np.save(self.folder / "grey.npy", grey)
        expected = self.loglik("grey", self.folder / "grey.npy")
        self.assertEqual(len(expected), 70)
        self.assertEqual({row[0] for row in expected}, {"OK"})
        for path in (self.folder / "idx3-ubyte", self.folder / "idx3-ubyte.gz", folder, str(folder) + "/"):
            self.assertEqual(self.loglik("grey", path), expected, path)
        self.assertEqual(self.loglik("grey", folder / "000.png"), expected[:1])

        records = self.x[:5].repeat(4, 2).repeat(4, 3)
        np.save(self.folder / "large.npy", records)
        (self.folder / "batch.bin").write_bytes(b"".join(b"\7" + image.tobytes() for image in records))
        self.assertEqual(self.loglik("large", self.folder / "batch.bin"), self.loglik("large", self.folder / "large.npy"))

    def test_several_draws_bound_the_likelihood_better(self):
        np.save(self.folder / "draws.npy", self.x[:20])
        one, many = ([float(row[3]) for row in self.loglik("pixels", self.folder / "draws.npy", f"--draws={n}")] for n in (1, 16))
        noise = flow.Dequantization(kind=flow.Dequantization.KIND_UNIFORM, seed=3, draws=16)
        reply = self.stub.LogLikelihood(self.request(self.x[:20], dequantization=noise))
        np.testing.assert_allclose(many, values(reply.bits_per_dim), rtol=1e-8)
        self.assertTrue(np.all(values(reply.log_prob) >= values(reply.log_prob_mean)))
        self.assertNotEqual(one, many)

    def test_bits_per_dim_and_types(self):
        reply = self.stub.LogLikelihood(self.request(self.x[:9], dequantization=CENTER))
        bits = (-values(reply.log_prob) + 192 * math.log(128)) / (192 * math.log(2))
        np.testing.assert_allclose(values(reply.bits_per_dim), bits, rtol=1e-12)
        floats = self.stub.LogLikelihood(self.request(self.x[:9].astype(np.float32), dequantization=CENTER))
        self.assertEqual(floats, reply)
        # Real values: the noise is in them.
        real = self.stub.LogLikelihood(self.request(self.x[:9] + np.float32(0.5), dequantization=flow.Dequantization(
            kind=flow.Dequantization.KIND_NONE)))
        np.testing.assert_allclose(values(real.log_prob), values(reply.log_prob), rtol=1e-6)

    def test_a_row_does_not_depend_on_its_batch_or_stream(self):
        whole = values(self.stub.LogLikelihood(self.request(self.x, dequantization=CENTER)).log_prob)
        for begin, end in ((0, 1), (7, 12), (40, 150)):
            part = self.stub.LogLikelihood(self.request(self.x[begin:end], dequantization=CENTER))
            np.testing.assert_array_equal(values(part.log_prob), whole[begin:end])

        def results(first, rows):
            def messages():
                yield flow.StreamScoreRequest(open=flow.StreamScoreRequest.Open(
                    model=flow.ModelSelector(name="pixels"), dequantization=CENTER, options=FP64, resume_from=first))
                for index in range(first, -(-len(self.x) // rows)):
                    yield flow.StreamScoreRequest(chunk=flow.StreamScoreRequest.Chunk(
                        index=index, first_row=index * rows, x=tensor(self.x[index * rows:(index + 1) * rows])))
            return list(self.stub.StreamScore(messages(), timeout=60))[1:]
        everything = results(0, 20)
        np.testing.assert_array_equal(
            np.concatenate([values(r.result.log_likelihood.log_prob) for r in everything]), whole)
        self.assertEqual(results(3, 20), everything[3:])

    def test_scores_without_attribution(self):
        np.save(self.folder / "score.npy", self.x[:40])
        rows = self.rows("score", "pixels", self.folder / "score.npy")
        self.assertEqual(list(rows[0]), ["record", "row", "model", "version", "manifest_sha256", "row_status", "log_prob",
                                         "nats_per_dim", "bits_per_dim", "score", "p_value", "flagged", "score_ratio", "nll_rank",
                                         "typicality", "top_reasons"])
        reply = self.stub.AnomalyScore(flow.AnomalyScoreRequest(model=flow.ModelSelector(name="pixels"), x=tensor(self.x[:40]), options=FP64))
        np.testing.assert_allclose([float(row["score"]) for row in rows], values(reply.score), rtol=1e-8)
        text = self.bflow("score", "pixels", self.folder / "score.npy").stdout
        self.assertIn("40 images of 3x8x8", text)
        self.assertRegex(text, r"score\.npy  image \d+, score")
        self.assertNotIn("window", text)
        done = self.bflow("score", "pixels", self.folder / "score.npy", "--attribution", code=64)
        self.assertIn("an image model has none", done.stderr)

    def test_samples_are_pictures(self):
        first, again, other, out = (self.folder / name for name in ("a.png", "b.png", "c.png", "s.npy"))
        self.bflow("sample", "pixels", "--num=10", "--seed=5", "--temperature=0.7", f"--png={first}")
        self.bflow("sample", "pixels", "--num=10", "--seed=5", "--temperature=0.7", f"--png={again}", f"--out={out}")
        self.bflow("sample", "pixels", "--num=10", "--seed=6", "--temperature=0.7", f"--png={other}")
        self.assertEqual(first.read_bytes(), again.read_bytes())
        self.assertNotEqual(first.read_bytes(), other.read_bytes())
        # Four tiles of 8 pixels in a row, three rows, borders of 2.
        self.assertEqual(png_size(first.read_bytes()), (4 * 10 + 2, 3 * 10 + 2))
        samples = np.load(out)
        self.assertEqual((samples.dtype, samples.shape), (np.dtype("u1"), (10, 3, 8, 8)))
        # The tail of the same rows, asked for alone.
        reply = self.stub.Sample(flow.SampleRequest(model=flow.ModelSelector(name="pixels"), num_samples=4, first_row=6, seed=5,
                                                    temperature=0.7))
        np.testing.assert_array_equal(values(reply.samples), samples[6:])
        self.assertGreater(samples.std(), 1)

    def test_many_samples_are_held_by_nobody(self):
        def peak(count):
            client = subprocess.Popen([BIN / "bflow", "sample", "large", f"--num={count}", "--seed=1", f"--out={self.folder}/many.npy",
                                       f"--png={self.folder}/many.png", f"--server={self.server.address}"], stdout=subprocess.DEVNULL)
            _, status, usage = os.wait4(client.pid, 0)
            client.returncode = os.waitstatus_to_exitcode(status)
            self.assertEqual(client.returncode, 0)
            return usage.ru_maxrss * 1024

        def server_peak():
            text = pathlib.Path(f"/proc/{self.server.process.pid}/status").read_text()
            return int(re.search(r"VmHWM:\s+(\d+) kB", text).group(1)) * 1024
        few, server_few = peak(2000), server_peak()
        many, server_many = peak(10000), server_peak()
        self.assertEqual(np.load(self.folder / "many.npy", mmap_mode="r").shape, (10000, 3, 32, 32))
        # 8,000 samples more are 24 MiB of pixels, 96 MiB of floats.
        self.assertLess(many - few, 8 << 20)
        self.assertLess(server_many - server_few, 24 << 20)

    def test_an_interrupted_job_leaves_no_file(self):
        folder = self.folder / "interrupted"
        folder.mkdir()
        for stop, code in ((signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)):
            client = subprocess.Popen([BIN / "bflow", "sample", "large", "--num=4000000", f"--out={folder}/s.npy",
                                       f"--server={self.server.address}"], stdout=subprocess.DEVNULL)
            while not any(path.stat().st_size > 1 << 20 for path in folder.iterdir()):
                self.assertIsNone(client.poll(), "the job ended by itself")
            client.send_signal(stop)
            self.assertEqual(client.wait(timeout=30), code)
            self.assertEqual(list(folder.iterdir()), [])

    def test_what_is_told_about_a_model(self):
        info = self.bflow("info", "pixels").stdout
        self.assertIn("pixels: image 3x8x8, pixel values, on cpu", info)
        self.assertRegex(info, r"channel1 +1 +0 +255\n")
        self.assertNotIn("GAIN", info)
        self.assertIn("30 calibration images", info)
        self.assertIn("3x8x8", self.bflow("models").stdout)

    def test_bad_input(self):
        np.save(self.folder / "grey8.npy", self.x[:2, :1])
        (self.folder / "deep.png").write_bytes(png(self.x[0].astype(np.uint16), bits=16))
        (self.folder / "record").write_bytes(b"not an image")
        for name, text in (("grey8.npy", "images of 1x8x8, the model takes 3x8x8"), ("deep.png", "16 bits"), ("record", "record:"),
                           ("none.png", "none.png")):
            self.assertIn(text, self.bflow("loglik", "pixels", self.folder / name, code=65).stderr)
        np.save(self.folder / "good.npy", self.x[:2])
        self.assertIn("--hop", self.bflow("loglik", "pixels", self.folder / "good.npy", "--hop=8", code=64).stderr)
        self.assertIn("--png", self.bflow("sample", "pixels", "--num=1", code=64).stderr)
        self.assertIn("--png", self.bflow("sample", "icu-ecg", "--num=1", f"--png={self.folder}/w.png", code=64).stderr)
        self.assertIn("--png", self.bflow("sample", "pixels", "--num=1", f"--png={self.folder}/none/w.png", code=73).stderr)
        invalid = grpc.StatusCode.INVALID_ARGUMENT
        self.refused(invalid, "x: shape [2,8,8,3], model takes [-1,3,8,8]", self.stub.LogLikelihood,
                     self.request(self.x[:2].transpose(0, 2, 3, 1)))
        self.refused(invalid, "x: shape", self.stub.LogLikelihood, self.request(self.x[:2], "icu-ecg"))
        outside = self.x[:2].astype(np.float32)
        outside[1, 2, 3, 4] = 256
        self.refused(invalid, "rows 1", self.stub.LogLikelihood, self.request(outside))
        self.refused(invalid, "draws", self.stub.LogLikelihood,
                     self.request(self.x[:2], dequantization=flow.Dequantization(draws=65)))
        self.refused(invalid, "temperature", self.stub.Sample,
                     flow.SampleRequest(model=flow.ModelSelector(name="pixels"), num_samples=1, temperature=4.5))


if __name__ == "__main__":
    unittest.main()
