#!/usr/bin/env python3
"""The NEON kernels give the reference's bits: the kernel test, cross compiled
and run under qemu-user. cmocka is not there for AArch64, so the test is built
with the plain runner of tests/unit/plain.h."""

import shutil
import sys

import checklib

COMPILER = "aarch64-linux-gnu-gcc"
RUNNER = "qemu-aarch64-static"
SOURCES = ["tests/unit/test_kernels.c", "lib/platform/cpuid.c",
           "lib/core/status.c"]


def main():
    arguments = checklib.arguments()
    checks = checklib.Checks()
    if not shutil.which(COMPILER) or not shutil.which(RUNNER):
        print(f"skip: {COMPILER} or {RUNNER} is missing")
        sys.exit(checklib.SKIP)
    folder = checklib.scratch(arguments.build, "neon")
    program = folder / "test_kernels"
    kernels = [path for path in checklib.library_sources()
               if path.parent.name == "tensor" or "kernel" in path.parts]
    built = checks.run("build", [
        COMPILER, "-std=c11", "-O2", *checklib.WARNINGS, "-DTEST_PLAIN",
        "-static", "-ffunction-sections", "-fdata-sections",
        f"-I{checklib.ROOT / 'include'}", f"-I{checklib.ROOT / 'lib'}",
        f"-I{checklib.ROOT / 'tests/unit'}",
        *(checklib.ROOT / name for name in SOURCES), *kernels,
        "-Wl,--gc-sections", "-lm", "-o", program])
    if built is not None:
        output = checks.run("kernels under qemu", [RUNNER, program],
                            timeout=300)
        checks.check(output is not None and "variant neon" in output,
                     "the NEON table was tested", output or "")
    checks.finish()


main()
