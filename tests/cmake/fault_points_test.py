"""Fault points are in the builds made for them and in no other program: not a name, not the flag.

usage: fault_points_test.py SOURCE_ROOT BIN_FOLDER ON|OFF [PROGRAM_WITH_ALL_OF_THEM]
"""
import pathlib
import re
import sys


def point_names(root):
    """Every name in BFLOW_FAULT_POINT("...") and BFLOW_FAULT_FIRES("...") of what programs are made of."""
    names = set()
    for top in ("base", "model", "server", "client"):
        for path in sorted((root / top).rglob("*.cc")):
            names |= set(re.findall(r'BFLOW_FAULT_(?:POINT|FIRES)\("([^"]+)"\)', path.read_text()))
    return names


def main():
    root, folder, faults = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3]
    names = point_names(root)
    assert len(names) >= 10, names
    programs = [path for path in folder.iterdir() if path.is_file()]
    assert any(path.name == "bflow-train" for path in programs) or faults == "ON", "no programs to look at"
    if faults == "OFF":
        for path in programs:
            data = path.read_bytes()
            found = [name for name in names | {"fault_plan"} if name.encode() in data]
            assert not found, f"{path.name} holds the fault points {found}"
    for path in map(pathlib.Path, sys.argv[4:]):
        data = path.read_bytes()
        missing = [name for name in names | {"fault_plan"} if name.encode() not in data]
        assert not missing, f"{path.name} lacks {missing}: does its list of sources hold their files?"
    print(f"{len(names)} points, {len(programs)} programs")


if __name__ == "__main__":
    main()
