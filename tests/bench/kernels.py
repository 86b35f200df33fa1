"""`./dev bench kernels`: our products, QR and SVD beside OpenBLAS, on the shapes
that resizing and extracting have. No test: it prints numbers, and judges none.

    python3 tests/bench/kernels.py [--build FOLDER] [--threads 1,2] [--times N]
        [--rounds N] [--json FILE]

One process has ours and another one theirs, in turn, a few rounds; medians of
the rounds' medians. Two threads are two calls side by side for ours, which is
how an adapter's modules are worked on, and one call on two threads for theirs.
Times are of the CPU on one thread, and of the clock on the wall on more.
Operands stay in the cache where they fit. kernels.c says what each line is.

Other benches take their rates from here: rates() measures what a plan names.
"""

import argparse
import collections
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys

sys.dont_write_bytecode = True
HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import support  # noqa: E402

PLAN = [
    # a range finder's products with the matrix, 48 rows at rank 32
    ("gemm_f32", 48, 1280, 1280), ("gemm_f32", 48, 1280, 10240),
    ("gemm_f32", 48, 2880, 320), ("gemm_f32", 48, 15360, 3072),
    ("gemm_f32", 144, 1280, 1280),
    ("dots_f32", 48, 1280, 1280), ("dots_f32", 48, 10240, 1280),
    ("dots_f32", 48, 320, 2880), ("dots_f32", 48, 3072, 15360),
    ("dots_f32", 144, 1280, 1280),
    # factors of rank 16 to 144
    ("gram_f64", 16, 1280, 0), ("gram_f64", 48, 1280, 0),
    ("gram_f64", 64, 640, 0), ("gram_f64", 64, 1280, 0),
    ("gram_f64", 64, 10240, 0), ("gram_f64", 144, 1280, 0),
    ("gram_f64", 64, 15360, 0),
    ("gemm_f64", 16, 1280, 64), ("gemm_f64", 16, 10240, 64),
    ("gemm_f64", 48, 1280, 48), ("gemm_f64", 144, 1280, 144),
    ("lq", 16, 1280, 0), ("lq", 64, 1280, 0), ("lq", 64, 10240, 0),
    ("svd", 16, 0, 0), ("svd", 32, 0, 0), ("svd", 48, 0, 0),
    ("svd", 64, 0, 0), ("svd", 128, 0, 0), ("svd", 256, 0, 0),
    ("svd", 320, 0, 0), ("svd", 640, 0, 0),
]


def build_c(build, name="kernels"):
    """(program made of NAME.c, has OpenBLAS); the program is None without a
    compiler or the static library."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    library = build / "liblora.a"
    if not compiler or not library.exists():
        return None, False
    program = build / "bench" / name
    program.parent.mkdir(parents=True, exist_ok=True)
    command = [compiler, "-O2", "-std=c11", "-I", support.ROOT / "lib", "-I",
               support.ROOT / "include", HERE / f"{name}.c", "-o", program,
               library]
    system = ["-lm", "-lpthread", "-lz"]
    for more in (["-DBENCH_OPENBLAS", "-lopenblas"], []):
        if not subprocess.run([*command, *more, *system],
                              capture_output=True).returncode:
            return program, bool(more)
    sys.exit(f"{name}.c cannot be built")


def run(program, who, plan, times, threads):
    """{line of the plan: seconds}"""
    lines = "".join(" ".join(map(str, line)) + "\n" for line in plan)
    done = subprocess.run(
        [program, who, str(times), str(threads)], input=lines, check=True,
        stdout=subprocess.PIPE, text=True,
        env={**os.environ, "OPENBLAS_NUM_THREADS":
             str(threads if who == "theirs" else 1)})
    result = {}
    for line in done.stdout.splitlines():
        name, *sizes, seconds = line.split()
        result[(name, *map(int, sizes))] = float(seconds)
    return result


def rates(program, plan, times=9, threads=1, rounds=3, who=("ours",)):
    """{who: {line of the plan: median seconds}}"""
    found = {name: collections.defaultdict(list) for name in who}
    for _ in range(rounds):
        for name in who:
            for line, seconds in run(program, name, plan, times,
                                     threads).items():
                found[name][line].append(seconds)
    return {name: {line: statistics.median(values)
                   for line, values in lines.items()}
            for name, lines in found.items()}


def operations(name, a, b, c):
    """Multiplications and additions, as they are counted for such things; of
    an SVD its cube."""
    return {"gemm_f32": 2 * a * b * c, "dots_f32": 2 * a * b * c,
            "gemm_f64": 2 * a * b * c, "gram_f64": a * a * b,
            "lq": 2 * a * a * b, "svd": a**3}.get(name, 0)


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lora", help="not used")
    parser.add_argument("--build", type=pathlib.Path, default="build")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--times", type=int, default=9)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=pathlib.Path, help="write the numbers")
    return parser.parse_args()


def main():
    args = parse()
    program, has_openblas = build_c(args.build)
    if program is None:
        sys.exit("a C compiler and the static library are needed")
    who = ("ours", "theirs") if has_openblas else ("ours",)
    rows = []
    for threads in map(int, args.threads.split(",")):
        seconds = rates(program, PLAN, args.times, threads, args.rounds, who)
        print(f"\n{threads} thread{'s' * (threads > 1)}{'':18}"
              f"{'ours ms':>10}{'G/s':>8}{'OpenBLAS ms':>13}{'G/s':>8}"
              f"{'ours / theirs':>15}")
        for line in PLAN:
            work = operations(*line) / 1e9
            ours = seconds["ours"][line]
            theirs = seconds.get("theirs", {}).get(line)
            rows.append({"name": line[0], "sizes": line[1:],
                         "threads": threads, "ours": ours, "theirs": theirs})
            text = " x ".join(str(n) for n in line[1:] if n)
            print(f"{line[0]:9}{text:>18}{1e3 * ours:10.3f}"
                  f"{work / ours:8.1f}", end="")
            print(f"{1e3 * theirs:13.3f}{work / theirs:8.1f}"
                  f"{ours / theirs:15.2f}" if theirs else "", flush=True)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
