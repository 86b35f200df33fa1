#!/usr/bin/env python3
"""Every C file is as clang-format 14 writes it."""

import shutil

import checklib


def main():
    checklib.arguments()
    checks = checklib.Checks()
    program = shutil.which("clang-format-14")
    if not program:
        checks.skip("clang-format-14 is not installed")
        checks.finish()
    generated = checklib.ROOT / "include/lora/rename.h"
    for path in checklib.c_files("include", "lib", "src", "tests", "examples"):
        if path == generated:
            continue
        checks.run(checklib.relative(path),
                   [program, "--dry-run", "-Werror", path])
    checks.finish()


main()
