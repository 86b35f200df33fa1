"""`./dev bench resize`: an SDXL adapter, rank 64 -> 16, beside what else could
be done about it. No test: it prints numbers, and judges none.

    python3 tests/bench/resize.py --lora PROGRAM [--build FOLDER]
        [--shared FOLDER] [--runs N] [--json FILE]

One run measures, in turn, so that all see the same machine:

  lora      `lora resize IN -o OUT --rank 16`, the whole process
  dense     the SVD of the dense weight change of the same layers by LAPACK
            (numpy, float32, gesdd), and torch.svd_lowrank of it where torch
            can be imported. One layer of each shape is measured and counted
            as often as the shape occurs.
  factored  QR of both factors and SVD of the core, layer by layer: in torch
            where it can be imported, otherwise by LAPACK through numpy,
            float32; conversion from and to f16 and the two products included,
            reading and writing not.
  bytes     reading the input and writing as many bytes as the output has
  floor     what is counted: these bytes, the operations of the products that
            QR and truncation are made of at the speed of our f64 product, and
            one SVD of a core for each layer, both as kernels.py measures them
            on as many threads

Medians of several runs (dense: one), each with its smallest and largest.
Memory is the greatest RssAnon of the process, sampled, and the allocator's own
peak where the program reports it. Last the CPU time of `lora info` on the 722
layers of the UNet. How cost grows with layers and rank is `./dev bench grid`.
"""

import argparse
import collections
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

import numpy as np

sys.dont_write_bytecode = True
HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
sys.path.insert(0, str(HERE.parent))
import kernels  # noqa: E402
import support  # noqa: E402

RANK_IN, RANK_OUT = 64, 16
SAMPLE = 0.001  # seconds between two looks at the memory of a process


# The adapter ----------------------------------------------------------------

def sdxl_layers():
    """(kohya name, out, in) of what sd-scripts adapts by default: 722 layers
    of the UNet, 72 and 192 of the text encoders."""
    blocks = [("input_blocks_4_1", 640, 2), ("input_blocks_5_1", 640, 2),
              ("input_blocks_7_1", 1280, 10), ("input_blocks_8_1", 1280, 10),
              ("middle_block_1", 1280, 10),
              *((f"output_blocks_{i}_1", 1280, 10) for i in range(3)),
              *((f"output_blocks_{i}_1", 640, 2) for i in range(3, 6))]
    for block, width, depth in blocks:
        for name in ("proj_in", "proj_out"):
            yield f"lora_unet_{block}_{name}", width, width
        for i in range(depth):
            part = f"lora_unet_{block}_transformer_blocks_{i}_"
            for attention, context in (("attn1", width), ("attn2", 2048)):
                for name, in_ in (("to_q", width), ("to_k", context),
                                  ("to_v", context), ("to_out_0", width)):
                    yield f"{part}{attention}_{name}", width, in_
            yield part + "ff_net_0_proj", 8 * width, width
            yield part + "ff_net_2", width, 4 * width
    for encoder, width, depth in (("te1", 768, 12), ("te2", 1280, 32)):
        for i in range(depth):
            part = f"lora_{encoder}_text_model_encoder_layers_{i}_"
            for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
                yield f"{part}self_attn_{name}", width, width
            yield part + "mlp_fc1", 4 * width, width
            yield part + "mlp_fc2", width, 4 * width


def own_adapter(path, rank, layers):
    """As the shared generator does it: down ~ N(0, 1/rank), up ~ N(0, 1e-4)."""
    rng = np.random.default_rng(0)
    tensors = {}
    for name, out, in_ in layers:
        for part, shape, size in (("down", (rank, in_), rank**-0.5),
                                  ("up", (out, rank), 0.01)):
            values = rng.standard_normal(shape, dtype=np.float32)
            values *= np.float32(size)
            tensors[f"{name}.lora_{part}.weight"] = support.tensor(values,
                                                                   "F16")
        tensors[name + ".alpha"] = support.tensor(np.float64(rank), "F16")
    support.write_file(path, tensors, {"ss_base_model_version":
                                       "sdxl_base_v1-0"})


