#!/usr/bin/env python3
"""The paper's comparison: one chain, another layer where the butterfly stands, equal budgets.

usage: compare.py --data=FILE... --shape=C,H,W --steps=N --out=FOLDER [--name=mnist] [--layers=a,b] [--permuted]
                  [--levels=2 --blocks=2 --hidden=32 --factors=4]
       compare.py --data=RECORD --signals=A,B [--preset=waveform] --steps=N --out=FOLDER [--name=icu] [--layers=a,b]
both take         [--batch=64 --seed=0 --train_fraction=0.8 --learning_rate=1e-3 --device=cpu --bin=build/release/bin]

Trains with bflow-train, layer by layer. Images: the flow of Meng et al. 2022 (ActNorm, 1x1 convolution, LAYER, coupling;
prior steps; splits), LAYER being

    butterfly   full butterflies of --factors factors, one fewer per level
    glow        nothing: Glow with its 1x1 convolution alone (Kingma and Dhariwal 2018)
    emerging    emerging convolutions, 3 x 3 (Hoogeboom et al. 2019)
    periodic    periodic convolutions, 3 x 3 (Hoogeboom et al. 2019)
    woodbury    Woodbury transformations of rank 8 (Lu and Huang 2020)

Waveforms: the flow of --preset with its butterflies (butterfly) or without them (glow); the others are layers of images.
All with the same steps, batches, seed, cosine schedule, draws of the noise and widths, no moving average, no augmentation.
Prints a table (and writes it to OUT/NAME.md and, as numbers, OUT/NAME-LAYER.json): test bits per dimension of images, nats
per sample in converter steps of waveforms (mean of 8 draws of the noise, and the importance-weighted bound), trained
parameters (and those of LAYER), seconds per training step, milliseconds per sample (64 samples from bflow-server, the
second of two calls), largest resident memory of the training. --hidden=0 leaves
the couplings out: linear flows. --permuted puts one fixed permutation of all pixels in front
of every chain: the pixels' neighbourhoods are gone, and a layer must find them again; butterflies then start from random
rotations, as in the paper. Trained models stay in OUT/models; a run whose model is there is not repeated.
"""

import argparse
import json
import math
import os
import pathlib
import re
import socket
import struct
import subprocess
import sys
import time

LAYERS = ("butterfly", "glow", "emerging", "periodic", "woodbury")
SAMPLES = 64


def two_power(size):
    """The largest n with 2^n | size."""
    return (size & -size).bit_length() - 1


def mixing(layer, factors, size):
    """The layer between the 1x1 convolution and the coupling, on a level of `size` values."""
    if layer == "butterfly":
        factors = min(factors, two_power(size))
        return [{"kind": "butterfly", "factors": factors, "shared": False}] if factors > 0 else []
    return {
        "glow": [],
        "emerging": [{"kind": "emerging_conv"}],
        "periodic": [{"kind": "periodic_conv"}],
        "woodbury": [{"kind": "woodbury"}],
    }[layer]


def image_spec(layer, options):
    channels, height, width = options.shape
    names = ["grey"] if channels == 1 else ["red", "green", "blue"] if channels == 3 else None
    names = names or [f"channel{c}" for c in range(channels)]
    levels, c, h, w = [], channels, height, width
    for level in range(options.levels):
        c, h, w = 4 * c, h // 2, w // 2
        between = mixing(layer, options.factors - level, c * h * w)

        def step(hidden):
            coupling = [{"kind": "conv2d_coupling", "hidden": hidden}] if hidden > 0 else []
            return [{"kind": "act_norm"}, {"kind": "conv1x1"}, *between, *coupling]

        last = level + 1 == options.levels
        entry = {"squeeze": 2, "blocks": [step(options.hidden)] * options.blocks, "split": not last}
        if not last:
            entry["prior"] = step(min(8 * c, options.hidden))
            c //= 2
        levels.append(entry)
    return {
        "format": 1,
        "architecture": "image",
        "event_shape": options.shape,
        "sensitivity": "none",
        "allow_sampling": True,
        "channels": [{"name": n, "input_min": 0, "input_max": 255, "lo": 0, "hi": 256} for n in names],
        "dequantisation": "uniform",
        "pre": [{"kind": "permutation"}] if options.permuted else [],
        "levels": levels,
        "base": {"kind": "normal"},
    }


