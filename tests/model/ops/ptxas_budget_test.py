"""Registers, spills and static shared memory of every CUDA kernel against ptxas_budget.txt beside this file.

A kernel over its budget has lost occupancy or spills: look at it, then write the new budget with --write.
Called with the CUDA compiler and the source root.
"""
import pathlib
import re
import subprocess
import sys
import tempfile

BUDGET = pathlib.Path(__file__).with_name("ptxas_budget.txt")


def measure(nvcc, root):
    """{kernel: (registers, stack bytes, spilled bytes, static shared bytes)} for sm_90."""
    with tempfile.TemporaryDirectory() as folder:
        run = subprocess.run([nvcc, "-std=c++20", "-arch=sm_90", "-O3", "-Xptxas", "-v", f"-I{root}", "-cubin", "-o",
                              f"{folder}/kernels.cubin", f"{root}/model/ops/cuda/kernels.cu"], capture_output=True, text=True)
    if run.returncode != 0:
        raise SystemExit(run.stderr)
    found = {}
    for name, report in re.findall(r"Compiling entry function '(\w+)'(.*?Used [^\n]*)", run.stderr, re.S):
        name = subprocess.run(["c++filt", name], capture_output=True, text=True, check=True).stdout.strip()
        # "void bflow::cuda::(anonymous namespace)::CouplingKernel<float, bflow::cuda::CouplingShape<2, 16> >(...)"
        name = name.split("(anonymous namespace)::")[1].split("(")[0].replace("bflow::cuda::", "").replace(" ", "")

        def number(pattern):
            match = re.search(pattern, report)
            return int(match.group(1)) if match else 0
        found[name] = (number(r"Used (\d+) registers"), number(r"(\d+) bytes stack frame"),
                       number(r"(\d+) bytes spill stores"), number(r"(\d+) bytes smem"))
    return found


def main():
    nvcc, root = sys.argv[1:3]
    found = measure(nvcc, root)
    if "--write" in sys.argv:
        lines = ["# kernel registers stack spill shared; sm_90, nvcc 13"]
        lines += [" ".join(map(str, (name, *found[name]))) for name in sorted(found)]
        BUDGET.write_text("\n".join(lines) + "\n")
        return
    budget = {}
    for line in BUDGET.read_text().splitlines()[1:]:
        name, *limits = line.split()
        budget[name] = tuple(map(int, limits))
    wrong = [f"{name}: not in {BUDGET.name}" for name in found.keys() - budget.keys()]
    wrong += [f"{name}: in {BUDGET.name}, but no such kernel" for name in budget.keys() - found.keys()]
    for name in found.keys() & budget.keys():
        if any(a > b for a, b in zip(found[name], budget[name])):
            wrong.append(f"{name}: registers, stack, spill, shared {found[name]}, budget {budget[name]}")
    if wrong or not found:
        raise SystemExit("\n".join(wrong) or "no kernel found in the compiler's output")
    print(f"{len(found)} kernels within their budgets")


if __name__ == "__main__":
    main()
