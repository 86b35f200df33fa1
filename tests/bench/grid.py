"""`./dev bench grid`: what resizing costs against the number of layers, their
rank and their size, as numbers for plots. No test: it prints numbers, and
judges none.

    python3 tests/bench/grid.py --lora PROGRAM [--build FOLDER] [--runs N]
        [--threads N] [--json FILE]

Adapters are made of the layers of SDXL, evenly picked, and of layers of the
size of Flux's largest (3072 x 15360), in f16, and resized to a quarter of
their rank. A row of the JSON has the family, layers, rank, the sum over layers
of rows + cols, bytes, and median, least and greatest seconds of wall clock and
median of CPU. All are measured in turn, so that a busy moment of the machine
is no configuration's alone. CPU time against layers and against rank is also
drawn, in FOLDER/bench/resize.svg.
"""

import argparse
import json
import pathlib
import sys

sys.dont_write_bytecode = True
HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import curves  # noqa: E402
import resize  # noqa: E402

FLUX = [(f"lora_transformer_single_transformer_blocks_{i}_proj_out", 3072,
         15360) for i in range(38)]
# (family, layers, rank)
GRID = [*(("sdxl", layers, 32) for layers in (50, 100, 200, 400, 800)),
        *(("sdxl", 100, rank) for rank in (4, 8, 16, 64, 128)),
        *(("flux", layers, 32) for layers in (5, 10, 20)),
        *(("flux", 10, rank) for rank in (8, 16, 64, 128))]


def pick(family, count):
    layers = FLUX if family == "flux" else list(resize.sdxl_layers())
    return [layers[i * len(layers) // count] for i in range(count)]


def points(rows, what, other, value):
    """[(size, CPU seconds)] of the layers of SDXL."""
    return sorted((row[what], row["cpu"]) for row in rows
                  if row["family"] == "sdxl" and row[other] == value)


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lora", type=pathlib.Path, required=True)
    parser.add_argument("--build", type=pathlib.Path, default="build")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", default="1", help="for lora resize")
    parser.add_argument("--json", type=pathlib.Path, help="write the numbers")
    return parser.parse_args()


def main():
    args = parse()
    folder = args.build / "bench" / "grid"
    folder.mkdir(parents=True, exist_ok=True)
    program, out = str(args.lora.resolve()), folder / "out.safetensors"
    rows, times = [], []
    for family, count, rank in GRID:
        path = folder / f"{family}-{count}-r{rank}.safetensors"
        layers = pick(family, count)
        if not path.exists():
            resize.own_adapter(path, rank, layers)
        rows.append({"family": family, "layers": count, "rank": rank,
                     "length": sum(a + b for _, a, b in layers),
                     "threads": int(args.threads), "path": path,
                     "bytes": path.stat().st_size})
        times.append(resize.Times())
    for i in range(args.runs + 1):  # the first one warms up
        for row, measured in zip(rows, times):
            resize.run_process(
                resize.Times() if i == 0 else measured,
                [program, "resize", row["path"], "-o", out, "--rank",
                 str(max(row["rank"] // 4, 1)), "--force", "--no-progress",
                 "--quiet", "--threads", args.threads])
    print(f"{'':6}{'layers':>8}{'rank':>6}{'rows + cols':>13}{'MB':>8}"
          f"{'wall s':>9}{'cpu s':>9}{'ms a layer':>12}")
    for row, measured in zip(rows, times):
        row |= measured.row()
        del row["path"]
        print(f"{row['family']:6}{row['layers']:8}{row['rank']:6}"
              f"{row['length']:13,}{row['bytes'] / 1e6:8.1f}"
              f"{row['wall']:9.3f}{row['cpu']:9.3f}"
              f"{1e3 * row['cpu'] / row['layers']:12.2f}")
    out.unlink(missing_ok=True)
    curves.show(folder.parent / "resize.svg", {
        "layers, of rank 32": points(rows, "layers", "rank", 32),
        "rank, of 100 layers": points(rows, "rank", "layers", 100)})
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
