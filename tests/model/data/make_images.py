#!/usr/bin/env python3
"""Writes the files of tests/model/data/images and expected.txt, what numpy says that each of them holds.

    make_images.py FOLDER [MNIST CIFAR10]

MNIST and CIFAR10 are folders with the original files, of which the first images are taken; without them the parts that
lie in FOLDER stay. expected.txt has a line per path: path N C H W, SHA-256 of the pixels [N, C, H, W], the labels
joined by commas or "-". PNG files are put together here from their chunks, so no PNG library is its own judge."""
import gzip
import hashlib
import io
import pathlib
import struct
import sys
import zipfile
import zlib

import numpy as np

MNIST_COUNT, CIFAR_COUNT = 50, 20
PASSES = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))  # Adam7


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def pack_rows(samples, bits):
    """Filter type 0 and the packed samples of each row [H, W * samples per pixel]."""
    rows = b""
    for row in samples:
        if bits == 16:
            rows += b"\0" + row.astype(">u2").tobytes()
        else:
            planes = [row >> shift & 1 for shift in range(bits - 1, -1, -1)]
            rows += b"\0" + np.packbits(np.stack(planes, axis=-1).reshape(-1).astype(np.uint8)).tobytes()
    return rows


def png(samples, colour, bits=8, interlaced=False, more=b""):
    """`samples` [H, W, samples per pixel]; `more`: chunks between IHDR and IDAT."""
    height, width, depth = samples.shape
    parts = [samples]
    if interlaced:
        parts = [samples[y::dy, x::dx] for y, x, dy, dx in PASSES]
    rows = b"".join(pack_rows(p.reshape(p.shape[0], -1), bits) for p in parts if p.size)
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlaced)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + more + chunk(b"IDAT", zlib.compress(rows, 9))
            + chunk(b"IEND", b""))


def idx(array):
    return struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def npy(array):
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


def packed(content):
    return gzip.compress(content, 9, mtime=0)


class Writer:
    def __init__(self, folder):
        self.folder, self.lines = folder, []

    def file(self, name, content):
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)

    def expect(self, path, images, labels=None):
        """`path` may be several, joined by +."""
        listed = "-" if labels is None else ",".join(str(int(v)) for v in labels)
        digest = hashlib.sha256(np.ascontiguousarray(images, np.uint8).tobytes()).hexdigest()
        self.lines.append(" ".join([path, *map(str, images.shape), digest, listed]))

    def npz(self, name, deflated, **arrays):
        path = self.folder / name
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if deflated else zipfile.ZIP_STORED) as archive:
            for key, array in arrays.items():
                info = zipfile.ZipInfo(key + ".npy")  # as numpy.savez does it, but with a date that stays
                info.compress_type = archive.compression
                with archive.open(info, "w", force_zip64=True) as member:
                    member.write(npy(array))


def originals(writer, arguments):
    """(MNIST images, labels, CIFAR-10 images, labels), cut out of the original files if they are given."""
    if arguments:
        mnist, cifar = map(pathlib.Path, arguments)
        images = gzip.decompress((mnist / "t10k-images-idx3-ubyte.gz").read_bytes())
        labels = gzip.decompress((mnist / "t10k-labels-idx1-ubyte.gz").read_bytes())
        writer.file("mnist-images-idx3-ubyte.gz", packed(idx(
            np.frombuffer(images, np.uint8, MNIST_COUNT * 784, 16).reshape(-1, 28, 28))))
        writer.file("mnist-labels-idx1-ubyte.gz", packed(idx(np.frombuffer(labels, np.uint8, MNIST_COUNT, 8))))
        writer.file("cifar10_batch.bin", (cifar / "data_batch_1.bin").read_bytes()[: CIFAR_COUNT * 3073])
    read = lambda name: (writer.folder / name).read_bytes()
    images = np.frombuffer(gzip.decompress(read("mnist-images-idx3-ubyte.gz")), np.uint8, -1, 16)
    labels = np.frombuffer(gzip.decompress(read("mnist-labels-idx1-ubyte.gz")), np.uint8, -1, 8)
    records = np.frombuffer(read("cifar10_batch.bin"), np.uint8).reshape(-1, 3073)
    return images.reshape(-1, 1, 28, 28), labels, records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0]


