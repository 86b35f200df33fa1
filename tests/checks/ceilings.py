#!/usr/bin/env python3
"""No function over 120 lines or complexity 20, no file over 800 lines.

A function that has a reason to be larger says so in a comment of the form
`ceiling: reason` above it. Waivers are counted; the number may only fall.
"""

import re
import shutil

import checklib

MAX_LINES = 120
MAX_COMPLEXITY = 20
MAX_FILE_LINES = 800
MAX_WAIVERS = 0

WAIVER = re.compile(r"/\* ceiling: [^*]+\*/")


def is_generated(text):
    return "Generated from" in text[:400]


def waived(text, line):
    """1 if a waiver stands in the eight lines above a function."""
    above = text.splitlines()[max(0, line - 9):line]
    return WAIVER.search("\n".join(above)) is not None


def check_functions(checks, paths):
    output = checklib.run(["pmccabe", *paths]).stdout
    for row in output.splitlines():
        match = re.match(r"(\d+)\t\d+\t\d+\t(\d+)\t(\d+)\t([^(]+)\(\d+\): (.*)",
                         row)
        if not match:
            checks.check(False, f"pmccabe: {row}")
            continue
        complexity, line, lines = map(int, match.group(1, 2, 3))
        path, function = match.group(4, 5)
        good = lines <= MAX_LINES and complexity <= MAX_COMPLEXITY
        text = checklib.pathlib.Path(path).read_text("utf-8")
        checks.check(good or waived(text, line),
                     f"{path}:{line}: {function}: {lines} lines, "
                     f"complexity {complexity}")


def main():
    checklib.arguments()
    checks = checklib.Checks()
    paths = [path for path in checklib.c_files("lib", "src")
             if not is_generated(path.read_text("utf-8"))]
    waivers = 0
    for path in paths:
        text = path.read_text("utf-8")
        waivers += len(WAIVER.findall(text))
        lines = text.count("\n")
        checks.check(lines <= MAX_FILE_LINES,
                     f"{checklib.relative(path)}: {lines} lines")
    checks.check(waivers <= MAX_WAIVERS,
                 f"{waivers} waivers; {MAX_WAIVERS} are allowed")
    sources = [path for path in paths if path.suffix == ".c"]
    if shutil.which("pmccabe"):
        check_functions(checks, sources)
    else:
        checks.skip("functions: pmccabe is not installed")
    checks.finish()


main()
