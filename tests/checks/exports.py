#!/usr/bin/env python3
"""The public names are the same everywhere: in lib/abi/symbols.txt, in the
headers, and among the symbols of the shared library. No library holds any
other global name."""

import re

import checklib

# Names that a program may define to configure the headers.
CONFIGURATION = {"LORA_NAMESPACE", "LORA_NO_DEPRECATED", "LORA_BUILDING",
                 "LORA_SHARED"}
NOT_PUBLIC = {"openblas.h", "rename.h"}


def header_names():
    """Every name with our prefix that the headers use in code."""
    names = set()
    for path in (checklib.ROOT / "include/lora").glob("*.h"):
        if path.name in NOT_PUBLIC:
            continue
        text = checklib.strip_c(path.read_text("utf-8"))
        text = re.sub(r"#\s*include.*", "", text)
        names |= set(re.findall(r"\b(?:lora_|LORA_)[A-Za-z]\w*", text))
    return {name for name in names
            if not name.endswith("_H") and name not in CONFIGURATION}


def declared_functions():
    """Functions that the headers declare for export."""
    names = set()
    for path in (checklib.ROOT / "include/lora").glob("*.h"):
        if path.name in NOT_PUBLIC:
            continue
        text = checklib.strip_c(path.read_text("utf-8"))
        names |= set(re.findall(r"LORA_API\b[^;(]*\b(lora_\w+)\s*\(", text))
    return names


def globals_of(library, *flags):
    """Names that a library defines for others."""
    output = checklib.run(["nm", "--defined-only", *flags, library]).stdout
    rows = (line.split() for line in output.splitlines())
    # "A" is the version node of the version script.
    return {row[2].split("@")[0] for row in rows
            if len(row) == 3 and row[1] != "A"}


def difference(left, right):
    return (f"  only in the first: {sorted(left - right)}\n"
            f"  only in the second: {sorted(right - left)}")


def main():
    arguments = checklib.arguments()
    checks = checklib.Checks()
    table = set(checklib.public_names())
    functions = checklib.exported_functions()
    headers = header_names()
    checks.check(table == headers, "symbols.txt and headers",
                 difference(table, headers))
    declared = declared_functions()
    checks.check(functions == declared, "functions, symbols.txt and headers",
                 difference(functions, declared))

    shared = arguments.build / "liblora.so"
    if shared.exists():
        exported = globals_of(shared, "-D")
        checks.check(exported == functions, "symbols.txt and liblora.so",
                     difference(functions, exported))
    else:
        checks.skip(f"no {shared.name} in the build folder")

    blas = arguments.build / "liblora_openblas.so"
    if blas.exists():
        exported = globals_of(blas, "-D")
        checks.check(exported == {"lora_openblas_backend"},
                     f"liblora_openblas.so exports {sorted(exported)}")

    archive = arguments.build / "liblora.a"
    if archive.exists():
        other = {name for name in globals_of(archive, "-g")
                 if name not in functions and not name.startswith("lora__")}
        checks.check(not other, f"liblora.a has {sorted(other)}")
    else:
        checks.skip(f"no {archive.name} in the build folder")
    checks.finish()


main()