def make_adapter(folder, shared, rank=RANK_IN, unet=False):
    """(path, where it comes from); kept between runs."""
    generator = shared / "peers" / "make_synthetic.py"
    catalogue = shared / "catalogues" / "sdxl.tsv"
    name = f"sdxl{'-unet' * unet}-r{rank}-f16"
    if generator.exists() and catalogue.exists():
        path, source = folder / f"{name}.safetensors", generator.name
        if not path.exists():
            subprocess.run([sys.executable, generator, "adapter", "--catalogue",
                            catalogue, "--rank", str(rank), "--dtype", "F16",
                            "--dialect", "kohya", "--out", path, "--components",
                            "unet" if unet else ""], check=True,
                           stdout=subprocess.DEVNULL)
        return path, source
    path = folder / f"{name}-own.safetensors"
    if not path.exists():
        prefix = "lora_unet_" if unet else "lora_"
        own_adapter(path, rank, [layer for layer in sdxl_layers()
                                 if layer[0].startswith(prefix)])
    return path, "own generator"


def read_layers(path):
    """[(down, up)] as f16 arrays."""
    header, start = support.read_header(path)
    data = np.fromfile(path, "u1", offset=start)

    def array(name):
        entry = header[name]
        begin, end = entry["data_offsets"]
        return data[begin:end].view("<f2").reshape(entry["shape"])

    suffix = support.KOHYA["down"]
    names = sorted(n[:-len(suffix)] for n in header if n.endswith(suffix))
    return [(array(n + suffix), array(n + support.KOHYA["up"])) for n in names]


# Measuring ------------------------------------------------------------------

class Times:
    """Several measurements of one thing."""

    def __init__(self):
        self.wall, self.cpu = [], []

    def add(self, wall, cpu):
        self.wall.append(wall)
        self.cpu.append(cpu)

    def row(self):
        wall = sorted(self.wall)
        return {"wall": float(np.median(wall)), "least": wall[0],
                "greatest": wall[-1], "cpu": float(np.median(self.cpu)),
                "runs": len(wall)}


def measure(times, work):
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    times.add(time.perf_counter() - wall, time.process_time() - cpu)


def rss_anon(pid):
    """Anonymous memory of a process in kB; 0 where it cannot be read."""
    try:
        text = pathlib.Path(f"/proc/{pid}/status").read_text("ascii")
    except OSError:
        return 0
    found = re.search(r"^RssAnon:\s+(\d+) kB", text, re.M)
    return int(found[1]) if found else 0


def run_process(times, command, sample=False):
    """Run to the end; returns (peak of RssAnon in kB if sampled, stderr, user
    CPU seconds)."""
    with tempfile.TemporaryFile() as err:
        start, peak = time.perf_counter(), 0
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=err)
        while True:
            pid, status, usage = os.wait4(child.pid, os.WNOHANG if sample
                                          else 0)
            if pid:
                break
            peak = max(peak, rss_anon(child.pid))
            time.sleep(SAMPLE)
        times.add(time.perf_counter() - start, usage.ru_utime + usage.ru_stime)
        child.returncode = os.waitstatus_to_exitcode(status)
        err.seek(0)
        text = err.read().decode("utf-8", "replace")
        if child.returncode:
            sys.exit(f"{' '.join(map(str, command))}: exit {child.returncode}: "
                     f"{text.strip()}")
        return peak, text, usage.ru_utime


def allocator_peak(text):
    """What --verbose says of the context's own memory; "not reported"."""
    found = re.search(r"at most (.+) of memory", text)
    return found[1] if found else "not reported"


# The others -----------------------------------------------------------------

