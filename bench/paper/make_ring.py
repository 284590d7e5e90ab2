#!/usr/bin/env python3
"""A process whose best linear flow is known: stationary, Gaussian, on a ring.

usage: make_ring.py --out=ring.npy [--count=20000] [--size=16] [--peaks=3] [--seed=0]

Each event is size x size values in a row, x = F^-1 (sqrt(S) F n) with white noise n, F the discrete Fourier transform of all
size^2 values and S a spectrum of --peaks narrow lines over a floor: a covariance that is circulant, so that a Fourier
transform makes the values independent, and nothing that looks at neighbours alone does. Written as uint8 [count, 1, size,
size], standard deviation 30 around 128. Prints the entropy in bits per dimension of the Gaussian process that a flow sees,
the rounding and the uniform noise of dequantisation (1/12 of variance each) included: no model is better on average.
"""

import argparse
import math
import pathlib

import numpy as np

STANDARD_DEVIATION = 30
NOISE_VARIANCE = 1 / 12 + 1 / 12  # of rounding to codes, of the noise that takes its place


def spectrum(values, peaks):
    """Power at each of the frequencies of `values` points; its mean is the variance."""
    frequency = np.minimum(np.arange(values), values - np.arange(values))
    power = np.full(values, 0.003)
    for peak in range(peaks):
        centre = values * (peak + 1) / (2.5 * peaks)
        power += np.exp(-0.5 * ((frequency - centre) / 1.5) ** 2)
    return power * (STANDARD_DEVIATION**2 / power.mean())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, type=pathlib.Path)
    for flag, default in (("count", 20000), ("size", 16), ("peaks", 3), ("seed", 0)):
        parser.add_argument(f"--{flag}", type=int, default=default)
    options = parser.parse_args()
    power = spectrum(options.size**2, options.peaks)
    noise = np.random.default_rng(options.seed).normal(size=(options.count, options.size**2))
    values = np.fft.ifft(np.sqrt(power) * np.fft.fft(noise, axis=1), axis=1).real
    pixels = np.clip(np.floor(values + 128), 0, 255).astype(np.uint8)
    np.save(options.out, pixels.reshape(options.count, 1, options.size, options.size))
    entropy = 0.5 * np.log(2 * math.pi * math.e * (power + NOISE_VARIANCE)).mean() / math.log(2)
    independent = 0.5 * math.log(2 * math.pi * math.e * (STANDARD_DEVIATION**2 + NOISE_VARIANCE)) / math.log(2)
    print(f"entropy {entropy:.4f} bits/dim; of values taken one by one {independent:.4f}")


if __name__ == "__main__":
    main()
