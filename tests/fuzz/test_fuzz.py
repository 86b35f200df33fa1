#!/usr/bin/env python3
"""Fuzz the targets with libFuzzer, ASan and UBSan, half a minute each, from
their packs. Needs clang. `./dev fuzz TARGET [SECONDS]` runs one of them.

What is learnt stays in BUILD/fuzz/corpus/TARGET, and an input that crashes goes
to BUILD/fuzz/TARGET-crash-HASH."""

import argparse
import os
import pathlib
import re
import shutil
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE))
import pack  # noqa: E402

SKIP = 77
LIMITS = ["-timeout=20", "-rss_limit_mb=1500", "-max_len=4096",
          "-print_final_stats=1"]


def targets():
    text = (ROOT / "tests/tests.txt").read_text("utf-8")
    return re.findall(r"^fuzz_\w+ +\w+ +fuzz +fuzz/(\w+)\.c$", text, re.M)


def find_clang():
    for name in ("clang-14", "clang"):
        if shutil.which(name):
            return name
    return None


def has_libfuzzer(clang):
    """Its runtime is a package of its own."""
    result = subprocess.run(
        [clang, "-fsanitize=fuzzer,address", "-x", "c", "-o", os.devnull, "-"],
        input=b"int LLVMFuzzerTestOneInput(const char *d, unsigned long n);"
              b"int LLVMFuzzerTestOneInput(const char *d, unsigned long n)"
              b"{ return d == 0 && n > 1; }",
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    return result.returncode == 0


def build(folder, clang, names):
    commands = [
        ["cmake", "-S", ROOT, "-B", folder, "-DLORA_BUILD_FUZZERS=ON",
         f"-DCMAKE_C_COMPILER={clang}", "-DCMAKE_BUILD_TYPE=RelWithDebInfo",
         "-DLORA_SANITIZE=address,undefined", "-DLORA_OPENBLAS=OFF",
         *(["-G", "Ninja"] if shutil.which("ninja") else [])],
        ["cmake", "--build", folder, "-j2", "--target",
         *(f"fuzzer_{name}" for name in names)]]
    for command in commands:
        result = subprocess.run(list(map(str, command)), check=False, text=True,
                                stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT)
        if result.returncode != 0:
            sys.exit(result.stdout)


def fuzz(name, folder, seconds, seed):
    """1 if nothing was found; says how far it came."""
    corpus, seeds = folder / "corpus" / name, folder / "seeds" / name
    corpus.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(seeds, ignore_errors=True)
    pack.unpack(name, seeds)
    command = [folder / f"tests/fuzz/fuzzer_{name}", *LIMITS,
               f"-max_total_time={seconds}", f"-seed={seed}",
               f"-artifact_prefix={folder}/{name}-", corpus, seeds]
    result = subprocess.run(list(map(str, command)), check=False,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    text = result.stdout.decode("utf-8", "replace")
    if result.returncode != 0:
        print(text[-6000:])
        print(f"FAIL {name}; when it is mended, keep the input:\n"
              f"  python3 tests/fuzz/pack.py add {name} FILE")
        return 0
    last = re.findall(r"cov: (\d+) ft: (\d+)", text)[-1:]
    runs = re.findall(r"number_of_executed_units: (\d+)", text)
    print(f"{name}: {runs[-1] if runs else '?'} runs, edges and features "
          f"{' '.join(last[0]) if last else '?'}", flush=True)
    return 1


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lora", help="not used")
    parser.add_argument("--build", type=pathlib.Path, default="build")
    parser.add_argument("--target", choices=targets())
    parser.add_argument("--seconds", type=int, default=30)
    args = parser.parse_args()
    clang = find_clang()
    if not clang or not has_libfuzzer(clang):
        print("skip: clang with libFuzzer is not installed")
        sys.exit(SKIP)
    folder = args.build.resolve() / "fuzz"
    names = [args.target] if args.target else targets()
    build(folder, clang, names)
    # The test takes the same way every time; who asks for a target wants news.
    seed = 0 if args.target else 1  # 0: by the clock
    passed = sum(fuzz(name, folder, args.seconds, seed) for name in names)
    print(f"{passed} passed, {len(names) - passed} failed")
    sys.exit(passed != len(names))


main()
