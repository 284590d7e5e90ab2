"""Image checkpoints and configs that must be refused: what does not fit is named."""

import collections
import unittest

import numpy as np

from importing import IMAGE, IMAGE_CHECKPOINT, IMAGE_CONFIG, golden_weights
from torch_writer import T, archive, records_of, torch_bytes
from watched import WatchedCase

WEIGHTS = golden_weights(IMAGE_CHECKPOINT)
STEP = "flow.flow.blocks.0.steps.0."


def state(**changes):
    """The golden weights; None removes one."""
    value = collections.OrderedDict((name, T(array)) for name, array in WEIGHTS.items())
    value.update(changes)
    return collections.OrderedDict((name, tensor) for name, tensor in value.items() if tensor is not None)


class BrokenImageTest(WatchedCase):
    kind = IMAGE

    def test_every_tensor_is_needed(self):
        for name in WEIGHTS:
            if name.endswith("weight_inv"):
                continue
            with self.subTest(name=name):
                value = state(**{name: None})
                short = name.removeprefix("flow.flow.")
                last = name == "flow.flow.blocks.1.steps.0.butterfly.model.1.w1"
                self.refused("level 1 have 1 factors" if last else f"{short} is missing", torch_bytes(value))

    def test_every_tensor_has_one_shape(self):
        for name, array in WEIGHTS.items():
            if name.endswith("weight_inv"):
                continue
            with self.subTest(name=name):
                short = name.removeprefix("flow.flow.")
                self.refused(short, torch_bytes(state(**{name: T(array[None])})))
                # Those from which a size is read are believed: what does not fit them is named.
                longer = {
                    "blocks.0.steps.0.actnorm.log_scale": "in_channels is 3, the checkpoint has 6",
                    "blocks.0.steps.0.butterfly.model.0.w1": "the checkpoint's butterflies act on 384",
                }.get(short, short.replace("conv1.conv.bias", "conv1.conv.weight_v"))
                self.refused(longer, torch_bytes(state(**{name: T(np.concatenate([array, array]))})))

    def test_values_that_are_no_weights(self):
        name = STEP + "coupling.net.conv2.conv.weight_v"
        good = WEIGHTS[name]
        not_finite, no_direction = good.copy(), good.copy()
        not_finite[3, 2] = np.inf
        no_direction[3] = 0
        for value, words in (
            (T(good.astype(np.float64)), "dtype float64"),
            (T(good.astype(np.int64)), "dtype int64"),
            (T(good.astype(np.float16)), "dtype float16"),
            (T(not_finite), "not finite"),
            (T(no_direction), "is 0 in all of an output channel"),
            (3, "is a int, expected a tensor"),
            ([1], "is a list"),
        ):
            with self.subTest(words=words):
                self.refused(words, torch_bytes(state(**{name: value})))
                self.refused(name.removeprefix("flow.flow."), torch_bytes(state(**{name: value})))

    def test_tensors_that_do_not_belong(self):
        good = T(np.ones(3, np.float32))
        factor = T(np.ones((8, 2, 12, 2), np.float32))
        for name, words in (
            (STEP + "actnorm.more", "steps.0.actnorm.more: an unexpected tensor"),
            (STEP + "other.weight", "no tensor of an image flow"),
            ("flow.flow.other", "no tensor of an image flow"),
            ("dequant_flow.flow.conv.weight", "no tensor of an image flow"),
            ("target_flow.blocks.0.luinvmm_0_0.L", "no tensor of an image flow"),
            ("module." + STEP + "actnorm.bias", "occurs twice"),
            ("flow.flow.blocks.0.module_dict.steps.0.actnorm.more", "is missing, though"),
            ("target_flow.blocks.0.steps.1.actnorm.bias", "is missing, though"),
            ("flow.flow.blocks.1.prior.actnorm.bias", "blocks.1.prior.actnorm.bias: an unexpected tensor"),
            ("flow.flow.blocks.0.steps.1.actnorm.bias", "num_steps is 1, 1, the checkpoint has 2, 1"),
            ("flow.flow.blocks.2.steps.0.actnorm.bias", "levels"),
            ("flow.flow.blocks.9999.steps.0.actnorm.bias", "at most 16 levels"),
            ("flow.flow.blocks.0.steps.9999.actnorm.bias", "1024 blocks"),
            ("flow.flow.butterfly.model.0.w1", "both before the first level and in its steps"),
            ("ema_model.blocks.0.steps.0.actnorm.more", "in a copy of the weights, but not in the model"),
        ):
            with self.subTest(name=name):
                value = state(**{name: good})
                more = ["--weights=raw"] if name.startswith("ema_model.") else []
                self.refused(words, torch_bytes(value), *more)
        more = state(**{STEP + "butterfly.model.3.w1": factor})
        self.refused("blocks.0.prior.butterfly.model.3.w1 is missing", torch_bytes(more))
        more["flow.flow.blocks.0.prior.butterfly.model.3.w1"] = factor
        self.refused("perm_layers, the number of butterfly factors, is 3, the checkpoint has 4", torch_bytes(more))
        config = IMAGE_CONFIG | {"flow": {}}
        self.refused("level 1 have 2 factors, expected 3", torch_bytes(more), config=config)
        copies = {name.replace("flow.blocks", "flow.module_dict.blocks"): tensor for name, tensor in state().items()}
        self.refused("is missing, though", torch_bytes(copies))

    def test_factors_in_no_order(self):
        for order, words in (
            ((2, 1, 0), "reverse_perm is True, the checkpoint has False"),
            ((0, 2, 1), "of levels [0, 2, 1], in no order"),
        ):
            value = state()
            for place in ("steps.0", "prior"):
                name = f"flow.flow.blocks.0.{place}.butterfly.model."
                value.update({f"{name}{k}.w1": T(WEIGHTS[f"{name}{level}.w1"]) for k, level in enumerate(order)})
            self.refused(words, torch_bytes(value))
        for shape in ((3, 2, 96, 2), (1, 2, 1, 2), (1, 2, 96, 3), (4,), (0, 2, 96, 2), (1, 2, 2**20, 2)):
            with self.subTest(shape=shape):
                value = state(**{"flow.flow.blocks.1.steps.0.butterfly.model.0.w1": T(np.ones(shape, np.float32))})
                self.refused("no factor of a butterfly on 96 values", torch_bytes(value))

    def test_configs_that_do_not_fit(self):
        for flow, top, words in (
            ({"levels": 3}, {}, "the number of levels is 3"),
            ({"num_steps": [1, 2]}, {}, "num_steps is 1, 2"),
            ({"num_steps": [1]}, {}, "num_steps is 1,"),
            ({"num_steps": 2}, {}, "num_steps is 2, 2"),
            ({"num_steps": [1, 0]}, {}, "num_steps: expected"),
            ({"num_steps": ["1", 1]}, {}, "num_steps: expected"),
            ({"in_channels": 1}, {}, "in_channels is 1, the checkpoint has 3"),
            ({"in_channels": "3"}, {}, "in_channels: expected a whole number"),
            ({"perm_layers": 2}, {}, "perm_layers"),
            ({"perm_layers": -1}, {}, "perm_layers: expected a whole number"),
            ({}, {"use_perm": False}, "perm_layers"),
            ({"hidden_channels": 16}, {}, "hidden_channels is 16, the checkpoint has 8"),
            ({"reverse_perm": False}, {}, "reverse_perm is False"),
            ({"reverse_perm": 1}, {}, "reverse_perm: expected true or false"),
            ({"use_conv1by1": False}, {}, "use_conv1by1 is False"),
            ({"use_intermediate_perm": False}, {}, "use_intermediate_perm is False"),
            ({"permute_channel": "yes"}, {}, "permute_channel: expected"),
            ({"factors": [2, 4]}, {}, "factors: the squeeze"),
            ({"scale": False}, {}, "scale: False is not supported"),
            ({"butterfly_partitions": [96, 96]}, {}, "butterfly_partitions"),
            ({}, {"shared": True}, "shared: True is not supported"),
            ({}, {"dequant": "variational"}, "dequant: variational is not supported"),
            ({}, {"dequantisation": "none"}, "dequantisation: none"),
            ({}, {"image_size": 32}, "image_size: 3 x 32 x 32 values, the checkpoint's butterflies act on 192"),
            ({}, {"image_size": 0}, "image_size"),
            ({}, {"image_size": "8"}, "image_size: expected a whole number"),
            ({}, {"image_size": [8, 8]}, "image_size: expected a whole number"),
            ({}, {"H": 8}, "H and W"),
            ({}, {"H": 2, "W": 32}, "image_size: 2 x 32, which 2^2 ("),
            ({}, {"event_shape": [3, 8]}, "event_shape: expected [channels, height, width]"),
            ({}, {"event_shape": [1, 8, 24]}, "in_channels is 1"),
            ({}, {"n_bits": 0}, "n_bits: expected 1 to 8"),
            ({}, {"n_bits": 9}, "n_bits: expected 1 to 8"),
            ({}, {"n_bits": 5.5}, "n_bits: expected a whole number"),
            ({}, {"use_logits": 1}, "use_logits: expected"),
            ({}, {"no_data_permute": "no"}, "no_data_permute: expected"),
        ):
            with self.subTest(flow=flow, top=top):
                config = IMAGE_CONFIG | {"flow": IMAGE_CONFIG["flow"] | flow} | top
                self.refused("--config: ", IMAGE_CHECKPOINT, config=config)
                self.refused(words, IMAGE_CHECKPOINT, config=config)

    def test_permutation_files_made_to_harm(self):
        config = IMAGE_CONFIG | {"no_data_permute": False}
        good = records_of([T(np.arange(192))])
        for content, words in (
            (b"", "--permutation: not a zip file"),
            (archive({"data.pkl": b"cposix\nsystem\n)R."}), "--permutation: data.pkl: at byte 0: names posix.system"),
            (archive({k: v for k, v in good.items() if k != "data/0"}), "--permutation: record data/0 is missing"),
            (archive(good)[:-20], "--permutation: a damaged"),
        ):
            with self.subTest(words=words):
                path = self.write("perm.pth", content)
                self.refused(words, IMAGE_CHECKPOINT, f"--permutation={path}", config=config)


if __name__ == "__main__":
    unittest.main()
