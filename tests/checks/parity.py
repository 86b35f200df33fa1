#!/usr/bin/env python3
"""CMake and Meson build the same thing: exported names, SONAME and needed
libraries, the installed files and the text of what consumers read, compile
definitions, options and their defaults, tests."""

import json
import re
import shutil

import checklib

# Options where Meson has its own, and what ours correspond to.
MESONS_OWN = {"LORA_BUILD_SHARED", "LORA_BUILD_STATIC", "LORA_WERROR",
              "LORA_SANITIZE"}

# Name of a configuration -> options of CMake, options of Meson.
CONFIGURATIONS = {
    "default": (["-DCMAKE_INSTALL_LIBDIR=lib"], ["--libdir=lib"]),
    "minimal": (
        ["-DCMAKE_INSTALL_LIBDIR=lib/nested", "-DLORA_OPENBLAS=OFF",
         "-DLORA_ZLIB=OFF", "-DLORA_THREADS=OFF", "-DLORA_SIMD=OFF",
         "-DLORA_BUILD_CLI=OFF"],
        ["--libdir=lib/nested", "-Dopenblas=disabled", "-Dzlib=disabled",
         "-Dthreads=false", "-Dsimd=false", "-Dcli=false"]),
    "static": (
        ["-DCMAKE_INSTALL_LIBDIR=lib", "-DLORA_BUILD_SHARED=OFF"],
        ["--libdir=lib", "-Ddefault_library=static"]),
}


def build_both(checks, name, folder):
    """Build and install with both; (build, prefix) of each, or None."""
    with_cmake, with_meson = CONFIGURATIONS[name]
    roots = {}
    for tool in ("cmake", "meson"):
        roots[tool] = (folder / f"{name}_{tool}", folder / f"{name}_{tool}_to")
    build, prefix = roots["cmake"]
    good = checks.run(
        f"{name}: CMake configures",
        ["cmake", "-S", checklib.ROOT, "-B", build, "-G", "Ninja",
         "-DCMAKE_BUILD_TYPE=Debug", "-DCMAKE_INSTALL_PREFIX=/prefix",
         "-DCMAKE_EXPORT_COMPILE_COMMANDS=ON", *with_cmake])
    good = good and checks.run(f"{name}: CMake builds",
                               ["cmake", "--build", build, "-j2"])
    good = good and checks.run(
        f"{name}: CMake installs", ["cmake", "--install", build],
        env=checklib.environment(DESTDIR=prefix))
    build, prefix = roots["meson"]
    good = good and checks.run(
        f"{name}: Meson configures",
        ["meson", "setup", "--prefix=/prefix", "-Doptimization=0", *with_meson,
         build, checklib.ROOT])
    good = good and checks.run(f"{name}: Meson builds",
                               ["meson", "compile", "-C", build, "-j2"])
    good = good and checks.run(
        f"{name}: Meson installs",
        ["meson", "install", "-C", build, "--destdir", prefix])
    return roots if good else None


def installed_files(prefix):
    return {path.relative_to(prefix).as_posix()
            for path in prefix.rglob("*") if not path.is_dir()}


def library_facts(path):
    """What the dynamic linker sees of a library."""
    symbols = checklib.run(["nm", "-D", "--defined-only", path]).stdout
    dynamic = checklib.run(["readelf", "-d", path]).stdout
    return (sorted(line.split(maxsplit=1)[1] for line in symbols.splitlines()),
            sorted(re.findall(r"(?:SONAME|NEEDED)\).*\[(.*)\]", dynamic)))


def definitions(build):
    """Definitions of ours that the sources are compiled with."""
    commands = json.loads((build / "compile_commands.json").read_text())
    found = {}
    for row in commands:
        source = re.sub(r".*/(lib|src|tests)/", r"\1/", row["file"])
        if source.endswith("unity.c"):
            continue
        names = set(re.findall(r"-D(LORA_\w+)", row["command"]))
        found.setdefault(source, set()).update(names)
    return found


def compare_installed(checks, name, cmake_prefix, meson_prefix):
    left, right = map(installed_files, (cmake_prefix, meson_prefix))
    checks.check(left == right, f"{name}: installed files",
                 f"CMake only: {sorted(left - right)}\n"
                 f"Meson only: {sorted(right - left)}")
    for file in sorted(left & right):
        paths = cmake_prefix / file, meson_prefix / file
        if file.endswith((".pc", ".cmake", ".h")):
            texts = [path.read_text("utf-8").split() for path in paths]
            checks.check(texts[0] == texts[1], f"{name}: {file}",
                         "\n".join(path.read_text("utf-8") for path in paths))
        elif ".so" in file and not paths[0].is_symlink():
            facts = [library_facts(path) for path in paths]
            checks.check(facts[0] == facts[1], f"{name}: {file}",
                         f"{facts[0]}\n{facts[1]}")


def cmake_options():
    """Names without our prefixes -> default, in Meson's words."""
    text = (checklib.ROOT / "CMakeLists.txt").read_text("utf-8")
    words = {"ON": True, "OFF": False, "AUTO": "auto"}
    rows = re.findall(r'option\((LORA_\w+)\s+"[^"]*"\s+(ON|OFF)\)', text)
    rows += re.findall(r'set\((LORA_\w+)\s+("[^"]*"|\w+)\s+CACHE STRING', text)
    return {re.sub("^LORA_(BUILD_)?", "", name).lower():
            words.get(value, value)
            for name, value in rows if name not in MESONS_OWN}


def meson_options(build):
    rows = json.loads(checklib.run(
        ["meson", "introspect", "--buildoptions", build]).stdout)
    return {row["name"]: row["value"] for row in rows
            if row["section"] == "user"}


def compare_tests(checks, folder):
    """Names and labels of the tests each would run."""
    cmake, meson = folder / "tests_cmake", folder / "tests_meson"
    checks.run("tests: CMake configures",
               ["cmake", "-S", checklib.ROOT, "-B", cmake, "-G", "Ninja",
                "-DLORA_BUILD_TESTS=ON"])
    checks.run("tests: Meson configures",
               ["meson", "setup", "-Dtests=true", meson, checklib.ROOT])
    listed = checklib.run(["ctest", "--show-only=json-v1"], cwd=cmake).stdout
    left = {}
    for test in json.loads(listed)["tests"]:
        properties = {row["name"]: row["value"] for row in test["properties"]}
        left[test["name"]] = sorted(properties.get("LABELS", []))
    listed = checklib.run(["meson", "introspect", "--tests", meson]).stdout
    right = {test["name"]: sorted(suite.split(":")[-1]
                                  for suite in test["suite"])
             for test in json.loads(listed)}
    checks.check(left == right and left, "tests", f"{left}\n{right}")


def main():
    arguments = checklib.arguments()
    checks = checklib.Checks()
    if not shutil.which("meson") or not shutil.which("cmake"):
        checks.skip("CMake and Meson are not both installed")
        checks.finish()
    folder = checklib.scratch(arguments.build, "parity")
    for name in CONFIGURATIONS:
        roots = build_both(checks, name, folder)
        if not roots:
            continue
        compare_installed(checks, name, roots["cmake"][1], roots["meson"][1])
        left, right = (definitions(roots[tool][0])
                       for tool in ("cmake", "meson"))
        checks.check(left == right and left, f"{name}: definitions",
                     f"{left}\n{right}")
        if name == "default":
            left = cmake_options()
            right = meson_options(roots["meson"][0])
            checks.check(left == right and left, "options",
                         f"{left}\n{right}")
    compare_tests(checks, folder)
    checks.finish()


main()