def by_shape(name, layers, work):
    """Times of work(up @ down): one layer of each shape, times its count."""
    groups = collections.defaultdict(list)
    for down, up in layers:
        groups[(up.shape[0], down.shape[1])].append((down, up))
    wall = cpu = 0.0
    for shape, members in sorted(groups.items()):
        times = Times()
        down, up = (a.astype(np.float32) for a in members[0])
        measure(times, lambda: work(up @ down))
        wall += times.wall[0] * len(members)
        cpu += times.cpu[0] * len(members)
        print(f"  {name} {shape[0]:5} x {shape[1]:5}: {times.wall[0]:7.3f} s "
              f"x {len(members)}", flush=True)
    return {"wall": wall, "least": wall, "greatest": wall, "cpu": cpu,
            "runs": 1}


def dense_rows(layers):
    rows = {"dense SVD, LAPACK f32": by_shape(
        "dense", layers, lambda w: np.linalg.svd(w, full_matrices=False))}
    try:
        import torch
    except ImportError:
        return rows

    def lowrank(w):
        torch.svd_lowrank(torch.from_numpy(w), RANK_OUT + 16, 2)

    lowrank(np.ones((100, 100), np.float32))
    rows["dense, torch.svd_lowrank"] = by_shape("lowrank", layers, lowrank)
    return rows


def floor_row(layers, build, threads, io):
    """The counted floor; nothing where the kernels cannot be measured."""
    program, _ = kernels.build_c(build)
    if program is None:
        return {}
    product, core = (("gemm_f64", RANK_OUT, 1280, RANK_IN),
                     ("svd", RANK_IN, 0, 0))
    found = kernels.rates(program, [product, core], threads=threads)["ours"]
    # Half of A A^T and k rows of the result, for both factors of each layer.
    length = sum(up.shape[0] + down.shape[1] for down, up in layers)
    operations = length * (RANK_IN**2 + 2 * RANK_OUT * RANK_IN)
    products = operations * found[product] / kernels.operations(*product)
    cores = len(layers) * found[core]
    print(f"floor on {threads} thread(s): bytes {io['wall']:.3f} s, "
          f"{operations / 1e9:.1f} G operations {products:.3f} s, "
          f"{len(layers)} cores {cores:.3f} s")
    wall = io["wall"] + products + cores
    return {"counted floor": {
        "wall": wall, "least": wall, "greatest": wall, "runs": 1,
        "cpu": io["cpu"] + threads * (products + cores)}}


def factored_numpy(layers):
    for down, up in layers:
        qb, rb = np.linalg.qr(up.astype(np.float32))
        qa, ra = np.linalg.qr(down.astype(np.float32).T)
        u, s, vt = np.linalg.svd(rb @ ra.T)
        root = np.sqrt(s[:RANK_OUT])
        (qb @ (u[:, :RANK_OUT] * root)).astype(np.float16)
        ((root[:, None] * vt[:RANK_OUT]) @ qa.T).astype(np.float16)


def factored_torch(torch, layers):
    for down, up in layers:
        qb, rb = torch.linalg.qr(torch.from_numpy(up).float())
        qa, ra = torch.linalg.qr(torch.from_numpy(down).float().T)
        u, s, vt = torch.linalg.svd(rb @ ra.T)
        root = s[:RANK_OUT].sqrt()
        (qb @ (u[:, :RANK_OUT] * root)).half()
        ((root[:, None] * vt[:RANK_OUT]) @ qa.T).half()


def factored(layers):
    """(name, function)"""
    try:
        import torch
    except ImportError:
        return "factored SVD, numpy f32", lambda: factored_numpy(layers)
    return (f"factored SVD, torch {torch.__version__}",
            lambda: factored_torch(torch, layers))


def copy_bytes(source, target, size):
    data = pathlib.Path(source).read_bytes()
    target.write_bytes(data[:size])


# The report -----------------------------------------------------------------