def header_of(model_file):
    """The JSON header of a model file."""
    with open(model_file, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        return json.loads(file.read(length))


def waveform_spec(layer, options):
    """The preset's flow of these signals, from a model of one step; without its butterflies for glow."""
    models, name = options.out / "models", f"{options.name}-preset"
    if not (models / name).exists():
        command = [options.bin / "bflow-train", f"--preset={options.preset}", "--data", *options.data]
        command += [f"--signals={options.signals}", f"--out={models}", f"--model={name}", "--steps=1"]
        run_measured([str(c) for c in command], options.out / f"{name}.log")
    spec = json.loads(header_of(newest(models / name) / "model.safetensors")["__metadata__"]["flow_spec"])
    if layer == "glow":
        for level in spec["levels"]:
            level["blocks"] = [[one for one in block if one["kind"] != "butterfly"] for block in level["blocks"]]
    return spec


def newest(model):
    """The folder of a model's last version."""
    return max(model.iterdir(), key=lambda folder: int(folder.name))


def run_measured(command, log):
    """Standard output of a command, and its largest resident memory in MiB."""
    with open(log, "w") as errors:
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        out = child.stdout.read()
        _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        raise SystemExit(f"{command[0]} ended with {child.returncode}: see {log}")
    return out, usage.ru_maxrss / 1024


def parameters(model_file, spec):
    """Trained values of a model file: all, and those of the layer in question."""
    total = mixed = 0
    for name, tensor in header_of(model_file).items():
        if name == "__metadata__" or tensor["dtype"] == "I64" or name.startswith("pre."):
            continue  # fitted or drawn, not trained
        count = math.prod(tensor["shape"])
        total += count
        place = re.match(r"levels\.(\d+)\.(?:blocks\.(\d+)|prior)\.(\d+)\.", name)
        if not place:  # of the base
            continue
        level = spec["levels"][int(place[1])]
        layers = level["blocks"][int(place[2])] if place[2] else level["prior"]
        if layers[int(place[3])]["kind"] in ("butterfly", "emerging_conv", "periodic_conv", "woodbury"):
            mixed += count
    return total, mixed


def sampling_ms(options, models, name):
    """Milliseconds per sample of the second of two calls for SAMPLES samples each."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    server = subprocess.Popen(
        [options.bin / "bflow-server", f"--model_repository={models}", f"--listen={address}", "--metrics_listen=127.0.0.1:0"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        client, flags = options.bin / "bflow", [f"--server={address}", "--deadline=600s"]
        for _ in range(300):
            if subprocess.run([client, "health", *flags], capture_output=True).returncode == 0:
                break
            time.sleep(0.2)
        elapsed = []
        for seed in range(2):
            start = time.monotonic()
            out = options.out / f"{name}.npy"
            command = [client, "sample", name, f"--num={SAMPLES}", f"--seed={seed}", f"--out={out}", *flags]
            subprocess.run(command, check=True, capture_output=True)
            elapsed.append(time.monotonic() - start)
            out.unlink()
        return 1000 * elapsed[-1] / SAMPLES
    finally:
        server.terminate()
        server.wait()


def train(layer, options):
    name = f"{options.name}-{layer}"
    models = options.out / "models"
    spec = waveform_spec(layer, options) if options.signals else image_spec(layer, options)
    results = options.out / f"{name}.json"
    budget = [options.steps, options.batch, options.seed, options.learning_rate, options.train_fraction, options.device]
    budget.extend([options.preset, options.signals, [str(d) for d in options.data]])
    if results.exists():
        known = json.loads(results.read_text())
        if known["spec"] == spec and known["budget"] == budget:
            return known
        raise SystemExit(f"{results}: of another spec or budget; choose another --name or --out")
    spec_file = options.out / f"{name}.spec.json"
    spec_file.write_text(json.dumps(spec))
    command = [
        options.bin / "bflow-train", f"--preset={options.preset}", f"--spec={spec_file}", "--data", *options.data,
        f"--out={models}", f"--model={name}", f"--steps={options.steps}", f"--batch={options.batch}", "--ema=0",
        f"--learning_rate={options.learning_rate}", "--schedule=cosine", f"--seed={options.seed}",
        f"--train_fraction={options.train_fraction}", "--validation_fraction=0", "--calibration_fraction=0", "--draws=8",
        f"--metrics_csv={options.out / f'{name}.csv'}", f"--device={options.device}",
        f"--signals={options.signals}" if options.signals else "--augmentation=none",
    ]  # fmt: skip
    out, memory = run_measured([str(c) for c in command], options.out / f"{name}.log")
    if int(re.search(r"(\d+) not finite", out)[1]) > 0:
        raise SystemExit(f"{name}: the likelihood of some of the test part is not finite")
    nll = [float(b) for b in re.findall(r"([-0-9.]+) (?:bits/dim|nats/sample)", out)]
    seconds = float(re.search(r"([0-9.]+) s of training", out)[1])
    total, mixed = parameters(newest(models / name) / "model.safetensors", spec)
    result = {
        "layer": layer,
        "nll": nll[0],
        "importance_weighted": nll[1],
        "parameters": total,
        "layer_parameters": mixed,
        "seconds_per_step": seconds / options.steps,
        "ms_per_sample": None if options.no_samples else sampling_ms(options, models, name),
        "memory_mib": memory,
        "spec": spec,
        "budget": budget,
    }
    results.write_text(json.dumps(result, indent=1) + "\n")
    return result


def table(results, unit):
    lines = [
        f"| layer | {unit} | importance-weighted | parameters (of the layer) | s per step | ms per sample | MiB |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in results:
        sampling = "-" if r["ms_per_sample"] is None else f"{r['ms_per_sample']:.1f}"
        lines.append(
            f"| {r['layer']} | {r['nll']:.4f} | {r['importance_weighted']:.4f} | {r['parameters']:,} "
            f"({r['layer_parameters']:,}) | {r['seconds_per_step']:.3f} | {sampling} | {r['memory_mib']:.0f} |"
        )
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, nargs="+")
    parser.add_argument("--shape", type=lambda text: [int(d) for d in text.split(",")])
    parser.add_argument("--signals", help="of a record: a comparison of waveforms")
    parser.add_argument("--preset", help="of waveforms (waveform)")
    parser.add_argument("--steps", required=True, type=int)
    parser.add_argument("--out", required=True, type=pathlib.Path)
    parser.add_argument("--name", default="images")
    parser.add_argument("--layers", type=lambda text: text.split(","))
    parser.add_argument("--permuted", action="store_true")
    for flag, default in (("levels", 2), ("blocks", 2), ("hidden", 32), ("factors", 4), ("batch", 64), ("seed", 0)):
        parser.add_argument(f"--{flag}", type=int, default=default)
    parser.add_argument("--train_fraction", type=float, default=0.8)
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    parser.add_argument("--device", default="cpu", help="of the training; samples are drawn on the CPU")
    parser.add_argument("--no_samples", action="store_true", help="leave the time per sample out")
    parser.add_argument("--bin", type=pathlib.Path, default=pathlib.Path("build/release/bin"))
    options = parser.parse_args()
    if (options.shape is None) == (options.signals is None):
        parser.error("either --shape of images or --signals of a record")
    if options.shape and len(options.shape) != 3:
        parser.error("--shape is C,H,W")
    known = LAYERS if options.shape else ("butterfly", "glow")
    options.layers = options.layers or known
    if not set(options.layers) <= set(known):
        parser.error(f"--layers are of {', '.join(known)}")
    if options.shape:  # a start near the identity, or from random butterflies; nothing else of a preset is used
        options.preset = "cifar10-permuted" if options.permuted else "mnist"
    options.preset = options.preset or "waveform"
    unit = "bits/dim" if options.shape else "nats/sample"
    options.out.mkdir(parents=True, exist_ok=True)
    results = []
    for layer in options.layers:
        results.append(train(layer, options))
        print(table(results[-1:], unit).splitlines()[-1], file=sys.stderr, flush=True)
    text = table(results, unit)
    (options.out / f"{options.name}.md").write_text(text + "\n")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
