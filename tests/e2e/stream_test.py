"""Streams behind a real server with the shipped model: what they answer, and what a kill -9 of the server costs."""
import csv
import pathlib
import random
import re
import subprocess
import tempfile
import unittest

import grpc
import numpy as np

import programs
from programs import ROOT

flow, flow_grpc = programs.generate_stubs()
MODEL = flow.ModelSelector(name="icu-ecg")
REPOSITORY = ROOT / "deploy/models"
RECORD = ROOT / "deploy/records/3975656_0006"
T, C = 1024, 2
KILLS = 3


def windows():
    codes = np.fromfile(str(RECORD) + ".dat", np.uint8).astype(np.int16).reshape(-1, C) - 128
    return codes[:len(codes) // T * T].reshape(-1, T, C)


def tensor(x):
    return flow.Tensor(dtype=flow.DATA_TYPE_INT16, shape=x.shape, data=np.ascontiguousarray(x, "<i2").tobytes())


def chunks(x, rows, first=0):
    for index in range(first, -(-len(x) // rows)):
        part = x[index * rows:(index + 1) * rows]
        yield flow.StreamScoreRequest(chunk=flow.StreamScoreRequest.Chunk(
            index=index, first_row=index * rows, x=tensor(part), row_keys=b"%d" % index))


def stream(stub, opening, x, rows):
    def messages():
        yield flow.StreamScoreRequest(open=opening)
        yield from chunks(x, rows, opening.resume_from)
    return list(stub.StreamScore(messages(), timeout=120))


class StreamTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = programs.Server(REPOSITORY).__enter__()
        cls.stub = flow_grpc.FlowServiceStub(cls.server.channel)
        cls.x = windows()[:200]

    @classmethod
    def tearDownClass(cls):
        cls.server.__exit__()

    def test_equals_unary_calls_to_the_bit(self):
        options = flow.RequestOptions(score_dtype=flow.DATA_TYPE_FP64)
        noise = flow.Dequantization(kind=flow.Dequantization.KIND_UNIFORM, seed=11, draws=2)
        opened, *likelihoods = stream(self.stub, flow.StreamScoreRequest.Open(
            model=MODEL, dequantization=noise, options=options), self.x, 30)
        _, *anomalies = stream(self.stub, flow.StreamScoreRequest.Open(
            model=MODEL, want_anomaly=True, want_contributions=True, options=options), self.x, 30)
        self.assertEqual(opened.opened.dequantization.seed, 11)
        self.assertEqual(len(likelihoods), 7)
        self.assertEqual(len(anomalies), 7)
        for index, message in enumerate(chunks(self.x, 30)):
            noise.row_offset = 30 * index
            x = message.chunk.x
            self.assertEqual(likelihoods[index].result.row_keys, b"%d" % index)
            self.assertEqual(
                likelihoods[index].result.log_likelihood,
                self.stub.LogLikelihood(flow.LogLikelihoodRequest(model=MODEL, x=x, dequantization=noise, options=options)))
            self.assertEqual(
                anomalies[index].result.anomaly,
                self.stub.AnomalyScore(flow.AnomalyScoreRequest(model=MODEL, x=x, want_contributions=True, options=options)))

    def test_a_resumed_stream_goes_on_where_the_first_stopped(self):
        opening = flow.StreamScoreRequest.Open(model=MODEL, dequantization=flow.Dequantization(seed=3))
        opened, *whole = stream(self.stub, opening, self.x, 25)
        opening.model.version = opened.opened.model.version
        opening.resume_from = 5
        _, *rest = stream(self.stub, opening, self.x, 25)
        self.assertEqual(rest, whole[5:])

    def test_samples_equal_unary_ones_whatever_the_chunks(self):
        request = flow.SampleRequest(model=MODEL, num_samples=900, seed=5, want_log_prob=True,
                                     unit=flow.SampleRequest.UNIT_SCALED, dtype=flow.DATA_TYPE_FP32)
        rows, log_prob = b"", b""
        # Chunks fit the 4 MiB of a client that sets no limit of its own.
        for reply in self.stub.StreamSample(flow.StreamSampleRequest(sample=request), timeout=120):
            self.assertEqual(reply.chunk.first_row, len(rows) // (T * C * 4))
            rows += reply.chunk.samples.data
            log_prob += reply.chunk.log_prob.data
        unlimited = grpc.insecure_channel(self.server.address, [("grpc.max_receive_message_length", 64 << 20)])
        whole = flow_grpc.FlowServiceStub(unlimited).Sample(request, timeout=120)
        unlimited.close()
        self.assertEqual(rows, whole.samples.data)
        np.testing.assert_allclose(np.frombuffer(log_prob, "<f4"), np.frombuffer(whole.log_prob.data, "<f4"), rtol=1e-5)

    def test_a_client_that_vanishes_gives_everything_back(self):
        def endless():
            yield flow.StreamScoreRequest(open=flow.StreamScoreRequest.Open(model=MODEL))
            yield from chunks(np.concatenate([self.x] * 50), 100)
        channel = grpc.insecure_channel(self.server.address)
        replies = flow_grpc.FlowServiceStub(channel).StreamScore(endless())
        next(replies), next(replies)
        channel.close()
        for gauge in ("open_streams", "stream_pending_chunks", "queue_rows"):
            line = re.compile(r"^butterflyflow_%s\{[^}]*\} ([0-9.]+)$" % gauge, re.M)
            while any(float(v) for v in line.findall(self.server.get("/metrics")[1])):
                pass
        self.assertEqual(len(stream(self.stub, flow.StreamScoreRequest.Open(model=MODEL), self.x, 100)), 3)


class KillTest(unittest.TestCase):
    """bflow works on while its server dies by SIGKILL, again and again: no row lost, none doubled, none changed."""

    def run_with_kills(self, metric, *command):
        """Runs bflow, kills the server KILLS times in the middle of it; bflow's exit code and stderr."""
        random.seed(17)
        server = programs.Server(REPOSITORY).__enter__()
        address = server.address
        client = subprocess.Popen([programs.BIN / "bflow", *map(str, command), f"--server={address}"],
                                  stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        kills = 0
        while kills < KILLS:
            # Only a server that has answered something is killed: the job is then in its middle.
            wanted = random.randint(1, 3)
            done = re.compile(r'requests_total\{[^}]*"%s"[^}]*"ok"[^}]*\} ([0-9]+)' % metric)
            while sum(map(int, done.findall(server.get("/metrics")[1]))) < wanted:
                self.assertIsNone(client.poll(), "the job ended before its servers did: make it longer")
            server.process.kill()
            server.__exit__()
            kills += 1
            server = programs.Server(REPOSITORY, listen=address).__enter__()
        _, err = client.communicate(timeout=180)
        server.__exit__()
        return client.returncode, err

    def test_scores(self):
        with tempfile.TemporaryDirectory() as folder:
            command = ["score", "icu-ecg", RECORD, "--hop=32"]
            with programs.Server(REPOSITORY) as server:
                done = programs.run("bflow", *command, f"--out={folder}/whole.csv", f"--server={server.address}")
                self.assertEqual(done.returncode, 0, done.stderr)
            code, err = self.run_with_kills("anomaly", *command, f"--out={folder}/killed.csv")
            self.assertEqual(code, 0, err)
            whole, killed = (pathlib.Path(folder, name).read_text() for name in ("whole.csv", "killed.csv"))
            starts = [row["start_sample"] for row in csv.DictReader(killed.splitlines())]
            self.assertEqual(len(starts), len(set(starts)), "no row twice")
            self.assertEqual(whole, killed)

    def test_samples(self):
        with tempfile.TemporaryDirectory() as folder:
            command = ["sample", "icu-ecg", "--num=20000", "--seed=2"]
            with programs.Server(REPOSITORY) as server:
                done = programs.run("bflow", *command, f"--out={folder}/whole.npy", f"--server={server.address}")
                self.assertEqual(done.returncode, 0, done.stderr)
            code, err = self.run_with_kills("sample", *command, f"--out={folder}/killed.npy")
            self.assertEqual(code, 0, err)
            self.assertEqual(pathlib.Path(folder, "whole.npy").read_bytes(), pathlib.Path(folder, "killed.npy").read_bytes())


if __name__ == "__main__":
    unittest.main()
