#!/usr/bin/env python3
"""Write what follows from the tables of public names in lib/abi/.

    python3 lib/tools/gen_abi.py            write the files
    python3 lib/tools/gen_abi.py --check    fail if one of them is stale

The results are checked in, so that no build needs Python:

    lib/abi/NAME.map       version script for ELF linkers
    lib/abi/NAME.def       export list for Windows
    lib/abi/NAME.exports   export list for macOS
    include/lora/rename.h  puts LORA_NAMESPACE before every name
"""

import argparse
import collections
import pathlib
import sys

from version import read_version

ROOT = pathlib.Path(__file__).resolve().parents[2]
ABI = ROOT / "lib/abi"
KINDS = ("func", "type", "const", "macro")

# Table of names -> library that exports them.
LIBRARIES = {"symbols.txt": "liblora", "openblas.txt": "liblora_openblas"}

Symbol = collections.namedtuple(
    "Symbol", "name kind introduced deprecated removed")


def read_symbols(path):
    """The rows of a table, in its order."""
    symbols = []
    seen = set()
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        line = line.split("#")[0].split()
        if not line:
            continue
        if len(line) != 5 or line[1] not in KINDS or line[0] in seen:
            sys.exit(f"{path.name}:{number}: not a row, or a name twice")
        seen.add(line[0])
        symbols.append(Symbol(*line))
    return symbols


def exported(symbols):
    """Sorted names that a library exports."""
    return sorted(s.name for s in symbols
                  if s.kind == "func" and s.removed == "-")


def version_script(table, names):
    lines = "".join(f"    {name};\n" for name in names)
    return (f"/* Generated from {table} by gen_abi.py. */\n"
            f"LORA_{read_version('SOVERSION')} {{\n  global:\n{lines}"
            "  local:\n    *;\n};\n")


def def_file(table, names):
    lines = "".join(f"    {name}\n" for name in names)
    return f"; Generated from {table} by gen_abi.py.\nEXPORTS\n{lines}"


def exports_file(table, names):
    lines = "".join(f"_{name}\n" for name in names)
    return f"# Generated from {table} by gen_abi.py.\n{lines}"


RENAME_HEAD = """\
/* Generated from lib/abi/ by gen_abi.py.
 *
 * Puts LORA_NAMESPACE before every public name, so that two copies of the
 * library can live in one program: -DLORA_NAMESPACE=engine_ makes lora_adapter
 * engine_lora_adapter. Constants are left alone: no linker sees them.
 */
#ifndef LORA_RENAME_H
#define LORA_RENAME_H

#define LORA__RENAME_JOIN(prefix, name) prefix##name
#define LORA__RENAME(prefix, name) LORA__RENAME_JOIN(prefix, name)

"""


def rename_header(names):
    lines = "".join(
        f"#define {name} LORA__RENAME(LORA_NAMESPACE, {name})\n"
        for name in names)
    return f"{RENAME_HEAD}{lines}\n#endif\n"


def generate():
    """Path -> text of every generated file."""
    files = {}
    renamed = []
    for table, library in LIBRARIES.items():
        symbols = read_symbols(ABI / table)
        names = exported(symbols)
        renamed += [s.name for s in symbols if s.kind in ("func", "type")]
        files[ABI / f"{library}.map"] = version_script(table, names)
        files[ABI / f"{library}.def"] = def_file(table, names)
        files[ABI / f"{library}.exports"] = exports_file(table, names)
    files[ROOT / "include/lora/rename.h"] = rename_header(sorted(renamed))
    return files


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true",
                        help="write nothing; fail if a file is stale")
    arguments = parser.parse_args()
    stale = [(path, text) for path, text in generate().items()
             if not path.exists() or path.read_text("utf-8") != text]
    for path, text in stale:
        if arguments.check:
            print(f"{path.relative_to(ROOT)} is stale: run gen_abi.py")
        else:
            path.write_text(text, "utf-8")
    return 1 if arguments.check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
