"""The importer as the tests call it, and the reference's files that they start from."""

import contextlib
import io
import json
import os
import pathlib
import shutil
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[4]
DATA = pathlib.Path(__file__).resolve().parent / "data"
BIN = pathlib.Path(os.environ["BFLOW_BIN"])
sys.path.insert(0, str(ROOT / "model/checkpoint"))

import import_reference  # noqa: E402
from reference_import import safetensors_io  # noqa: E402
from reference_import.torch_file import TorchFile  # noqa: E402

CHECKPOINT, EXTRA = DATA / "ck_wave.checkpoint.tar", DATA / "ck_wave.extra.safetensors"
CONFIG = json.loads((DATA / "ck_wave.config.json").read_text())


def golden_weights():
    """The arrays of the golden checkpoint by the reference's names."""
    file = TorchFile(CHECKPOINT)
    arrays = {name: file.array(tensor, name) for name, tensor in file.value["model"].items()}
    file.close()
    return arrays


def golden_extra():
    return safetensors_io.read(EXTRA, "extra")


class ImportCase(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="bflow_import_test_"))
        self.addCleanup(shutil.rmtree, self.folder)
        self.repository = self.folder / "models"

    def write(self, name, content):
        """A file in the test's folder, from bytes or from what becomes JSON."""
        path = self.folder / name
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        return path

    def run_import(self, file, *more, config=CONFIG, extra=EXTRA, model="wave", out=None):
        """(exit code, stderr of the script itself)."""
        config = self.write("config.json", config)
        arguments = [
            str(file),
            f"--config={config}",
            f"--out={out or self.repository}",
            f"--model={model}",
            f"--program={BIN / 'bflow-train'}",
            *map(str, more),
        ]
        if extra is not None:
            arguments.append(f"--extra={extra}")
        messages = io.StringIO()
        with contextlib.redirect_stderr(messages):
            try:
                code = import_reference.main(arguments)
            except SystemExit as end:
                code = end.code
        return code, messages.getvalue()

    def imported(self, file, *more, **options):
        """The folder of the version."""
        code, messages = self.run_import(file, *more, **options)
        self.assertEqual(code, 0, messages)
        return self.repository / options.get("model", "wave") / "1"

    def refused(self, expected, file, *more, code=65, **options):
        """One line that says why, and no output."""
        got, messages = self.run_import(file, *more, **options)
        self.assertEqual(got, code, messages)
        self.assertIn(expected, messages)
        self.assertEqual(messages.count("\n"), 1, messages)
        self.assertFalse(self.repository.exists())
