"""The shipped model behind a real server, through a client generated from proto/ and through bflow."""
import contextlib
import csv
import json
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import unittest

import grpc
import numpy as np
from google.protobuf import duration_pb2  # noqa: F401  (a descriptor the stubs need)
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

import programs
from programs import ROOT

flow, flow_grpc = programs.generate_stubs()
MODEL = "icu-ecg"
REPOSITORY = ROOT / "deploy/models"
RECORD = ROOT / "deploy/records/3975656_0006"
T, C = 1024, 2


def tensor(array, dtype):
    numpy_dtype = {flow.DATA_TYPE_FP32: "<f4", flow.DATA_TYPE_FP64: "<f8", flow.DATA_TYPE_INT16: "<i2"}[dtype]
    array = np.ascontiguousarray(array, numpy_dtype)
    return flow.Tensor(dtype=dtype, shape=array.shape, data=array.tobytes())


def values(message):
    numpy_dtype = {flow.DATA_TYPE_FP32: "<f4", flow.DATA_TYPE_FP64: "<f8", flow.DATA_TYPE_INT16: "<i2"}[message.dtype]
    return np.frombuffer(message.data, numpy_dtype).reshape(message.shape)


def record_windows():
    """Windows of the shipped record, by numpy alone: format 80 is offset binary, time-major."""
    codes = np.fromfile(str(RECORD) + ".dat", np.uint8).astype(np.int16).reshape(-1, C) - 128
    return codes[:len(codes) // T * T].reshape(-1, T, C)


def error_info(error):
    """(reason, field) of a failed call."""
    details = dict(error.trailing_metadata())["grpc-status-details-bin"]
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    field = ""
    for detail in status_pb2.Status.FromString(details).details:
        if detail.Unpack(info):
            assert info.domain == "butterflyflow"
        elif detail.Unpack(bad):
            field = bad.field_violations[0].field
    return info.reason, field


class ServingTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = cls.enterClassContext(programs.Server(REPOSITORY))
        cls.stub = flow_grpc.FlowServiceStub(cls.server.channel)
        cls.models = flow_grpc.ModelServiceStub(cls.server.channel)
        cls.selector = flow.ModelSelector(name=MODEL)
        cls.windows = record_windows()

    def log_likelihood(self, x, dtype=flow.DATA_TYPE_INT16, **fields):
        options = fields.pop("options", flow.RequestOptions(score_dtype=flow.DATA_TYPE_FP64))
        return self.stub.LogLikelihood(
            flow.LogLikelihoodRequest(model=self.selector, x=tensor(x, dtype), options=options, **fields), timeout=30)

    def refused(self, code, reason, field, call):
        with self.assertRaises(grpc.RpcError) as caught:
            call()
        self.assertEqual(caught.exception.code(), code, caught.exception.details())
        self.assertEqual(error_info(caught.exception)[0], reason)
        if field:
            self.assertTrue(error_info(caught.exception)[1].startswith(field), error_info(caught.exception))
        return caught.exception.details()

    def test_reproduces_the_self_test_rows_of_the_model_file(self):
        rows = programs.read_safetensors(next((REPOSITORY / MODEL).glob("*/selftest.safetensors")))
        centre = flow.Dequantization(kind=flow.Dequantization.KIND_CENTER)
        reply = self.log_likelihood(rows["x"], flow.DATA_TYPE_FP32, dequantization=centre)
        np.testing.assert_allclose(values(reply.log_prob), rows["log_prob"], rtol=2e-4)
        scores = self.stub.AnomalyScore(flow.AnomalyScoreRequest(model=self.selector, x=tensor(rows["x"], flow.DATA_TYPE_FP32)))
        np.testing.assert_allclose(values(scores.score), rows["score"], rtol=2e-3)

    def test_a_row_does_not_depend_on_its_batch(self):
        noise = flow.Dequantization(kind=flow.Dequantization.KIND_UNIFORM, seed=7)
        whole = values(self.log_likelihood(self.windows[:64], dequantization=noise).log_prob)
        noise.row_offset = 40
        part = values(self.log_likelihood(self.windows[40:43], dequantization=noise).log_prob)
        np.testing.assert_array_equal(whole[40:43], part)
        bits = values(self.log_likelihood(self.windows[:8], dequantization=noise).bits_per_dim)
        self.assertTrue(np.all(bits > 0), "a code length is positive")

    def test_flags_what_is_not_a_heart(self):
        test_part = self.windows[int(0.82 * len(self.windows)):][:100]
        flat = np.broadcast_to(test_part[:, :1], test_part.shape)
        reply = self.stub.AnomalyScore(flow.AnomalyScoreRequest(
            model=self.selector, x=tensor(np.concatenate([test_part, flat]), flow.DATA_TYPE_INT16), want_contributions=True))
        score, contributions = values(reply.score), values(reply.contributions)
        self.assertEqual(contributions.shape, (200, len(reply.feature_names)))
        np.testing.assert_allclose(contributions.sum(1), score, rtol=1e-3)
        flagged = np.frombuffer(reply.flagged, np.uint8)
        self.assertGreater(flagged[100:].mean(), 0.95)
        # The record drifts, so the normal windows are compared by score, not by their share of flags.
        self.assertGreater(np.median(score[100:]), 3 * np.median(score[:100]))
        p = values(reply.p_value)
        self.assertGreaterEqual(p.min(), 1 / (reply.calibration_rows + 1) - 1e-6)

    def test_attribution_points_at_a_spike(self):
        x = self.windows[int(0.82 * len(self.windows)):][:40].copy()
        clean = self.stub.AnomalyScore(flow.AnomalyScoreRequest(model=self.selector, x=tensor(x, flow.DATA_TYPE_INT16)))
        places = [(37 * i % (T - 1), i % C) for i in range(len(x))]
        for i, (t, c) in enumerate(places):
            x[i, t, c] = 100 if x[i, t, c] < 0 else -100
        reply = self.stub.AnomalyScore(flow.AnomalyScoreRequest(
            model=self.selector, x=tensor(x, flow.DATA_TYPE_INT16), want_attribution=True))
        z, cause = values(reply.attribution), np.frombuffer(reply.attribution_cause, np.uint8)
        self.assertEqual(z.shape, (len(x), T // 32, C))
        self.assertEqual(reply.attribution_stride, 32)
        self.assertTrue((z >= 0).all())
        largest = z.reshape(len(x), -1).argmax(1)
        # A spike at the edge of a segment is a jump in the next one too.
        found = [abs(where // C - t // 32) <= 1 and where % C == c for where, (t, c) in zip(largest, places)]
        self.assertGreaterEqual(np.mean(found), 0.9)
        self.assertGreaterEqual(np.mean(cause.reshape(len(x), -1)[np.arange(len(x)), largest] == 3), 0.9)
        self.assertFalse(clean.HasField("attribution"))

    def test_samples_are_reproducible_in_any_chunking(self):
        whole = self.stub.Sample(flow.SampleRequest(model=self.selector, num_samples=5, seed=3))
        part = self.stub.Sample(flow.SampleRequest(model=self.selector, num_samples=2, seed=3, first_row=3))
        self.assertEqual(whole.samples.dtype, flow.DATA_TYPE_INT16)
        np.testing.assert_array_equal(values(whole.samples)[3:], values(part.samples))

    def test_bad_requests_have_one_answer_each(self):
        x = self.windows[:2]
        invalid = grpc.StatusCode.INVALID_ARGUMENT
        text = self.refused(invalid, "SHAPE_MISMATCH", "x", lambda: self.log_likelihood(x[:, :1000]))
        self.assertIn("1024", text)
        short = flow.LogLikelihoodRequest(model=self.selector, x=tensor(x, flow.DATA_TYPE_INT16))
        short.x.data = short.x.data[:-1]
        self.refused(invalid, "BYTE_COUNT_MISMATCH", "x", lambda: self.stub.LogLikelihood(short))
        self.refused(invalid, "VALUE_OUT_OF_RANGE", "x", lambda: self.log_likelihood(x + 1000))
        bad = x.astype(np.float32)
        bad[1, 5, 0] = np.nan
        self.refused(invalid, "NON_FINITE_INPUT", "x", lambda: self.log_likelihood(bad, flow.DATA_TYPE_FP32))
        mark = flow.RequestOptions(invalid_rows=flow.INVALID_ROW_POLICY_MARK)
        reply = self.log_likelihood(bad, flow.DATA_TYPE_FP32, options=mark)
        self.assertEqual(reply.row_status, b"\x00\x01")
        self.assertEqual(values(reply.log_prob)[1], -np.inf)
        name = flow.ModelSelector(name="no-such-canary")
        text = self.refused(grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND", "", lambda: self.stub.LogLikelihood(
            flow.LogLikelihoodRequest(model=name, x=tensor(x, flow.DATA_TYPE_INT16))))
        self.assertNotIn("canary", text)
        for call in (lambda: self.models.LoadModel(flow.LoadModelRequest(name=MODEL)),
                     lambda: self.models.UnloadModel(flow.UnloadModelRequest(name=MODEL)),
                     lambda: self.models.SetVersionLabel(flow.SetVersionLabelRequest(name=MODEL, label="stable"))):
            self.refused(grpc.StatusCode.PERMISSION_DENIED, "ADMIN_LISTENER_ONLY", "", call)

    def test_health_and_reflection(self):
        health = health_pb2_grpc.HealthStub(self.server.channel)
        for name in ("", "liveness", "readiness", "butterflyflow.v1.FlowService"):
            self.assertEqual(health.Check(health_pb2.HealthCheckRequest(service=name)).status,
                             health_pb2.HealthCheckResponse.SERVING)
        request = reflection_pb2.ServerReflectionRequest(list_services="")

        def services(channel):
            stub = reflection_pb2_grpc.ServerReflectionStub(channel)
            return [s.name for r in stub.ServerReflectionInfo(iter([request])) for s in r.list_services_response.service]

        with self.assertRaises(grpc.RpcError):
            services(self.server.channel)
        with programs.Server(REPOSITORY, "--reflection") as reflecting:
            self.assertIn("butterflyflow.v1.FlowService", services(reflecting.channel))

    def test_metrics_pass_promtool(self):
        self.log_likelihood(self.windows[:3])
        status, text = self.server.get("/metrics")
        self.assertEqual(status, 200)
        check = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True)
        self.assertEqual(check.returncode, 0, check.stderr + check.stdout)
        self.assertRegex(text, r'butterflyflow_requests_total\{[^}]*operation="log_likelihood"[^}]*\} [1-9]')
        self.assertEqual([self.server.get(p)[0] for p in ("/livez", "/readyz", "/", "/metricsx")], [200, 200, 404, 404])

    def test_half_sent_http_requests_do_not_hide_the_server(self):
        host, port = self.server.metrics_address.rsplit(":", 1)
        with contextlib.ExitStack() as sockets:
            for _ in range(6):
                half = sockets.enter_context(socket.create_connection((host, int(port))))
                half.sendall(b"GET /metrics HTTP/1.1\r\nHost:")
            self.assertEqual(self.server.get("/livez")[0], 200)

    def test_bflow_scores_a_record(self):
        with tempfile.TemporaryDirectory() as folder:
            out = pathlib.Path(folder) / "scores.csv"
            done = programs.run("bflow", "score", MODEL, RECORD, f"--server={self.server.address}", f"--out={out}")
            self.assertEqual(done.returncode, 0, done.stderr)
            with open(out, newline="") as file:
                rows = list(csv.DictReader(file))
            self.assertEqual(len(rows), len(self.windows))
            self.assertEqual(rows[1]["start_sample"], str(T))
            self.assertIn("windows", done.stdout)
            reply = self.stub.AnomalyScore(flow.AnomalyScoreRequest(
                model=self.selector, x=tensor(self.windows[:32], flow.DATA_TYPE_INT16)))
            np.testing.assert_allclose([float(r["score"]) for r in rows[:32]], values(reply.score), rtol=1e-4)

    def test_a_broken_record_does_not_stop_the_others(self):
        with tempfile.TemporaryDirectory() as folder:
            broken = pathlib.Path(folder) / "3975656_0006.hea"
            shutil.copy(str(RECORD) + ".hea", broken)  # the .dat is missing
            done = programs.run("bflow", "loglik", MODEL, broken, RECORD, f"--server={self.server.address}", "--json")
            self.assertEqual(done.returncode, 1, done.stderr)
            self.assertIn("line 2", done.stderr)
            self.assertTrue(json.loads(done.stdout))

    def test_bflow_reports_models_and_samples(self):
        server = f"--server={self.server.address}"
        self.assertIn(MODEL, programs.run("bflow", "models", server).stdout)
        self.assertIn("MCL1", programs.run("bflow", "info", MODEL, server).stdout)
        self.assertEqual(programs.run("bflow", "health", server).returncode, 0)
        with tempfile.TemporaryDirectory() as folder:
            out = pathlib.Path(folder) / "x.npy"
            done = programs.run("bflow", "sample", MODEL, "--num=3", "--seed=9", server, f"--out={out}")
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertEqual(np.load(out).shape, (3, T, C))
            done = programs.run("bflow", "loglik", MODEL, out, server)
            self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(programs.run("bflow", "models", "--server=127.0.0.1:1", "--deadline=2s").returncode, 69)
        self.assertEqual(programs.run("bflow", "models", "--no-such-flag").returncode, 64)


class BackendTest(unittest.TestCase):
    """A CUDA plugin that cannot be used: the server says why, in log and metrics, and computes on the CPU."""

    def serve(self, plugin, reason):
        with tempfile.TemporaryDirectory() as folder:
            program = pathlib.Path(folder) / "bflow-server"
            shutil.copy(programs.BIN / "bflow-server", program)
            if plugin is not None:
                plugin(pathlib.Path(folder) / "libbflow_cuda.so")
            with programs.Server(REPOSITORY, program=program) as server:
                self.assertIn(f'butterflyflow_backend_info{{backend="cpu",reason="{reason}"}} 1', server.get("/metrics")[1])
                self.assertIn(f'"reason":"{reason}"', server.log())
                info = flow_grpc.ModelServiceStub(server.channel).GetModel(
                    flow.GetModelRequest(name=MODEL))
                self.assertEqual((info.device, info.backend_reason), ("cpu", reason))
            refused = subprocess.run([program, f"--model_repository={REPOSITORY}", "--device=cuda"], capture_output=True, text=True)
            self.assertEqual(refused.returncode, 78)
            self.assertIn("device: cuda", refused.stderr)
            self.assertIn(reason, refused.stderr)

    def test_absent(self):
        self.serve(None, "plugin_absent")

    def test_truncated(self):
        whole = programs.BIN / "libbflow_cuda.so"
        data = whole.read_bytes()[:4096] if whole.exists() else (programs.BIN / "bflow").read_bytes()[:4096]
        self.serve(lambda path: path.write_bytes(data), "plugin_failed")

    def test_of_another_build(self):
        def build(path):
            source = path.with_suffix(".c")
            source.write_text('const char* bflow_cuda_build_id(void) { return "bflow 0.0.0"; }')
            subprocess.run(["gcc", "-shared", "-fPIC", "-o", path, source], check=True)
        self.serve(build, "build_mismatch")


class LifeCycleTest(unittest.TestCase):
    def test_health_watch_follows_the_drain_and_a_second_sigterm_ends_it(self):
        with programs.Server(REPOSITORY, drain_delay_ms=20_000) as server:
            watch = iter(health_pb2_grpc.HealthStub(server.channel).Watch(health_pb2.HealthCheckRequest(service="readiness"), timeout=60))
            self.assertEqual(next(watch).status, health_pb2.HealthCheckResponse.SERVING)
            server.process.send_signal(signal.SIGTERM)
            self.assertEqual(next(watch).status, health_pb2.HealthCheckResponse.NOT_SERVING)
            self.assertEqual(server.get("/readyz")[0], 503)
            self.assertEqual(server.get("/livez")[0], 200)
            self.assertEqual(server.stop(), 143)

    def test_bflow_survives_a_restart_of_the_server(self):
        with programs.Server(REPOSITORY) as first:
            client = subprocess.Popen([programs.BIN / "bflow", "loglik", MODEL, *[RECORD] * 40, f"--server={first.address}", "--json"],
                                      stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            while not re.search(r'requests_total\{[^}]*log_likelihood[^}]*ok[^}]*\} [1-9]', first.get("/metrics")[1]):
                self.assertIsNone(client.poll(), "the job ended before the server did")
            first.process.kill()
            first.process.wait()
            with programs.Server(REPOSITORY, listen=first.address):
                out, err = client.communicate(timeout=120)
                self.assertEqual(client.returncode, 0, err)
                self.assertTrue(json.loads(out))

    def test_a_port_in_use_exits_71(self):
        with programs.Server(REPOSITORY) as server:
            done = programs.run("bflow-server", f"--model_repository={REPOSITORY}", f"--listen={server.address}",
                                "--metrics_listen=127.0.0.1:0")
            self.assertEqual(done.returncode, 71, done.stderr)

    def test_ctrl_c_ends_bflow_and_leaves_no_file(self):
        with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as silent:
            address = f"127.0.0.1:{silent.getsockname()[1]}"
            client = subprocess.Popen([programs.BIN / "bflow", "loglik", MODEL, RECORD, f"--server={address}",
                                       f"--out={folder}/out.csv"], stderr=subprocess.DEVNULL)
            connection, _ = silent.accept()  # the client waits for an answer now
            with connection:
                client.send_signal(signal.SIGINT)
                self.assertEqual(client.wait(timeout=60), 130)
            self.assertEqual(list(pathlib.Path(folder).iterdir()), [])

    def test_sigterm_drains_and_exits_0(self):
        with programs.Server(REPOSITORY) as server:
            self.assertEqual(server.stop(), 0, server.log())

    def test_a_corrupted_model_is_refused_and_the_other_serves(self):
        with tempfile.TemporaryDirectory() as folder:
            repository = pathlib.Path(folder)
            shutil.copytree(REPOSITORY / MODEL, repository / MODEL)
            shutil.copytree(REPOSITORY / MODEL, repository / "broken")
            weights = next((repository / "broken").glob("*/model.safetensors"))
            data = bytearray(weights.read_bytes())
            data[-5] ^= 0x40
            weights.write_bytes(data)
            with programs.Server(repository) as server:
                models = {m.name: m for m in flow_grpc.ModelServiceStub(server.channel).ListModels(flow.ListModelsRequest()).models}
                self.assertEqual(models["broken"].versions[0].state, flow.VERSION_STATE_FAILED)
                self.assertEqual(models[MODEL].versions[0].state, flow.VERSION_STATE_READY)
                self.assertEqual(server.get("/readyz")[0], 503, "a start-up model is not there")

    def test_configuration_errors_exit_78(self):
        for flags in (["--model_repository=/nonexistent"], [f"--model_repository={REPOSITORY}", "--device=cuda"],
                      [f"--model_repository={REPOSITORY}", "--listen=0.0.0.0:0"]):
            done = programs.run("bflow-server", *flags)
            self.assertEqual(done.returncode, 78, (flags, done.stderr))
        done = programs.run("bflow-server", f"--model_repository={REPOSITORY}", "--check_config")
        self.assertEqual(done.returncode, 0, done.stderr)


if __name__ == "__main__":
    unittest.main()
