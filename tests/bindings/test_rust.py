"""The Rust crates: their own tests, over the sources and over the library of
the build folder; what a packaged crate carries; the example and the program of
the README, which give what the program gives. Skipped without cargo, or where
it can have neither crates.io nor what it got from there before."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import bindinglib
import support
from support import equal, require

CRATES = support.ROOT / "bindings/rust"
TIMEOUT = 600
SKIP = 77

suite = support.Suite(__doc__.splitlines()[0])


def cargo(*command, folder=CRATES, target="rust", **variables):
    """(exit code, output) of cargo; its products go to the build folder, and
    stay there for the next time."""
    keep = {key: value for key, value in os.environ.items()
            if not key.startswith("LORA_")}
    keep["CARGO_TARGET_DIR"] = str(pathlib.Path(suite.args.build).resolve()
                                   / target)
    done = subprocess.run(["cargo", *map(str, command)], cwd=folder,
                          env={**keep, **variables}, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, timeout=TIMEOUT,
                          check=False)
    return done.returncode, done.stdout


def must(*command, **more):
    code, out = cargo(*command, **more)
    require(code == 0, f"cargo {' '.join(map(str, command))}: exit {code}\n"
            + out[-4000:])
    return out


def must_test(*command, **more):
    """cargo test, and that it ran some."""
    out = must("test", "--offline", "--locked", *command, **more)
    passed = [int(n) for n in re.findall(r"test result: ok\. (\d+)", out)]
    require(sum(passed) > 40, f"{passed} tests\n{out[-4000:]}")


def try_sources():
    must_test()


def try_library():
    """The library of the build folder, linked dynamically."""
    folder = str(bindinglib.library(suite.args.build).parent)
    must_test(target="rust-library", LORA_LIB_DIR=folder,
              LD_LIBRARY_PATH=folder)


def try_form():
    for tool, arguments in (("fmt", ("--check",)),
                            ("clippy", ("--offline", "--locked",
                                        "--all-targets", "--",
                                        "-D", "warnings"))):
        if cargo(tool, "--version")[0] == 0:
            must(tool, *arguments)


def try_versions():
    """The crates have the version of the headers."""
    text = (CRATES / "liblora-sys/src/ffi.rs").read_text("utf-8")
    version = re.search(r'LORA_VERSION_STRING: &str = "([^"]+)"', text)[1]
    manifests = {name: (CRATES / name / "Cargo.toml").read_text("utf-8")
                 for name in ("liblora-sys", "liblora")}
    expected = {"liblora-sys": [f"{version}+lora.{version}"],
                "liblora": [version]}
    equal({name: re.findall(r'^version = "(.*)"', text, re.M)
           for name, text in manifests.items()}, expected, "versions")
    require(f'version = "{version}", path' in manifests["liblora"],
            "liblora needs liblora-sys of the same version")


def try_example(path, tensors):
    names = support.module_names(tensors)
    run = ("run", "--quiet", "--offline", "--locked", "--example", "info", "--")
    lines = must(*run, path).splitlines()
    require(lines[0].startswith(f"{path}: safetensors, {len(tensors)} tensors"),
            lines[0])
    ranks = [line for line in lines if " of rank " in line]
    equal(len(ranks), len(names), "a line a module")
    code, out = cargo(*run, suite.path("absent"))
    require(code == 1 and "absent: " in out, f"exit {code}: {out}")


def package_copy():
    """The crates elsewhere, where there is no checkout above them, with what a
    package carries."""
    copy = suite.path("crates")
    shutil.copytree(CRATES, copy,
                    ignore=shutil.ignore_patterns("target", "vendor"))
    vendor = copy / "liblora-sys/vendor"
    subprocess.run([sys.executable, "-B",
                    str(support.ROOT / "lib/tools/amalgamate.py"),
                    "-o", str(vendor)], check=True)
    shutil.copy(support.ROOT / "LICENSE", vendor)
    return copy


def try_package(copy):
    listed = must("package", "--offline", "--allow-dirty", "--list", "-p",
                  "liblora-sys", folder=copy)
    need = {"README.md", "build.rs", "src/ffi.rs", "src/lib.rs",
            "vendor/LICENSE", "vendor/lora.c", "vendor/lora.h"}
    equal(sorted(need - set(listed.splitlines())), [], "missing in the crate")


def try_readme(copy, path, tensors):
    """The first program of the README, with the amalgamation."""
    text = (CRATES / "README.md").read_text("utf-8")
    block = re.search(r"^```rust\n(.*?)^```", text, re.M | re.S)[1]
    (copy / "liblora/examples/readme.rs").write_text(
        f"fn main() -> liblora::Result<()> {{\n{block}Ok(())\n}}\n", "utf-8")
    place = suite.path("place")
    place.mkdir()
    shutil.copy(path, place / "style.safetensors")
    out = must("run", "--quiet", "--offline", "--manifest-path",
               copy / "Cargo.toml", "--example", "readme", folder=place,
               target="rust-package")
    equal(out.count(" numbers\n"), len(support.module_names(tensors)),
          "a line a module")
    small, expected = suite.path("small"), suite.path("expected")
    suite.run("resize", path, "-o", small, "--energy", 0.98, "--quiet",
              "--backend", "builtin")
    suite.run("convert", small, "-o", expected, "--dialect", "diffusers",
              "--quiet")
    bindinglib.same((place / "small.safetensors").read_bytes(),
                    expected.read_bytes(), "small.safetensors")


def main():
    if shutil.which("cargo") is None or shutil.which("cc") is None:
        code, out = 1, "there is no cargo, or no cc"
    else:
        code, out = cargo("fetch", "--locked")
        if code:
            code, out = cargo("fetch", "--locked", "--offline")
    if code:
        print(f"cannot run here: {out.strip()[-300:]}")
        shutil.rmtree(suite.folder, ignore_errors=True)
        sys.exit(SKIP)
    adapter = bindinglib.write_adapter(suite)
    copy = package_copy()
    for attempt, arguments in ((try_versions, ()), (try_sources, ()),
                               (try_example, adapter), (try_library, ()),
                               (try_form, ()), (try_package, (copy,)),
                               (try_readme, (copy, *adapter))):
        with suite.case(attempt.__name__):
            attempt(*arguments)
    sys.exit(suite.finish())


main()
