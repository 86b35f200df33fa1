"""`./dev bench fuse`: adapters of rank 64 into SDXL's UNet in F16, beside what
else could be done. No test: it prints numbers, and judges none.

    python3 tests/bench/fuse.py --lora PROGRAM [--build FOLDER]
        [--shared FOLDER] [--threads N] [--runs N] [--layers SHARE]
        [--torch PYTHON] [--json FILE]

The checkpoint has every tensor of the UNet, 5.1 GB, named and sized by the
shared catalogue; where that is absent, or with --layers SHARE, the layers that
adapters have, or a share of them. It is kept in FOLDER/bench. One run measures,
in turn, so that all see the same machine, with 1 and with 3 adapters:

  lora      `lora fuse BASE A... -o OUT`, the whole process, on the disk
  bytes     reading the base and the adapters, writing as much as the output
            has, and fsync
  torch     W += s B A for each layer in float32, and save_file of the package
            safetensors, and fsync; by --torch PYTHON, or by this one where it
            has both packages. Starting that process is not counted
  floor     what is counted: these bytes, and 2 r operations an element of the
            layers, at the speed that kernels.py measures on as many threads;
            and the larger of the two, if one were to hide behind the other

Last, with one adapter, undo files of both modes: time, and bytes as a share of
the tensors that are changed. Memory is the allocator's own peak, and the
greatest RssAnon.
"""

import collections
import os
import json
import pathlib
import re
import subprocess
import sys
import tempfile

sys.dont_write_bytecode = True
HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
sys.path.insert(0, str(HERE.parent))
import extract  # noqa: E402
import kernels  # noqa: E402
import resize  # noqa: E402
import support  # noqa: E402
from resize import Times, measure, run_process  # noqa: E402

RANK, ADAPTERS = 64, 3
TILE = 96  # rows that a product of the floor has
MODULE = re.compile(r"(.+)\.lora_(?:down|A)\.weight")


# The files ------------------------------------------------------------------

def generate(shared, what, path, *more):
    if not path.exists():
        part = path.with_suffix(".part")
        subprocess.run([sys.executable, shared / "peers/make_synthetic.py",
                        what, "--catalogue", shared / "catalogues/sdxl.tsv",
                        "--components", "unet", "--dtype", "F16", "--out",
                        part, *map(str, more)], check=True,
                       stdout=subprocess.DEVNULL)
        part.rename(path)
    return path


def make_files(folder, shared, share):
    """(base, adapters)"""
    if share < 1 or not (shared / "peers/make_synthetic.py").exists():
        layers, paths = extract.make_checkpoints(folder, share)
        names = {name for name, _, _ in layers}
        wanted = [row for row in resize.sdxl_layers()
                  if row[0].startswith("lora_unet_")
                  and extract.original_name(row[0]) in names]
        adapters = []
        for i in range(ADAPTERS):
            adapters.append(folder / f"fuse-{len(wanted)}-{i}.safetensors")
            if not adapters[-1].exists():
                resize.own_adapter(adapters[-1], RANK, wanted)
        return paths[0], adapters
    base = generate(shared, "checkpoint", folder / "sdxl-unet-f16.safetensors",
                    "--layout", "original")
    return base, [generate(
        shared, "adapter", folder / f"sdxl-unet-r{RANK}-{i}.safetensors",
        "--dialect", "kohya", "--rank", RANK, "--seed", i)
        for i in range(ADAPTERS)]


def changed_layers(base, adapter):
    """{tensor of the base: (module of the adapter, rows, columns)}"""
    header, _ = support.read_header(base)
    found = {}
    for name in support.read_header(adapter)[0]:
        match = MODULE.fullmatch(name)
        if match:
            tensor = extract.original_name(match[1])
            rows, columns = header[tensor]["shape"][:2]
            found[tensor] = (match[1], rows, columns)
    return found


# The others -----------------------------------------------------------------

def move_bytes(paths, target, size):
    block = bytearray(extract.READ)
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while file.readinto(block):
                pass
    with target.open("wb", buffering=0) as file:
        for done in range(0, size, extract.READ):
            file.write(memoryview(block)[:min(extract.READ, size - done)])
        os.fsync(file.fileno())


TORCH = """
import json, os, sys, time
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
base, out, layers, *adapters = sys.argv[1:]
layers = json.load(open(layers))
torch.set_num_threads({threads})
wall, cpu = time.perf_counter(), time.process_time()
factors = [load_file(path) for path in adapters]
result = {{}}
with safe_open(base, "pt") as file:
    for name in file.keys():
        weight = file.get_tensor(name)
        if name in layers:
            sum = weight.float()
            for each in factors:
                module = layers[name][0]
                up = each[module + ".lora_up.weight"].float()
                down = each[module + ".lora_down.weight"].float()
                scale = float(each[module + ".alpha"]) / down.shape[0]
                change = up.flatten(1) @ down.flatten(1)
                sum += scale * change.view_as(sum)
            weight = sum.to(weight.dtype)
        result[name] = weight
save_file(result, out)
with open(out, "rb") as file:
    os.fsync(file.fileno())
print(time.perf_counter() - wall, time.process_time() - cpu)
"""


