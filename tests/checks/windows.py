#!/usr/bin/env python3
"""The library compiles for Windows: every source, and the amalgamation, with
mingw. Nothing is run."""

import shutil
import sys

import checklib

COMPILER = "x86_64-w64-mingw32-gcc"


def main():
    arguments = checklib.arguments()
    checks = checklib.Checks()
    if not shutil.which(COMPILER):
        print(f"skip: {COMPILER} is missing")
        sys.exit(checklib.SKIP)
    folder = checklib.scratch(arguments.build, "windows")
    flags = ["-std=c11", "-O2", "-Wall", "-Wextra", "-Wpedantic", "-Werror",
             f"-I{checklib.ROOT / 'include'}"]
    for path in checklib.library_sources():
        if "openblas" in path.parts or path.name.endswith("_posix.c"):
            continue
        checks.run(checklib.relative(path), [
            COMPILER, *flags, f"-I{checklib.ROOT / 'lib'}", "-c", path, "-o",
            folder / "object.o"])
    checks.run("amalgamate", [
        sys.executable, checklib.ROOT / "lib/tools/amalgamate.py", "-o",
        folder])
    checks.run("amalgamation", [
        COMPILER, "-std=c11", "-O2", "-Wall", "-Wextra", "-Werror",
        f"-I{folder}", "-c", folder / "lora.c", "-o", folder / "lora.o"])
    checks.finish()


main()
