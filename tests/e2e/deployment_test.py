"""What is deployed: the compose files are hardened, an installed server needs what the image holds, health is told."""
import os
import pathlib
import re
import subprocess
import tempfile
import unittest

import yaml

import programs
from programs import ROOT

COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES = COMPOSE["services"]
DOCKERFILE = (ROOT / "deploy/Dockerfile").read_text()
SERVER_CONFIG = ROOT / "deploy/compose/server.textproto"
REPOSITORY = ROOT / "deploy/models"


class ComposeTest(unittest.TestCase):
    """The container is minimal, as far as the files say it; no container is started here."""

    def test_services_run_with_as_little_as_possible(self):
        for name, service in SERVICES.items():
            with self.subTest(name):
                user = re.fullmatch(r"(\d+):\d+", service["user"])
                self.assertTrue(user and int(user[1]) > 0, "a number other than root's")
                self.assertIs(service["read_only"], True)
                self.assertEqual(service["cap_drop"], ["ALL"])
                self.assertEqual(service["security_opt"], ["no-new-privileges:true"])
                self.assertRegex(service["mem_limit"], r"^\d+[mg]$")
                self.assertIsInstance(service["pids_limit"], int)
                self.assertIn(service["healthcheck"]["test"][0], ("CMD", "CMD-SHELL"))
                for key in ("privileged", "cap_add", "devices", "network_mode", "pid", "ipc", "userns_mode", "deploy"):
                    self.assertNotIn(key, service)

    def test_images_have_exact_versions(self):
        for name, service in SERVICES.items():
            self.assertRegex(service["image"], r":v?\d+\.\d+\.\d+(@sha256:[0-9a-f]{64})?$", name)
        version = re.search(r"project\(butterflyflow VERSION ([\d.]+)", (ROOT / "CMakeLists.txt").read_text())[1]
        self.assertEqual(SERVICES["server"]["image"], f"butterflyflow/server:{version}")

    def test_only_the_public_port_and_the_dashboards_leave_on_loopback(self):
        ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
        self.assertEqual(sorted(ports), ["127.0.0.1:3000:3000", "127.0.0.1:8001:8001"])
        self.assertIs(COMPOSE["networks"]["observe"]["internal"], True)
        self.assertEqual(SERVICES["prometheus"]["networks"], ["observe"])

    def test_what_is_mounted_exists_and_is_read_only(self):
        for name, service in SERVICES.items():
            for volume in service["volumes"]:
                source, target, *mode = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", volume).split(":")
                with self.subTest(volume):
                    if source in COMPOSE["volumes"]:
                        continue
                    self.assertTrue((ROOT / source).exists())
                    self.assertEqual(mode, ["ro"])
        dashboards = yaml.safe_load((ROOT / "deploy/grafana/provisioning/dashboards/files.yml").read_text())
        path = dashboards["providers"][0]["options"]["path"]
        self.assertIn(f"./deploy/grafana/dashboards:{path}:ro", SERVICES["grafana"]["volumes"])
        home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
        self.assertTrue((ROOT / "deploy/grafana/dashboards" / pathlib.Path(home).relative_to(path)).exists())

    def test_the_files_are_read_by_both_generations_of_compose(self):
        self.assertEqual(set(COMPOSE), {"services", "networks", "volumes"})
        gpu = yaml.safe_load((ROOT / "docker-compose.gpu.yml").read_text())
        reservation = {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
        self.assertEqual(gpu, {"services": {"server": {"deploy": {"resources": {"reservations": {"devices": [reservation]}}}}}})

    def test_the_services_find_one_another(self):
        server, port = SERVICES["server"], 8002
        self.assertIn(f'listen: "0.0.0.0:{port}"', SERVER_CONFIG.read_text())
        scraped = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())["scrape_configs"]
        self.assertEqual(scraped[0]["static_configs"], [{"targets": [f"server:{port}"]}])
        source = yaml.safe_load((ROOT / "deploy/grafana/provisioning/datasources/prometheus.yml").read_text())
        self.assertEqual(source["datasources"][0]["url"], "http://prometheus:9090")
        self.assertIn(server["command"][0], server["healthcheck"]["test"])
        grace = int(re.fullmatch(r"(\d+)s", server["stop_grace_period"])[1])
        config = programs.run("bflow-server", f"--config={SERVER_CONFIG}", "--check_config")
        self.assertEqual(config.returncode, 0, config.stderr)
        self.assertGreater(1000 * grace, int(re.search(r"drain_timeout_ms: (\d+)", config.stdout)[1]))

    def test_the_server_insists_on_hearing_that_its_ports_are_open(self):
        lines = SERVER_CONFIG.read_text().splitlines(keepends=True)
        consents = [i for i, line in enumerate(lines) if line.strip() == "allow_insecure: true"]
        self.assertEqual(len(consents), 2)
        for i in consents:
            with tempfile.NamedTemporaryFile("w", suffix=".textproto") as file:
                file.writelines(lines[:i] + lines[i + 1:])
                file.flush()
                done = programs.run("bflow-server", f"--config={file.name}", "--check_config")
                self.assertEqual(done.returncode, 78, done.stdout)
                self.assertIn("allow_insecure", done.stderr)


