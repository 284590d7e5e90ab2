"""A checkpoint of the reference, imported and served in float32, beside what the reference computes."""

import dataclasses
import pathlib
import subprocess
import sys
import tempfile
import unittest

import grpc
import numpy as np

import programs
from programs import BIN, ROOT

flow, flow_grpc = programs.generate_stubs()
DATA = ROOT / "tests/model/checkpoint/import/data"


def values(message):
    dtype = {flow.DATA_TYPE_UINT8: "u1", flow.DATA_TYPE_FP32: "<f4", flow.DATA_TYPE_FP64: "<f8"}[message.dtype]
    return np.frombuffer(message.data, dtype).reshape(message.shape)


@dataclasses.dataclass
class Case:
    name: str
    checkpoint: str
    config: str
    flags: tuple = ()
    image: bool = False


CASES = (
    Case(
        "ck_wave", "ck_wave.checkpoint.tar", "ck_wave.config.json", (f"--extra={DATA / 'ck_wave.extra.safetensors'}",)
    ),
    Case("ck_image", "ck_image.model.pt", "ck_image.config.json", image=True),
    Case("ck_image_ema", "ck_image_ema.checkpoint.tar", "ck_image.config.json", image=True),
)


class ImportTest(unittest.TestCase):
    def test_import_and_serve(self):
        for case in CASES:
            with self.subTest(case=case.name), tempfile.TemporaryDirectory() as folder:
                self.import_and_serve(case, pathlib.Path(folder) / "models")

    def import_and_serve(self, case, repository):
        expected = programs.read_safetensors(DATA / f"{case.name}_expected.safetensors")
        done = subprocess.run(
            [
                sys.executable,
                ROOT / "model/checkpoint/import_reference.py",
                DATA / case.checkpoint,
                f"--config={DATA / case.config}",
                f"--out={repository}",
                "--model=imported",
                f"--program={BIN / 'bflow-train'}",
                *case.flags,
            ],
            capture_output=True,
            text=True,
            timeout=100,
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        with programs.Server(repository) as server:
            stub, selector = flow_grpc.FlowServiceStub(server.channel), flow.ModelSelector(name="imported")
            # The reference scales pixels by itself: x = 2 (v + u) / 256 - 1.
            scaled = expected["in.x"]
            x = np.ascontiguousarray((scaled + 1) * 128 if case.image else scaled, "<f4")
            reply = stub.LogLikelihood(
                flow.LogLikelihoodRequest(
                    model=selector,
                    x=flow.Tensor(dtype=flow.DATA_TYPE_FP32, shape=x.shape, data=x.tobytes()),
                    dequantization=flow.Dequantization(kind=flow.Dequantization.KIND_NONE),
                    want_latent=True,
                    options=flow.RequestOptions(score_dtype=flow.DATA_TYPE_FP64),
                ),
                timeout=30,
            )
            np.testing.assert_allclose(values(reply.log_prob), expected["out.logp"], rtol=1e-4)
            np.testing.assert_allclose(values(reply.latent), expected["out.z"], rtol=1e-4, atol=1e-4)
            samples = values(stub.Sample(flow.SampleRequest(model=selector, num_samples=3, seed=1), timeout=30).samples)
            self.assertEqual(samples.shape, (3, *x.shape[1:]))
            # No calibration: the reference keeps no data to make one from.
            with self.assertRaises(grpc.RpcError) as caught:
                stub.AnomalyScore(
                    flow.AnomalyScoreRequest(
                        model=selector, x=flow.Tensor(dtype=flow.DATA_TYPE_FP32, shape=x.shape, data=x.tobytes())
                    ),
                    timeout=30,
                )
            self.assertEqual(caught.exception.code(), grpc.StatusCode.FAILED_PRECONDITION)


if __name__ == "__main__":
    unittest.main()
