#!/usr/bin/env python3
"""Files that are generated and checked in are fresh."""

import sys

import checklib


def main():
    checklib.arguments()
    checks = checklib.Checks()
    checks.run("lib/abi", [sys.executable, "-B",
                           checklib.ROOT / "lib/tools/gen_abi.py", "--check"])
    checks.finish()


main()