class ImageTest(unittest.TestCase):
    def test_the_dockerfile_needs_neither_root_nor_a_new_builder(self):
        self.assertEqual(re.findall(r"^FROM (\S+) AS (\w+)$", DOCKERFILE, re.M),
                         [("${BASE_IMAGE}", "deps"), ("deps", "build"), ("build", "test"), ("${BASE_IMAGE}", "runtime")])
        self.assertIn("\nARG BASE_IMAGE=debian:bookworm-slim\n", DOCKERFILE)
        self.assertNotRegex(DOCKERFILE, r"#\s*syntax=|<<")
        runtime = DOCKERFILE.split(" AS runtime\n")[1]
        self.assertIn(f"\nUSER {SERVICES['server']['user']}\n", runtime)
        self.assertIn("\nSTOPSIGNAL SIGTERM\n", runtime)
        self.assertRegex(runtime, r'\nHEALTHCHECK [^\n]+\\\n  CMD \["[^"]*/bflow-server", "--health_check"\]\n')

    def test_an_installed_server_needs_what_the_image_holds(self):
        with tempfile.TemporaryDirectory(prefix="bflow_install_") as prefix:
            subprocess.run(["cmake", "--install", programs.BIN.parent, "--prefix", prefix, "--strip"],
                           check=True, stdout=subprocess.DEVNULL)
            server = pathlib.Path(prefix) / "bin/bflow-server"
            bundled, of_packages = linked_libraries(server, prefix)
            self.assertEqual(bundled, {path.name for path in (pathlib.Path(prefix) / "lib").iterdir()})
            listed = set(re.findall(r"^    (\S+) \\$", DOCKERFILE.split(" AS runtime\n")[1], re.M))
            self.assertLessEqual(listed, of_packages, "packages that nothing needs")
            self.assertLessEqual(of_packages, with_dependencies(listed), "libraries whose package is missing")
            with programs.Server(REPOSITORY, program=server) as installed:
                self.assertIn('backend_info{backend="cpu",reason="plugin_absent"} 1', installed.get("/metrics")[1])


def linked_libraries(program, prefix):
    """What the linker loads for a program: names of files below `prefix`, and the Debian packages that own the rest."""
    bare = {"PATH": os.environ["PATH"]}
    listing = subprocess.run(["ldd", program], check=True, capture_output=True, text=True, env=bare).stdout
    assert "not found" not in listing, listing
    paths = [pathlib.Path(path) for path in re.findall(r"=> (/\S+)", listing)]
    bundled = {path.name for path in paths if path.is_relative_to(prefix)}
    return bundled, {owner(path) for path in paths if path.name not in bundled}


def owner(library):
    """The Debian package of a library. /lib is /usr/lib, and the package may know either."""
    path = str(library.resolve()).removeprefix("/usr")
    found = subprocess.run(["dpkg-query", "--search", path, "/usr" + path], capture_output=True, text=True).stdout
    assert found, f"{library} belongs to no package"
    return found.split(":")[0]


def with_dependencies(packages):
    """The packages and all that they depend on, as far as installed here."""
    found, todo = set(), set(packages)
    while todo:
        name = todo.pop()
        found.add(name)
        depends = subprocess.run(["dpkg-query", "--show", "--showformat=${Depends}, ${Pre-Depends}", name],
                                 capture_output=True, text=True)
        todo |= set(re.findall(r"(?:^|[,|] *)([a-z0-9][a-z0-9+.-]+)", depends.stdout)) - found
    return found


class HealthCheckTest(unittest.TestCase):
    def test_tells_ready_from_not_there(self):
        with programs.Server(REPOSITORY) as server:
            ask = [f"--metrics_listen={server.metrics_address}", "--health_check"]
            self.assertEqual(programs.run("bflow-server", *ask).returncode, 0)
        self.assertEqual(programs.run("bflow-server", *ask).returncode, 69)

    def test_reaches_a_server_that_listens_everywhere(self):
        with programs.Server(REPOSITORY, metrics_listen="0.0.0.0:0", config="metrics { allow_insecure: true }\n") as server:
            ask = [f"--config={SERVER_CONFIG}", f"--metrics_listen={server.metrics_address}", "--health_check"]
            self.assertTrue(server.metrics_address.startswith("0.0.0.0:"))
            self.assertEqual(programs.run("bflow-server", *ask).returncode, 0)


class OperationsPageTest(unittest.TestCase):
    def test_every_log_event_is_explained(self):
        sources = "".join(path.read_text() for path in (ROOT / "server").rglob("*.cc"))
        events = re.findall(r'\bLog\([^;]*?,\s*"([a-z_]+)"(?:\)|,\s*\{\{)', sources)
        page = (ROOT / "docs/operations.md").read_text().split("## What the log says")[1].split("\n\n")[1]
        self.assertEqual(set(re.findall(r"^\| `([a-z_]+)` \|", page, re.M)), set(events))


if __name__ == "__main__":
    unittest.main()
