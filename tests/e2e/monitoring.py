"""Prometheus on a free loopback port, the text that it scrapes, and the expressions of a dashboard."""
import json
import pathlib
import random
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request

from programs import ROOT

DEPLOY = ROOT / "deploy"
TARGET, INTERVAL = "server:8002", "15s"  # what differs between the shipped configuration and a test's


def wait_for(condition, what, seconds=60):
    """The condition's first true value."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds} s: {what}")


def free_port():
    """Below the ports that the system gives to whoever asks for port 0: Prometheus cannot, and the choice is not held until it starts."""
    for port in random.sample(range(20_000, 30_000), 100):
        try:
            with socket.create_server(("127.0.0.1", port)):
                return port
        except OSError:
            continue
    raise AssertionError("no free port")


class Prometheus:
    """The shipped deploy/prometheus, but for the target and the interval; `with Prometheus(address) as prometheus`."""

    def __init__(self, target):
        self._folder = tempfile.TemporaryDirectory(prefix="bflow_prometheus_")
        folder = pathlib.Path(self._folder.name)
        shutil.copytree(DEPLOY / "prometheus", folder / "etc")
        config = folder / "etc/prometheus.yml"
        text = config.read_text()
        assert text.count(TARGET) == 1 and text.count(INTERVAL) == 2, "the configuration changed: see TARGET, INTERVAL"
        config.write_text(text.replace(TARGET, target).replace(INTERVAL, "1s"))
        self.url = f"http://127.0.0.1:{free_port()}"
        self._log_path = folder / "log"
        self._log = open(self._log_path, "wb")
        self.process = subprocess.Popen(
            ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}",
             f"--web.listen-address={self.url.removeprefix('http://')}"], stdout=self._log, stderr=self._log)

    def __enter__(self):
        wait_for(self._ready, "Prometheus is ready")
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=60)
        self._log.close()
        self._folder.cleanup()

    def _ready(self):
        assert self.process.poll() is None, self._log_path.read_text()
        try:
            with urllib.request.urlopen(self.url + "/-/ready", timeout=10) as reply:
                return reply.status == 200
        except OSError:
            return False

    def get(self, path, **parameters):
        """`data` of an API call. A refused expression is an AssertionError with the server's words."""
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=30) as reply:
                return json.load(reply)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from error

    def query(self, expression):
        """Series of an instant query, as the API gives them."""
        return self.get("query", query=expression)["result"]

    def wait_for_scrapes(self, count):
        """Until `count` more successful scrapes of the server are stored."""
        expression = 'sum_over_time(up{job="bflow-server"}[1h])'

        def scrapes():
            found = self.query(expression)
            return float(found[0]["value"][1]) if found else 0

        before = scrapes()
        wait_for(lambda: scrapes() >= before + count, f"{count} scrapes; the log: {self._log_path.read_text()}")


def parse_scrape(text):
    """{family: (type, label names)} of an exposition; a histogram's `le` is not listed."""
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.M))
    labels = {name: set() for name in types}
    for name, body in re.findall(r"^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? \S+$", text, re.M):
        family = name if name in types else re.sub("_(bucket|sum|count)$", "", name)
        labels[family] |= set(re.findall(r'(\w+)="(?:[^"\\]|\\.)*"', body)) - {"le"}
    return {name: (types[name], frozenset(labels[name])) for name in types}


def sample_names(text):
    return set(re.findall(r"^([a-zA-Z_:][\w:]*)[ {]", text, re.M))


def series(text):
    """Every series of an exposition: name and labels."""
    return set(re.findall(r"^([a-zA-Z_:][\w:]*(?:\{.*\})?) \S+$", text, re.M))


def metric_names(expression):
    """Names of metrics in a PromQL expression: what is left without strings, labels, ranges, functions and keywords."""
    text = re.sub(r'"(?:[^"\\]|\\.)*"', "", expression)
    text = re.sub(r"\{[^}]*\}|\[[^\]]*\]", " ", text)
    text = re.sub(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", " ", text)
    names = set(re.findall(r"\b[a-zA-Z_:][\w:]*\b(?!\s*\()", text))
    return names - {"and", "or", "unless", "bool", "offset", "inf", "nan"}


class Dashboard:
    def __init__(self, path):
        self.json = json.loads(pathlib.Path(path).read_text())
        self.panels = self.json["panels"] + [p for row in self.json["panels"] for p in row.get("panels", [])]
        self.variables = self.json["templating"]["list"]

    def targets(self):
        """(panel, expression) of every target."""
        return [(panel, target["expr"]) for panel in self.panels for target in panel.get("targets", [])]

    def values(self, prometheus):
        """What Grafana puts in for the variables and its own intervals."""
        values = {"__rate_interval": "5m", "__interval": "1s", "__range": "1h"}
        for variable in self.variables:
            metric, label = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]).groups()
            found = prometheus.get(f"label/{label}/values", **{"match[]": metric})
            assert found, f"no value for ${variable['name']}"
            values[variable["name"]] = "(" + "|".join(re.escape(v).replace("\\", "\\\\") for v in found) + ")"
        return values


def substitute(expression, values):
    return re.sub(r"\$(\w+)", lambda match: values[match[1]], expression)
