#!/usr/bin/env python3
"""Builds this checkout for the GPU of this machine and runs everything that needs one. Called by ./dev gpu-check.

Needs a GPU with its driver, a CUDA 13 toolkit, CMake and a Python with torch; --deps (./dev gpu-pack) brings the rest,
without it the packages of the system are used. With --programs (./dev gpu-pack --programs) nothing is built here: GPU,
driver and that torch are enough. No network. At most 10 minutes: every phase has a limit of its own.
Writes to --out as the phases come: report.json, a JUnit file per test program, bench.json, log.txt. Exit status 0 only if
every phase passed; a phase that did not run is listed with the reason, and counts as failed unless it was not needed or
a tool that it needs is not there.
"""
import argparse
import importlib.util
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
BUILD = ROOT / "build/gpu"
DEPS = ROOT / "build/gpu-deps"
TOTAL_SECONDS = 600
# Name and limit in seconds, in order.
PHASES = [("device", 15), ("configure", 40), ("build", 240), ("tests", 90), ("memcheck", 30), ("racecheck", 30), ("bench", 120)]
TESTS = ("gpu_small_test", "gpu_test", "gpu_programs_test")
SANITIZER_CANNOT = re.compile(r"not supported|Unable to find|requires|Debugger|Insufficient permission", re.I)


def output_of(*command):
    """First line of what a command prints; empty if it is not there or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return (done.stdout.strip().splitlines() or [""])[0] if done.returncode == 0 else ""


def find_nvcc():
    for nvcc in (shutil.which("nvcc"), "/usr/local/cuda/bin/nvcc"):
        if nvcc and pathlib.Path(nvcc).exists():
            return str(pathlib.Path(nvcc).resolve())
    return ""


def torch_lib(python):
    """The folder of that Python's LibTorch, found without importing it; empty if it has none."""
    code = ("import importlib.util as u, pathlib; s = u.find_spec('torch');"
            "print(pathlib.Path(s.submodule_search_locations[0]) / 'lib' if s else '')")
    return output_of(python, "-c", code)


def find_python():
    """A Python that has torch: this one, or that of ./dev setup."""
    if importlib.util.find_spec("torch"):
        return sys.executable
    venv = ROOT / ".deps/venv/bin/python3"
    return str(venv) if venv.exists() else sys.executable


