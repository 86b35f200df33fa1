#!/usr/bin/env python3
"""Write down the public interface as data, and the raw layers of the bindings
that follow from it.

    python3 bindings/tools/extract.py            write the files
    python3 bindings/tools/extract.py --check    fail if one of them is stale

    bindings/api.json                       functions, structs, constants
    bindings/python/src/liblora/_ffi.py     the same for ctypes
    bindings/rust/liblora-sys/src/ffi.rs    the same for Rust

All are checked in, so that only a change of the headers needs clang (14 or
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

ROOT = pathlib.Path(__file__).resolve().parents[2]
INCLUDE = ROOT / "include"
HEADERS = ("lora/lora.h", "lora/openblas.h")
API = ROOT / "bindings/api.json"
PYTHON = ROOT / "bindings/python/src/liblora/_ffi.py"
RUST = ROOT / "bindings/rust/liblora-sys/src/ffi.rs"

sys.dont_write_bytecode = True
sys.path.insert(0, str(ROOT / "lib/tools"))
import ctypes_layer  # noqa: E402
import gen_abi  # noqa: E402
import rust_layer  # noqa: E402

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
             ((API, api_text(api)), (PYTHON, ctypes_layer.text(api)),
              (RUST, rust_layer.text(api)))
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
