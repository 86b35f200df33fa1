#!/usr/bin/env python3
"""All sources compile as one file: no static name is used twice."""

import checklib


def main():
    arguments = checklib.arguments()
    checks = checklib.Checks()
    folder = checklib.scratch(arguments.build, "unity")
    unity = folder / "unity.c"
    unity.write_text("".join(
        f'#include "{path}"\n' for path in checklib.library_sources()
        if "openblas" not in path.parts), "utf-8")
    for c, _ in checklib.compilers():
        checks.run(c, [c, "-std=c11", *checklib.WARNINGS,
                       "-Wno-unused-function", "-DLORA_PRIVATE=static",
                       "-D_POSIX_C_SOURCE=200809L", "-fsyntax-only",
                       f"-I{checklib.ROOT / 'include'}",
                       f"-I{checklib.ROOT / 'lib'}", unity])
    checks.finish()


main()
