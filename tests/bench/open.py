"""`./dev bench open`: opening files, listing their tensors, and reading them,
beside what else can do it. No test: it prints numbers, and judges none.

    python3 tests/bench/open.py --lora PROGRAM [--build FOLDER]
        [--shared FOLDER] [--runs N] [--json FILE]

The files are the real adapters of ../shared/data where they are, and an SDXL
adapter as the bench of resize has it. What is measured, in turn and in one
run, so that all see the same machine and a warm cache:

  list   from the path to name, type and shape of every tensor
  read   from the path to the values of every tensor in memory of its own
  map    from the path to the values of every tensor, without a copy

by the library from C (tests/bench/open.c) and from Python, by safetensors, and
by torch.load for checkpoints, as far as the Python that runs this has them
(PYTHON=venv/bin/python ./dev bench open). The library also finds modules,
kinds and the base, which the others do not. Medians, least and greatest, and
how many times the library's.

Everybody reads as it does unless told otherwise: the library's binding on all
CPUs, torch's clone() too, safetensors and torch.load on one. A program in C
says how many threads it has; this one says all CPUs, as the binding does, and
one in a row of its own. Every `list` in Python ends with a list of (name, type,
shape), by the shortest way that the package documents.
"""

import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

import numpy as np

sys.dont_write_bytecode = True
HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
sys.path.insert(0, str(HERE.parent))
import resize  # noqa: E402
import support  # noqa: E402

REAL = ("catundchat--stable-diffusion-v1.5-lora/pytorch_lora_weights.bin",
        "catundchat--stable-diffusion-v1.5-lora/"
        "pytorch_lora_weights.safetensors",
        "cloneofsimo--lora/analog_svd_rank4.safetensors")
BINDING = "liblora, Python"
ROUND = 3  # times in a row, before another one's turn


# From C ---------------------------------------------------------------------

def build_c(build):
    """The program of open.c, or None without a compiler."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if not compiler:
        return None
    program = build / "bench" / "open"
    subprocess.run([compiler, "-O2", "-std=c99", "-I",
                    support.ROOT / "include", HERE / "open.c", "-o", program,
                    "-L", build, "-llora", f"-Wl,-rpath,{build}"], check=True)
    return program


def c_times(program, mode, path, threads):
    done = subprocess.run([program, mode, path, str(ROUND + 1), str(threads)],
                          check=True, capture_output=True, text=True)
    return [float(line) for line in done.stdout.split()][1:]


# From Python ----------------------------------------------------------------

def timed(work):
    times = []
    for _ in range(ROUND):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return times


def load_binding(build):
    os.environ["LORA_LIBRARY"] = str(build / "liblora.so")
    sys.path.insert(0, str(support.ROOT / "bindings" / "python" / "src"))
    import liblora
    return liblora


def binding_work(liblora, path):
    def headers():
        with liblora.open(path) as adapter:
            return adapter.headers

    def rows():
        with liblora.open(path) as adapter:
            return [(t["name"], t["dtype"], t["shape"])
                    for t in adapter.tensors]

    def load(**options):
        with liblora.open(path, **options) as adapter:
            return adapter.load(copy="map" not in options)

    def each():
        with liblora.open(path) as adapter:
            return {name: adapter.tensor(name) for name in adapter.keys()}

    return {"list": {BINDING: headers, BINDING + ", tensors": rows},
            "read": {BINDING: load, BINDING + ", tensor()": each},
            "map": {BINDING: lambda: load(map=True)}}


def safetensors_work(path):
    """{operation: {who: function}}; nothing for other containers."""
    try:
        import safetensors.numpy
    except ImportError:
        return {}
    if path.suffix != ".safetensors":
        return {}

    def headers():
        with safetensors.safe_open(path, "np") as file:
            return [(name, part.get_dtype(), part.get_shape())
                    for name in file.keys()
                    for part in (file.get_slice(name),)]

    def each():
        with safetensors.safe_open(path, "np") as file:
            return {name: file.get_tensor(name) for name in file.keys()}

    work = {"list": {"safetensors": headers},
            "read": {"safetensors, numpy": each,
                     "safetensors.numpy.load_file": lambda:
                     safetensors.numpy.load_file(path)}}
    try:
        import safetensors.torch
    except ImportError:
        return work

    def lazy():
        return safetensors.torch.load_file(path)

    work["map"] = {"safetensors.torch.load_file": lazy}
    work["read"]["the same, then clone()"] = lambda: {
        name: value.clone() for name, value in lazy().items()}
    return work


def torch_work(path):
    try:
        import torch
    except ImportError:
        return {}
    if path.suffix == ".safetensors":
        return {}

    def load(**options):
        return torch.load(path, map_location="cpu", weights_only=True,
                          **options)

    return {"list": {"torch.load, mmap": lambda: [
                (name, value.dtype, value.shape)
                for name, value in load(mmap=True).items()]},
            "read": {"torch.load": load},
            "map": {"torch.load, mmap": lambda: load(mmap=True)}}


# The report -----------------------------------------------------------------

def contenders(program, liblora, path):
    """{operation: {who: function that gives times}}"""
    own = binding_work(liblora, path)
    others = (safetensors_work(path), torch_work(path))
    result = {}
    for operation, work in own.items():
        row = {}
        if program:
            row["liblora, C"] = lambda mode=operation: c_times(
                program, mode, path, len(os.sched_getaffinity(0)))
        if program and operation == "read":
            row["liblora, C, one thread"] = lambda: c_times(
                program, "read", path, 1)
        for each in (work, *(other.get(operation, {}) for other in others)):
            for who, function in each.items():
                row[who] = lambda function=function: timed(function)
        result[operation] = row
    return result


def bench_file(program, liblora, path, runs):
    numbers = {}
    for operation, row in contenders(program, liblora, path).items():
        times = {who: [] for who in row}
        for _ in range(runs):
            for who, function in row.items():
                times[who] += function()
        numbers[operation] = {
            who: {"median": float(np.median(found)), "least": min(found),
                  "greatest": max(found)} for who, found in times.items()}
    return numbers


def show(path, numbers):
    print(f"\n{path.name}: {path.stat().st_size:,} bytes")
    print(f"  {'':34}{'median ms':>10}{'least':>9}{'greatest':>10}"
          f"{'/ C':>8}{'/ Python':>10}")
    for operation, rows in numbers.items():
        own = [rows[who]["median"] for who in ("liblora, C", BINDING)
               if who in rows]
        for who, row in rows.items():
            ratios = "".join(f"{row['median'] / base:>{width}.2f}"
                             for base, width in zip(own, (8, 10)))
            print(f"  {operation:6}{who:28}{1e3 * row['median']:10.3f}"
                  f"{1e3 * row['least']:9.3f}{1e3 * row['greatest']:10.3f}"
                  f"{ratios}")


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lora", type=pathlib.Path, required=True)
    parser.add_argument("--build", type=pathlib.Path, default="build")
    parser.add_argument("--shared", type=pathlib.Path, default=support.SHARED)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--json", type=pathlib.Path, help="write the numbers")
    return parser.parse_args()


def main():
    args = parse()
    build = args.build.resolve()
    folder = build / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    paths = [args.shared / "data" / name for name in REAL]
    paths = [path for path in paths if path.exists()]
    paths.append(resize.make_adapter(folder, args.shared)[0])
    program, liblora = build_c(build), load_binding(build)
    numbers = {}
    for path in paths:
        numbers[path.name] = bench_file(program, liblora, path, args.runs)
        show(path, numbers[path.name])
    if args.json:
        args.json.write_text(json.dumps(numbers, indent=1) + "\n")


if __name__ == "__main__":
    main()
