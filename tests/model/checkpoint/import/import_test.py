"""Checkpoints of the reference that must import, and what the importer needs to be told."""

import collections
import json
import stat
import subprocess
import sys
import unittest

import numpy as np

from importing import (
    BIN,
    CHECKPOINT,
    CONFIG,
    EXTRA,
    ROOT,
    ImportCase,
    golden_extra,
    golden_weights,
    safetensors_io,
    spec_of,
)
from torch_writer import T, archive, records_of, torch_bytes


def without_butterflies(weights):
    return {name: array for name, array in weights.items() if "butterfly" not in name}


class ImportTest(ImportCase):
    def state_dict(self, weights, rename=lambda name: name, **more):
        return collections.OrderedDict((rename(name), T(array)) for name, array in weights.items()) | more

    def check(self, version):
        self.check_version(version, "ck_wave_expected")

    def check_fails(self, version):
        self.check_version(version, "ck_wave_expected", status=1)

    def test_the_golden_checkpoint(self):
        version = self.imported(CHECKPOINT)
        self.check(version)
        spec = spec_of(version / "model.safetensors")
        self.assertEqual(spec["dequantisation"], "none")
        self.assertEqual(spec["sensitivity"], "patient")
        self.assertEqual(stat.S_IMODE((version / "model.safetensors").stat().st_mode), 0o600)
        self.assertEqual(
            {p.name for p in version.iterdir()}, {"manifest.json", "model.safetensors", "selftest.safetensors"}
        )
        self.assertIn("import_reference.py", (version / "manifest.json").read_text())
        for name, array in safetensors_io.read(version / "model.safetensors", "model").items():
            self.assertEqual(array.dtype, np.int64 if name.endswith("permutation") else np.float32)

    def test_the_script_as_a_user_runs_it(self):
        config = self.write("config.json", CONFIG)
        done = subprocess.run(
            [
                sys.executable,
                ROOT / "model/checkpoint/import_reference.py",
                CHECKPOINT,
                "--config",
                config,
                "--extra",
                EXTRA,
                "--out",
                self.repository,
                "--model",
                "wave",
                "--version",
                "7",
                "--program",
                BIN / "bflow-train",
            ],
            capture_output=True,
            text=True,
            timeout=100,
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("version 7", done.stdout)
        self.assertIn("assumed: sampling_rate_hz 125, sensitivity patient, dequantisation none", done.stderr)
        self.check(self.repository / "wave/7")

    def test_the_installed_script(self):
        prefix = self.folder / "prefix"
        install = ["cmake", "--install", BIN.parent, "--component", "importer", "--prefix", prefix]
        subprocess.run(install, check=True, capture_output=True)
        (prefix / "bin").mkdir()
        (prefix / "bin/bflow-train").symlink_to(BIN / "bflow-train")
        script = prefix / "share/butterflyflow/import_reference/import_reference.py"
        version = subprocess.run([sys.executable, script, "--version"], capture_output=True, text=True, check=True)
        self.assertRegex(version.stdout, r"import_reference\.py [0-9]+\.[0-9]+\.[0-9]+\n")
        arguments = [a for a in self.arguments(CHECKPOINT) if not a.startswith("--program")]
        subprocess.run([sys.executable, script, *arguments], capture_output=True, check=True)
        self.check(self.repository / "wave/1")

    def test_a_version_is_never_overwritten(self):
        before = (self.imported(CHECKPOINT) / "manifest.json").read_bytes()
        self.assertEqual(self.run_import(CHECKPOINT)[0], 73)
        self.assertEqual((self.repository / "wave/1/manifest.json").read_bytes(), before)

    def test_wrong_usage_is_64(self):
        for flags in (["--version=0"], ["--version=x"], ["--weights=best"], ["--no_such=1"], ["--permutation=p.pth"]):
            with self.subTest(flags=flags):
                self.assertEqual(self.run_import(CHECKPOINT, *flags)[0], 64)
        self.assertEqual(self.run_import(CHECKPOINT, model="Not A Name")[0], 64)
        for flag, words in (("--help", "usage:"), ("--version", "import_reference.py 0.")):
            done = subprocess.run(
                [sys.executable, ROOT / "model/checkpoint/import_reference.py", flag], capture_output=True, text=True
            )
            self.assertEqual(done.returncode, 0)
            self.assertIn(words, done.stdout)

    def test_what_the_reference_does_not_save_must_be_given(self):
        self.refused(
            "target_flow.blocks.0.luinvmm_0_0.P, target_flow.blocks.0.luinvmm_0_0.sign_S", CHECKPOINT, extra=None
        )
        parts = golden_extra()
        del parts["target_flow.blocks.1.luinvmm_1_0.sign_S"]
        some = self.write("some.safetensors", safetensors_io.serialize(parts, {}))
        self.refused("must hold target_flow.blocks.1.luinvmm_1_0.sign_S", CHECKPOINT, extra=some)

    def test_variants_of_keys(self):
        weights = golden_weights()
        for k, rename in enumerate(
            (
                lambda n: n,
                lambda n: "module." + n,
                lambda n: n.replace("target_flow.", "target_flow.flow."),
                lambda n: n.replace("target_flow.", "target_flow.module."),
                lambda n: n.removeprefix("target_flow."),
            )
        ):
            with self.subTest(variant=k):
                value = self.state_dict(weights, rename)  # alone, or in a checkpoint
                file = self.write("a.pt", torch_bytes({"epoch": 3, "model": value, "lr": 0.5} if k % 2 else value))
                self.check(self.imported(file, model=f"variant-{k}"))

    def test_extra_with_other_prefixes_and_dtypes(self):
        for name, dtype in (("f64", np.float64), ("i64", np.int64)):
            parts = {n.removeprefix("target_flow."): a.astype(dtype) for n, a in golden_extra().items()}
            data = self.write("extra.safetensors", self.serialized(parts))
            self.check(self.imported(CHECKPOINT, extra=data, model=name))

    @staticmethod
    def serialized(parts):
        header, body = {}, b""
        for name, array in parts.items():
            header[name] = {
                "dtype": {"f": "F64", "i": "I64"}[array.dtype.kind],
                "shape": list(array.shape),
                "data_offsets": [len(body), len(body) + array.nbytes],
            }
            body += array.tobytes()
        text = json.dumps(header).encode()
        return len(text).to_bytes(8, "little") + text + body

    def test_views_of_larger_storages_and_transposed_ones(self):
        value = self.state_dict(golden_weights())
        for name in list(value):
            array = value[name].storage.array
            if name.endswith(".L"):  # as scipy's LU gives it: by columns
                value[name] = T(array.T, size=array.shape, stride=(1, array.shape[0]))
            elif name.endswith("scale_net.2.weight"):
                padded = np.concatenate([np.full(5, 9, np.float32), array.ravel(), np.full(3, 9, np.float32)])
                value[name] = T(padded, size=array.shape, stride=(array.shape[1], 1), offset=5)
        self.check(self.imported(self.write("a.pt", torch_bytes(value))))

    def test_files_of_older_torch(self):
        records = records_of(self.state_dict(golden_weights()), first_key=94350134298512)  # addresses, and no byteorder
        del records["byteorder"]
        self.check(self.imported(self.write("a.pt", archive(records))))

    def test_ignored_entries_of_lu_are_ignored(self):
        weights = golden_weights()
        for name, array in weights.items():
            if name.endswith(".L"):
                array[np.triu_indices(4)] = 7
            elif name.endswith(".U"):
                array[np.tril_indices(4)] = -7
        self.check(self.imported(self.write("a.pt", torch_bytes(self.state_dict(weights)))))

    def test_a_best_loss_that_is_a_numpy_number(self):
        value = {"model": self.state_dict(golden_weights()), "best_validation_loss": np.float64(-1.5)}
        self.check(self.imported(self.write("a.pt", torch_bytes(value))))

    def test_the_moving_average_is_preferred(self):
        weights = golden_weights()
        other = {name: array + np.float32(0.01) for name, array in weights.items() if "butterfly" in name}
        short = lambda name: name.split(".", 3)[3]  # butterfly_0_0.model.0.w1
        model = without_butterflies(weights) | other | {"ema_model." + short(n): a for n, a in other.items()}
        helper = {short(n): T(a) for n, a in weights.items() if "butterfly" in n}
        value = {"model": self.state_dict(model), "ema_helper": helper}
        file = self.write("a.pt", torch_bytes(value))
        self.check(self.imported(file))
        self.check(self.imported(file, "--weights=ema", model="ema"))
        self.check_fails(self.imported(file, "--weights=raw", model="raw"))
        # Without a helper the copy of the last evaluation; raw ones beside averaged ones in the flow.
        model = dict(weights) | {"ema_model." + short(n): a for n, a in other.items()}
        model |= {"ema_model_copy." + short(n): weights[n] for n in other}
        file = self.write("b.pt", torch_bytes(self.state_dict(model)))
        self.check(self.imported(file, model="copy"))
        self.check_fails(self.imported(file, "--weights=raw", model="copy-raw"))
        # An average of all weights is named like the flow.
        whole = {n.removeprefix("target_flow."): T(a) for n, a in weights.items()}
        file = self.write(
            "c.pt", torch_bytes({"model": self.state_dict(without_butterflies(weights) | other), "ema_helper": whole})
        )
        self.check(self.imported(file, model="all"))

    def test_no_average_to_take(self):
        code, messages = self.run_import(CHECKPOINT, "--weights=ema")
        self.assertEqual(code, 0)
        self.assertIn("FILE holds no moving average", messages)
        self.check(self.repository / "wave/1")

    def test_orders_of_factors(self):
        weights = golden_weights()
        cases = {
            "narrowest_first": lambda factors: factors[::-1],
            "bi_direction": lambda factors: factors + factors[::-1],
            "none": lambda factors: [],
        }
        for case, arrange in cases.items():
            changed = without_butterflies(weights)
            for l in range(2):
                for j in range(2):
                    prefix = f"target_flow.blocks.{l}.butterfly_{l}_{j}.model."
                    factors = arrange([weights[f"{prefix}{k}.w1"] for k in range(5 - l)])
                    changed |= {f"{prefix}{k}.w1": factor for k, factor in enumerate(factors)}
            file = self.write("a.pt", torch_bytes(self.state_dict(changed)))
            version = self.imported(file, config={"T": 64}, model=case)
            block = spec_of(version / "model.safetensors")["levels"][0]["blocks"][0]
            if case == "none":
                self.assertEqual([layer["kind"] for layer in block], ["act_norm", "lu_matmul", "affine_coupling"])
                continue
            self.assertEqual(block[2]["factors"], 5)
            self.assertEqual(block[2].get("bi_direction", False), case == "bi_direction")
            self.assertEqual(block[2].get("order"), "narrowest_first" if case == "narrowest_first" else "widest_first")
            for k in range(5 if case == "narrowest_first" else 10):
                got = safetensors_io.read(version / "model.safetensors", "model")[f"levels.0.blocks.0.2.factors.{k}"]
                np.testing.assert_array_equal(got, changed[f"target_flow.blocks.0.butterfly_0_0.model.{k}.w1"])

    def test_the_config_in_the_form_of_the_reference(self):
        channels = [
            {"name": "PLETH", "unit": "NU", "gain": 2, "lo": -4, "hi": 9, "step": 0.5},
            {"name": "ABP", "lo": 0, "hi": 5, "input_min": -9, "input_max": 9},
        ]
        config = {
            "flow": {
                "type": "butter_glow",
                "levels": 2,
                "num_blocks": 2,
                "reverse_perm": True,
                "perm_layers": 5,
                "bi_direction": False,
            },
            "ngpu": 1,
            "lr": 1e-4,
            "dataset": "mimic",
            "T": 64,
            "channels": channels,
            "sampling_rate_hz": 62.5,
            "sensitivity": "none",
            "allow_sampling": False,
        }
        spec = spec_of(self.imported(CHECKPOINT, config=config) / "model.safetensors")
        self.assertEqual([c["name"] for c in spec["channels"]], ["PLETH", "ABP"])
        self.assertEqual([(c["input_min"], c["input_max"]) for c in spec["channels"]], [(0, 0), (-9, 9)])
        self.assertEqual([(c["lo"], c["hi"]) for c in spec["channels"]], [(-4, 9), (0, 5)])
        self.assertEqual((spec["sampling_rate_hz"], spec["sensitivity"], spec["allow_sampling"]), (62.5, "none", False))
        del config["channels"]
        spec = spec_of(self.imported(CHECKPOINT, config=config, model="names") / "model.safetensors")
        self.assertEqual([c["name"] for c in spec["channels"]], ["PLETH", "ABP"])

    def test_a_model_of_converter_codes(self):
        channel = {"lo": -90, "hi": 120, "input_min": -127, "input_max": 127}
        config = dict(CONFIG, dequantisation="uniform", channels=[dict(channel, name="II"), dict(channel, name="V")])
        version = self.imported(CHECKPOINT, config=config)
        rows = safetensors_io.read(version / "selftest.safetensors", "rows")["x"]
        np.testing.assert_array_equal(rows, np.clip(np.round(rows), -127, 127))

    def test_configs_that_do_not_fit(self):
        for change, words in (
            ({"T": None}, "T is missing"),
            ({"T": 63}, "2^2 does not divide"),
            ({"T": 4}, "no factor of a butterfly"),
            ({"C": 3}, "channels"),
            ({"levels": 3}, "levels"),
            ({"blocks": 1}, "blocks"),
            ({"factors": 4}, "factors"),
            ({"hidden": 8}, "hidden"),
            ({"reverse_perm": False}, "reverse_perm"),
            ({"bi_direction": True}, "bi_dir"),
            ({"T": "64"}, "whole number"),
            ({"channels": [{"name": "a"}]}, "channels"),
            ({"channels": ["a", "b"]}, "channels[0]"),
            ({"channels": [{"name": "a", "low": 1}, {"name": "b"}]}, "channels[0].low"),
        ):
            with self.subTest(change=change):
                self.refused(words, CHECKPOINT, config=CONFIG | change)
        for text, words in (
            (b"{", "no JSON"),
            (b"[]", "an object"),
            (b'{"T": 64, "T": 64}', "twice"),
            (b"[" * 100000, "nested"),
        ):
            self.refused(words, CHECKPOINT, config=text)

    def test_what_only_our_program_refuses(self):
        for change in (
            {"sensitivity": "secret"},
            {"dequantisation": "normal"},
            {"sampling_rate_hz": 0},
            {"channels": [{"name": "a"}, {"name": "a"}]},
            {"dequantisation": "uniform"},
            {"channels": [{"name": "a"}, {"name": "b", "gain": 0}]},
        ):
            with self.subTest(change=change):
                self.assertEqual(self.run_import(CHECKPOINT, config=CONFIG | change)[0], 65)
                self.assertFalse(self.repository.exists())

    def test_output_that_cannot_be_written(self):
        self.assertEqual(self.run_import(CHECKPOINT, out=self.write("file", b""))[0], 73)

    def test_a_program_that_is_not_there(self):
        self.assertEqual(self.run_import(CHECKPOINT, f"--program={self.folder}/none")[0], 78)


if __name__ == "__main__":
    unittest.main()
