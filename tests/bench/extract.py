"""`./dev bench extract`: an adapter of rank 32 from two checkpoints of SDXL's
UNet, beside what else could be done. No test: it prints numbers, and judges
none.

    python3 tests/bench/extract.py --lora PROGRAM [--build FOLDER]
        [--threads N] [--runs N] [--layers SHARE] [--no-dense] [--json FILE]

The checkpoints have the 722 layers of the UNet that adapters have, in F16, 4.4
GB each; --layers 0.1 makes them of a tenth. They are kept in FOLDER/bench. The
tuned one differs by a change of rank 48, whose values fall off, and by
rounding. One run measures:

  lora      `lora extract BASE TUNED -o OUT --rank 32`, the whole process
  bytes     reading both files into memory and writing what the output has
  floor     what is counted: these bytes, and for each layer six products and
            one SVD of a core, as dense.py counts them, at the speeds that
            kernels.py measures on as many threads
  dense     LAPACK's SVD of the differences (numpy, float32), and
            torch.svd_lowrank where torch can be imported: one layer of each
            shape, times how often it occurs

Memory is the allocator's own peak, and the greatest RssAnon. Last, cost against
the number of layers (a quarter, a half, all) and against the rank (16 to 128)
as numbers, and as a picture in FOLDER/bench/extract.svg.
"""

import collections
import json
import os
import pathlib
import re
import sys

import numpy as np

sys.dont_write_bytecode = True
HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
sys.path.insert(0, str(HERE.parent))
import curves  # noqa: E402
import dense  # noqa: E402
import kernels  # noqa: E402
import resize  # noqa: E402
import support  # noqa: E402
from resize import Times, measure, run_process  # noqa: E402

RANK, CHANGED = 32, 48
READ = 1 << 24  # bytes at a time


# The checkpoints ------------------------------------------------------------

def original_name(kohya):
    """The name in the checkpoint of what kohya's trainer calls so."""
    name = kohya.removeprefix("lora_unet_")
    name = re.sub(r"^(\w+?_blocks)_(\d+)_1_", r"\1.\2.1.", name)
    name = name.replace("middle_block_1_", "middle_block.1.")
    name = re.sub(r"transformer_blocks_(\d+)_", r"transformer_blocks.\1.", name)
    for flat, dotted in (("attn1_", "attn1."), ("attn2_", "attn2."),
                         ("to_out_0", "to_out.0"), ("ff_net_0_", "ff.net.0."),
                         ("ff_net_2", "ff.net.2")):
        name = name.replace(flat, dotted)
    return f"model.diffusion_model.{name}.weight"


