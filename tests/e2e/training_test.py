"""A model trained by bflow-train on a real record, loaded by bflow-server, scored by bflow."""
import json
import pathlib
import tempfile
import unittest

import programs
from programs import ROOT

RECORD = ROOT / "deploy/records/3975656_0006"


class TrainingTest(unittest.TestCase):
    def test_train_serve_score(self):
        with tempfile.TemporaryDirectory() as folder:
            repository = pathlib.Path(folder) / "models"
            done = programs.run("bflow-train", "--preset=waveform-published", "--data", RECORD, "--signals=MCL1,V",
                                f"--out={repository}", "--model=e2e", "--steps=20", "--batch=16", "--sensitivity=none",
                                "--train_fraction=0.5", "--validation_fraction=0.05", "--calibration_fraction=0.25",
                                timeout=300)
            self.assertEqual(done.returncode, 0, done.stderr)
            with programs.Server(repository) as server:
                done = programs.run("bflow", "loglik", "e2e", RECORD, f"--server={server.address}", "--seed=1", "--json")
                self.assertEqual(done.returncode, 0, done.stderr)
                self.assertTrue(json.loads(done.stdout))
                done = programs.run("bflow", "score", "e2e@1", RECORD, f"--server={server.address}")
                self.assertEqual(done.returncode, 0, done.stderr)

    def test_errors_have_their_exit_codes(self):
        common = ["--signals=MCL1,V", "--out=/dev/null/x", "--model=e2e"]
        self.assertEqual(programs.run("bflow-train", "--preset=nonsense", "--data", RECORD, *common).returncode, 64)
        self.assertEqual(programs.run("bflow-train", "--preset=waveform-published", "--data", "/nonexistent", *common).returncode, 65)


if __name__ == "__main__":
    unittest.main()
