#!/usr/bin/env python3
"""Turns a pickled batch of downsampled ImageNet into the .npz that our programs read.

usage: convert_imagenet_batch.py BATCH --out=FILE.npz
BATCH is one of train_data_batch_1 .. 10 or val_data (8x8 to 64x64), as the authors of the data set pickle them: a dict
with `data` (uint8 [N, 3 S S]), `labels` and, in training batches, `mean`, which is left out. docs/data.md says what is
accepted. Needs numpy. Nothing in BATCH is ever run.
"""

import argparse
import os
import pathlib
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "checkpoint"))

from reference_import.errors import (  # noqa: E402
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_UNAVAILABLE,
    EXIT_USAGE,
    ImportRefused,
    shown,
)

NAME = "convert_imagenet_batch.py"
SIDES = (8, 16, 32, 64)
LABEL_MAX = 1000
EXIT_CANNOT_WRITE = 73


class Parser(argparse.ArgumentParser):
    def error(self, message):
        print(f"{NAME}: {message}; see --help", file=sys.stderr)
        sys.exit(EXIT_USAGE)


def batch_of(value):
    """(pixels [N, 3 S S], labels [N]) of what was pickled, all of it checked."""
    import numpy as np

    if not isinstance(value, dict):
        raise ImportRefused(f"BATCH: holds a {type(value).__name__}, expected a dict with data and labels")
    for key in ("data", "labels"):
        if key not in value:
            raise ImportRefused(f"BATCH: no {key!r} in its dict")
    pixels, labels = value["data"], value["labels"]
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.ndim != 2:
        found = f"{pixels.dtype} {list(pixels.shape)}" if isinstance(pixels, np.ndarray) else type(pixels).__name__
        raise ImportRefused(f"BATCH: data: {found}, expected uint8 [N, 3 S S]")
    if pixels.shape[0] < 1 or pixels.shape[1] not in [3 * side * side for side in SIDES]:
        raise ImportRefused(f"BATCH: data: shape {list(pixels.shape)}, expected [N, 3 S S] with S 8, 16, 32 or 64")
    if isinstance(labels, list) and not all(type(label) is int for label in labels):
        raise ImportRefused("BATCH: labels: a list of other things than whole numbers")
    if isinstance(labels, np.ndarray) and labels.dtype.kind in "iu":
        labels = labels.reshape(-1).tolist()
    if not isinstance(labels, list) or len(labels) != len(pixels):
        found = f"{len(labels)} of them" if isinstance(labels, list) else type(labels).__name__
        raise ImportRefused(f"BATCH: labels: {found}, expected a whole number for each of {len(pixels)} images")
    wrong = next((label for label in labels if not 0 <= label <= LABEL_MAX), None)
    if wrong is not None:
        raise ImportRefused(f"BATCH: labels: {shown(wrong)}, expected 0 to {LABEL_MAX}")
    return pixels, np.array(labels, np.int16)


def write(path, pixels, labels):
    """The whole file or none."""
    import numpy as np

    path = pathlib.Path(path)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        try:
            np.savez(file, data=pixels, labels=labels)
            file.flush()
            os.fsync(file.fileno())
            umask = os.umask(0)
            os.umask(umask)
            os.chmod(file.name, 0o666 & ~umask)
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise


def main(arguments):
    parser = Parser(prog=NAME, allow_abbrev=False, description="Pickled batches of downsampled ImageNet to .npz.")
    parser.add_argument("batch", metavar="BATCH", help="train_data_batch_N or val_data")
    parser.add_argument("--out", metavar="FILE", required=True, help="the .npz to write; an existing one is replaced")
    options = parser.parse_args(arguments)
    if not options.out.endswith(".npz"):
        parser.error("--out: expected a name that ends in .npz")
    try:
        try:
            import array_pickle
        except ModuleNotFoundError as error:
            raise ImportRefused(
                f"needs the Python package {error.name}; ./dev setup puts it into .deps/venv", EXIT_UNAVAILABLE
            ) from None
        pixels, labels = batch_of(array_pickle.read(options.batch))
        write(options.out, pixels, labels)
        print(f"{options.out}: {len(pixels)} images of {pixels.shape[1]} bytes")
        return EXIT_OK
    except ImportRefused as error:
        print(f"{NAME}: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"{NAME}: --out: cannot be written: {error.strerror}", file=sys.stderr)
        return EXIT_CANNOT_WRITE
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
