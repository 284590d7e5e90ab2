#!/usr/bin/env python3
"""Synthetic galaxies: a stand-in for galaxy surveys that anybody can make again from a seed.

usage: make_galaxies.py --out=galaxies.npy [--count=10000] [--size=32] [--seed=0]

Each image is an elliptical Sersic profile (Sersic 1963; Graham and Driver 2005, equation 1),

    I(r) = exp(-b_n ((r / r_e)^(1/n) - 1)),  b_n = 2 n - 1/3 + 4 / (405 n)  (Ciotti and Bertin 1999),

with a random index n (1 to 4: from disks to ellipticals), effective radius, axis ratio, position angle, colour and a
small offset of its centre, on the torus: what leaves an edge of the image comes back on the other side, as in the
periodic boxes of simulations. A background, photon noise and one faint companion are added. The result is uint8
[count, 3, size, size], the layout that bflow-train reads.
"""

import argparse
import pathlib
import sys

import numpy as np

SUPERSAMPLE = 3  # the centre of a profile is steeper than a pixel


def profile(grid, centre, radius, index, ratio, angle, size):
    """Intensity at the points of `grid` [2, P, P]; distances are on the torus."""
    offset = (grid - centre[:, None, None] + size / 2) % size - size / 2
    along = offset[0] * np.cos(angle) + offset[1] * np.sin(angle)
    across = (offset[1] * np.cos(angle) - offset[0] * np.sin(angle)) / ratio
    b = 2 * index - 1 / 3 + 4 / (405 * index)
    return np.exp(-b * ((np.hypot(along, across) / radius) ** (1 / index) - 1))


def galaxy(generator, grid, size):
    """One image, float64 [3, size, size] in units of a grey value."""
    image = np.zeros((3, size, size))
    for brightness in (generator.uniform(30, 70), generator.uniform(3, 12)):
        companion = brightness < 15
        spread = size / 2 if companion else size / 16
        light = profile(
            grid,
            size / 2 + generator.uniform(-spread, spread, 2),
            generator.uniform(0.05, 0.16) * size * (0.5 if companion else 1),
            generator.uniform(1, 4),
            generator.uniform(0.35, 1),
            generator.uniform(0, np.pi),
            size,
        )
        pixels = light.reshape(size, SUPERSAMPLE, size, SUPERSAMPLE).mean((1, 3))
        colour = np.exp(generator.normal(0, 0.25, 3))
        image += brightness * colour[:, None, None] * pixels
    image += generator.uniform(4, 10)
    return generator.poisson(image * 4) / 4  # four photons per grey value


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, type=pathlib.Path)
    parser.add_argument("--count", type=int, default=10000)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.count < 1 or options.size < 8 or options.size % 4:
        parser.error("--count must be at least 1, --size a multiple of 4 from 8 on")
    generator = np.random.Generator(np.random.PCG64(options.seed))
    points = (np.arange(options.size * SUPERSAMPLE) + 0.5) / SUPERSAMPLE
    grid = np.stack(np.meshgrid(points, points, indexing="ij"))
    images = np.stack([galaxy(generator, grid, options.size) for _ in range(options.count)])
    np.save(options.out, np.clip(np.floor(images), 0, 255).astype(np.uint8))
    return 0


if __name__ == "__main__":
    sys.exit(main())
