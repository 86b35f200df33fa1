#!/usr/bin/env python3
"""Every public header compiles alone, and twice, in every language version
that a host may use, with all warnings as errors. The umbrella has them all."""

import re

import checklib

C_VERSIONS = ("c89", "c99", "c11", "c17", "c2x")
CXX_VERSIONS = ("c++98", "c++11", "c++17", "c++20")
WARNINGS = """-pedantic -Wall -Wextra -Wshadow -Wconversion -Wundef
    -Werror""".split()
C_WARNINGS = "-Wstrict-prototypes -Wc++-compat".split()

# A library of its own: the umbrella leaves it out. The other is no interface.
NOT_IN_UMBRELLA = {"openblas.h", "rename.h"}


def legs():
    """(compiler, language, flags) for every way to compile a header."""
    for c, cxx in checklib.compilers():
        for version in C_VERSIONS:
            yield c, "c", [f"-std={version}", *C_WARNINGS]
        for version in CXX_VERSIONS if cxx else ():
            yield cxx, "c++", [f"-std={version}"]


def main():
    arguments = checklib.arguments()
    checks = checklib.Checks()
    folder = checklib.scratch(arguments.build, "headers")
    headers = sorted((checklib.ROOT / "include/lora").glob("*.h"))

    # Twice, as guards are easily mistyped; then something, as ISO C wants a
    # declaration in every file.
    for path in headers:
        line = f"#include <lora/{path.name}>\n"
        (folder / f"{path.stem}.c").write_text(
            line * 2 + "extern int end_of_file;\n", "utf-8")
    sources = sorted(folder.glob("*.c"))

    include = f"-I{checklib.ROOT / 'include'}"
    for compiler, language, flags in legs():
        command = [compiler, "-x", language, *flags, *WARNINGS,
                   "-fsyntax-only", include]
        name = f"{compiler} {flags[0]}"
        checks.run(f"each alone, {name}", [*command, *sources])
        checks.run(f"namespace, {name}",
                   [*command, "-DLORA_NAMESPACE=other_", folder / "lora.c"])

    umbrella = (checklib.ROOT / "include/lora/lora.h").read_text("utf-8")
    named = set(re.findall(r"#include <lora/([^>]+)>", umbrella))
    named |= NOT_IN_UMBRELLA | {"lora.h", "export.h"}
    missing = {path.name for path in headers} - named
    checks.check(not missing, f"lora.h lacks {sorted(missing)}")
    checks.finish()


main()
