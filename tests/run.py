#!/usr/bin/env python3
"""Run the tests of tests.txt, two at a time, a line each. ./dev test calls
this after it has built what is needed.

    tests/run.py TIER [NAME... | ^NAME...]

A C test of the full tier runs twice: plain, and as NAME:asan from the
sanitized build; so does a hostile script. The last line printed is
"N passed, N failed", with ", N skipped" where there are any.
"""

import concurrent.futures
import os
import pathlib
import re
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
TIERS = ("quick", "full", "deep")
TIMEOUT = 900
SKIP = 77

SANITIZER_ENVIRONMENT = {
    "ASAN_OPTIONS": "detect_leaks=1:strict_string_checks=1:abort_on_error=1",
    "UBSAN_OPTIONS": "print_stacktrace=1:abort_on_error=1",
}


class Test:
    """One run of one line of tests.txt."""

    def __init__(self, name, kind, source, build):
        self.name = name
        if kind in ("unit", "api", "fuzz"):
            self.command = [build / "tests" / name.split(":")[0]]
        else:
            self.command = [sys.executable, "-B", ROOT / "tests" / source,
                            "--lora", build / "lora", "--build", build]

    def run(self):
        """(outcome, seconds, output)"""
        start = time.monotonic()
        try:
            result = subprocess.run(
                [str(part) for part in self.command], cwd=ROOT, check=False,
                env={**os.environ, **SANITIZER_ENVIRONMENT}, timeout=TIMEOUT,
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT)
            code, output = result.returncode, result.stdout
        except subprocess.TimeoutExpired as error:
            code, output = -1, (error.stdout or b"") + b"\ntook too long\n"
        except OSError as error:
            code, output = -1, str(error).encode()
        outcome = {0: "ok", SKIP: "skip"}.get(code, "FAIL")
        text = output.decode("utf-8", "replace")
        return outcome, time.monotonic() - start, text


def read_tests(tier):
    """All runs of a tier, in the order of the list."""
    wanted = TIERS[:TIERS.index(tier) + 1]
    for line in (ROOT / "tests/tests.txt").read_text("utf-8").splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        name, test_tier, kind, source = line.split()
        if test_tier not in wanted:
            continue
        yield Test(name, kind, source, ROOT / "build")
        if tier != "quick" and kind != "python":
            yield Test(f"{name}:asan", kind, source, ROOT / "build/asan")


def select(tests, names):
    """The tests that are named, or those that are not named with ^."""
    known = {test.name for test in tests} | {
        test.name.split(":")[0] for test in tests}
    unknown = [name for name in names if name.lstrip("^") not in known]
    if unknown:
        sys.exit(f"no such test in this tier: {' '.join(unknown)}")

    def named(test, group):
        return test.name in group or test.name.split(":")[0] in group

    without = {name[1:] for name in names if name.startswith("^")}
    only = {name for name in names if not name.startswith("^")}
    return [test for test in tests if not named(test, without)
            and (not only or named(test, only))]


def summary(outcome, text):
    """What a test says about its parts, in a few words."""
    cmocka = re.findall(r"\[  (PASSED|FAILED)  \] (\d+) test\(s\)", text)
    if cmocka:
        return ", ".join(f"{count} {what.lower()}" for what, count in cmocka)
    lines = text.strip().splitlines()
    if lines and (outcome == "skip" or re.search(r"\d+ passed", lines[-1])):
        return lines[0 if outcome == "skip" else -1]
    return ""


def main():
    if len(sys.argv) < 2 or sys.argv[1] not in TIERS:
        sys.exit(__doc__)
    tests = select(list(read_tests(sys.argv[1])), sys.argv[2:])
    counts = {"ok": 0, "FAIL": 0, "skip": 0}
    workers = min(2, os.cpu_count() or 1)
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        for test, result in zip(tests, pool.map(Test.run, tests)):
            outcome, seconds, text = result
            counts[outcome] += 1
            print(f"{outcome:<5}{test.name:<28}{seconds:7.2f} s  "
                  f"{summary(outcome, text)}".rstrip(), flush=True)
            if outcome == "FAIL":
                print("".join(f"    {line}\n" for line in text.splitlines()),
                      end="", flush=True)
    skipped = f", {counts['skip']} skipped" if counts["skip"] else ""
    print(f"{counts['ok']} passed, {counts['FAIL']} failed{skipped}")
    return 1 if counts["FAIL"] else 0


if __name__ == "__main__":
    sys.exit(main())
