"""The importer as the tests call it, and the reference's files that they start from."""

import contextlib
import dataclasses
import io
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[4]
DATA = pathlib.Path(__file__).resolve().parent / "data"
BIN = pathlib.Path(os.environ["BFLOW_BIN"])
CHECK = BIN.parent / "tests/imported_check"
sys.path.insert(0, str(ROOT / "model/checkpoint"))

import import_reference  # noqa: E402
from reference_import import safetensors_io  # noqa: E402
from reference_import.torch_file import TorchFile  # noqa: E402

CHECKPOINT, EXTRA = DATA / "ck_wave.checkpoint.tar", DATA / "ck_wave.extra.safetensors"
CONFIG = json.loads((DATA / "ck_wave.config.json").read_text())
IMAGE_CHECKPOINT = DATA / "ck_image.model.pt"
# In the form of the reference, with what its command line says.
IMAGE_CONFIG = json.loads((DATA / "ck_image.config.json").read_text())


def golden_weights(path=CHECKPOINT):
    """The arrays of a golden checkpoint by the reference's names, without the copies of image checkpoints."""
    file = TorchFile(path)
    weights = file.value.get("model", file.value)
    copies = () if path == CHECKPOINT else ("module_dict", "target_flow")
    names = [name for name in weights if not any(part in name for part in copies)]
    arrays = {name: file.array(weights[name], name) for name in names}
    file.close()
    return arrays


def golden_extra():
    return safetensors_io.read(EXTRA, "extra")


def spec_of(path):
    data = path.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return json.loads(header["__metadata__"]["flow_spec"])


@dataclasses.dataclass
class Kind:
    """A kind of model, for tests of what holds for all of them."""

    checkpoint: pathlib.Path
    options: dict  # of run_import: what makes the golden checkpoint import
    incomplete: dict  # what makes it end when all of it was read
    incomplete_words: str


WAVEFORM = Kind(CHECKPOINT, {"config": CONFIG, "extra": EXTRA}, {"extra": None}, "P and the signs")
IMAGE = Kind(
    IMAGE_CHECKPOINT,
    {"config": IMAGE_CONFIG, "extra": None},
    {"config": IMAGE_CONFIG | {"no_data_permute": False}},
    "--permutation is missing",
)


class ImportCase(unittest.TestCase):
    kind = WAVEFORM

    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="bflow_import_test_"))
        self.addCleanup(shutil.rmtree, self.folder)
        self.repository = self.folder / "models"

    def write(self, name, content):
        """A file in the test's folder, from bytes or from what becomes JSON."""
        path = self.folder / name
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        return path

    def arguments(self, file, *more, model="wave", out=None, **options):
        """Of the script; `options` of a Kind replace those of the golden checkpoint."""
        options = self.kind.options | options
        config = self.write("config.json", options["config"])
        arguments = [
            str(file),
            f"--config={config}",
            f"--out={out or self.repository}",
            f"--model={model}",
            f"--program={BIN / 'bflow-train'}",
            *map(str, more),
        ]
        return arguments + ([] if options["extra"] is None else [f"--extra={options['extra']}"])

    def run_import(self, file, *more, **options):
        """(exit code, stderr of the script itself)."""
        messages = io.StringIO()
        with contextlib.redirect_stderr(messages):
            try:
                code = import_reference.main(self.arguments(file, *more, **options))
            except SystemExit as end:
                code = end.code
        return code, messages.getvalue()

    def converted(self, file, *more, **options):
        """(flow_spec, tensors, stderr) of the model file that the script gives to bflow-train."""
        messages = io.StringIO()
        with contextlib.redirect_stderr(messages):
            data = import_reference.convert(import_reference.parse_arguments(self.arguments(file, *more, **options)))
        path = self.write("model.safetensors", data)
        return spec_of(path), safetensors_io.read(path, "model"), messages.getvalue()

    def imported(self, file, *more, **options):
        """The folder of the version."""
        code, messages = self.run_import(file, *more, **options)
        self.assertEqual(code, 0, messages)
        return self.repository / options.get("model", "wave") / "1"

    def refused(self, expected, file, *more, code=65, run=None, **options):
        """One line that says why, and no output."""
        got, messages = (run or self.run_import)(file, *more, **options)
        self.assertEqual(got, code, messages)
        self.assertIn(expected, messages)
        self.assertEqual(messages.count("\n"), 1, messages)
        self.assertFalse(self.repository.exists())

    def check_version(self, version, expected, status=0):
        """Against what the reference computes with these weights: `status` of imported_check."""
        command = [CHECK, version, DATA / f"{expected}.safetensors"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100)
        self.assertEqual(done.returncode, status, done.stdout + done.stderr)