class Check:
    def __init__(self, deps, programs, out):
        self.deps, self.programs, self.out = deps, programs, out
        self.start = time.monotonic()
        self.log = open(out / "log.txt", "w", encoding="utf-8")
        self.nvcc, self.python = find_nvcc(), find_python()
        self.phases = {name: {"phase": name, "status": "not run", "rc": None, "seconds": 0, "limit_seconds": limit,
                              "detail": "a phase before it took the time"} for name, limit in PHASES}
        self.facts = {"commit": output_of("git", "-C", str(ROOT), "rev-parse", "HEAD") or "unknown",
                      "changed_files": bool(output_of("git", "-C", str(ROOT), "status", "--porcelain")),
                      "device": None, "driver": None, "compute_capability": None, "versions": self.versions()}
        self.write_report()

    def versions(self):
        torch = ("import importlib.util as u, pathlib, re; p = pathlib.Path(u.find_spec('torch').submodule_search_locations[0]);"
                 "print(re.search(r\"__version__ = '([^']+)'\", (p / 'version.py').read_text()).group(1))")
        nvcc = subprocess.run([self.nvcc, "--version"], capture_output=True, text=True).stdout if self.nvcc else ""
        release = re.search(r"release ([\d.]+)", nvcc)
        return {"cuda_toolkit": release.group(1) if release else None, "torch": output_of(self.python, "-c", torch) or None,
                "python": sys.version.split()[0], "cmake": output_of("cmake", "--version") or None,
                "compiler": output_of("c++", "--version") or None, "os": output_of("uname", "-sr") or None}

    def write_report(self):
        passed = all(p["status"] == "passed" or p.get("excused") for p in self.phases.values())
        report = {"passed": passed, **self.facts, "seconds": round(time.monotonic() - self.start, 1),
                  "hard_limit_seconds": TOTAL_SECONDS, "phases": list(self.phases.values())}
        temporary = self.out / "report.json.tmp"
        temporary.write_text(json.dumps(report, indent=2) + "\n")
        temporary.replace(self.out / "report.json")
        return passed

    def say(self, text):
        print(text, file=sys.stderr, flush=True)
        self.log.write(text + "\n")
        self.log.flush()

    def environment(self):
        """The variables for our build and programs; never for this process: they would hand it other libraries."""
        if not self.deps:
            return dict(os.environ)
        lib, usr = DEPS / "lib/x86_64-linux-gnu", DEPS / "usr"
        env = dict(os.environ)
        env["PATH"] = f"{usr}/bin:{env.get('PATH', '')}"
        # Programs built elsewhere look for LibTorch where it was there.
        env["LD_LIBRARY_PATH"] = ":".join([f"{usr}/lib/x86_64-linux-gnu", str(lib), *([torch_lib(self.python)] if self.programs else [])])
        env["OMP_WAIT_POLICY"] = "passive"
        env["PKG_CONFIG_SYSROOT_DIR"] = str(DEPS)
        env["PKG_CONFIG_LIBDIR"] = f"{usr}/lib/x86_64-linux-gnu/pkgconfig"
        return env

    def run(self, name, *commands, env=None, keep_going=False):
        """The commands one after the other under the phase's limit, up to the first that fails unless keep_going. (passed, output)."""
        phase = self.phases[name]
        self.say(f"== {name}")
        start, text, rc = time.monotonic(), "", 0
        for command in commands:
            left = min(phase["limit_seconds"] - (time.monotonic() - start), TOTAL_SECONDS - (time.monotonic() - self.start))
            self.log.write("$ " + " ".join(map(str, command)) + "\n")
            done = subprocess.run(["timeout", "--kill-after=5", f"{max(left, 0.1):.1f}", *map(str, command)], env=env, cwd=ROOT,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
            text, rc = text + done.stdout, rc or done.returncode
            self.log.write(done.stdout)
            if rc != 0 and not keep_going:
                break
        phase.update(rc=rc, seconds=round(time.monotonic() - start, 1), status="passed" if rc == 0 else "failed",
                     detail="over its limit" if rc in (124, 137) else "" if rc == 0 else (text.strip().splitlines() or [""])[-1][:300])
        self.say(f"   {phase['status']}, {phase['seconds']} s {phase['detail']}")
        self.write_report()
        return rc == 0, text

    def skip(self, name, reason, excused=False):
        self.phases[name].update(detail=reason, **({"excused": True} if excused else {}))
        self.say(f"== {name}\n   not run: {reason}")
        self.write_report()

    def device(self):
        passed, text = self.run("device", ["nvidia-smi", "--query-gpu=name,driver_version,compute_cap", "--format=csv,noheader"])
        cells = [cell.strip() for cell in (text.strip().splitlines() or [""])[0].split(",")]
        if passed and len(cells) == 3:
            self.facts["device"], self.facts["driver"], self.facts["compute_capability"] = cells
        else:
            self.phases["device"].update(status="failed", detail="no device")
            self.say("   no device")
        self.write_report()
        return self.facts["device"] is not None

    def unpack(self):
        """The commands that unpack what was given."""
        commands = []
        for archive, folder in ((self.deps, DEPS), (self.programs, BUILD)):
            if archive:
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(parents=True)
                commands.append(["tar", "-C", folder, "-xJf", archive])
        return commands

    def take_programs(self):
        """Unpacks in place of configuring and building."""
        if not self.run("configure", *self.unpack())[0]:
            return False
        self.facts["programs"] = built_from = (BUILD / "built_from").read_text().strip()
        if self.facts["commit"] not in ("unknown", built_from.removesuffix("-dirty")):
            self.phases["configure"].update(status="failed", detail=f"the programs are of {built_from}")
            self.write_report()
            return False
        self.skip("build", "not needed: --programs", excused=True)
        return True

    def configure(self):
        shutil.rmtree(BUILD, ignore_errors=True)
        commands = self.unpack()
        cmake = ["cmake", "--preset", "gpu", f"-DPython3_EXECUTABLE={self.python}"]
        if self.deps:
            cmake += [f"-DCMAKE_PREFIX_PATH={DEPS}/usr", "-DCMAKE_LIBRARY_ARCHITECTURE=x86_64-linux-gnu"]
        if not self.facts["device"]:
            cmake.append("-DCMAKE_CUDA_ARCHITECTURES=90")  # native needs one; so that the rest is seen to build
        if self.nvcc:
            cmake += [f"-DCMAKE_CUDA_COMPILER={self.nvcc}", f"-DCUDAToolkit_ROOT={pathlib.Path(self.nvcc).parent.parent}"]
        if not (self.deps or shutil.which("ninja")):
            cmake += ["-G", "Unix Makefiles"]
        return self.run("configure", *commands, cmake, env=self.environment())[0]

    def build(self):
        jobs = str(len(os.sched_getaffinity(0)))
        return self.run("build", ["cmake", "--build", "--preset", "gpu", "--", "-j", jobs], env=self.environment())[0]

    def tests(self):
        # One process per program: a process per test would begin a CUDA context a hundred times.
        programs = [[BUILD / "tests" / name, "--gtest_brief=1", f"--gtest_output=xml:{self.out / name}.xml"] for name in TESTS]
        self.run("tests", *programs, env=self.environment(), keep_going=True)

    def sanitizer(self, tool):
        program = shutil.which("compute-sanitizer") or str(pathlib.Path(self.nvcc).parent / "compute-sanitizer")
        if not pathlib.Path(program).exists():
            return self.skip(tool, "no compute-sanitizer here", excused=True)
        passed, text = self.run(tool, [program, "--tool", tool, "--error-exitcode", "9", BUILD / "tests/gpu_small_test"],
                                env=self.environment())
        if not passed and "[ RUN" not in text and SANITIZER_CANNOT.search(text):
            self.phases[tool]["status"] = "not run"
            self.skip(tool, "compute-sanitizer does not work here: " + self.phases[tool]["detail"], excused=True)
        return None

    def bench(self):
        passed, text = self.run("bench", [BUILD / "bin/bflow_bench_gpu"], env=self.environment())
        lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
        (self.out / "bench.json").write_text(json.dumps({"passed": passed, "device": self.facts["device"], "results": lines},
                                                        indent=2) + "\n")

    def all(self):
        reason = ""
        if not self.device():
            reason = "no device"
        elif self.programs and not self.take_programs():
            reason = "not unpacked"
        elif not self.programs and not self.configure():
            reason = "not configured"
        elif not self.programs and not self.build():
            reason = "not built"
        else:
            self.tests()
            self.sanitizer("memcheck")
            self.sanitizer("racecheck")
            self.bench()
        for name, phase in self.phases.items():
            if reason and phase["rc"] is None and not phase.get("excused"):
                self.skip(name, reason)
        return self.write_report()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--deps", type=lambda path: pathlib.Path(path).resolve(), help="gpu-deps.tar.xz of ./dev gpu-pack")
    parser.add_argument("--programs", type=lambda path: pathlib.Path(path).resolve(),
                        help="gpu-programs.tar.xz of ./dev gpu-pack --programs, of this checkout; with --deps")
    parser.add_argument("--out", type=lambda path: pathlib.Path(path).resolve(), required=True, help="folder for the results")
    args = parser.parse_args()
    if args.programs and not args.deps:
        parser.error("--programs needs --deps: the libraries that they were built with")
    args.out.mkdir(parents=True, exist_ok=True)
    return 0 if Check(args.deps, args.programs, args.out).all() else 1


if __name__ == "__main__":
    sys.exit(main())
