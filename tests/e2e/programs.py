"""Fixtures for tests that run the programs as a user does: a server process, generated stubs, files.

The build folder's bin/ is given by BFLOW_BIN; everything listens on free loopback ports.
"""
import importlib
import json
import os
import pathlib
import signal
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request

import grpc
import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(os.environ["BFLOW_BIN"])


def run(program, *args, timeout=120):
    """Runs one of our programs to its end."""
    return subprocess.run([str(BIN / program), *map(str, args)], capture_output=True, text=True, timeout=timeout)


def generate_stubs():
    """Python modules generated from proto/, as a client's author would make them."""
    folder = tempfile.mkdtemp(prefix="bflow_stubs_")
    proto = ROOT / "proto"
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", f"-I{proto}", f"-I{proto}/third_party",
                    f"--python_out={folder}", f"--grpc_python_out={folder}", "butterflyflow/v1/flow.proto"], check=True)
    sys.path.insert(0, folder)
    return (importlib.import_module("butterflyflow.v1.flow_pb2"),
            importlib.import_module("butterflyflow.v1.flow_pb2_grpc"))


class Server:
    """bflow-server on free ports; `with Server(repository) as server`."""

    def __init__(self, repository, *flags, drain_delay_ms=0, program=BIN / "bflow-server", listen="127.0.0.1:0",
                 metrics_listen="127.0.0.1:0", config=""):
        self._folder = tempfile.TemporaryDirectory(prefix="bflow_server_")
        path = pathlib.Path(self._folder.name)
        (path / "config.textproto").write_text(f"lifecycle {{ drain_delay_ms: {drain_delay_ms} }}\n{config}")
        self.log_path = path / "log"
        self._log = open(self.log_path, "wb")
        self.process = subprocess.Popen(
            [str(program), f"--model_repository={repository}", f"--listen={listen}",
             f"--metrics_listen={metrics_listen}", f"--config={path / 'config.textproto'}", *flags],
            stderr=self._log, stdout=subprocess.DEVNULL)

    def __enter__(self):
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and self.process.poll() is None:
            for line in self.log().splitlines():
                event = json.loads(line)
                if event["event"] == "ready":
                    self.address, self.metrics_address = event["listen"], event["metrics_listen"]
                    self.channel = grpc.insecure_channel(self.address)
                    return self
            time.sleep(0.02)
        raise AssertionError(f"the server did not get ready: {self.log()}")

    def __exit__(self, *_):
        self.channel.close()
        if self.process.poll() is None:
            self.stop()
        self._log.close()
        self._folder.cleanup()

    def log(self):
        return self.log_path.read_text()

    def get(self, path):
        """(status, body) of an HTTP GET on the metrics listener."""
        try:
            with urllib.request.urlopen(f"http://{self.metrics_address}{path}", timeout=10) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def stop(self):
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)


def read_safetensors(path):
    data = pathlib.Path(path).read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header, body = json.loads(data[8:8 + length]), data[8 + length:]
    dtypes = {"F32": "<f4", "F64": "<f8", "I64": "<i8"}
    return {name: np.frombuffer(body[slice(*entry["data_offsets"])], dtypes[entry["dtype"]]).reshape(entry["shape"])
            for name, entry in header.items() if name != "__metadata__"}
