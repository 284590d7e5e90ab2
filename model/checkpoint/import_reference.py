#!/usr/bin/env python3
"""Imports a checkpoint of the authors' PyTorch code into a model repository.

usage: import_reference.py FILE --config=JSON --out=REPOSITORY --model=NAME [--version=1] [--extra=SAFETENSORS]
                           [--permutation=FILE] [--weights=ema|raw] [--program=BFLOW_TRAIN]
docs/import.md says what is read and from where. Needs numpy and our bflow-train, which checks the weights, computes the
self-test rows in float64 and writes the files; neither torch nor a network. Nothing in FILE is ever run.
"""

import argparse
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

from reference_import.errors import (
    EXIT_CONFIGURATION,
    EXIT_INTERNAL,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_OS,
    EXIT_UNAVAILABLE,
    EXIT_USAGE,
    ImportRefused,
)

HERE = pathlib.Path(__file__).resolve().parent
VERSION = HERE / "VERSION"  # installed: PREFIX/share/butterflyflow/import_reference; else in the source tree
ROOT = HERE.parents[2] if VERSION.exists() else HERE.parents[1]
PROGRAM = ROOT / ("bin" if VERSION.exists() else "build/release/bin") / "bflow-train"
NAME = "import_reference.py"


class Parser(argparse.ArgumentParser):
    def error(self, message):
        print(f"{NAME}: {message}; see --help", file=sys.stderr)
        sys.exit(EXIT_USAGE)


def project_version():
    if VERSION.exists():
        return VERSION.read_text().strip()
    cmake = ROOT / "CMakeLists.txt"
    found = re.search(r"project\([^)]*VERSION\s+([0-9.]+)", cmake.read_text()) if cmake.exists() else None
    return found.group(1) if found else "of unknown version"


def parse_arguments(arguments):
    parser = Parser(
        prog=NAME, allow_abbrev=False, description="Imports a checkpoint of the authors' PyTorch code."
    )
    parser.add_argument("file", metavar="FILE", nargs="?", help="checkpoint.tar or model.pt of the reference")
    parser.add_argument("--config", metavar="JSON", help="the reference's config, with the fields of docs/import.md")
    parser.add_argument("--out", metavar="REPOSITORY", help="where the model goes: REPOSITORY/NAME/VERSION/")
    parser.add_argument("--model", metavar="NAME")
    parser.add_argument(
        "--version",
        metavar="N",
        nargs="?",
        default="1",
        const=None,
        help="version of the model (default 1); without a value: prints the program's version",
    )
    parser.add_argument(
        "--extra",
        metavar="SAFETENSORS",
        help="of waveform models: P and sign_S of the LU layers, which the reference does not save",
    )
    parser.add_argument(
        "--permutation", metavar="FILE", help="of models of permuted images: random_perm_NAME.pth of the reference"
    )
    parser.add_argument("--weights", choices=("ema", "raw"), help="default: the moving average where the file has one")
    parser.add_argument(
        "--program", metavar="BFLOW_TRAIN", help="default: that of this installation or build, else that of PATH"
    )
    # _ and - are the same in a flag's name.
    same = [
        re.sub("^--[^=]*", lambda m: m.group().replace("_", "-"), a) if a.startswith("--") else a for a in arguments
    ]
    options = parser.parse_args(same)
    if options.version is None:
        print(f"{NAME} {project_version()}")
        sys.exit(EXIT_OK)
    for flag in ("file", "config", "out", "model"):
        if not getattr(options, flag):
            parser.error(f"{'FILE' if flag == 'file' else '--' + flag} is missing")
    if not re.fullmatch("[1-9][0-9]{0,18}", options.version) or int(options.version) >= 2**63:
        parser.error("--version: expected a whole number from 1")
    return options


def find_program(given):
    candidates = [given] if given else [PROGRAM, shutil.which("bflow-train")]
    for path in candidates:
        if path and pathlib.Path(path).is_file():
            return str(pathlib.Path(path).resolve())
    raise ImportRefused("--program: bflow-train is not there; ./dev build makes it", EXIT_CONFIGURATION)


def convert_waveform(file, tensors, config, options):
    """(flow_spec, tensors, what was assumed)"""
    from reference_import import safetensors_io, waveform, waveform_settings

    if options.permutation:
        raise ImportRefused("--permutation: belongs to image models; this is a waveform checkpoint", EXIT_USAGE)
    settings = waveform_settings.parse(config)
    extra = safetensors_io.read(options.extra, "--extra") if options.extra else {}
    return *waveform.convert(file, tensors, extra, settings), settings.assumed


def convert_image(file, tensors, config, options):
    """(flow_spec, tensors, what was assumed)"""
    from reference_import import image, image_settings

    if options.extra:
        raise ImportRefused("--extra: belongs to waveform models; this is an image checkpoint", EXIT_USAGE)
    settings = image_settings.parse(config)
    return *image.convert(file, tensors, options.permutation, settings), settings.assumed


def convert(options):
    """The bytes of a model file."""
    try:
        from reference_import import image_names, safetensors_io, settings, state_dict, waveform
        from reference_import.torch_file import TorchFile
    except ModuleNotFoundError as error:
        raise ImportRefused(
            f"needs the Python package {error.name}; ./dev setup puts it into .deps/venv", EXIT_UNAVAILABLE
        ) from None
    config = settings.read(options.config)
    file = TorchFile(options.file)
    try:
        is_image = image_names.recognises(state_dict.weights_of(file.value))
        names, convert_one = (image_names, convert_image) if is_image else (waveform, convert_waveform)
        found = state_dict.select(file.value, names.below_flow, raw=options.weights == "raw")
        spec, converted, assumed = convert_one(file, found.tensors, config, options)
    finally:
        file.close()
    if options.weights == "ema" and not found.averaged:
        print(f"{NAME}: FILE holds no moving average; its weights are taken as they are", file=sys.stderr)
    if assumed:
        print(f"{NAME}: not in --config and assumed: {', '.join(assumed)}", file=sys.stderr)
    return safetensors_io.serialize(
        converted,
        {"format": "butterflyflow/1", "flow_spec": json.dumps(spec), "producer": f"{NAME} {project_version()}"},
    )


def write(program, model_file, options):
    """Runs bflow-train --import; the exit code."""
    with tempfile.TemporaryDirectory(prefix="bflow_import_") as folder:  # mode 0700
        path = pathlib.Path(folder) / "model.safetensors"
        path.write_bytes(model_file)
        done = subprocess.run(
            [
                program,
                f"--import={path}",
                f"--out={options.out}",
                f"--model={options.model}",
                f"--version={options.version}",
            ],
            stdin=subprocess.DEVNULL,
            check=False,
        )
    if done.returncode < 0:
        raise ImportRefused(f"bflow-train was ended by signal {-done.returncode}", EXIT_INTERNAL)
    return done.returncode


def main(arguments):
    options = parse_arguments(arguments)
    try:
        model_file = convert(options)
        return write(find_program(options.program), model_file, options)
    except ImportRefused as error:
        print(f"{NAME}: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"{NAME}: the operating system refused: {error.strerror}", file=sys.stderr)
        return EXIT_OS
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
