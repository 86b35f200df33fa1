#!/usr/bin/env python3
"""Every way to use the library builds a program that runs: find_package and
pkg-config against an installed (and then moved) tree, add_subdirectory,
FetchContent, a Meson subproject, C++, the examples that are projects."""

import shutil

import checklib

CONSUMERS = checklib.ROOT / "tests/consumers"
EXAMPLES = checklib.ROOT / "examples"


def install(checks, build, folder):
    """Install the build, and move the result: nothing may point back."""
    here = folder / "installed"
    there = folder / "moved"
    if (build / "CMakeCache.txt").exists():
        checks.run("install", ["cmake", "--install", build, "--prefix", here])
    else:
        checks.run("install", ["meson", "install", "-C", build, "--destdir",
                               folder / "destdir"])
        prefix = next((folder / "destdir").rglob("include")).parent
        shutil.move(prefix, here)
    shutil.move(here, there)
    return there


def cmake_project(checks, what, source, build, *options, programs):
    if checks.run(f"{what}: configure",
                  ["cmake", "-S", source, "-B", build, "-G", "Ninja",
                   "-DCMAKE_BUILD_TYPE=Debug", *options]) is None:
        return
    if checks.run(f"{what}: build", ["cmake", "--build", build, "-j2",
                                     "--target", *programs]) is None:
        return
    for program in programs:
        checks.run(f"{what}: run {program}", [build / program])


def try_pkg_config(checks, compiler, prefix, folder):
    if not shutil.which("pkg-config"):
        checks.skip("pkg-config is not installed")
        return
    libdir = next(prefix.rglob("lora.pc")).parent.parent
    environment = checklib.environment(PKG_CONFIG_PATH=libdir / "pkgconfig")

    def flags(*arguments):
        return checklib.run(["pkg-config", *arguments, "lora"],
                            env=environment).stdout.split()

    program = folder / "pkg_config_shared"
    checks.run("pkg-config, shared: build",
               [compiler, CONSUMERS / "consumer.c", "-o", program,
                *flags("--cflags", "--libs"), f"-Wl,-rpath,{libdir}"])
    checks.run("pkg-config, shared: run", [program])

    program = folder / "inspect"
    checks.run("examples/inspect.c: build",
               [compiler, EXAMPLES / "inspect.c", "-o", program,
                *flags("--cflags", "--libs"), f"-Wl,-rpath,{libdir}"])
    result = checklib.run([program, "/"])
    checks.check(result.returncode == 1 and result.stdout.startswith("/"),
                 "examples/inspect.c: a folder is refused", result.stdout)

    for shared in libdir.glob("lib*.so*"):
        shared.unlink()
    program = folder / "pkg_config_static"
    checks.run("pkg-config, static: build",
               [compiler, CONSUMERS / "consumer.c", "-o", program,
                *flags("--cflags", "--static", "--libs")])
    checks.run("pkg-config, static: run", [program])


def try_meson(checks, prefix, folder):
    if not shutil.which("meson"):
        checks.skip("Meson is not installed")
        return
    project = folder / "meson"
    shutil.copytree(EXAMPLES / "meson", project)
    checks.run("Meson, installed: configure",
               ["meson", "setup", "-Dwrap_mode=nofallback",
                folder / "meson_installed", project],
               env=checklib.environment(PKG_CONFIG_PATH=next(
                   prefix.rglob("lora.pc")).parent))
    checks.run("Meson, installed: build",
               ["meson", "compile", "-C", folder / "meson_installed", "-j2"])
    checks.run("Meson, installed: run", [folder / "meson_installed/hello"])

    (project / "subprojects").mkdir()
    (project / "subprojects/lora").symlink_to(checklib.ROOT)
    build = folder / "meson_subproject"
    checks.run("Meson subproject: configure",
               ["meson", "setup", "--force-fallback-for=lora", build, project])
    checks.run("Meson subproject: build", ["meson", "compile", "-C", build,
                                           "-j2"])
    checks.run("Meson subproject: run", [build / "hello"])


def main():
    arguments = checklib.arguments()
    checks = checklib.Checks()
    folder = checklib.scratch(arguments.build, "consumers")
    compiler, has_cpp = checklib.compilers()[0]
    prefix = install(checks, arguments.build, folder)
    checks.run("the installed program", [prefix / "bin/lora", "version"])

    cmake_project(checks, "find_package", CONSUMERS / "installed",
                  folder / "find_package", f"-DCMAKE_PREFIX_PATH={prefix}",
                  programs=["consumer_lora", "consumer_shared",
                            "consumer_static"] +
                  ["consumer_cpp"] * bool(has_cpp))
    if not has_cpp:
        checks.skip("a C++ compiler is not installed")
    cmake_project(checks, "examples/cmake", EXAMPLES / "cmake",
                  folder / "example", f"-DCMAKE_PREFIX_PATH={prefix}",
                  programs=["hello"])
    cmake_project(checks, "add_subdirectory", CONSUMERS / "subdirectory",
                  folder / "subdirectory", f"-DLORA_TREE={checklib.ROOT}",
                  programs=["consumer_lora", "consumer_shared",
                            "consumer_static"])
    cmake_project(checks, "FetchContent", CONSUMERS / "fetchcontent",
                  folder / "fetchcontent", f"-DLORA_TREE={checklib.ROOT}",
                  programs=["consumer"])
    try_meson(checks, prefix, folder)
    try_pkg_config(checks, compiler, prefix, folder)
    checks.finish()


main()