def table(rows, lora):
    print(f"\n{'':34}{'wall s':>9}{'min':>9}{'max':>9}{'cpu s':>9}"
          f"{'wall / lora':>13}{'cpu / lora':>12}")
    for name, row in rows.items():
        print(f"{name:34}{row['wall']:9.3f}{row['least']:9.3f}"
              f"{row['greatest']:9.3f}{row['cpu']:9.3f}"
              f"{row['wall'] / lora['wall']:13.2f}"
              f"{row['cpu'] / lora['cpu']:12.2f}")


def bench_info(program, path, runs=101):
    """CPU time of `info --json`, and of `version`, which does nothing. User
    time is the mean: the kernel counts a short process as all user or all
    system."""
    result = {}
    for name, command in (("info", ["info", path, "--json"]),
                          ("version", ["version"])):
        times, user = Times(), []
        for _ in range(runs):
            user.append(run_process(times, [program, *command])[2])
        result[name] = {**times.row(), "user": float(np.mean(user))}
    return result


def parser_for(doc, runs, verb):
    """What the benches of a verb ask for."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--lora", type=pathlib.Path, required=True)
    parser.add_argument("--build", type=pathlib.Path, default="build")
    parser.add_argument("--shared", type=pathlib.Path, default=support.SHARED)
    parser.add_argument("--runs", type=int, default=runs)
    parser.add_argument("--threads", help=f"for lora {verb}")
    parser.add_argument("--no-dense", action="store_true",
                        help="leave out the slowest part")
    parser.add_argument("--json", type=pathlib.Path, help="write the numbers")
    return parser


def main():
    args = parser_for(__doc__, 5, "resize").parse_args()
    folder = args.build / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    path, source = make_adapter(folder, args.shared)
    layers = read_layers(path)
    out, copy = folder / "out.safetensors", folder / "copy.bin"
    program = str(args.lora.resolve())
    command = [program, "resize", path, "-o", out, "--rank", str(RANK_OUT),
               "--force", "--json", "--no-progress"]
    command += ["--threads", args.threads] if args.threads else []

    lora, other, io = Times(), Times(), Times()
    name, work = factored(layers)
    peak, talk, warm = 0, "", Times()
    run_process(warm, command)
    work()
    for _ in range(args.runs):  # in turn, so that all see the same machine
        run_process(lora, command)
        size = out.stat().st_size
        measure(other, work)
        measure(io, lambda: copy_bytes(path, copy, size))
    for _ in range(2):  # sampling costs time: not among the timed runs
        memory, talk, _ = run_process(warm, [*command, "--verbose"], True)
        peak = max(peak, memory)
    rows = {f"lora resize, rank {RANK_IN} -> {RANK_OUT}": lora.row(),
            name: other.row(), "read and write the bytes": io.row()}
    threads = int(args.threads or len(os.sched_getaffinity(0)))
    rows |= floor_row(layers, args.build, threads, io.row())
    if not args.no_dense:
        rows |= dense_rows(layers)
    print(f"\n{len(layers)} layers ({source}), {path.stat().st_size:,} bytes "
          f"-> {size:,} bytes, {os.cpu_count()} CPUs, {args.runs} runs each")
    table(rows, lora.row())
    if not args.no_dense:
        print("dense: one layer of each shape measured, multiplied by how "
              "often it occurs")
    print(f"memory: RssAnon peak {peak / 1024:.1f} MiB, allocator peak "
          f"{allocator_peak(talk)}")
    small, _ = make_adapter(folder, args.shared, 1, unet=True)
    modules = len(read_layers(small))
    info = bench_info(program, small)
    one, none = ({k: f"{1e3 * v:.2f}" for k, v in info[name].items()}
                 for name in ("info", "version"))
    print(f"info of {modules} modules, ms: user + system {one['cpu']}, user "
          f"alone {one['user']} (mean), wall {one['wall']}; `version`: "
          f"{none['cpu']}, {none['user']}, {none['wall']}")
    if args.json:
        numbers = {"layers": len(layers), "rows": rows, "rss_anon_kb": peak,
                   "allocator": allocator_peak(talk), "info": info}
        args.json.write_text(json.dumps(numbers, indent=1) + "\n")
    copy.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