def write_pngs(writer, rng):
    grey = rng.integers(0, 256, (5, 7, 1))
    colour = rng.integers(0, 256, (5, 7, 3))
    first = lambda samples: samples.transpose(2, 0, 1)[None]
    gamma = chunk(b"gAMA", struct.pack(">I", 100000)) + chunk(b"tEXt", b"Comment\0made here") + chunk(
        b"sBIT", bytes([5] * 3)) + chunk(b"pHYs", struct.pack(">IIB", 1, 1, 0))
    for name, samples, content in (
        ("grey.png", grey, png(grey, 0)),
        ("rgb.png", colour, png(colour, 2)),
        ("rgb_metadata.png", colour, png(colour, 2, more=gamma)),
        ("interlaced.png", colour, png(colour, 2, interlaced=True)),
    ):
        writer.file(name, content)
        writer.expect(name, first(samples))
    for bits in (1, 2, 4):
        samples = rng.integers(0, 1 << bits, (5, 7, 1))
        writer.file(f"grey{bits}.png", png(samples, 0, bits))
        writer.expect(f"grey{bits}.png", first(samples * (255 // ((1 << bits) - 1))))
        palette = rng.integers(0, 256, (1 << bits, 3))
        writer.file(f"palette{bits}.png",
                    png(samples, 3, bits, more=chunk(b"PLTE", palette.astype(np.uint8).tobytes())))
        writer.expect(f"palette{bits}.png", first(palette[samples[:, :, 0]]))
    refused = {
        "refused_16bit.png": png(rng.integers(0, 65536, (5, 7, 1)), 0, 16),
        "refused_grey_alpha.png": png(rng.integers(0, 256, (5, 7, 2)), 4),
        "refused_rgba.png": png(rng.integers(0, 256, (5, 7, 4)), 6),
        "refused_transparent.png": png(grey, 0, more=chunk(b"tRNS", b"\0\7")),
    }
    for name, content in refused.items():
        writer.file(name, content)
    # A folder: by name, whatever else lies there.
    parts = [rng.integers(0, 256, (4, 6, 3)) for _ in range(3)]
    for name, samples in zip(("b.png", "a.PNG", "c.png"), parts):
        writer.file(f"folder/{name}", png(samples, 2))
    writer.file("folder/notes.txt", b"not an image\n")
    writer.expect("folder", np.concatenate([first(parts[i]) for i in (1, 0, 2)]))


def main():
    writer = Writer(pathlib.Path(sys.argv[1]))
    rng = np.random.default_rng(5)
    digits, digit_labels, cifar, cifar_labels = originals(writer, sys.argv[2:])
    writer.expect("mnist-images-idx3-ubyte.gz", digits)
    writer.expect("mnist-images-idx3-ubyte.gz+mnist-labels-idx1-ubyte.gz", digits, digit_labels)
    writer.expect("cifar10_batch.bin", cifar, cifar_labels)
    writer.expect("cifar10_batch.bin+cifar10_batch.bin", np.concatenate([cifar, cifar]), [*cifar_labels, *cifar_labels])

    small, small_labels = rng.integers(0, 256, (3, 5, 4), np.uint8), np.array([7, 0, 255], np.uint8)
    writer.file("small-idx3-ubyte", idx(small))
    writer.expect("small-idx3-ubyte", small[:, None])
    writer.file("small-idx3-ubyte.gz", packed(idx(small)))
    writer.expect("small-idx3-ubyte.gz", small[:, None])
    # gzip files one after the other are a gzip file of all.
    writer.file("small-two-members.gz", packed(idx(small)[:21]) + packed(idx(small)[21:]))
    writer.expect("small-two-members.gz", small[:, None])
    writer.file("small-idx1-ubyte", idx(small_labels))
    writer.expect("small-idx3-ubyte+small-idx1-ubyte", small[:, None], small_labels)
    writer.expect("small-idx3-ubyte+small-idx1-ubyte+small-idx3-ubyte.gz", np.concatenate([small, small])[:, None])

    rows = cifar[:2].reshape(2, 3072)
    numbers = np.array([1, 1000])
    mean = rows.mean(axis=0)
    writer.npz("imagenet_stored.npz", False, data=rows, labels=numbers, mean=mean)
    writer.expect("imagenet_stored.npz", cifar[:2], numbers)
    writer.npz("imagenet_deflated.npz", True, mean=mean, labels=numbers.astype(np.int16), data=rows)
    writer.expect("imagenet_deflated.npz", cifar[:2], numbers)
    writer.npz("rows8.npz", True, data=rng.integers(0, 256, (4, 192), np.uint8))
    with np.load(writer.folder / "rows8.npz") as archive:
        writer.expect("rows8.npz", archive["data"].reshape(4, 3, 8, 8))

    galaxies = rng.integers(0, 256, (2, 3, 5, 4), np.uint8)
    writer.file("nchw.npy", npy(galaxies))
    writer.expect("nchw.npy", galaxies)
    writer.file("channels5.npy", npy(galaxies.reshape(1, 5, 3, 8)))
    writer.expect("channels5.npy", galaxies.reshape(1, 5, 3, 8))
    writer.file("refused_nhwc.npy", npy(galaxies.transpose(0, 2, 3, 1).copy()))
    writer.file("refused_float.npy", npy(galaxies.astype(np.float32)))
    writer.file("refused_fortran.npy", npy(np.asfortranarray(galaxies)))
    write_pngs(writer, rng)
    (writer.folder / "expected.txt").write_text("\n".join(writer.lines) + "\n")


if __name__ == "__main__":
    main()
