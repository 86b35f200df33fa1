#!/usr/bin/env python3
"""Write down the public interface as data, and the Python layer that follows
from it.

    python3 bindings/tools/extract.py            write the files
    python3 bindings/tools/extract.py --check    fail if one of them is stale

    bindings/api.json                       functions, structs, constants
    bindings/python/src/liblora/_ffi.py     the same for ctypes

Both are checked in, so that only a change of the headers needs clang (14 or
later). Declarations come from its syntax tree. Sizes, offsets and the values
of constants come from a program that is compiled and run; which constants
there are is in lib/abi/, as a syntax tree has no macros.
"""

import argparse
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import textwrap

ROOT = pathlib.Path(__file__).resolve().parents[2]
INCLUDE = ROOT / "include"
HEADERS = ("lora/lora.h", "lora/openblas.h")
API = ROOT / "bindings/api.json"
FFI = ROOT / "bindings/python/src/liblora/_ffi.py"

sys.dont_write_bytecode = True
sys.path.insert(0, str(ROOT / "lib/tools"))
import gen_abi  # noqa: E402

SKIP = 77  # the exit code of a check that cannot run here


# The syntax tree ------------------------------------------------------------

def find_clang():
    return shutil.which("clang-14") or shutil.which("clang")


def compile_c(clang, folder, text, *options):
    """Run clang on a C text; its standard output."""
    source = pathlib.Path(folder) / "source.c"
    source.write_text(
        "".join(f"#include <{name}>\n" for name in HEADERS) + text, "utf-8")
    command = [clang, "-std=c11", f"-I{INCLUDE}", str(source), *options]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout


def walk(node):
    """A node and all nodes within it."""
    yield node
    for child in node.get("inner", ()):
        yield from walk(child)


def last_file(value, current):
    """The file that the printer of the tree named last within a value: it
    names one only where it differs from the one before."""
    if isinstance(value, list):
        for item in value:
            current = last_file(item, current)
    elif isinstance(value, dict):
        for key, item in value.items():
            if key == "file":
                current = item
            elif key != "includedFrom":
                current = last_file(item, current)
    return current


def declarations(tree):
    """(declaration, its header) for all that is ours."""
    current = ""
    for node in tree["inner"]:
        header = last_file(node.get("loc", {}), current)
        current = last_file(node, current)
        path = pathlib.PurePath(header)
        if path.parent.name == "lora" and path.is_relative_to(INCLUDE):
            yield node, path.name


def comment_text(node):
    texts = [part["text"] for part in walk(node)
             if part["kind"] == "TextComment"]
    return " ".join(" ".join(texts).split())


def since(node):
    """The version that a declaration's comment gives after @since."""
    for part in walk(node):
        if part["kind"] == "BlockCommandComment" and part["name"] == "since":
            return comment_text(part)
    return None


def spelled(node):
    return node["type"]["qualType"]


def children(node, kind):
    return [part for part in node.get("inner", ()) if part["kind"] == kind]


def read_function(node, header):
    return {
        "header": header, "since": since(node),
        "returns": spelled(node).split("(")[0].strip(),
        "parameters": [{"name": part["name"], "type": spelled(part)}
                       for part in children(node, "ParmVarDecl")],
    }


def read_struct(node, header):
    return {"header": header,
            "fields": [{"name": part["name"], "type": spelled(part)}
                       for part in children(node, "FieldDecl")]}


def read_tree(tree):
    """The types and functions of the headers, in their order."""
    api = {"types": {}, "structs": {}, "functions": {}}
    for node, header in declarations(tree):
        name = node.get("name", "")
        if node["kind"] == "FunctionDecl":
            api["functions"][name] = read_function(node, header)
        elif node["kind"] == "RecordDecl" and node.get("completeDefinition"):
            api["structs"][name] = read_struct(node, header)
        elif node["kind"] == "TypedefDecl":
            kind = spelled(node)
            if kind.startswith("struct "):
                kind = "struct" if name in api["structs"] else "opaque"
            api["types"][name] = {"header": header, "type": kind}
    return api


# Values, sizes and offsets --------------------------------------------------

PROBE = """
#include <stdio.h>
#include <stddef.h>

static void put_signed(const char *name, long long value)
{
    printf("constant\\t%s\\t%lld\\n", name, value);
}

static void put_unsigned(const char *name, unsigned long long value)
{
    printf("constant\\t%s\\t%llu\\n", name, value);
}

static void put_text(const char *name, const char *value)
{
    printf("constant\\t%s\\t\\"%s\\"\\n", name, value);
}

#define CONSTANT(x)                                                            \\
    _Generic((x), char *: put_text, int: put_signed, long: put_signed,         \\
             long long: put_signed, default: put_unsigned)(#x, x)
#define STRUCT(s) printf("struct\\t%s\\t%zu\\n", #s, sizeof(s))
#define FIELD(s, f)                                                            \\
    printf("field\\t%s\\t%s\\t%zu\\t%zu\\n", #s, #f, offsetof(s, f),               \\
           sizeof(((s *)0)->f))

int main(void)
{
"""


def public_constants():
    return [symbol.name for table in gen_abi.LIBRARIES
            for symbol in gen_abi.read_symbols(gen_abi.ABI / table)
            if symbol.kind == "const" and symbol.removed == "-"]


