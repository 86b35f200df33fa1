"""`./dev bench kinds`: a LoRA layer run forward and back beside the same products
in OpenBLAS and in torch, and weight changes of each kind in GB/s beside one
product. No test: it prints numbers, and judges none.

    python3 tests/bench/kinds.py [--build FOLDER] [--threads 1,2] [--times N]
        [--rounds N] [--torch PYTHON] [--json FILE]

Widths are in and out alike. Processes take turns, a few rounds; medians of the
rounds' medians. torch is that of the Python which --torch names, if any, and is
run as a program would: two linear layers without a gradient. With one thread
times are the processor's. kinds.c says what each line is. A weight change is
one call on one thread; it stands beside the product on one thread, too.

At the end stands what can be claimed: the worst ratio of each of those, and
where it was.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys

sys.dont_write_bytecode = True
HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import kernels  # noqa: E402

RANKS, WIDTHS = (4, 16, 64, 128), (320, 1280, 5120)
BATCHES = (1, 16, 64, 512, 4096)
LARGE = 64  # batches from here on are claimed apart
KINDS = ("lora", "locon", "loha", "lokr", "ia3", "glora", "dora", "light")
LAYERS = [
    *(("forward", r, n, w) for w in WIDTHS for n in BATCHES for r in RANKS),
    *(("half", 16, n, w) for w in WIDTHS for n in BATCHES),
    *(("backward", r, n, w) for w in WIDTHS for n in BATCHES
      for r in RANKS if r == 16 or n < 512),
]
DELTAS = [
    *(("delta-lora", r, 0, w) for w in WIDTHS for r in RANKS if r != 16),
    *((f"delta-{kind}", 16, 0, w) for kind in KINDS for w in WIDTHS),
]

TORCH = r"""
import sys, time, statistics, torch
times, threads = map(int, sys.argv[1:])
torch.set_num_threads(threads)
clock = time.process_time if threads == 1 else time.perf_counter
for line in sys.stdin:
    name, *sizes = line.split()
    r, n, w = map(int, sizes)
    kind = torch.float16 if name == "half" else torch.float32
    x = torch.rand(n, w).sub(0.5).to(kind)
    down, up = (torch.rand(*s).sub(0.5).to(kind) for s in ((r, w), (w, r)))
    linear = torch.nn.functional.linear
    found = []
    with torch.no_grad():
        for i in range(times + 1):
            start, calls = clock(), 0
            while True:
                linear(linear(x, down), up)
                calls += 1
                if clock() - start > 2e-3:
                    break
            found.append((clock() - start) / calls)
    print(line.strip(), statistics.median(found[1:]), flush=True)
"""


def run_torch(python, plan, times, threads):
    lines = [line for line in plan if line[0] in ("forward", "half")]
    if not lines:
        return {}
    done = subprocess.run(
        [python, "-c", TORCH, str(times), str(threads)], check=True, text=True,
        input="".join(" ".join(map(str, line)) + "\n" for line in lines),
        stdout=subprocess.PIPE)
    result = {}
    for line in done.stdout.splitlines():
        name, *sizes, seconds = line.split()
        result[(name, *map(int, sizes))] = float(seconds)
    return result


def measure(args, program, who, plan, threads):
    """{who: {line of the plan: median seconds}}"""
    found = {name: {} for name in who}
    for _ in range(args.rounds):
        for name in who:
            rows = (run_torch(args.torch, plan, args.times, threads)
                    if name == "torch" else
                    kernels.run(program, name, plan, args.times, threads))
            for line, seconds in rows.items():
                found[name].setdefault(line, []).append(seconds)
    return {name: {line: statistics.median(values)
                   for line, values in lines.items()}
            for name, lines in found.items()}


def rate(line, seconds):
    """(number, unit): operations, or bytes of the change."""
    name, r, n, w = line
    if name.startswith("delta"):
        cols = w // 8 * 9 if name == "delta-locon" else w
        return 4e-9 * w * cols / seconds, "GB/s"
    products = 5 if name == "backward" else 2
    return 2e-9 * products * n * r * w / seconds, "Gflop/s"


def show(line, seconds):
    ours = seconds["ours"][line]
    name, r, n, w = line
    text = f"{name:12}{r:5}{n:6}{w:6}{1e3 * ours:10.4f}"
    number, unit = rate(line, ours)
    text += f"{number:8.1f} {unit:8}"
    for other in ("theirs", "torch"):
        value = seconds.get(other, {}).get(line)
        text += (f"{1e3 * value:12.4f}{ours / value:7.2f}" if value else
                 f"{'-':>12}{'-':>7}")
    print(text, flush=True)


NAMES = {"theirs": "OpenBLAS", "torch": "torch"}


def claim_ratio(rows, threads, what, large):
    """The worst ratios of a pass, batches of LARGE and more or smaller ones."""
    found = []
    for other, title in NAMES.items():
        ratios = [(row["ours"] / row[other], row["sizes"]) for row in rows
                  if row["name"] == what and row["threads"] == threads and
                  row.get(other) and (row["sizes"][1] >= LARGE) == large]
        if ratios:
            ratio, (r, n, w) = max(ratios)
            found.append(f"{ratio:.2f} x {title} (rank {r}, batch {n}, "
                         f"width {w})")
    if found:
        print(f"{what}, batch {'>=' if large else '<'} {LARGE}, {threads} "
              f"thread{'s' * (threads > 1)}: at worst {'; '.join(found)}")


def claim_delta(rows, kind):
    found = []
    for row in rows:
        if row["name"] == f"delta-{kind}" and row["sizes"][0] == 16:
            line = (row["name"], *row["sizes"])
            text = f"{rate(line, row['ours'])[0]:.1f} GB/s"
            if row.get("theirs"):
                text += f" beside {rate(line, row['theirs'])[0]:.1f}"
            found.append(f"{text} (width {row['sizes'][2]})")
    print(f"delta of {kind}, rank 16: {', '.join(found)}")


def claim(rows, threads):
    print()
    for count in threads:
        for what in ("forward", "half", "backward"):
            for large in (True, False):
                claim_ratio(rows, count, what, large)
    for kind in KINDS:
        claim_delta(rows, kind)


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lora", help="not used")
    parser.add_argument("--build", type=pathlib.Path, default="build")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--times", type=int, default=9)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--torch", help="a Python that has torch")
    parser.add_argument("--json", type=pathlib.Path, help="write the numbers")
    return parser.parse_args()


def main():
    args = parse()
    program, has_openblas = kernels.build_c(args.build, "kinds")
    if program is None:
        sys.exit("a C compiler and the static library are needed")
    who = ["ours"] + ["theirs"] * has_openblas + ["torch"] * bool(args.torch)
    rows = []
    counts = list(map(int, args.threads.split(",")))
    for threads, plan in [*((n, LAYERS) for n in counts), (1, DELTAS)]:
        seconds = measure(args, program, who, plan, threads)
        print(f"\n{f'{threads} thread' + 's' * (threads > 1):12}{'rank':>5}"
              f"{'batch':>6}{'width':>6}{'ours ms':>10}{'':17}"
              f"{'OpenBLAS ms':>12}{'ratio':>7}{'torch ms':>12}{'ratio':>7}")
        for line in plan:
            show(line, seconds)
            rows.append({"name": line[0], "sizes": line[1:],
                         "threads": threads,
                         **{w: seconds[w].get(line) for w in who}})
    claim(rows, counts)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
