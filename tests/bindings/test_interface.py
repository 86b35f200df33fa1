"""The description of the interface that the bindings are made from is fresh
and complete, as are their raw layers; the structs of the ctypes layer have the
sizes and offsets of C (those of Rust have a test in their crate); and each
public function is called by each binding or listed with a reason."""

import ast
import ctypes
import fnmatch
import importlib.util
import json
import pathlib
import re
import struct
import subprocess
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]
                       / "lib/tools"))
import gen_abi  # noqa: E402
import support  # noqa: E402
from support import ROOT, equal, require  # noqa: E402

PACKAGE = ROOT / "bindings/python"
CRATES = ROOT / "bindings/rust"
EXTRACT = ROOT / "bindings/tools/extract.py"
API = json.loads((ROOT / "bindings/api.json").read_text("utf-8"))
SKIP = 77


def load_ffi():
    """The generated layer alone: it needs no library."""
    spec = importlib.util.spec_from_file_location(
        "ffi", PACKAGE / "src/liblora/_ffi.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def try_fresh():
    done = subprocess.run([sys.executable, "-B", str(EXTRACT), "--check"],
                          capture_output=True, text=True, check=False)
    if done.returncode == SKIP:
        support.skip(done.stdout.strip())
    equal(done.returncode, 0, done.stdout + done.stderr)


def try_complete():
    """All public names are there, and their versions agree."""
    symbols = [symbol for table in gen_abi.LIBRARIES for symbol in
               gen_abi.read_symbols(gen_abi.ABI / table)]
    kinds = {"func": API["functions"], "type": API["types"],
             "const": API["constants"]}
    for kind, there in kinds.items():
        names = {symbol.name for symbol in symbols if symbol.kind == kind}
        equal(set(there), names, f"names of kind {kind}")
    since = {symbol.name: symbol.introduced for symbol in symbols}
    for name, function in API["functions"].items():
        equal(function["since"], since[name], f"@since of {name}")
        require(function["header"] == "openblas.h" or
                name in load_ffi().FUNCTIONS, f"{name} in _ffi.py")


def try_layout():
    if struct.calcsize("P") != 8:
        support.skip("sizes are of 64-bit systems")
    ffi = load_ffi()
    for name, struct_ in API["structs"].items():
        kind = getattr(ffi, name)
        equal(ctypes.sizeof(kind), struct_["size"], f"sizeof {name}")
        equal([field[0] for field in kind._fields_],
              [field["name"] for field in struct_["fields"]],
              f"fields of {name}")
        for field in struct_["fields"]:
            got = getattr(kind, field["name"])
            equal((got.offset, got.size), (field["offset"], field["size"]),
                  f"{name}.{field['name']}")
    for name, value in API["constants"].items():
        equal(getattr(ffi, name), value, name)


def called_by_python():
    """Functions of C that the package names, outside of the generated file."""
    names = set()
    for path in (PACKAGE / "src/liblora").glob("*.py"):
        if path.name != "_ffi.py":
            tree = ast.parse(path.read_text("utf-8"))
            names |= {node.attr for node in ast.walk(tree)
                      if isinstance(node, ast.Attribute)}
    return names & set(API["functions"])


def called_by_rust():
    """Functions of C that the safe crate calls."""
    names = set()
    for path in (CRATES / "liblora/src").glob("*.rs"):
        names |= set(re.findall(r"\bsys::(lora_\w+)\b",
                                path.read_text("utf-8")))
    return names & set(API["functions"])


def require_coverage(called, listing):
    """Called or excused, and not both."""
    where = listing.relative_to(ROOT)
    lines = listing.read_text("utf-8").splitlines()
    excused = [line.split(None, 1) for line in lines
               if line and line[0] not in "# "]
    require(all(len(row) == 2 for row in excused), f"{where}: a reason each")
    unused = set()
    for pattern, _ in excused:
        found = set(fnmatch.filter(API["functions"], pattern))
        require(found, f"{where}: {pattern} is no function")
        unused |= found
    equal(sorted(unused & called), [], f"in {where}, but called")
    equal(sorted(set(API["functions"]) - called - unused), [],
          f"neither called nor in {where}")


def try_coverage():
    require_coverage(called_by_python(), PACKAGE / "unused.txt")
    require_coverage(called_by_rust(), CRATES / "unused.txt")


def try_rust_functions():
    """Each function that the crates link is declared, once."""
    text = (CRATES / "liblora-sys/src/ffi.rs").read_text("utf-8")
    declared = re.findall(r"^    pub fn (\w+)\(", text, re.M)
    equal(sorted(declared), sorted(
        name for name, function in API["functions"].items()
        if function["header"] != "openblas.h"), "functions of ffi.rs")
    for name, struct_ in API["structs"].items():
        require(f"    {name}, {struct_['size']} {{" in text,
                f"the layout of {name} is tested")


def main():
    suite = support.Suite(__doc__.splitlines()[0])
    for attempt in (try_fresh, try_complete, try_layout, try_coverage,
                    try_rust_functions):
        with suite.case(attempt.__name__):
            attempt()
    sys.exit(suite.finish())


main()
