"""Image checkpoints of the reference: what the importer gives to bflow-train computes what the reference computes."""

import collections
import itertools
import unittest

import numpy as np

from image_flow import evaluate
from importing import (
    CHECKPOINT,
    DATA,
    EXTRA,
    IMAGE,
    IMAGE_CHECKPOINT,
    IMAGE_CONFIG,
    ImportCase,
    golden_weights,
    safetensors_io,
)
from torch_writer import T, torch_bytes

EMA_FILES = (DATA / "ck_image_ema.model.pt", DATA / "ck_image_ema.checkpoint.tar")


def changed(flow=None, **top):
    """The config with these fields; None removes one."""
    config = IMAGE_CONFIG | top | {"flow": IMAGE_CONFIG["flow"] | (flow or {})}
    return {name: value for name, value in config.items() if value is not None}


def state_dict(weights, rename=lambda name: name):
    return collections.OrderedDict((rename(name), T(array)) for name, array in weights.items())


class ImageCase(ImportCase):
    kind = IMAGE

    def check(self, model, expected="ck_image_expected", out="out", tolerance=1e-9, x=None):
        """Against what the reference computes with these weights."""
        golden = safetensors_io.read(DATA / f"{expected}.safetensors", "golden")
        got = evaluate(model[0], model[1], golden["in.x"] if x is None else x)
        for name, value in zip(("z", "logdet", "logp"), got):
            np.testing.assert_allclose(value, golden[f"{out}.{name}"], rtol=tolerance, atol=tolerance)

    def convert_weights(self, weights, *more, rename=lambda name: name, **options):
        return self.converted(self.write("a.pt", torch_bytes(state_dict(weights, rename))), *more, **options)

    def convert_golden(self, name, **options):
        """A golden model whose weights are float64, hence to be compared in float32 only."""
        golden = safetensors_io.read(DATA / f"{name}.safetensors", "golden")
        weights = {n[3:]: a.astype(np.float32) for n, a in golden.items() if n.startswith("sd.")}
        return self.convert_weights(weights, **options)


