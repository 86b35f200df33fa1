#!/usr/bin/env python3
"""The amalgamation: reproducible, compiles with `cc -c lora.c` and without a
warning, needs nothing but libc, libm and threads, holds public names only,
and works."""

import re
import sys

import checklib

FLAGS = "-std=c11 -pedantic -Wall -Werror".split()

# Undefined symbols are found by linking against these and nothing else.
LIBRARIES = {"": ["-lm", "-pthread"], "-DLORA_NO_THREADS": ["-lm"]}


def amalgamate(folder, *options):
    return [sys.executable, "-B", checklib.ROOT / "lib/tools/amalgamate.py",
            "-o", folder, *options]


def global_names(thing):
    output = checklib.run(["nm", "-g", "--defined-only", thing]).stdout
    return {line.split()[2] for line in output.splitlines()}


def main():
    arguments = checklib.arguments()
    checks = checklib.Checks()
    folder = checklib.scratch(arguments.build, "amalgamation")
    for name in ("once", "again"):
        checks.run("amalgamate", amalgamate(folder / name))
    checks.run("amalgamate --line", amalgamate(folder / "line", "--line"))
    for name in ("lora.c", "lora.h"):
        text = (folder / "once" / name).read_text("utf-8")
        checks.check(text == (folder / "again" / name).read_text("utf-8"),
                     f"{name} is reproducible")
        checks.check(str(checklib.ROOT) not in text, f"{name} has no paths")
        checks.check(not re.search(r'#include\s+["<]lora/', text),
                     f"{name} includes no file of the tree")

    source = folder / "once/lora.c"
    program = checklib.ROOT / "tests/consumers/consumer.c"
    for c, _ in checklib.compilers():
        checks.run(f"{c}, as it comes",
                   [c, "-c", source, "-o", folder / "plain.o"])
        checks.run(f"{c} --line", [c, *FLAGS, "-c", folder / "line/lora.c",
                                   "-o", folder / "line.o"])
        for option, libraries in LIBRARIES.items():
            options = [option] if option else []
            thing = folder / "lora.o"
            if checks.run(f"{c} {option}",
                          [c, *FLAGS, "-O2", *options, "-c", source,
                           "-o", thing]) is None:
                continue
            names = global_names(thing)
            checks.check(names == checklib.exported_functions(),
                         f"{c} {option}: global names",
                         str(names ^ checklib.exported_functions()))
            checks.run(f"{c} {option}: nothing undefined",
                       [c, "-shared", "-fPIC", *options, "-nodefaultlibs",
                        "-Wl,-z,defs", source, "-o", folder / "lora.so",
                        *libraries, "-lc", "-lgcc"])
            run = folder / "run"
            checks.run(f"{c} {option}: link",
                       [c, "-DVENDORED", f"-I{folder / 'once'}", program,
                        thing, "-o", run, *libraries])
            checks.run(f"{c} {option}: run", [run])
    checks.finish()


main()
