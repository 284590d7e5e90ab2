"""convert_imagenet_batch.py: batches of every kind become an .npz; nothing else does, and nothing in it is run."""

import contextlib
import io
import pathlib
import pickle
import shutil
import struct
import sys
import tempfile
import unittest

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "model/data"))

import convert_imagenet_batch  # noqa: E402
import array_pickle  # noqa: E402, F401  (which it imports late: before anything is watched)

# Python's audit events: whatever of these happens while a file is read was caused by the file.
FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "subprocess.", "socket.", "pickle.", "exec", "compile", "import")
seen = None  # a list while a test looks


def _audit(event, _):
    if seen is not None and event.startswith(FORBIDDEN):
        seen.append(event)


sys.addaudithook(_audit)

PIXELS = (np.arange(2 * 192) * 5 % 256).astype(np.uint8).reshape(2, 192)
LABELS = [1, 1000]
BATCH = {"data": PIXELS, "labels": LABELS, "mean": PIXELS.mean(axis=0)}


def of_old_numpy(content):
    """The names of numpy before 2, whose module is one letter shorter. Texts of protocols 2 and 3 have lines or sizes."""
    return content.replace(b"cnumpy._core.", b"cnumpy.core.")


def of_python2(pixels, labels):
    """As cPickle of Python 2 writes it by protocol 2: texts are byte strings."""
    text = lambda value: b"U" + bytes([len(value)]) + value
    data = pixels.tobytes()
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85" + text(b"b") + b"\x87R(K\1K"
        + bytes([pixels.shape[0]]) + b"M" + struct.pack("<H", pixels.shape[1]) + b"\x86cnumpy\ndtype\n" + text(b"u1")
        + b"K\0K\1\x87R(K\3" + text(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb\x89T"
        + struct.pack("<I", len(data)) + data + b"tb"
    )
    listed = b"](" + b"".join(b"M" + struct.pack("<H", label) for label in labels) + b"e"
    return b"\x80\2}(" + text(b"data") + array + text(b"labels") + listed + b"u."


class Calls:
    """Pickles as a call of `function`."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class ConvertTest(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="bflow_convert_test_"))
        self.addCleanup(shutil.rmtree, self.folder)
        self.out = self.folder / "batch.npz"

    def run_convert(self, content, *more, out=None):
        """(exit code, stderr)."""
        path = self.folder / "batch"
        path.write_bytes(content)
        messages = io.StringIO()
        with contextlib.redirect_stderr(messages), contextlib.redirect_stdout(io.StringIO()):
            try:
                code = convert_imagenet_batch.main([str(path), f"--out={out or self.out}", *more])
            except SystemExit as end:
                code = end.code
        return code, messages.getvalue()

    def converts(self, content, pixels=PIXELS, labels=LABELS):
        code, messages = self.run_convert(content)
        self.assertEqual(code, 0, messages)
        with np.load(self.out) as archive:
            self.assertEqual(sorted(archive.files), ["data", "labels"])
            self.assertEqual(archive["data"].dtype, np.uint8)
            np.testing.assert_array_equal(archive["data"], pixels)
            np.testing.assert_array_equal(archive["labels"], labels)
        self.out.unlink()

    def refused(self, expected, content):
        global seen
        seen = []
        try:
            code, messages = self.run_convert(content)
            happened, seen = seen, None
        finally:
            seen = None
        self.assertEqual(code, 65, messages)
        self.assertIn(expected, messages)
        self.assertEqual(messages.count("\n"), 1, messages)
        self.assertEqual(happened, [])
        self.assertEqual(sorted(p.name for p in self.folder.iterdir()), ["batch"])

    def test_every_kind_of_batch(self):
        for protocol in (2, 3, 4, 5):
            with self.subTest(protocol=protocol):
                self.converts(pickle.dumps(BATCH, protocol))
        for protocol in (2, 3):
            self.converts(of_old_numpy(pickle.dumps(BATCH, protocol)))
        self.converts(of_python2(PIXELS, LABELS))
        for labels in (np.array(LABELS, np.int64), np.array(LABELS, ">u2"), [np.int64(1), np.int32(1000)]):
            self.converts(pickle.dumps({"data": PIXELS, "labels": labels}))
        rows = np.zeros((3, 3072), np.uint8)
        self.converts(pickle.dumps({"data": rows, "labels": [0, 1, 2], "x": "y"}), rows, [0, 1, 2])

    def test_truncated_anywhere(self):
        for protocol in (2, 4, 5):
            content = pickle.dumps(BATCH, protocol)
            pixels = content.find(PIXELS[1].tobytes()[:8])  # some places in the pixels will do
            for size in [n for n in range(len(content)) if not pixels < n < pixels + 150 or n % 16 == 0]:
                code, messages = self.run_convert(content[:size])
                self.assertEqual(code, 65, messages)
                self.assertRegex(messages, r"BATCH: byte \d+: ")
            self.refused("follow its end", content + b".")
        self.assertFalse(self.out.exists())

    def test_changed_anywhere(self):
        content = pickle.dumps({"data": PIXELS[:1], "labels": [1]}, 4)
        start = content.index(PIXELS[:1].tobytes())
        for at in [*range(start), *range(start + 192, len(content))]:
            for flip in (0x01, 0x80, 0xFF):
                changed = bytearray(content)
                changed[at] ^= flip
                code, messages = self.run_convert(bytes(changed))
                self.assertIn(code, (0, 65), messages)

    def test_pickles_made_to_harm(self):
        touch = f"touch {self.folder}/ran"
        import os
        import subprocess

        for call in (
            Calls(os.system, touch),
            Calls(subprocess.check_call, touch),
            Calls(eval, "1"),
            Calls(exec, "1"),
            Calls(getattr, "", "x"),
            Calls(np.load, "x"),
            Calls(np.fromfile, "x"),
        ):
            for protocol in (2, 4):
                self.refused("which no batch of images needs; nothing was run", pickle.dumps(call, protocol))
                self.refused("nothing was run", pickle.dumps({**BATCH, "x": call}, protocol))
        self.refused("opcode INST for os.system", b"\x80\2(X\1\0\0\0xios\nsystem\n.")
        self.refused("names torch.FloatStorage", b"\x80\2ctorch\nFloatStorage\n.")
        self.refused("opcode BINPERSID", b"\x80\2NQ.")
        self.refused("opcode EXT1", b"\x80\2\x82\1.")
        self.refused("opcode NEXT_BUFFER", b"\x80\5\x97.")
        endless = b"\x80\2]q\0h\0a."  # a list in itself
        self.refused("holds a list", endless)
        self.refused("data: dict", b"\x80\2}q\0(X\4\0\0\0datah\0X\6\0\0\0labels]u.")
        self.refused("no 'labels'", b"\x80\2}q\0X\4\0\0\0datah\0s.")
        self.refused("expected a pickle", b"cos\nsystem\n(S'true'\ntR.")
        self.refused("expected a pickle", b"")

    def test_arrays_made_to_harm(self):
        content = pickle.dumps(BATCH, 2)
        content = of_old_numpy(content)
        shape = b"K\x02K\xc0\x86"
        self.assertEqual(content.count(shape), 1)
        for new, words in (
            (b"K\x02K\xc1\x86", "of 384 bytes, expected 386"),
            (b"\x8a\x06\0\0\0\0\0\x40K\xc0\x86", "expected 13510798882111488"),
            (b"J\xff\xff\xff\xffK\xc0\x86", "unusual shape"),
            (b"G\x7f\xf0\0\0\0\0\0\0K\xc0\x86", "unusual shape"),
            (b"K\x00K\xc0\x86", "expected 0"),
            (b"\x88K\xc0\x86", "unusual shape"),
        ):
            self.refused(words, content.replace(shape, new))
        for new, words in ((b"X\x02\0\0\0O8", "numpy.dtype with unusual"), (b"X\x02\0\0\0V8", "numpy.dtype with")):
            self.refused(words, content.replace(b"X\x02\0\0\0u1", new))
        fortran = pickle.dumps({**BATCH, "data": np.asfortranarray(PIXELS)}, 2)
        self.refused("Fortran order", fortran)
        self.refused("numpy.dtype with unusual", pickle.dumps({**BATCH, "data": np.array([object()])}, 2))
        structured = np.zeros(2, [("a", "u1")])
        self.refused("numpy.dtype with unusual", pickle.dumps({**BATCH, "data": structured}, 2))
        half = content[: content.index(b"(K\x01" + shape)]  # made, its state never set
        self.refused("data: _Array", half.replace(b"}q\0(", b"}q\0", 1) + b"sX\6\0\0\0labels]s.")

    def test_other_contents(self):
        for what, value in (
            ("holds a list", [1]),
            ("no 'data'", {"labels": []}),
            ("no 'labels'", {"data": PIXELS}),
            ("data: int, expected uint8", {**BATCH, "data": 1}),
            ("data: float64 [2, 192]", {**BATCH, "data": PIXELS.astype(float)}),
            ("data: uint8 [2, 3, 8, 8]", {**BATCH, "data": PIXELS.reshape(2, 3, 8, 8)}),
            ("shape [3, 128]", {**BATCH, "data": PIXELS.reshape(3, 128)}),
            ("labels: 1 of them", {**BATCH, "labels": [1]}),
            ("labels: str", {**BATCH, "labels": "ab"}),
            ("a list of other things", {**BATCH, "labels": [1, True]}),
            ("a list of other things", {**BATCH, "labels": [1, "2"]}),
            ("labels: -1, expected 0 to 1000", {**BATCH, "labels": [1, -1]}),
            ("labels: 1001, expected", {**BATCH, "labels": [1, 1001]}),
            ("labels: ndarray", {**BATCH, "labels": np.zeros(2)}),
        ):
            with self.subTest(what=what):
                self.refused(what, pickle.dumps(value, 2))

    def test_where_it_writes(self):
        content = pickle.dumps(BATCH)
        self.out.write_bytes(b"old")
        self.assertEqual(self.run_convert(b"broken")[0], 65)
        self.assertEqual(self.out.read_bytes(), b"old")
        self.assertEqual(self.run_convert(content)[0], 0)
        self.assertGreater(self.out.stat().st_size, 384)
        self.assertEqual(sorted(p.name for p in self.folder.iterdir()), ["batch", "batch.npz"])
        code, messages = self.run_convert(content, out=self.folder / "none/batch.npz")
        self.assertEqual((code, messages.count("\n")), (73, 1), messages)
        self.assertEqual(self.run_convert(content, out=self.folder / "batch.npy")[0], 64)
        self.assertEqual(self.run_convert(content, "--nonsense")[0], 64)
        with contextlib.redirect_stderr(io.StringIO()):
            self.assertEqual(convert_imagenet_batch.main([str(self.folder / "no"), f"--out={self.out}"]), 65)


if __name__ == "__main__":
    unittest.main()