def layers_of(share):
    """[(name, rows, columns)], every so many of them."""
    every = [(original_name(name), out, in_)
             for name, out, in_ in resize.sdxl_layers()
             if name.startswith("lora_unet_")]
    wanted = max(1, round(len(every) * share))
    return [every[i * len(every) // wanted] for i in range(wanted)]


def make_checkpoints(folder, share):
    layers = layers_of(share)
    paths = [folder / f"sdxl-unet-{len(layers)}-{part}.safetensors"
             for part in ("base", "tuned")]
    if all(path.exists() for path in paths):
        return layers, paths
    rng = np.random.default_rng(0)
    pool = rng.standard_normal(1 << 24, dtype=np.float32) * np.float32(0.03)
    fall = (0.002 * 0.93**np.arange(CHANGED)).astype(np.float32)

    def values(part):
        state = np.random.default_rng(1)
        for name, rows, columns in layers:
            start = int(state.integers(0, pool.size))
            base = np.resize(np.roll(pool, -start), rows * columns)
            base = base.astype(np.float16).reshape(rows, columns)
            up, down = (state.standard_normal(shape, dtype=np.float32)
                        for shape in ((rows, CHANGED), (CHANGED, columns)))
            if part:
                base = (base + (up * fall) @ down).astype(np.float16)
            yield base

    header, end = {}, 0
    for name, rows, columns in layers:
        begin, end = end, end + 2 * rows * columns
        header[name] = {"dtype": "F16", "shape": [rows, columns],
                        "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    for part, path in enumerate(paths):
        with path.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for array in values(part):
                file.write(array.tobytes())
    return layers, paths


def read_array(path, name):
    header, start = support.read_header(path)
    begin, end = header[name]["data_offsets"]
    data = np.fromfile(path, "<f2", (end - begin) // 2, offset=start + begin)
    return data.reshape(header[name]["shape"]).astype(np.float32)


# The others -----------------------------------------------------------------

def move_bytes(paths, target, size):
    block = bytearray(READ)
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while file.readinto(block):
                pass
    with target.open("wb", buffering=0) as file:
        for done in range(0, size, READ):
            file.write(memoryview(block)[:min(READ, size - done)])


def by_shape(layers):
    shapes = collections.Counter((rows, columns) for _, rows, columns in layers)
    return sorted(shapes.items())


def floor_row(layers, build, threads, io):
    program, _ = kernels.build_c(build)
    if program is None:
        return {}
    seconds = 0.0
    for shape, count in by_shape(layers):
        parts = dense.plan(shape, RANK)
        found = kernels.rates(program, [part for part, _ in parts],
                              threads=threads, times=3, rounds=1)["ours"]
        seconds += count * sum(times * found[part] for part, times in parts)
    wall = io["wall"] + seconds
    print(f"floor on {threads} thread(s): bytes {io['wall']:.3f} s, products "
          f"and cores {seconds:.3f} s")
    return {"counted floor": {"wall": wall, "least": wall, "greatest": wall,
                              "cpu": io["cpu"] + threads * seconds, "runs": 1}}


def dense_rows(layers, paths):
    first = {(rows, columns): name for name, rows, columns in layers}
    rows = {}

    def add(label, work):
        wall = cpu = 0.0
        for shape, count in by_shape(layers):
            change = (read_array(paths[1], first[shape])
                      - read_array(paths[0], first[shape]))
            times = Times()
            measure(times, lambda: work(change))
            wall += count * times.wall[0]
            cpu += count * times.cpu[0]
            print(f"  {label} {shape[0]:5} x {shape[1]:5}: "
                  f"{times.wall[0]:7.3f} s x {count}", flush=True)
        rows[label] = {"wall": wall, "least": wall, "greatest": wall,
                       "cpu": cpu, "runs": 1}

    add("dense SVD, LAPACK f32",
        lambda w: np.linalg.svd(w, full_matrices=False))
    try:
        import torch
    except ImportError:
        return rows
    torch.svd_lowrank(torch.ones(100, 100), 10, 2)
    add("torch.svd_lowrank", lambda w: torch.svd_lowrank(
        torch.from_numpy(w), RANK + 12, 2))
    return rows


# Cost against size ----------------------------------------------------------

def extract_command(args, paths, out, rank):
    command = [str(args.lora.resolve()), "extract", *paths, "-o", out, "--rank",
               str(rank), "--force", "--json", "--no-progress"]
    return command + (["--threads", args.threads] if args.threads else [])


def cost(args, folder, out):
    """CPU seconds by the number of layers, and by the rank; of a tenth of the
    layers."""
    result = {"layers": [], "rank": []}
    for share in (0.025, 0.05, 0.1):
        layers, paths = make_checkpoints(folder, share)
        times = Times()
        for _ in range(3):
            run_process(times, extract_command(args, paths, out, RANK))
        result["layers"].append((len(layers), min(times.cpu)))
    for rank in (16, 32, 64, 96, 128):
        times = Times()
        for _ in range(3):
            run_process(times, extract_command(args, paths, out, rank))
        result["rank"].append((rank, min(times.cpu)))
    return result


# The report -----------------------------------------------------------------

def parse():
    parser = resize.parser_for(__doc__, 3, "extract")
    parser.add_argument("--layers", type=float, default=1.0)
    parser.add_argument("--no-curves", action="store_true",
                        help="leave out cost against size")
    return parser.parse_args()


def main():
    args = parse()
    folder = args.build / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    layers, paths = make_checkpoints(folder, args.layers)
    out, copy = folder / "extracted.safetensors", folder / "copy.bin"
    command = extract_command(args, paths, out, RANK)
    lora, io, warm = Times(), Times(), Times()
    run_process(warm, command)
    size = out.stat().st_size
    for _ in range(args.runs):  # in turn, so that both see the same machine
        run_process(lora, command)
        measure(io, lambda: move_bytes(paths, copy, size))
    peak, talk, _ = run_process(warm, [*command, "--verbose"], True)
    rows = {f"lora extract, rank {RANK}": lora.row(),
            "read and write the bytes": io.row()}
    threads = int(args.threads or len(os.sched_getaffinity(0)))
    rows |= floor_row(layers, args.build, threads, io.row())
    if not args.no_dense:
        rows |= dense_rows(layers, paths)
    total = sum(path.stat().st_size for path in paths)
    print(f"\n{len(layers)} layers, {total:,} bytes -> {size:,} bytes, "
          f"{os.cpu_count()} CPUs, {args.runs} runs each")
    resize.table(rows, lora.row())
    print(f"memory: RssAnon peak {peak / 1024:.1f} MiB, allocator peak "
          f"{resize.allocator_peak(talk)}")
    found = {} if args.no_curves else cost(args, folder, out)
    if found:
        curves.show(folder / "extract.svg", found)
    if args.json:
        args.json.write_text(json.dumps(
            {"layers": len(layers), "rows": rows, "rss_anon_kb": peak,
             "allocator": resize.allocator_peak(talk), "curves": found},
            indent=1) + "\n")
    copy.unlink(missing_ok=True)
    out.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