class ImageTest(ImageCase):
    def test_the_golden_checkpoint(self):
        spec, tensors, messages = self.converted(IMAGE_CHECKPOINT)
        self.check((spec, tensors))
        self.assertEqual(messages, "")
        self.assertTrue(all(array.dtype == np.float32 for array in tensors.values()))
        layers = [
            {"kind": "act_norm"},
            {"kind": "conv1x1"},
            {"kind": "butterfly", "factors": 3, "shared": False, "order": "widest_first", "flatten": "chw"},
            {"kind": "conv2d_coupling", "hidden": 8},
        ]
        fewer = [layer | ({"factors": 2} if "factors" in layer else {}) for layer in layers]
        numbers = {"input_min": 0, "input_max": 255, "step": 1, "lo": 0, "hi": 256}
        self.assertEqual(
            spec,
            {
                "format": 1,
                "architecture": "image",
                "event_shape": [3, 8, 8],
                "sensitivity": "none",
                "allow_sampling": True,
                "channels": [{"name": name} | numbers for name in ("red", "green", "blue")],
                "dequantisation": "uniform",
                "pre": [],
                "levels": [
                    {"squeeze": 2, "blocks": [layers], "prior": layers, "split": True},
                    {"squeeze": 2, "blocks": [fewer], "split": False},
                ],
                "base": {"kind": "normal"},
            },
        )

    def test_what_bflow_train_writes(self):
        self.check_version(self.imported(IMAGE_CHECKPOINT, model="image"), "ck_image_expected")
        for k, file in enumerate(EMA_FILES):
            self.check_version(self.imported(file, model=f"ema-{k}"), "ck_image_ema_expected")

    def test_averages_and_the_weights_in_training(self):
        config = changed(use_ema=True)
        for file in EMA_FILES:
            with self.subTest(file=file.name):
                average = self.converted(file, config=config)
                self.check(average, "ck_image_ema_expected")
                self.check(self.converted(file, "--weights=ema", config=config), "ck_image_ema_expected")
                raw = self.converted(file, "--weights=raw", config=config)
                self.check(raw, "ck_image_ema_expected", out="out_raw")
                different = {n for n in raw[1] if not np.array_equal(raw[1][n], average[1][n])}
                self.assertEqual(different, {n for n in raw[1] if ".factors." in n})
        _, _, messages = self.converted(IMAGE_CHECKPOINT, "--weights=ema")
        self.assertIn("FILE holds no moving average", messages)

    def test_both_files_give_the_same_model(self):
        models = [self.converted(file) for file in EMA_FILES]
        self.assertEqual(models[0][0], models[1][0])
        self.assertEqual(list(models[0][1]), list(models[1][1]))
        for name, array in models[0][1].items():
            np.testing.assert_array_equal(array, models[1][1][name])

    def test_a_checkpoint_whose_flow_holds_the_weights_in_training(self):
        # As after an epoch without an evaluation; and an average of all weights, which is named like the flow.
        weights = golden_weights(IMAGE_CHECKPOINT)
        trained = {n: a + np.float32(0.01) for n, a in weights.items() if "butterfly" in n}
        short = lambda name: name.removeprefix("flow.flow.")
        model = weights | trained | {f"ema_model.{short(n)}": a for n, a in trained.items()}
        for helper in (trained, weights):
            value = {
                "epoch": 4,
                "model": state_dict(model),
                "ema_helper": {short(n): T(weights[n]) for n in helper if "weight_inv" not in n},
                "optimizer": {
                    "state": {0: {"step": T(np.ones(1, np.float32), size=(), stride=())}},
                    "param_groups": [{"betas": (0.9, 0.999), "lr": 1e-3, "foreach": None, "params": [0, 1]}],
                },
                "best_nll_mc": np.float64(3.5),
            }
            file = self.write("a.tar", torch_bytes(value))
            self.check(self.converted(file))
            with self.assertRaises(AssertionError):
                self.check(self.converted(file, "--weights=raw"))
        value["ema_helper"] = None
        with self.assertRaises(AssertionError):
            self.check(self.converted(self.write("a.tar", torch_bytes(value))))

    def test_variants_of_keys(self):
        weights = golden_weights(IMAGE_CHECKPOINT)
        for prefix in ("flow.flow.", "flow.module.flow.", "module.flow.flow.", "target_flow.", "target_flow.flow.", ""):
            with self.subTest(prefix=prefix):
                self.check(self.convert_weights(weights, rename=lambda n: n.replace("flow.flow.", prefix)))
        # What the reference computes with lies below flow.flow; other copies may differ.
        for other in ("target_flow.", "target_flow.flow.", "target_flow.flow.module_dict.", "flow.flow.module_dict."):
            copies = {n.replace("flow.flow.", other): a * 0 + 7 for n, a in weights.items()}
            for model in (weights | copies, copies | weights):
                self.check(self.convert_weights(model))

    def test_the_inverse_of_a_1x1_convolution_is_not_read(self):
        weights = golden_weights(IMAGE_CHECKPOINT)
        for name in [n for n in weights if n.endswith("weight_inv")]:
            weights[name] = np.float32([np.nan])
        self.check(self.convert_weights(weights))

    def permutation(self, value):
        return self.write("random_perm_test.pth", torch_bytes(value))

    def test_permuted_images(self):
        permutation = np.random.default_rng(3).permutation(192)
        file = self.permutation([T(permutation)])
        x = safetensors_io.read(DATA / "ck_image_expected.safetensors", "golden")["in.x"]
        unpermuted = np.empty_like(x).reshape(2, -1)
        unpermuted[:, permutation] = x.reshape(2, -1)
        unknown = {"no_data_permute": None}
        for told in ({"no_data_permute": False}, unknown, unknown | {"data_permute": True}):
            with self.subTest(told=told):
                model = self.converted(IMAGE_CHECKPOINT, f"--permutation={file}", config=changed(**told))
                self.assertEqual(model[0]["pre"], [{"kind": "permutation"}])
                np.testing.assert_array_equal(model[1]["pre.0.permutation"], permutation)
                self.assertEqual(model[1]["pre.0.permutation"].dtype, np.int64)
                self.check(model, x=unpermuted.reshape(x.shape))

    def test_permutations_must_be_told_and_there(self):
        good = self.permutation([T(np.arange(192))])
        self.refused("--permutation is missing", IMAGE_CHECKPOINT, config=changed(no_data_permute=False))
        self.refused("not permuted", IMAGE_CHECKPOINT, f"--permutation={good}")
        contradiction = changed(fixed_permutation=True)
        self.refused("no_data_permute and fixed_permutation", IMAGE_CHECKPOINT, config=contradiction)
        config = changed(no_data_permute=None)
        _, _, messages = self.converted(IMAGE_CHECKPOINT, config=config)
        self.assertIn("assumed: no_data_permute true (the reference permutes images unless", messages)
        once = np.arange(192)
        once[5] = 6
        for value, words in (
            ([T(once)], "not a permutation of 0 to 191"),
            ([T(np.arange(1, 193))], "not a permutation"),
            ([T(np.arange(-192, 0))], "not a permutation"),
            ([T(np.arange(64))], "has shape [64], expected [192]"),
            ([T(np.arange(192).reshape(1, 192))], "has shape [1, 192]"),
            ([T(np.arange(192.0))], "one int64 tensor"),
            ([T(np.arange(192))] * 2, "a list with one"),
            (T(np.arange(192)), "a list with one"),
            ({"a": T(np.arange(192))}, "a list with one"),
            ([3], "a list with one"),
            ([], "a list with one"),
        ):
            with self.subTest(words=words):
                file = self.permutation(value)
                self.refused("--permutation: ", IMAGE_CHECKPOINT, f"--permutation={file}", config=config)
                self.refused(words, IMAGE_CHECKPOINT, f"--permutation={file}", config=config)
        self.refused("--permutation: cannot be read", IMAGE_CHECKPOINT, "--permutation=none", config=config)
        self.assertEqual(self.run_import(IMAGE_CHECKPOINT, extra=EXTRA)[0], 64)
        self.assertEqual(self.run_import(CHECKPOINT, f"--permutation={good}")[0], 64)

    def test_one_butterfly_before_the_first_level(self):
        config = {
            "flow": {
                "levels": 2,
                "num_steps": [1, 1],
                "in_channels": 2,
                "use_intermediate_perm": False,
                "perm_layers": 4,
            },
            "use_perm": True,
            "no_data_permute": True,
        }
        for more in ({}, {"image_size": 8}):
            spec, tensors, _ = self.convert_golden("image_2x8x8_single_butterfly", config=config | more)
            self.assertEqual(spec["pre"][0]["factors"], 4)
            self.assertEqual([c["name"] for c in spec["channels"]], ["channel0", "channel1"])
            self.check((spec, tensors), "image_2x8x8_single_butterfly", tolerance=1e-4)
        config["use_logits"] = True
        spec, _, _ = self.convert_golden("image_2x8x8_single_butterfly", config=config)
        self.assertEqual([layer["kind"] for layer in spec["pre"]], ["logit", "butterfly"])
        file = self.permutation([T(np.arange(128)[::-1].copy())])
        del config["no_data_permute"]
        golden = safetensors_io.read(DATA / "image_2x8x8_single_butterfly.safetensors", "golden")
        weights = {n[3:]: a.astype(np.float32) for n, a in golden.items() if n.startswith("sd.")}
        spec, tensors, _ = self.convert_weights(weights, f"--permutation={file}", config=config)
        self.assertEqual([layer["kind"] for layer in spec["pre"]], ["permutation", "logit", "butterfly"])
        self.assertEqual(tensors["pre.2.factors.3"].shape, (8, 2, 8, 2))

    def test_narrowest_first_and_flattened_as_hwc(self):
        config = changed({"hidden_channels": 8, "reverse_perm": False, "permute_channel": True})
        spec, tensors, _ = self.convert_golden("image_3x8x8_hwc_rev", config=config)
        butterfly = spec["levels"][0]["blocks"][0][2]
        self.assertEqual((butterfly["order"], butterfly["flatten"]), ("narrowest_first", "hwc"))
        self.check((spec, tensors), "image_3x8x8_hwc_rev", tolerance=1e-4)

    def test_both_directions_are_one_in_the_reference(self):
        # It builds the mirrored factors and keeps the first half, whatever reverse_perm says.
        for reverse_perm in (True, False):
            config = changed({"bi_direction": True, "reverse_perm": reverse_perm})
            model = self.converted(IMAGE_CHECKPOINT, config=config)
            self.assertNotIn("bi_direction", model[0]["levels"][0]["blocks"][0][2])
            self.check(model)
        config = changed({"bi_direction": True, "reverse_perm": False, "permute_channel": True})
        with self.assertRaisesRegex(Exception, "reverse_perm is True, the checkpoint has False"):
            self.convert_golden("image_3x8x8_hwc_rev", config=config)

    def test_layers_that_a_model_may_lack(self):
        weights = golden_weights(IMAGE_CHECKPOINT)
        x = safetensors_io.read(DATA / "ck_image_expected.safetensors", "golden")["in.x"]
        for left_out, flow in (
            (("conv1x1",), {"use_conv1by1": False}),
            (("butterfly",), {"perm_layers": 0}),
            (("conv1x1", "butterfly"), {"use_conv1by1": False, "perm_layers": 0}),
        ):
            fewer = {n: a for n, a in weights.items() if not any(f".{part}." in n for part in left_out)}
            spec, tensors, _ = self.convert_weights(fewer, config=changed(flow))
            kinds = [kind for kind in ("act_norm", "conv1x1", "butterfly", "conv2d_coupling") if kind not in left_out]
            self.assertEqual([layer["kind"] for layer in spec["levels"][0]["prior"]], kinds)
            evaluate(spec, tensors, x)
        spec, _, _ = self.convert_weights(fewer, config=changed({"use_conv1by1": False}, use_perm=False))
        self.assertEqual(spec["event_shape"], [3, 8, 8])
        # Nothing tells the size of the images then.
        spec, _, messages = self.convert_weights(fewer, config={})
        self.assertEqual(spec["event_shape"], [3, 32, 32])
        self.assertIn("image_size 32", messages)
        spec, _, _ = self.convert_weights(fewer, config={"H": 4, "W": 12})
        self.assertEqual(spec["event_shape"], [3, 4, 12])

    def test_sizes_and_bits(self):
        self.check(self.converted(IMAGE_CHECKPOINT, config={}))
        golden = {"C": 3, "H": 8, "W": 8, "levels": 2, "steps": [1, 1], "factors": 3, "hidden": 8, "reverse_perm": True}
        self.check(self.converted(IMAGE_CHECKPOINT, config=golden | {"ema": False, "fixed_permutation": False}))
        self.check(self.converted(IMAGE_CHECKPOINT, config={"event_shape": [3, 8, 8], "steps": 1, "factors": 3}))
        spec, _, _ = self.converted(IMAGE_CHECKPOINT, config={"event_shape": [3, 4, 16]})
        self.assertEqual(spec["event_shape"], [3, 4, 16])
        for bits in range(1, 9):
            spec, _, _ = self.converted(IMAGE_CHECKPOINT, config=changed(n_bits=bits))
            self.assertEqual({c["step"] for c in spec["channels"]}, {2 ** (8 - bits)})
        spec, _, _ = self.converted(IMAGE_CHECKPOINT, config=changed(sensitivity="patient", allow_sampling=False))
        self.assertEqual((spec["sensitivity"], spec["allow_sampling"]), ("patient", False))

    def test_many_levels_and_steps(self):
        """A model larger than any golden: as many tensors as the spec has parameters, none in the wrong place."""
        generator = np.random.default_rng(1)
        weights, count = {}, itertools.count()

        def add(name, *shape):
            weights[f"flow.flow.{name}"] = generator.normal(size=shape).astype(np.float32) + next(count)

        steps, hidden, channels, side = (3, 1, 2), 5, 4, 8
        for level in range(3):
            places = [(f"steps.{s}", "coupling") for s in range(steps[level])] + [("prior", "nice")] * (level < 2)
            for place, coupling in places:
                name = f"blocks.{level}.{place}."
                add(name + "actnorm.log_scale", channels, 1, 1)
                add(name + "actnorm.bias", channels, 1, 1)
                add(name + "conv1x1.weight", channels, channels)
                for k in range(max(2 - level, 0)):
                    add(f"{name}butterfly.model.{k}.w1", 2**k, 2, channels * side * side >> (k + 1), 2)
                convolutions = ((hidden, channels // 2, 3), (hidden, hidden, 1), (channels, hidden, 3))
                for n, (out, inside, edge) in enumerate(convolutions):
                    conv = f"{name}{coupling}.net.conv{n + 1}.conv."
                    add(conv + "weight_v", out, inside, edge, edge)
                    add(conv + "weight_g", out, 1, 1, 1)
                    add(conv + "bias", out)
            channels, side = channels * 2, side // 2
        flow = {"in_channels": 1, "levels": 3, "num_steps": list(steps), "perm_layers": 2, "hidden_channels": None}
        config = {"flow": flow, "image_size": 16}
        spec, tensors, _ = self.convert_weights(weights, config=config)
        self.assertEqual([len(level["blocks"]) for level in spec["levels"]], list(steps))
        self.assertEqual(spec["channels"][0]["name"], "grey")
        self.assertEqual(len(tensors), len(weights))
        # Each weight is once in the file, in the order of the reference's names.
        first = lambda arrays: sorted(float(a.flat[0]) for a in arrays.values())
        self.assertEqual(first(tensors), first(weights))
        for ours, theirs in (
            ("levels.0.blocks.2.3.net.1.gain", "blocks.0.steps.2.coupling.net.conv2.conv.weight_g"),
            ("levels.1.prior.3.net.2.bias", "blocks.1.prior.nice.net.conv3.conv.bias"),
            ("levels.2.blocks.1.2.net.0.direction", "blocks.2.steps.1.coupling.net.conv1.conv.weight_v"),
            ("levels.1.blocks.0.2.factors.0", "blocks.1.steps.0.butterfly.model.0.w1"),
        ):
            np.testing.assert_array_equal(tensors[ours].ravel(), weights[f"flow.flow.{theirs}"].ravel())
        evaluate(spec, {n: a * 0.01 for n, a in tensors.items()}, np.zeros((1, 1, 16, 16)))


if __name__ == "__main__":
    unittest.main()
