"""`./dev bench dense`: the truncated SVD of dense matrices, as extracting an
adapter from two checkpoints needs it, beside what else could be done. No test:
it prints numbers, and judges none.

    python3 tests/bench/dense.py [--build FOLDER] [--threads N] [--runs N]
        [--rank K,...] [--no-dense] [--json FILE]

For each shape and rank, on a matrix of rank 32 with a tenth of noise:

  ours     lora__dense_create() and _truncate(), by kernels.c
  lowrank  torch.svd_lowrank with as many directions and power iterations,
           where torch can be imported
  lapack   numpy's SVD in float32 (gesdd), once; left out where it would take
           longer than a minute
  floor    what is counted: reading the matrix once, six products with it and
           one SVD of the core, at the speeds that kernels.py measures

Seconds are of CPU time on one thread, as the machine may be busy, and of the
clock on the wall on more. With several threads ours is as many matrices side by side, each counted with
its share; the others are given the threads for one. The rows of the JSON hold
all numbers, for plots of cost against shape and rank.
"""

import argparse
import json
import os
import pathlib
import statistics
import sys
import time

THREADS = sys.argv[sys.argv.index("--threads") + 1] \
    if "--threads" in sys.argv else "1"
os.environ["OPENBLAS_NUM_THREADS"] = THREADS

import numpy as np  # noqa: E402

now = time.process_time if THREADS == "1" else time.perf_counter

sys.dont_write_bytecode = True
HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import kernels  # noqa: E402

SHAPES = [(320, 320), (320, 2880), (640, 640), (1280, 1280), (1280, 2048),
          (10240, 1280), (1280, 5120), (3072, 3072), (3072, 15360)]
LAPACK_MOST = 4e9  # rows * columns * the shorter: about a minute


def directions(rank):
    """As lib/linalg/dense.c begins: twelve more, in whole tiles of eight."""
    return (rank + 12 + 7) // 8 * 8


def matrix(m, n):
    rng = np.random.default_rng(0)

    def uniform(*shape):
        return rng.random(shape, np.float32) - np.float32(0.5)

    return (uniform(m, n) + np.float32(10 / 32**0.5) * (uniform(m, 32)
                                                        @ uniform(32, n)))


def median_of(runs, work):
    work()
    times = []
    for _ in range(runs):
        start = now()
        work()
        times.append(now() - start)
    return statistics.median(times)


def lowrank_seconds(w, rank, runs):
    try:
        import torch
    except ImportError:
        return None
    torch.set_num_threads(int(THREADS))
    t = torch.from_numpy(w)
    return median_of(runs, lambda: torch.svd_lowrank(t, directions(rank), 2))


def lapack_seconds(w):
    start = now()
    np.linalg.svd(w, full_matrices=False)
    return now() - start


def plan(shape, rank):
    """What the floor is made of: (line, how often)."""
    (m, n), count = shape, directions(rank)
    return [(("copy", 4 * m * n, 0, 0), 1), (("gemm_f32", count, n, m), 3),
            (("dots_f32", count, m, n), 3), (("svd", count, 0, 0), 1)]


def measure(program, shape, rank, args):
    parts = plan(shape, rank)
    line = ("dense", *shape, rank)
    seconds = kernels.rates(program, [line, *(p for p, _ in parts)],
                            times=args.runs, threads=int(THREADS),
                            rounds=1)["ours"]
    w = matrix(*shape)
    row = {"rows": shape[0], "cols": shape[1], "rank": rank,
           "threads": int(THREADS), "ours": seconds[line],
           "floor": sum(times * seconds[p] for p, times in parts),
           "lowrank": lowrank_seconds(w, rank, args.runs), "lapack": None}
    if not args.no_dense and rank == args.rank[0] and \
            shape[0] * shape[1] * min(shape) <= LAPACK_MOST:
        row["lapack"] = lapack_seconds(w)
    return row


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lora", help="not used")
    parser.add_argument("--build", type=pathlib.Path, default="build")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--rank", default="16,32,64,128",
                        type=lambda text: [int(k) for k in text.split(",")])
    parser.add_argument("--no-dense", action="store_true",
                        help="leave out LAPACK")
    parser.add_argument("--json", type=pathlib.Path, help="write the numbers")
    return parser.parse_args()


def main():
    args = parse()
    program, _ = kernels.build_c(args.build)
    if program is None:
        sys.exit("a C compiler and the static library are needed")
    others = ("floor", "lowrank", "lapack")
    print(f"{'':14}{'rank':>5}{'ours ms':>10}"
          + "".join(f"{name + ' ms':>12}{'ours /':>8}" for name in others))
    rows = []
    for shape in SHAPES:
        for rank in args.rank:
            row = measure(program, shape, rank, args)
            rows.append(row)
            print(f"{shape[0]:6} x {shape[1]:5}{rank:5}{1e3 * row['ours']:10.2f}"
                  + "".join(f"{1e3 * row[name]:12.2f}"
                            f"{row['ours'] / row[name]:8.2f}"
                            if row[name] else f"{'-':>12}{'':8}"
                            for name in others), flush=True)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
