#!/usr/bin/env python3
"""Writes the generated records of tests/model/data/records and expected.txt, the values that the
Python package wfdb reads from every record there.

    make_records.py FOLDER

041s01, 041s02 and 3234460_* are records of PhysioNet's MIMIC databases, copied unchanged; `cut`,
`fixed` and the gen_* records are made here, the FLAC ones (508, 516, 524) by wfdb itself with the package soundfile. expected.txt has, per segment, one line per signal:
record segment start frames name unit gain baseline, then the codes run-length coded ("12x3" is 12
three times, "nan" an invalid sample)."""
import os
import sys

import numpy as np
import wfdb

SINGLE = ["041s01", "041s02", "gen_16", "gen_80", "gen_212", "gen_skew", "gen_frames",
          "gen_two_files", "gen_no_length", "gen_defaults", "gen_508", "gen_516", "gen_524"]
MULTI = ["cut", "fixed"]


def pack(fmt, samples):
    samples = np.asarray(samples, dtype=np.int64).reshape(-1)
    if fmt == 16:
        return samples.astype("<i2").tobytes()
    if fmt == 80:
        return (samples + 128).astype(np.uint8).tobytes()
    even, odd = samples[0::2] & 0xFFF, samples[1::2] & 0xFFF
    odd_padded = np.append(odd, 0)[: len(even)]
    middle = (even >> 8) | ((odd_padded >> 8) << 4)
    triples = np.stack([even & 0xFF, middle, odd_padded & 0xFF], axis=1)
    packed = triples.astype(np.uint8).tobytes()
    return packed[:-1] if len(samples) % 2 else packed


def checksum(samples):
    total = int(np.sum(np.asarray(samples, dtype=np.int64))) & 0xFFFF
    return total - 0x10000 if total >= 0x8000 else total


class Writer:
    def __init__(self, folder):
        self.folder = folder

    def text(self, name, text):
        with open(os.path.join(self.folder, name), "w", newline="") as f:
            f.write(text)

    def data(self, name, content):
        with open(os.path.join(self.folder, name), "wb") as f:
            f.write(content)


def frames_of(rng, frames, counts, fmt):
    """Random frames [frames, sum(counts)] with a few invalid samples."""
    low = {16: -32768, 80: -128, 212: -2048}[fmt]
    values = rng.integers(low + 1, -low, size=(frames, sum(counts)))
    values[rng.random(values.shape) < 0.05] = low
    return values


def signal_lines(name, fmt, values, counts, options, fields):
    lines, start = [], 0
    for count, option, (gain, description) in zip(counts, options, fields):
        mine = values[:, start:start + count]
        start += count
        bits = {16: 16, 80: 8, 212: 12}[fmt]
        lines.append(f"{name} {fmt}{option} {gain} {bits} 0 {mine[0, 0]} {checksum(mine)} 0 "
                     f"{description}")
    return lines


