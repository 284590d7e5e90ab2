#!/usr/bin/env python3
"""The paper's comparison: one chain, another layer where the butterfly stands, equal budgets.

usage: compare.py --data=FILE... --shape=C,H,W --steps=N --out=FOLDER [--name=mnist] [--layers=a,b] [--permuted]
                  [--levels=2 --blocks=2 --hidden=32 --factors=4 --batch=64 --seed=0 --train_fraction=0.8]
                  [--bin=build/release/bin]

Trains with bflow-train, layer by layer, the image flow of Meng et al. 2022 (ActNorm, 1x1 convolution, LAYER, coupling;
prior steps; splits), LAYER being

    butterfly   full butterflies of --factors factors, one fewer per level
    glow        nothing: Glow with its 1x1 convolution alone (Kingma and Dhariwal 2018)
    emerging    emerging convolutions, 3 x 3 (Hoogeboom et al. 2019)
    periodic    periodic convolutions, 3 x 3 (Hoogeboom et al. 2019)
    woodbury    Woodbury transformations of rank 8 (Lu and Huang 2020)

with the same steps, batches, seed, schedule and hidden width, and prints a table (and writes it to OUT/NAME.md and, as
numbers, OUT/NAME.json): test bits per dimension (mean of 8 draws of the noise, and the importance-weighted bound),
trained parameters (and those of LAYER), seconds per training step, milliseconds per sample (64 samples from
bflow-server, the second of two calls), largest resident memory of the training. --permuted puts one fixed permutation
of all pixels in front of every chain: the pixels' neighbourhoods are gone, and a layer must find them again.
Trained models stay in OUT/models; a run whose model is there is not repeated.
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


def flow_spec(layer, options):
    channels, height, width = options.shape
    names = ["grey"] if channels == 1 else ["red", "green", "blue"] if channels == 3 else None
    names = names or [f"channel{c}" for c in range(channels)]
    levels, c, h, w = [], channels, height, width
    for level in range(options.levels):
        c, h, w = 4 * c, h // 2, w // 2
        between = mixing(layer, options.factors - level, c * h * w)

        def step(hidden):
            coupling = {"kind": "conv2d_coupling", "hidden": hidden}
            return [{"kind": "act_norm"}, {"kind": "conv1x1"}, *between, coupling]

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
    with open(model_file, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    total = mixed = 0
    for name, tensor in header.items():
        if name == "__metadata__" or tensor["dtype"] == "I64":
            continue
        count = math.prod(tensor["shape"])
        total += count
        place = re.match(r"levels\.(\d+)\.(?:blocks\.(\d+)|prior)\.(\d+)\.", name)
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
            if subprocess.run([client, "info", name, *flags], capture_output=True).returncode == 0:
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
    spec = flow_spec(layer, options)
    results = options.out / f"{name}.json"
    budget = [options.steps, options.batch, options.seed, options.train_fraction, [str(d) for d in options.data]]
    if results.exists():
        known = json.loads(results.read_text())
        if known["spec"] == spec and known["budget"] == budget:
            return known
        raise SystemExit(f"{results}: of another spec or budget; choose another --name or --out")
    spec_file = options.out / f"{name}.spec.json"
    spec_file.write_text(json.dumps(spec))
    command = [
        options.bin / "bflow-train", "--preset=mnist", f"--spec={spec_file}", "--data", *options.data,
        f"--out={models}", f"--model={name}", f"--steps={options.steps}", f"--batch={options.batch}",
        f"--seed={options.seed}", f"--train_fraction={options.train_fraction}", "--validation_fraction=0",
        "--calibration_fraction=0", "--draws=8", f"--metrics_csv={options.out / f'{name}.csv'}",
    ]  # fmt: skip
    out, memory = run_measured([str(c) for c in command], options.out / f"{name}.log")
    bits = [float(b) for b in re.findall(r"([-0-9.]+) bits/dim", out)]
    seconds = float(re.search(r"([0-9.]+) s of training", out)[1])
    version = max((models / name).iterdir(), key=lambda folder: int(folder.name))
    total, mixed = parameters(version / "model.safetensors", spec)
    result = {
        "layer": layer,
        "bits_per_dim": bits[0],
        "importance_weighted": bits[1],
        "parameters": total,
        "layer_parameters": mixed,
        "seconds_per_step": seconds / options.steps,
        "ms_per_sample": sampling_ms(options, models, name),
        "memory_mib": memory,
        "spec": spec,
        "budget": budget,
    }
    results.write_text(json.dumps(result, indent=1) + "\n")
    return result


def table(results):
    lines = [
        "| layer | bits/dim | importance-weighted | parameters (of the layer) | s per step | ms per sample | MiB |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in results:
        lines.append(
            f"| {r['layer']} | {r['bits_per_dim']:.4f} | {r['importance_weighted']:.4f} | {r['parameters']:,} "
            f"({r['layer_parameters']:,}) | {r['seconds_per_step']:.3f} | {r['ms_per_sample']:.1f} | {r['memory_mib']:.0f} |"
        )
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, nargs="+")
    parser.add_argument("--shape", required=True, type=lambda text: [int(d) for d in text.split(",")])
    parser.add_argument("--steps", required=True, type=int)
    parser.add_argument("--out", required=True, type=pathlib.Path)
    parser.add_argument("--name", default="images")
    parser.add_argument("--layers", default=",".join(LAYERS), type=lambda text: text.split(","))
    parser.add_argument("--permuted", action="store_true")
    for flag, default in (("levels", 2), ("blocks", 2), ("hidden", 32), ("factors", 4), ("batch", 64), ("seed", 0)):
        parser.add_argument(f"--{flag}", type=int, default=default)
    parser.add_argument("--train_fraction", type=float, default=0.8)
    parser.add_argument("--bin", type=pathlib.Path, default=pathlib.Path("build/release/bin"))
    options = parser.parse_args()
    if len(options.shape) != 3 or not set(options.layers) <= set(LAYERS):
        parser.error(f"--shape is C,H,W; --layers are of {', '.join(LAYERS)}")
    options.out.mkdir(parents=True, exist_ok=True)
    results = []
    for layer in options.layers:
        results.append(train(layer, options))
        print(table(results[-1:]).splitlines()[-1], file=sys.stderr, flush=True)
    text = table(results)
    (options.out / f"{options.name}.md").write_text(text + "\n")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
