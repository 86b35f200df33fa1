#!/usr/bin/env python3
"""The lists that both builds read name every file there is, once: no source
is forgotten, and no test silently does not run."""

import checklib


def compare(checks, what, listed, there):
    listed_set = set(listed)
    checks.check(len(listed) == len(listed_set), f"{what}: a line twice")
    checks.check(not there - listed_set,
                 f"{what} lacks {sorted(there - listed_set)}")
    checks.check(not listed_set - there,
                 f"{what}: not there: {sorted(listed_set - there)}")


def files(folder, *patterns):
    base = checklib.ROOT / folder
    return {path.relative_to(base).as_posix()
            for pattern in patterns for path in base.rglob(pattern)}


def main():
    checklib.arguments()
    checks = checklib.Checks()
    for folder in ("lib", "src"):
        listed = checklib.read_list(checklib.ROOT / folder / "sources.txt")
        compare(checks, f"{folder}/sources.txt", listed, files(folder, "*.c"))
    listed = checklib.read_list(checklib.ROOT / "examples/sources.txt")
    there = {name for name in files("examples", "*.c") if "/" not in name}
    compare(checks, "examples/sources.txt", listed, there)
    rows = [row.split() for row in
            checklib.read_list(checklib.ROOT / "tests/tests.txt")]
    checks.check(all(len(row) == 4 for row in rows),
                 "tests.txt: four columns")
    tests = files("tests", "test_*.c", "test_*.py")
    tests |= {name for name in files("tests", "checks/*.py")
              if not name.endswith("checklib.py")}
    tests |= files("tests", "fuzz/*.c") - {"fuzz/fuzz.c", "fuzz/replay.c"}
    compare(checks, "tests.txt", [row[3] for row in rows], tests)
    checks.finish()


main()
