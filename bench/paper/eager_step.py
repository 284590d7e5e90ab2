#!/usr/bin/env python3
"""A training step of the paper's image flow in eager PyTorch: what bflow-train is compared with on a GPU.

usage: eager_step.py [--preset=cifar10] [--batch=128] [--steps=10] [--device=cuda] [--tf32] [--bf16] [--channels_last]
                     [--cudnn_benchmark] [--profile]

The flow of `bflow-train --preset=NAME` written as one would write it: ActNorm, 1x1 convolution with slogdet, butterfly
factors by reshape and einsum, weight-normalised couplings, torch.optim.Adam. Prints a line of JSON: parameters, loss
before training of a batch of noise, milliseconds per step (median, quartiles). Contiguous tensors and float32 throughout
unless a flag says otherwise; --tf32 is how PyTorch leaves its convolutions.
"""

import argparse
import json
import math
import time

import torch
import torch.nn.functional as F

# levels, blocks, factors of the first level
PRESETS = {"cifar10": (3, 32, 1, [3, 32, 32]), "galaxy": (2, 8, 2, [3, 64, 64]), "mnist": (2, 8, 4, [1, 28, 28])}


class Block(torch.nn.Module):
    def __init__(self, channels, height, hidden, factors):
        super().__init__()
        self.half = channels // 2
        self.log_scale = torch.nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.bias = torch.nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.weight = torch.nn.Parameter(torch.linalg.qr(torch.randn(channels, channels))[0])
        size = channels * height * height
        self.factors = torch.nn.ParameterList(
            torch.eye(2).reshape(1, 2, 1, 2).repeat(2**i, 1, size >> (i + 1), 1) for i in range(factors)
        )
        widths, kernels = [channels - self.half, hidden, hidden, 2 * self.half], [3, 1, 3]
        self.directions = torch.nn.ParameterList(
            0.05 * torch.randn(widths[n + 1], widths[n], k, k) for n, k in enumerate(kernels)
        )
        self.gains = torch.nn.ParameterList(d.flatten(1).norm(dim=1).detach() for d in self.directions)
        self.biases = torch.nn.ParameterList(torch.zeros(w) for w in widths[1:])

    def forward(self, x, options):
        rows, channels, height, width = x.shape
        x = x * self.log_scale.exp() + self.bias
        log_det = height * width * (self.log_scale.sum() + torch.linalg.slogdet(self.weight)[1])
        x = torch.einsum("oi,bihw->bohw", self.weight, x)
        h = x.flatten(1)
        for w in self.factors:
            h = torch.einsum("bghs,ghso->bgos", h.view(rows, w.shape[0], 2, w.shape[2]), w).flatten(1)
            det = w[:, 0, :, 0] * w[:, 1, :, 1] - w[:, 1, :, 0] * w[:, 0, :, 1]
            log_det = log_det + det.abs().log().sum()
        x = h.view(rows, channels, height, width)
        z1, z2 = x[:, : channels - self.half], x[:, channels - self.half :]
        h = z1.contiguous(memory_format=torch.channels_last if options.channels_last else torch.contiguous_format)
        with torch.autocast(options.device, torch.bfloat16, enabled=options.bf16):
            for n, direction in enumerate(self.directions):
                if n > 0:
                    h = F.elu(h)
                norm = direction.flatten(1).norm(dim=1)
                weight = direction * (self.gains[n] / norm).view(-1, 1, 1, 1)
                h = F.conv2d(h, weight, self.biases[n], padding=direction.shape[2] // 2)
        mu, s = h.float().chunk(2, 1)
        z2 = z2 * torch.sigmoid(s + 2) + mu
        return torch.cat([z1, z2], 1), log_det + F.logsigmoid(s + 2).flatten(1).sum(1)


class ImageFlow(torch.nn.Module):
    def __init__(self, levels, blocks, factors, shape):
        super().__init__()
        self.levels = torch.nn.ModuleList()
        self.last = levels - 1
        channels, height, _ = shape
        for level in range(levels):
            channels, height = 4 * channels, height // 2
            count = max(factors - level, 0)
            steps = [Block(channels, height, 512, count) for _ in range(blocks)]
            if level < self.last:
                steps.append(Block(channels, height, min(8 * channels, 512), count))
                channels //= 2
            self.levels.append(torch.nn.ModuleList(steps))

    def forward(self, x, options):
        log_prob = x.new_zeros(x.shape[0])
        for level, steps in enumerate(self.levels):
            x = F.pixel_unshuffle(x, 2)
            for step in steps:
                x, log_det = step(x, options)
                log_prob = log_prob + log_det
            if level < self.last:
                x, z = x.chunk(2, 1)
                log_prob = log_prob - 0.5 * (z.square() + math.log(2 * math.pi)).flatten(1).sum(1)
        return log_prob - 0.5 * (x.square() + math.log(2 * math.pi)).flatten(1).sum(1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="cifar10")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--device", default="cuda")
    for flag in ("tf32", "bf16", "channels_last", "cudnn_benchmark", "profile"):
        parser.add_argument(f"--{flag}", action="store_true")
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.backends.cudnn.allow_tf32 = options.tf32
    torch.backends.cudnn.benchmark = options.cudnn_benchmark
    *architecture, shape = PRESETS[options.preset]
    flow = ImageFlow(*architecture, shape).to(options.device)
    optimiser = torch.optim.Adam(flow.parameters(), lr=1e-3)
    x = 2 * torch.rand(options.batch, *shape, device=options.device) - 1

    def step():
        loss = -flow(x, options).mean() / x[0].numel()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return loss.item()

    first = step()
    for _ in range(3):
        step()
    times = []
    for _ in range(options.steps):
        start = time.monotonic()
        step()  # ends with item(), which waits for the device
        times.append(1000 * (time.monotonic() - start))
    times.sort()
    figures = {
        "preset": options.preset, "batch": options.batch, "tf32": options.tf32, "bf16": options.bf16,
        "channels_last": options.channels_last, "cudnn_benchmark": options.cudnn_benchmark, "torch": torch.__version__,
        "parameters": sum(p.numel() for p in flow.parameters()), "first_loss": first,
        "step_ms": times[len(times) // 2], "quartiles_ms": [times[len(times) // 4], times[3 * len(times) // 4]],
    }  # fmt: skip
    print(json.dumps(figures), flush=True)
    if options.profile:
        with torch.profiler.profile() as profile:
            step()
        print(profile.key_averages().table(sort_by="cuda_time_total", row_limit=25, max_name_column_width=60))


if __name__ == "__main__":
    main()
