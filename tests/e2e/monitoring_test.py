"""What watches the server: the shipped Prometheus configuration, alert rules, dashboard and docs/metrics.md, on a real scrape."""
import concurrent.futures
import itertools
import math
import re
import signal
import subprocess
import unittest

import grpc
import numpy as np
import yaml

import monitoring
import programs
from monitoring import DEPLOY, Dashboard, metric_names
from programs import ROOT

flow, flow_grpc = programs.generate_stubs()
MODEL = flow.ModelSelector(name="icu-ecg")
SYNTHETIC = {"up", "ALERTS"}  # made by Prometheus itself
RIGHTLY_EMPTY = {  # panel: why
    "Alerts that fire": "nothing is wrong with this server",
}


def windows(rows):
    codes = np.random.default_rng(rows).integers(-100, 100, (rows, 1024, 2)).astype("<i2")
    return flow.Tensor(dtype=flow.DATA_TYPE_INT16, shape=codes.shape, data=codes.tobytes())


def make_traffic(channel):
    """Every operation, answered and refused."""
    stub, models = flow_grpc.FlowServiceStub(channel), flow_grpc.ModelServiceStub(channel)
    broken, unknown = windows(1), flow.ModelSelector(name="no-such-model")
    broken.data = broken.data[1:]
    stub.LogLikelihood(flow.LogLikelihoodRequest(model=MODEL, x=windows(8)))
    stub.AnomalyScore(flow.AnomalyScoreRequest(model=MODEL, x=windows(8)))
    stub.Sample(flow.SampleRequest(model=MODEL, num_samples=4))
    list(stub.StreamScore(iter([flow.StreamScoreRequest(open=flow.StreamScoreRequest.Open(model=MODEL)),
                                flow.StreamScoreRequest(chunk=flow.StreamScoreRequest.Chunk(x=windows(8)))])))
    list(stub.StreamSample(flow.StreamSampleRequest(sample=flow.SampleRequest(model=MODEL, num_samples=4))))
    models.ListModels(flow.ListModelsRequest())
    for call in (lambda: stub.LogLikelihood(flow.LogLikelihoodRequest(model=MODEL, x=broken)),
                 lambda: stub.AnomalyScore(flow.AnomalyScoreRequest(model=unknown, x=windows(1))),
                 lambda: stub.Sample(flow.SampleRequest(model=MODEL, num_samples=2**31)),
                 lambda: models.LoadModel(flow.LoadModelRequest(name="icu-ecg"))):
        try:
            call()
        except grpc.RpcError:
            continue
        raise AssertionError("a wrong call was answered")


class MonitoringTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = cls.enterClassContext(programs.Server(DEPLOY / "models"))
        cls.prometheus = cls.enterClassContext(monitoring.Prometheus(cls.server.metrics_address))
        for _ in range(2):  # counters must be seen to grow
            make_traffic(cls.server.channel)
            cls.prometheus.wait_for_scrapes(2)
        cls.scrape = cls.server.get("/metrics")[1]
        cls.dashboard = Dashboard(DEPLOY / "grafana/dashboards/butterflyflow.json")

    def test_promtool_accepts_the_scrape(self):
        check = subprocess.run(["promtool", "check", "metrics"], input=self.scrape, capture_output=True, text=True)
        self.assertEqual((check.returncode, check.stdout + check.stderr), (0, ""))

    def test_every_panel_shows_something(self):
        values, empty = self.dashboard.values(self.prometheus), set()
        for panel, expression in self.dashboard.targets():
            series = self.prometheus.query(monitoring.substitute(expression, values))
            if not any(math.isfinite(float(s["value"][1])) for s in series):
                empty.add(panel["title"])
        self.assertEqual(empty, set(RIGHTLY_EMPTY), "empty panels against the list of those that may be")

    def test_names_used_are_exported(self):
        exported = monitoring.sample_names(self.scrape) | SYNTHETIC
        queries = [variable["query"].split(",")[0].removeprefix("label_values(") for variable in self.dashboard.variables]
        for expression in [e for _, e in self.dashboard.targets()] + queries:
            self.assertTrue(metric_names(expression) or re.fullmatch(r"vector\([\d.]+\)", expression), expression)
            self.assertLessEqual(metric_names(expression), exported, expression)

    def test_alert_rules_are_loaded_and_evaluated(self):
        groups = yaml.safe_load((DEPLOY / "prometheus/alerts.yml").read_text())["groups"]
        shipped = {rule["alert"] for group in groups for rule in group["rules"]}

        def evaluated():
            rules = [rule for group in self.prometheus.get("rules")["groups"] for rule in group["rules"]]
            return rules if all(rule["health"] != "unknown" for rule in rules) else None

        rules = monitoring.wait_for(evaluated, "every rule has been evaluated")
        self.assertEqual({rule["name"] for rule in rules}, shipped)
        for rule in rules:
            self.assertEqual((rule["health"], rule.get("lastError", "")), ("ok", ""), rule["name"])
            self.assertNotEqual(rule["state"], "firing", rule["name"])
            self.assertLessEqual(metric_names(rule["query"]), monitoring.sample_names(self.scrape) | SYNTHETIC, rule["name"])

    def test_every_alert_is_tested_and_explained(self):
        tests = yaml.safe_load((DEPLOY / "prometheus/alerts_test.yml").read_text())["tests"]
        fired = {case["alertname"] for test in tests for case in test["alert_rule_test"] if case["exp_alerts"]}
        alerts = set(re.findall(r"- alert: (\w+)", (DEPLOY / "prometheus/alerts.yml").read_text()))
        explained = set(re.findall(r"^\| `(Butterflyflow\w+)` \|", (ROOT / "docs/operations.md").read_text(), re.M))
        self.assertEqual(fired, alerts)
        self.assertEqual(explained, alerts)

    def test_the_page_lists_what_is_exported(self):
        page = (ROOT / "docs/metrics.md").read_text()
        rows = re.findall(r"^\| `([a-z_]+)` \| (counter|gauge|histogram) \| ([^|]*) \|", page, re.M)
        described = {name: (kind, frozenset(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}
        self.assertEqual(len(described), len(rows), "a family stands twice")
        self.assertEqual(described, monitoring.parse_scrape(self.scrape))

    def test_invented_names_make_no_series(self):
        stub, x = flow_grpc.FlowServiceStub(self.server.channel), windows(1)

        def ask(name):
            with self.assertRaises(grpc.RpcError) as caught:
                stub.LogLikelihood(flow.LogLikelihoodRequest(model=flow.ModelSelector(name=name), x=x))
            self.assertEqual(caught.exception.code(), grpc.StatusCode.NOT_FOUND)

        ask("canary")
        before = monitoring.series(self.server.get("/metrics")[1])
        for i in range(1000):
            ask(f"canary-{i}")
        after = monitoring.series(self.server.get("/metrics")[1])
        self.assertEqual(after, before)
        self.assertNotIn("canary", "".join(after))


class ScrapeTest(unittest.TestCase):
    def test_series_stay_the_same_under_load_and_while_draining(self):
        with programs.Server(DEPLOY / "models", drain_delay_ms=20_000) as server:
            make_traffic(server.channel)
            first = monitoring.series(server.get("/metrics")[1])
            with concurrent.futures.ThreadPoolExecutor(1) as pool:
                load = pool.submit(lambda: [make_traffic(server.channel) for _ in range(20)])
                while not load.done():
                    status, text = server.get("/metrics")
                    self.assertEqual((status, monitoring.series(text)), (200, first))
                load.result()
            server.process.send_signal(signal.SIGTERM)
            monitoring.wait_for(lambda: server.get("/readyz")[0] == 503, "the server drains")
            self.assertEqual(monitoring.series(server.get("/metrics")[1]), first)


class DashboardTest(unittest.TestCase):
    dashboard = Dashboard(DEPLOY / "grafana/dashboards/butterflyflow.json")

    def test_panel_ids_and_titles_are_unique(self):
        for field in ("id", "title"):
            values = [panel[field] for panel in self.dashboard.panels]
            self.assertEqual(len(values), len(set(values)), field)

    def test_panels_do_not_overlap(self):
        places = [(panel["title"], panel["gridPos"]) for panel in self.dashboard.panels]
        for title, place in places:
            self.assertTrue(0 <= place["x"] and place["x"] + place["w"] <= 24 and place["h"] > 0, title)
        for (one, a), (other, b) in itertools.combinations(places, 2):
            apart = (a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
                     or a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"])
            self.assertTrue(apart, f"{one} lies over {other}")

    def test_the_datasource_is_the_provisioned_one(self):
        provisioned = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yml").read_text())["datasources"]
        uids = {source["uid"] for source in provisioned}
        used = [panel["datasource"] for panel in self.dashboard.panels if panel["type"] != "row"]
        for datasource in used + [variable["datasource"] for variable in self.dashboard.variables]:
            self.assertEqual(datasource["type"], "prometheus")
            self.assertIn(datasource["uid"], uids)


if __name__ == "__main__":
    unittest.main()