def torch_python(given):
    """A Python with torch and safetensors, or None."""
    python = given or sys.executable
    probe = [python, "-c", "import torch, safetensors.torch"]
    return None if subprocess.run(probe, capture_output=True).returncode \
        else python


def run_torch(times, python, threads, base, adapters, layers, out):
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(layers, file)
        file.flush()
        done = subprocess.run(
            [python, "-c", TORCH.format(threads=threads), base, out, file.name,
             *adapters], check=True, stdout=subprocess.PIPE, text=True)
    times.add(*map(float, done.stdout.split()))


def product_seconds(layers, count, build, threads):
    """Of the products of so many adapters; None where they cannot be
    measured."""
    program, _ = kernels.build_c(build)
    if program is None:
        return None
    columns = collections.Counter()
    for _, rows, width in layers.values():
        columns[width] += rows
    plan = {width: ("gemm_f32", TILE, width, RANK) for width in columns}
    found = kernels.rates(program, list(plan.values()), threads=threads,
                          times=3, rounds=1)["ours"]
    return count * sum(rows / TILE * found[plan[width]]
                       for width, rows in columns.items())


# The report -----------------------------------------------------------------

class Bench:
    def __init__(self, args):
        self.args = args
        self.folder = args.build / "bench"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.base, self.adapters = make_files(self.folder, args.shared,
                                              args.layers)
        self.layers = changed_layers(self.base, self.adapters[0])
        self.out = self.folder / "fused.safetensors"
        self.copy = self.folder / "copy.bin"
        self.undo = self.folder / "fused.undo"
        self.size = self.base.stat().st_size
        self.threads = int(args.threads or len(os.sched_getaffinity(0)))
        self.python = torch_python(args.torch)

    def command(self, count, *more):
        return [str(self.args.lora.resolve()), "fuse", self.base,
                *self.adapters[:count], "-o", self.out, "--force",
                "--no-progress", "--threads", str(self.threads), *more]

    def run(self, times, command, sample=False):
        try:
            return run_process(times, command, sample)
        finally:
            self.out.unlink(missing_ok=True)

    def beside(self, count):
        """(rows, peak of RssAnon in kB, the allocator's peak)"""
        lora, io, other, warm = Times(), Times(), Times(), Times()
        peak, talk, _ = self.run(warm, self.command(count, "--verbose"), True)
        inputs = [self.base, *self.adapters[:count]]
        for _ in range(self.args.runs):  # in turn: all see the same machine
            self.run(lora, self.command(count))
            measure(io, lambda: move_bytes(inputs, self.copy, self.size))
            self.copy.unlink()
            if self.python:
                run_torch(other, self.python, self.threads, self.base,
                          self.adapters[:count], self.layers, self.out)
                self.out.unlink()
        rows = {f"lora fuse, {count} adapter{'s' * (count > 1)}": lora.row(),
                "read, write, flush the bytes": io.row()}
        if self.python:
            rows["torch and safetensors"] = other.row()
        products = product_seconds(self.layers, count, self.args.build,
                                   self.threads)
        if products is not None:
            bytes_ = io.row()["wall"]
            for name, wall in (("floor, one after the other",
                                bytes_ + products),
                               ("floor, at the same time",
                                max(bytes_, products))):
                rows[name] = {"wall": wall, "least": wall, "greatest": wall,
                              "cpu": io.row()["cpu"] + self.threads * products,
                              "runs": 1}
        return rows, peak, resize.allocator_peak(talk)

    def undo_rows(self):
        """{mode: (seconds, bytes of the undo file / bytes that are changed)}"""
        total = 2 * sum(rows * width for _, rows, width in
                        self.layers.values())
        found = {}
        for mode in ("raw", "predict"):
            times = Times()
            for _ in range(self.args.runs):
                self.run(times, self.command(1, "--undo", self.undo,
                                             "--undo-mode", mode))
                size = self.undo.stat().st_size
                self.undo.unlink()
            found[mode] = (times.row()["wall"], size / total)
        return found


def parse():
    parser = resize.parser_for(__doc__, 3, "fuse")
    parser.add_argument("--layers", type=float, default=1.0)
    parser.add_argument("--torch", help="a Python with torch and safetensors")
    parser.add_argument("--no-undo", action="store_true",
                        help="leave out undo files")
    return parser.parse_args()


def main():
    args = parse()
    bench = Bench(args)
    result = {"bytes": bench.size, "layers": len(bench.layers)}
    print(f"{len(bench.layers)} layers changed of {bench.size:,} bytes, "
          f"{os.cpu_count()} CPUs, {bench.threads} threads, {args.runs} runs "
          "each")
    for count in (1, ADAPTERS):
        rows, peak, allocator = bench.beside(count)
        resize.table(rows, next(iter(rows.values())))
        print(f"memory: RssAnon peak {peak / 1024:.1f} MiB, allocator peak "
              f"{allocator}", flush=True)
        result[count] = {"rows": rows, "rss_anon_kb": peak,
                         "allocator": allocator}
    if not args.no_undo:
        result["undo"] = bench.undo_rows()
        for mode, (wall, share) in result["undo"].items():
            print(f"with an undo file, {mode}: {wall:.3f} s, "
                  f"{100 * share:.1f} % of the bytes that change")
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
