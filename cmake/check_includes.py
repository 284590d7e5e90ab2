#!/usr/bin/env python3
"""Checks every #include of our sources against the layer table of cmake/layers.cmake.

usage: check_includes.py [--root DIR]
A library that does not link gRPC could still include its headers, because they lie in /usr/include and
all libraries share one include root. Exit status 1 when a file includes what its layer may not know.
"""
import argparse
import pathlib
import re
import sys

# Folder -> layer, longest prefix first. Files of the scorer interface are a layer of their own.
FOLDERS = [
    ("base", "base"), ("proto", "proto"),
    ("model/checkpoint", "checkpoint"), ("model/data", "data"), ("model/ops", "ops"),
    ("model/layers", "layers"), ("model/flow", "flow"), ("model/scoring", "scoring"),
    ("model/training", "training"), ("server/metrics", "metrics"), ("server/batching", "engine"),
    ("server/exec", "engine"), ("server/registry", "registry"), ("server/config", "config"),
    ("server/rpc", "rpc"), ("server", "app"), ("client", "client"), ("bench", "app"), ("tests", "app"),
]
FILES = {"model/scoring/scorer.h": "scorer_api", "model/scoring/backend.h": "scorer_api"}
THIRD_PARTY = [
    (r"(ATen|c10|torch|caffe2)/", "torch"), (r"(grpc|grpcpp|google/protobuf|google/rpc)/", "grpc"),
    (r"prometheus/", "prometheus"), (r"(CivetServer|civetweb)\.h", "civetweb"),
    (r"spdlog/", "spdlog"), (r"openssl/", "openssl"), (r"CLI/", "cli11"), (r"FLAC/", "flac"),
    (r"png(conf)?\.h", "libpng"), (r"zip\.h", "libzip"), (r"zlib\.h", "zlib"),
]


def layer_table(root):
    table = {}
    text = (root / "cmake/layers.cmake").read_text()
    for name, deps in re.findall(r"set\(BFLOW_LAYER_(\w+)\s+([^)]*)\)", text):
        table[name] = set(deps.split())
    return table


def layer_of(path):
    """Layer of a path relative to the root; None if it is not one of our sources."""
    if path in FILES:
        return FILES[path]
    for folder, layer in FOLDERS:
        if path.startswith(folder + "/"):
            return layer
    return None


def target_of(include):
    """Layer or third-party label an include belongs to; None if it is free for all."""
    if re.search(r"\.pb\.h$", include):
        return "proto"
    for pattern, label in THIRD_PARTY:
        if re.match(pattern, include):
            return label
    return layer_of(include)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", default=pathlib.Path(__file__).resolve().parent.parent, type=pathlib.Path)
    root = parser.parse_args().root
    table = layer_table(root)
    bad = checked = 0
    for top in ("base", "model", "server", "client", "bench", "tests"):
        for path in sorted((root / top).rglob("*")):
            if path.suffix not in (".h", ".cc", ".cu", ".cuh"):
                continue
            relative = path.relative_to(root).as_posix()
            layer = layer_of(relative)
            if layer == "app":
                continue
            checked += 1
            for number, line in enumerate(path.read_text().splitlines(), 1):
                match = re.match(r'\s*#\s*include\s+[<"]([^>"]+)[>"]', line)
                target = target_of(match.group(1)) if match else None
                if target and target != layer and target not in table[layer]:
                    print(f"{relative}:{number}: layer {layer} may not include {match.group(1)} (layer {target})")
                    bad += 1
    print(f"{checked} files checked, {bad} forbidden includes", file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
