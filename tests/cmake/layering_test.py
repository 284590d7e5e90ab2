"""The layering is enforced: a forbidden dependency fails the configure step, a forbidden include the lint.

usage: layering_test.py SOURCE_ROOT CMAKE
"""
import pathlib
import subprocess
import sys
import tempfile

ROOT, CMAKE = pathlib.Path(sys.argv[1]), sys.argv[2]

PROJECT = """
cmake_minimum_required(VERSION 3.25)
project(layering NONE)
foreach(t gRPC::grpc++ gRPC::grpc++_reflection protobuf::libprotobuf prometheus-cpp::core spdlog::spdlog
          OpenSSL::Crypto CLI11::CLI11 PNG::PNG ZLIB::ZLIB)
  add_library(${{t}} INTERFACE IMPORTED)
endforeach()
add_library(bflow_civetweb INTERFACE)
add_library(bflow_flac INTERFACE)
add_library(bflow_libzip INTERFACE)
add_library(bflow_warnings INTERFACE)
include({root}/cmake/layers.cmake)
bflow_library(data_api LAYER data KIND INTERFACE)
bflow_library(subject LAYER {layer} KIND INTERFACE DEPS {dep})
"""


def configure(layer, dep):
    with tempfile.TemporaryDirectory() as folder:
        source = pathlib.Path(folder)
        (source / "CMakeLists.txt").write_text(PROJECT.format(root=ROOT, layer=layer, dep=dep))
        return subprocess.run([CMAKE, "-S", folder, "-B", folder + "/build"], capture_output=True, text=True)


def lint(relative, include):
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        (root / "cmake").mkdir()
        (root / "cmake/layers.cmake").write_text((ROOT / "cmake/layers.cmake").read_text())
        path = root / relative
        path.parent.mkdir(parents=True)
        path.write_text(f"#include <{include}>\n")
        return subprocess.run([sys.executable, ROOT / "cmake/check_includes.py", "--root", folder],
                              capture_output=True, text=True)


def main():
    allowed = configure("training", "data_api")
    assert allowed.returncode == 0, allowed.stderr
    for layer, dep in (("ops", "data_api"), ("data", "gRPC::grpc++"), ("client", "prometheus-cpp::core")):
        refused = configure(layer, dep)
        assert refused.returncode != 0 and "may not depend on" in refused.stderr, (layer, dep, refused.stderr)
    unknown = configure("nonsense", "data_api")
    assert unknown.returncode != 0 and "unknown LAYER" in unknown.stderr, unknown.stderr

    assert lint("model/flow/a.cc", "model/layers/bijector.h").returncode == 0
    for path, include in (("model/data/a.cc", "ATen/core/Tensor.h"), ("model/scoring/scorer.h", "torch/library.h"),
                          ("server/batching/a.h", "grpcpp/grpcpp.h"), ("model/ops/a.cc", "model/flow/flow.h"),
                          ("server/registry/a.cc", "butterflyflow/v1/flow.pb.h")):
        refused = lint(path, include)
        assert refused.returncode == 1 and "may not include" in refused.stdout, (path, include)


if __name__ == "__main__":
    main()
