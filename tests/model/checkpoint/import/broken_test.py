"""Files that must be refused: nothing of them is run, one line says what was found, nothing is written."""

import collections
import encodings.cp437  # noqa: F401  (zipfile imports it when it meets odd names)
import os
import pickle
import random
import struct
import subprocess
import sys
import tarfile
import unittest
import zipfile

import numpy as np

from importing import CHECKPOINT, CONFIG, DATA, ImportCase, golden_extra, golden_weights, safetensors_io
from torch_writer import T, archive, records_of, torch_bytes

# Python's audit events: whatever of these happens while a file is read was caused by the file.
FORBIDDEN = ("os.", "subprocess.", "socket.", "shutil.", "pickle.", "exec", "compile", "webbrowser.", "ctypes.")
seen = None  # a list while a test looks


def _audit(event, _):
    if seen is not None and event.startswith(FORBIDDEN) and event not in ("os.listdir", "os.scandir"):
        seen.append(event)


sys.addaudithook(_audit)

WEIGHTS = golden_weights()
FIRST = "target_flow.blocks.0.bn_flow_0_0.weight"


def state(**changed):
    value = collections.OrderedDict((name, T(array)) for name, array in WEIGHTS.items())
    value.update(changed)
    return value


class Calls:
    """Pickles as a call of `function`."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class BrokenTest(ImportCase):
    @classmethod
    def setUpClass(cls):
        # Whatever is imported late is there before anything is watched.
        case = cls("test_truncated_anywhere")
        case.setUp()
        assert case.run_import(CHECKPOINT, extra=None)[0] == 65
        case.doCleanups()

    def refused(self, expected, content, *more, **options):
        global seen
        file = content if not isinstance(content, bytes) else self.write("broken.pt", content)
        seen = []
        try:
            super().refused(expected, file, *more, **options)
            happened, seen = seen, None
        finally:
            seen = None
        self.assertEqual(happened, [])
        self.assertFalse((self.folder / "ran").exists())

    def test_files_that_torch_save_did_not_write(self):
        golden = CHECKPOINT.read_bytes()
        records = records_of(state())
        tar = self.folder / "a.tar"
        with tarfile.open(tar, "w") as file:
            file.add(CHECKPOINT, "data.pkl")
        extra = (DATA / "ck_wave.extra.safetensors").read_bytes()
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
        self.refused("image models are not supported by this version", DATA / "ck_image.model.pt")

    def test_zip_files_made_to_harm(self):
        records = records_of(state())
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
        inner = records_of({"model": state(), "note": Calls(os.system, touch)})
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

    def tensor(self, array, **changed):
        return torch_bytes(state(**{FIRST: T(array, **changed)}))

    def test_tensors_that_do_not_fit_their_storage(self):
        good = WEIGHTS[FIRST]  # [1, 4]
        for changed, words in (
            ({"stride": (-4, 1)}, "with stride (-4, 1)"),
            ({"stride": (4, 2)}, "in a storage of 4 elements"),
            ({"offset": -1}, "with offset (-1)"),
            ({"offset": 1}, "in a storage"),
            ({"size": (1, 5)}, "in a storage"),
            ({"size": (2**40, 2**40)}, "in a storage"),
            ({"size": (2**64, 4)}, "with shape (18446744073709551616"),
            ({"size": (2**30, 4), "stride": (0, 1)}, "in a storage"),
            ({"size": (4,)}, "do not fit each other"),
            ({"size": [1, 4]}, "do not fit each other"),
            ({"size": (1, True)}, "with shape (1, True)"),
            ({"size": (1,) * 9 + (4,), "stride": (4,) * 9 + (1,)}, "do not fit each other"),
            ({"size": (1, 2.5)}, "with shape (1, 2.5)"),
            ({"size": (1, ((),) * 3)}, "with shape (1, tuple)"),
            ({"offset": 2**62}, "with offset"),
        ):
            with self.subTest(changed=changed):
                self.refused(words, self.tensor(good, **changed))
        records = records_of(state())
        for size, words in ((b"", "has 0 bytes"), (bytes(15), "has 15 bytes"), (bytes(4096), "has 4096 bytes")):
            self.refused("record data/0 " + words, archive(records | {"data/0": size}))
        del records["data/3"]
        self.refused("record data/3 is missing", archive(records))
        text = records_of(state())["data.pkl"]
        two_ways = text.replace(b"X\x01\x00\x00\x002", b"X\x01\x00\x00\x000", 1)
        self.refused("storage 0 is described in two ways", archive(records_of(state()) | {"data.pkl": two_ways}))
        other = text.replace(b"FloatStorage", b"FlatsStorage")
        self.refused("names torch.FlatsStorage", archive(records_of(state()) | {"data.pkl": other}))

    def test_weights_that_do_not_fit_the_model(self):
        good = WEIGHTS[FIRST]
        not_finite = good.copy()
        not_finite[0, 1] = np.nan
        for what, value, words in (
            ("float64", T(good.astype(np.float64)), "dtype float64"),
            ("int64", T(good.astype(np.int64)), "dtype int64"),
            ("float16", T(good.astype(np.float16)), "dtype float16"),
            ("transposed", T(good.T), "has shape [4, 1]"),
            ("NaN", T(not_finite), "not finite"),
            ("a number", 3, "is a int, expected a tensor"),
            ("a list", [1], "is a list"),
        ):
            with self.subTest(what=what):
                self.refused(words, torch_bytes(state(**{FIRST: value})))
        missing = state()
        del missing["target_flow.blocks.1.coupling_1_1.scale_net.2.bias"]
        self.refused("blocks.1.coupling_1_1.scale_net.2.bias is missing", torch_bytes(missing))
        for name, words in (
            ("target_flow.blocks.0.bn_flow_0_0.more", "an unexpected tensor"),
            ("target_flow.other", "no tensor of a waveform"),
            ("target_flow.blocks.0.bn_flow_1_0.weight", "no tensor of a waveform"),
            ("module." + FIRST, "occurs twice"),
            ("target_flow.blocks.9999.bn_flow_9999_0.weight", "levels"),
            ("target_flow.blocks.0.bn_flow_0_2.bias", "blocks"),
            ("target_flow.blocks.0.butterfly_0_0.model.7.w1", "an unexpected tensor"),
            ("flow.flow.blocks.0.steps.0.actnorm.bias", "image models are not supported"),
        ):
            with self.subTest(name=name):
                self.refused(words, torch_bytes(state(**{name: T(good)})))
        factor = "target_flow.blocks.0.butterfly_0_0.model.0.w1"
        for shape in ((3, 2, 1, 2), (1, 2, 2, 2), (128, 2, 1, 2), (1, 2, 1, 3), (4,), (0, 2, 1, 2)):
            with self.subTest(shape=shape):
                self.refused("no factor of a butterfly", torch_bytes(state(**{factor: T(np.ones(shape, np.float32))})))
        self.refused("in no order", torch_bytes(state(**{factor: T(np.ones((4, 2, 1, 2), np.float32))})))
        for value in ({}, [], 3, "text", {"model": {}}, {"model": [1]}, {"epoch": 3}):
            self.refused("FILE: ", torch_bytes(value))
        # Finite, but no model: found by our program.
        singular = torch_bytes(state(**{factor: T(np.zeros((1, 2, 1, 2), np.float32))}))
        code, _ = self.run_import(self.write("singular.pt", singular))
        self.assertEqual(code, 65)
        self.assertFalse(self.repository.exists())

    def test_extras_that_do_not_fit(self):
        p, sign = "target_flow.blocks.0.luinvmm_0_0.P", "target_flow.blocks.0.luinvmm_0_0.sign_S"
        extra, eye = golden_extra(), np.eye(4, dtype=np.float32)
        for change, words in (
            ({p: eye * 2}, "not a permutation matrix"),
            ({p: eye[[0, 0, 1, 2]]}, "not a permutation matrix"),
            ({p: eye[:3]}, "has shape [3, 4]"),
            ({p: eye * np.float32(np.nan)}, "not a permutation matrix"),
            ({sign: np.float32([1, -1, 0, 1])}, "1 and -1"),
            ({sign: np.float32([1, 1])}, "has shape [2]"),
            ({"target_flow.other": extra[sign]}, "target_flow.other"),
            ({"module." + p: eye}, "each once"),
            ({"target_flow.blocks.0.luinvmm_0_0.L": eye}, "no such layer"),
            ({"target_flow.blocks.5.luinvmm_5_0.P": eye}, "no such"),
        ):
            with self.subTest(change=list(change)):
                data = self.write("extra.safetensors", safetensors_io.serialize(extra | change, {}))
                self.refused(words, CHECKPOINT, extra=data)
        good = (DATA / "ck_wave.extra.safetensors").read_bytes()
        for length in (0, 7, 8, 9, 100, len(good) - 1):
            self.refused("--extra: ", CHECKPOINT, extra=self.write("cut.safetensors", good[:length]))
        for old, new in (
            (b'"F32"', b'"F16"'),
            (b"[4,4]", b"[4,5]"),
            (b"[0,64]", b"[0,-1]"),
            (b"[0,64]", b"[9,73]"),
            (b'"shape"', b'"SHAPE"'),
            (b"[4,4]", b"{}   "),
        ):
            self.refused("--extra: ", CHECKPOINT, extra=self.write("bad.safetensors", good.replace(old, new, 1)))
        self.refused("--extra: cannot be read", CHECKPOINT, extra=self.folder / "none")

    def test_truncated_anywhere(self):
        data = CHECKPOINT.read_bytes()
        places = sorted({*range(64), *range(0, len(data), len(data) // 100), *range(len(data) - 64, len(data))})
        for place in places:
            with self.subTest(place=place):
                self.refused("FILE: ", data[:place])
        records = records_of(state())
        text = records["data.pkl"]
        for place in sorted({*range(40), *range(0, len(text), len(text) // 100), *range(len(text) - 20, len(text))}):
            with self.subTest(pickle=place):
                self.refused("data.pkl: at byte ", archive(records | {"data.pkl": text[:place]}))

    def test_any_damage_ends_in_a_refusal(self):
        """Random damage to the pickle: never an exception, never an effect."""
        global seen
        generator = random.Random(5)
        records = records_of({"model": state(), "best": np.float64(1)})
        text, refused = records["data.pkl"], 0
        for case in range(300):
            damaged = bytearray(text)
            for _ in range(generator.choice((1, 1, 2, 8))):
                damaged[generator.randrange(len(text) if case % 2 else 400)] = generator.randrange(256)
            file = self.write("damaged.pt", archive(records | {"data.pkl": bytes(damaged)}))
            seen = []
            # Without --extra nothing gets past the reading, whatever the damage.
            code, messages = self.run_import(file, extra=None, config=CONFIG)
            happened, seen = seen, None
            self.assertEqual(happened, [])
            self.assertEqual(code, 65, messages)
            refused += "P and the signs" not in messages
        self.assertGreater(refused, 100)
        self.assertFalse(self.repository.exists())


if __name__ == "__main__":
    unittest.main()