def generate(w):
    rng = np.random.default_rng(3)
    for fmt in (16, 80, 212):  # an odd number of samples; a name with spaces; a negative gain; CRLF
        v = frames_of(rng, 41, [1, 1, 1], fmt)
        lines = signal_lines(f"gen_{fmt}.dat", fmt, v, [1, 1, 1], [""] * 3,
                             [("100(5)/mV", "ECG lead II"), ("-2.5e+01/mmHg", "ABP"), ("0", "X")])
        first = f"gen_{fmt} 3 62.4725/999.56(0) 41 1:02:03.5"
        w.text(f"gen_{fmt}.hea", "\r\n".join([first, *lines, "# end", ""]))
        w.data(f"gen_{fmt}.dat", pack(fmt, v))

    v = frames_of(rng, 30, [1, 1, 1], 212)
    abc = [("200", "A"), ("200", "B"), ("200", "C")]
    lines = signal_lines("gen_skew.dat", 212, v, [1, 1, 1], ["", ":3", ":3"], abc)
    w.text("gen_skew.hea", "\n".join(["gen_skew 3 125 30", *lines, ""]))
    w.data("gen_skew.dat", pack(212, v))

    v = frames_of(rng, 50, [4, 1, 2], 212)
    v[7, 0:4] = -2048  # a frame without any valid sample
    v[8, 1] = -2048    # one with a single invalid sample
    v[9, 0:4] = [-1, -1, -1, 0]  # -0.75 is cut to 0
    lines = signal_lines("gen_frames.dat", 212, v, [4, 1, 2], ["x4", "", "x2"], abc)
    w.text("gen_frames.hea", "\n".join(["gen_frames 3 125 50 10:00", *lines, ""]))
    w.data("gen_frames.dat", pack(212, v))

    a, b = frames_of(rng, 20, [1, 1], 16), frames_of(rng, 20, [2], 80)
    lines = signal_lines("gen_a.dat", 16, a, [1, 1], ["+24", "+24"], abc[:2])
    lines += signal_lines("gen_b.dat", 80, b, [2], ["x2+3"], [("10/bpm", "C")])
    first = "gen_two_files 3 125 20 23:59:59 31/12/1999"
    w.text("gen_two_files.hea", "\n".join(["# first", "", first, *lines, ""]))
    w.data("gen_a.dat", b"\xAA" * 24 + pack(16, a))
    w.data("gen_b.dat", b"\x55" * 3 + pack(80, b) + b"more")

    v = frames_of(rng, 25, [1, 1], 16)
    lines = signal_lines("gen_no_length.dat", 16, v, [1, 1], ["", ""], abc[:2])
    w.text("gen_no_length.hea", "\n".join(["gen_no_length 2 125", *lines, ""]))
    w.data("gen_no_length.dat", pack(16, v))

    v = frames_of(rng, 10, [1], 80)
    w.text("gen_defaults.hea", "gen_defaults 1\ngen_defaults.dat 80\n")
    w.data("gen_defaults.dat", pack(80, v))

    for part in (1, 2):
        v = frames_of(rng, 15 * part, [1, 1], 16)
        lines = signal_lines(f"fixed_{part}.dat", 16, v, [1, 1], ["", ""],
                             [("200/mV", "A"), ("20/mV", "B")])
        w.text(f"fixed_{part}.hea", "\n".join([f"fixed_{part} 2 125 {15 * part}", *lines, ""]))
        w.data(f"fixed_{part}.dat", pack(16, v))
    w.text("fixed.hea", "fixed/3 2 125 55 8:00:00\nfixed_1 15\n~ 10\nfixed_2 30\n")
    w.text("cut.hea", "cut/7 3 125 5777 10:44:18.529 04/05/2704\n3234460_layout 0\n~ 100\n"
                      "3234460_0002 4\n3234460_0003 636\n3234460_0004 512\n~ 1000\n"
                      "3234460_0017 3525\n")


def generate_flac(w):
    rng = np.random.default_rng(4)
    for bits, per_frame in ((8, 1), (16, 2), (24, 3)):
        low = -(1 << (bits - 1))
        signals = [np.cumsum(rng.integers(-3, 4, size=60 * per_frame)).clip(low + 1, -low - 1) for _ in range(2)]
        signals[0][10:10 + per_frame] = low  # a frame without any valid sample
        wfdb.wrsamp(f"gen_5{bits:02}", 125, ["mV", "mmHg"], ["A", "B"], e_d_signal=signals, samps_per_frame=[per_frame] * 2,
                    fmt=[f"5{bits:02}"] * 2, adc_gain=[100.0, 10.0], baseline=[0, 5], write_dir=w.folder)


def runs(codes):
    out, i = [], 0
    text = ["nan" if np.isnan(c) else str(int(c)) for c in codes]
    while i < len(text):
        j = i
        while j < len(text) and text[j] == text[i]:
            j += 1
        out.append(text[i] if j == i + 1 else f"{text[i]}x{j - i}")
        i = j
    return " ".join(out)


def describe(out, record, folder, segment, start):
    path = os.path.join(folder, segment)
    digital, physical = wfdb.rdrecord(path, physical=False), wfdb.rdrecord(path)
    for c in range(digital.n_sig):
        codes = digital.d_signal[:, c].astype(float)
        codes[np.isnan(physical.p_signal[:, c])] = np.nan
        name = digital.sig_name[c] or f"record {segment}, signal {c}"
        scaling = [digital.units[c], repr(float(digital.adc_gain[c])), str(digital.baseline[c])]
        out.append("\t".join([record, segment, str(start), str(len(codes)), name, *scaling,
                              runs(codes)]))


def main():
    folder = sys.argv[1]
    generate(Writer(folder))
    generate_flac(Writer(folder))
    out = []
    for record in SINGLE:
        describe(out, record, folder, record, 0)
    for record in MULTI:
        header = wfdb.rdheader(os.path.join(folder, record))
        start = 0
        for segment, frames in zip(header.seg_name, header.seg_len):
            if segment != "~" and frames > 0:
                describe(out, record, folder, segment, start)
            start += frames
    with open(os.path.join(folder, "expected.txt"), "w") as f:
        f.write("\n".join(out) + "\n")


if __name__ == "__main__":
    main()
