"""Files that must be refused: nothing of them is run, one line says what was found, nothing is written."""

import collections
import os
import pickle
import random
import struct
import subprocess
import tarfile
import unittest
import zipfile

import numpy as np

from importing import EXTRA, IMAGE, WAVEFORM, golden_weights
from torch_writer import T, archive, records_of
from watched import WatchedCase


class Calls:
    """Pickles as a call of `function`."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class BrokenFile:
    """The tests, for any kind of checkpoint."""

    def state(self):
        return collections.OrderedDict((name, T(array)) for name, array in golden_weights(self.kind.checkpoint).items())

    def test_files_that_torch_save_did_not_write(self):
        golden = self.kind.checkpoint.read_bytes()
        records = records_of(self.state())
        tar = self.folder / "a.tar"
        with tarfile.open(tar, "w") as file:
            file.add(self.kind.checkpoint, "data.pkl")
        extra = EXTRA.read_bytes()
        for what, content, words in (
            ("empty", b"", "it is empty"),
            ("text", b"hello, world", "not a zip file"),
            ("a bare pickle", pickle.dumps({"a": 1}, 2), "a bare pickle"),
            ("gzip", b"\x1f\x8b\x08" + bytes(99), "a gzip file"),
            ("tar", tar.read_bytes(), "not a zip file"),
            ("safetensors", extra, "not a zip file"),
            ("zip without entries", archive({}), "not a zip file"),
            ("foreign zip", archive({"word/document.xml": b"<a/>"}), "word/doc"),
            ("no pickle", archive({"version": b"3"}), "without data.pkl"),
            ("TorchScript", archive(records | {"constants.pkl": b""}), "constants.pkl"),
            ("garbage before", b"#!" + golden, "not a zip file"),
            ("big-endian", archive(records | {"byteorder": b"big"}), "byteorder"),
            ("two folders", archive([("data.pkl", records["data.pkl"]), ("../other/version", b"3")]), "other/version"),
            ("path", archive([("data.pkl", b"."), ("data/../../x", b"3")]), "data/../../x"),
        ):
            with self.subTest(what=what):
                self.refused(words, content)
        self.refused("FILE: cannot be read", self.folder)
        self.refused("FILE: cannot be read", self.folder / "none")
        os.mkfifo(self.folder / "pipe")
        self.refused("FILE: cannot be read: not a regular file", self.folder / "pipe")

    def test_zip_files_made_to_harm(self):
        records = records_of(self.state())
        self.refused("is compressed", archive(records, zipfile.ZIP_DEFLATED))
        bomb = archive({"data.pkl": bytes(50 << 20)}, zipfile.ZIP_DEFLATED)
        self.assertLess(len(bomb), 1 << 20)
        self.refused("is compressed", bomb)
        self.refused("data.pkl has", archive({"data.pkl": bytes(17 << 20)}))
        with self.assertWarns(UserWarning):
            twice = archive([*records.items(), ("data/0", records["data/0"])])
        self.refused("occurs twice", twice)
        good = archive(records)
        # Every second entry of the directory points at the first one's bytes.
        overlapping = bytearray(good)
        at = overlapping.find(b"PK\x01\x02", overlapping.find(b"PK\x01\x02") + 4)
        overlapping[at + 42 : at + 46] = struct.pack("<I", 0)
        self.refused("overlaps", bytes(overlapping))
        encrypted = bytearray(good)
        encrypted[encrypted.find(b"PK\x01\x02") + 8] |= 1
        self.refused("encrypted", bytes(encrypted))
        flipped = bytearray(good)
        at = good.find(records["data/0"])
        flipped[at] ^= 1
        self.refused("record data/0 is damaged", bytes(flipped))
        for size in (1 << 30, 0xFFFFFFFF):  # a size that the file does not have
            lying = bytearray(good)
            at = lying.find(b"PK\x01\x02")
            lying[at + 20 : at + 28] = struct.pack("<II", size, size)
            self.refused("FILE: ", bytes(lying))

    def test_pickles_made_to_harm(self):
        touch = f"touch {self.folder}/ran"
        code = f"open({str(self.folder / 'ran')!r}, 'w')"
        line = lambda text: text.encode() + b"\n"
        reduced = (
            lambda module, name, text: b"c"
            + line(module)
            + line(name)
            + b"X"
            + struct.pack("<I", len(text))
            + text.encode()
            + b"\x85R."
        )
        pickles = {
            "posix.system": pickle.dumps(Calls(os.system, touch), 2),
            "posix.system, protocol 4": pickle.dumps(Calls(os.system, touch), 4),
            "__builtin__.eval": pickle.dumps(Calls(eval, code), 2),
            "builtins.eval": reduced("builtins", "eval", code),
            "builtins.exec": reduced("builtins", "exec", code),
            "os.system": reduced("os", "system", touch),
            "subprocess.Popen": pickle.dumps(Calls(subprocess.Popen, ["sh", "-c", touch]), 4),
            "builtins.getattr": pickle.dumps(Calls(getattr, 1, "real"), 4),
            "torch.load": reduced("torch", "load", touch),
            "torch._utils._rebuild_tensor": reduced("torch._utils", "_rebuild_tensor", touch),
            "collections.OrderedDict.x": reduced("collections", "OrderedDict.x", touch),
            "numpy.load": reduced("numpy", "load", touch),
            "runpy._run_code": reduced("runpy", "_run_code", code),
            "importlib.import_module": reduced("importlib", "import_module", "os"),
        }
        for what, data in pickles.items():
            with self.subTest(what=what):
                self.refused(f"names {what.partition(',')[0]}, which", archive({"data.pkl": data}))
        inner = records_of({"model": self.state(), "note": Calls(os.system, touch)})
        self.refused("names posix.system", archive(inner))
        for words, data in (
            ("opcode INST for os.system", b"(S'a'\nios\nsystem\n.".replace(b"S'a'\n", b"")),
            ("opcode EXT1", b"\x82\x01."),
            ("opcode OBJ", b"(o."),
            ("opcode NEWOBJ", b")\x81."),
            ("opcode PERSID", b"P1\n."),
            ("opcode STRING", b"S'a'\n."),
            ("opcode POP", b"0."),
            ("opcode BYTEARRAY8", b"\x96."),
            ("no opcode", b"\xff."),
            ("calls a str", b"X\x01\x00\x00\x00a)R."),
            ("sets attributes of a NoneType", b"N}b."),
            ("unusual arguments", b"ccollections\nOrderedDict\n]\x85R."),
            ("empty stack", b"."),
            ("empty stack", b"a."),
            ("left over", b"NN."),
            ("follow its end", b"}.}"),
            ("without end", b"c" + b"a" * 600),
            ("UTF-8", b"X\x01\x00\x00\x00\xff."),
            ("recalls value 7", b"h\x07."),
            ("nested deeper", b"(" * 99 + b"."),
            ("without a value", b"}(Nu."),
            ("occurs twice", b"}(K\x01NK\x01Nu."),
            ("dict key that is a tuple", b"})Ns."),
            ("no mark", b"t."),
            ("expected a dict", b"]."),
        ):
            with self.subTest(words=words, data=data):
                self.refused(words, archive({"data.pkl": data}))
        laughs = b"]q\x00" + b"".join(b"(h\x00h\x00h\x00h\x00e]q\x00" for _ in range(2000))
        self.refused("data.pkl: ", archive({"data.pkl": laughs}))
        self.refused("more than", archive({"data.pkl": b"N" * (5 << 20)}))

    def test_truncated_anywhere(self):
        data = self.kind.checkpoint.read_bytes()
        places = sorted({*range(64), *range(0, len(data), len(data) // 100), *range(len(data) - 64, len(data))})
        for place in places:
            with self.subTest(place=place):
                self.refused("FILE: ", data[:place])
        records = records_of(self.state())
        text = records["data.pkl"]
        for place in sorted({*range(40), *range(0, len(text), len(text) // 100), *range(len(text) - 20, len(text))}):
            with self.subTest(pickle=place):
                self.refused("data.pkl: at byte ", archive(records | {"data.pkl": text[:place]}))

    def test_any_damage_ends_in_a_refusal(self):
        """Random damage to the pickle: never an exception, never an effect."""
        generator = random.Random(5)
        records = records_of({"model": self.state(), "best": np.float64(1)})
        text, refused = records["data.pkl"], 0
        for case in range(300):
            damaged = bytearray(text)
            for _ in range(generator.choice((1, 1, 2, 8))):
                damaged[generator.randrange(len(text) if case % 2 else 400)] = generator.randrange(256)
            file = self.write("damaged.pt", archive(records | {"data.pkl": bytes(damaged)}))
            # Nothing gets past the reading, whatever the damage.
            code, messages = self.watched(file, **self.kind.incomplete)
            self.assertEqual(code, 65, messages)
            refused += self.kind.incomplete_words not in messages
        self.assertGreater(refused, 100)
        self.assertFalse(self.repository.exists())


class BrokenWaveformFileTest(BrokenFile, WatchedCase):
    kind = WAVEFORM


class BrokenImageFileTest(BrokenFile, WatchedCase):
    kind = IMAGE


if __name__ == "__main__":
    unittest.main()