def measure(api, clang, folder):
    """Add constants, sizes and offsets."""
    lines = [f"CONSTANT({name});" for name in public_constants()]
    for name, struct in api["structs"].items():
        lines.append(f"STRUCT({name});")
        lines += [f"FIELD({name}, {field['name']});"
                  for field in struct["fields"]]
    program = str(pathlib.Path(folder) / "probe")
    compile_c(clang, folder, PROBE + "\n".join(lines) + "\nreturn 0;\n}\n",
              "-o", program)
    output = subprocess.run([program], check=True, stdout=subprocess.PIPE)
    api["constants"] = {}
    for line in output.stdout.decode().splitlines():
        what, name, *values = line.split("\t")
        if what == "constant":
            api["constants"][name] = json.loads(values[0])
        elif what == "struct":
            api["structs"][name]["size"] = int(values[0])
        else:
            field = next(field for field in api["structs"][name]["fields"]
                         if field["name"] == values[0])
            field["offset"], field["size"] = map(int, values[1:])


def extract(clang):
    with tempfile.TemporaryDirectory() as folder:
        api = read_tree(json.loads(compile_c(
            clang, folder, "", "-Xclang", "-ast-dump=json", "-fsyntax-only")))
        measure(api, clang, folder)
    return api


def api_text(api):
    """One line an entry: a change of the interface is a readable diff."""
    sections = []
    for section in ("constants", "types", "structs", "functions"):
        entries = ",\n".join(f"    {json.dumps(name)}: {json.dumps(entry)}"
                             for name, entry in api[section].items())
        sections.append(f"  {json.dumps(section)}: {{\n{entries}\n  }}")
    note = ("Generated by bindings/tools/extract.py; sizes and offsets are "
            "those of 64-bit systems.")
    return (f'{{\n  "note": {json.dumps(note)},\n'
            + ",\n".join(sections) + "\n}\n")


# Types for ctypes -----------------------------------------------------------

BASIC = {
    "size_t": "c_size_t", "char": "c_char", "double": "c_double",
    "int32_t": "c_int32", "uint32_t": "c_uint32",
    "int64_t": "c_int64", "uint64_t": "c_uint64",
}


def split_parameters(text):
    """The parts between commas that are in no parentheses."""
    parts, depth, begin = [], 0, 0
    for i, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if letter == "," and depth == 0:
            parts.append(text[begin:i])
            begin = i + 1
    return [part.strip() for part in [*parts, text[begin:]]]


def ctypes_type(text):
    """The ctypes expression for a type as clang spells it. Text is c_char_p
    only where it is constant, as ctypes copies it."""
    text = text.strip()
    if "(*)(" in text:
        returns, parameters = text.split("(*)(", 1)
        kinds = [returns, *split_parameters(parameters.removesuffix(")"))]
        return f"CFUNCTYPE({', '.join(map(ctypes_type, kinds))})"
    if text.endswith("]"):
        element, count = text.removesuffix("]").rsplit("[", 1)
        return f"{ctypes_type(element)} * {int(count)}"
    if text == "void":
        return "None"
    if text == "const char *":
        return "c_char_p"
    if text.endswith("*"):
        target = text.removesuffix("*").strip()
        if target.removeprefix("const ") == "void":
            return "c_void_p"
        return f"POINTER({ctypes_type(target)})"
    name = text.removeprefix("const ")
    return BASIC.get(name, name)


FFI_HEAD = '''\
"""The C interface for ctypes: what bindings/api.json says.

Generated by bindings/tools/extract.py; change the headers instead.
"""

from ctypes import (CFUNCTYPE, POINTER, Structure, c_char, c_char_p, c_double,
                    c_int32, c_int64, c_size_t, c_uint32, c_uint64, c_void_p)
from typing import Any

'''


def wrapped(text, indent):
    return textwrap.wrap(text, 79, initial_indent=" " * indent,
                         subsequent_indent=" " * (indent + 1),
                         break_long_words=False)


def ffi_struct(name, struct):
    lines = [f"class {name}(Structure):", "    _fields_ = ["]
    for field in struct["fields"]:
        kind = ctypes_type(field["type"])
        lines += wrapped(f"({json.dumps(field['name'])}, {kind}),", 8)
    return [*lines, "    ]"]


def ffi_types(api):
    """Types in the order of the headers, so each stands after its parts."""
    lines = []
    for name, entry in api["types"].items():
        if entry["type"] == "struct":
            text = ffi_struct(name, api["structs"][name])
        elif entry["type"] == "opaque":
            text = [f"class {name}(Structure):", '    """Opaque."""']
        else:
            text = wrapped(f"{name} = {ctypes_type(entry['type'])}", 0)
        lines += ["", "", *text]
    return lines


def ffi_function(name, function):
    kinds = [ctypes_type(part["type"]) for part in function["parameters"]]
    value = f"({ctypes_type(function['returns'])}, [{', '.join(kinds)}]),"
    return [f"    {json.dumps(name)}:", *wrapped(value, 8)]


def ffi_text(api):
    lines = [f"{name} = {json.dumps(value)}"
             for name, value in api["constants"].items()]
    lines += ffi_types(api)
    for title, blas in (("FUNCTIONS", False), ("OPENBLAS_FUNCTIONS", True)):
        what = "liblora_openblas" if blas else "liblora"
        lines += ["", "", f"# name: (result, parameters), of {what}.",
                  f"{title}: dict[str, Any] = {{"]
        for name, function in api["functions"].items():
            if (function["header"] == "openblas.h") == blas:
                lines += ffi_function(name, function)
        lines += ["}"]
    return FFI_HEAD + "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true",
                        help="write nothing; fail if a file is stale")
    arguments = parser.parse_args()
    clang = find_clang()
    if clang is None:
        print("extract.py: needs clang 14 or later")
        return SKIP if arguments.check else 1
    api = extract(clang)
    stale = [(path, text) for path, text in
             ((API, api_text(api)), (FFI, ffi_text(api)))
             if not path.exists() or path.read_text("utf-8") != text]
    for path, text in stale:
        if arguments.check:
            print(f"{path.relative_to(ROOT)} is stale: run "
                  "bindings/tools/extract.py")
        else:
            path.write_text(text, "utf-8")
    return 1 if arguments.check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
