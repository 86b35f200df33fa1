"""`./dev bench swap`: adapters in and out of a UNet's weights in memory, beside
PEFT's merging. No test: it prints numbers, and judges none.

    python3 tests/bench/swap.py --lora PROGRAM [--build FOLDER] [--threads N]
        [--runs N] [--layers SHARE] [--peft PYTHON] [--json FILE]

The weights are those of SDXL's UNet that an adapter of rank 64 changes, in F16,
in this process; --layers 0.1 takes a tenth of them. A plan is asked to

  add       put an adapter into weights that have none, whose rows it keeps
  strength  change how strong it is
  swap      put another one in its place
  remove    take it out: the rows come back

and PEFT, for the same layers of torch, to merge, to unmerge and merge at
another scale, to unmerge and merge another adapter, and to unmerge; it needs a
Python that can import torch and peft. It subtracts what it added, which does
not give back the weights of before: how many it leaves changed is said. The
copy is that of all weights into one buffer, by numpy, on one thread.
"""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np

sys.dont_write_bytecode = True
HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent / "bindings")]
import bindinglib  # noqa: E402
import resize  # noqa: E402
import support  # noqa: E402
from resize import Times, measure  # noqa: E402

STEPS = ("add", "strength", "swap", "remove")


def layers_of(path, share):
    """[(module, shape of the weight)] of an adapter, every so many of them."""
    header, _ = support.read_header(path)
    every = []
    for name in sorted(header):
        if name.endswith(".lora_down.weight"):
            module = name.removesuffix(".lora_down.weight")
            up = header[module + ".lora_up.weight"]["shape"]
            every.append((module, (up[0], *header[name]["shape"][1:])))
    wanted = max(1, round(len(every) * share))
    return [every[i * len(every) // wanted] for i in range(wanted)]


POOL = (np.random.default_rng(0).standard_normal(1 << 22, dtype=np.float32) *
        np.float32(0.03)).astype(np.float16)


def weights_of(layers):
    return {module + ".weight": np.resize(POOL, shape)
            for module, shape in layers}


def count_changed(weights):
    """Numbers that are not as weights_of() makes them."""
    return sum(int((value.view("u2") !=
                    np.resize(POOL, value.shape).view("u2")).sum())
               for value in weights.values())


# Ours -----------------------------------------------------------------------

def run_plan(args, path, layers):
    liblora = bindinglib.load(suite_of(args))
    context = liblora.Context(threads=int(args.threads or
                                          len(os.sched_getaffinity(0))))
    weights = weights_of(layers)
    first, second = (liblora.open(path, context=context) for _ in range(2))
    times = {step: Times() for step in STEPS}
    plan = liblora.Plan(weights, context=context)
    for _ in range(args.runs):
        number = plan.add(first, 0.8)
        measure(times["add"], plan.run)
        plan.set_strength(number, 0.5)
        measure(times["strength"], plan.run)
        kept = plan.saved_bytes
        plan.replace(number, second, 1.0)
        measure(times["swap"], plan.run)
        measure(times["remove"], plan.restore)
    copy = Times()
    room = np.zeros(max(value.size for value in weights.values()), np.float16)
    for _ in range(args.runs):
        measure(copy, lambda: [np.copyto(room[:value.size], value.reshape(-1))
                               for value in weights.values()])
    return times, copy, kept, count_changed(weights)


def suite_of(args):
    """What loading the package asks of a suite."""
    class Suite:
        pass
    Suite.args, Suite.folder = args, args.build
    return Suite


# PEFT -----------------------------------------------------------------------

def peft_model(torch, layers):
    weights = weights_of(layers)
    model = torch.nn.Module()
    for module, shape in layers:
        value = torch.from_numpy(weights[module + ".weight"])
        with torch.device("meta"):
            layer = (torch.nn.Linear(shape[1], shape[0], bias=False)
                     if len(shape) == 2 else
                     torch.nn.Conv2d(shape[1], shape[0], shape[2:], bias=False))
        layer.weight = torch.nn.Parameter(value, requires_grad=False)
        model.add_module(module, layer)
    return model


def peft_fill(torch, model, path, layers, adapter):
    header, start = support.read_header(path)
    data = np.memmap(path, "u1", "r", start)
    for module, _ in layers:
        layer = getattr(model, module)
        for role, factors in (("down", layer.lora_A), ("up", layer.lora_B)):
            row = header[f"{module}.lora_{role}.weight"]
            begin, end = row["data_offsets"]
            value = data[begin:end].copy().view(np.float16)
            factors[adapter].weight.data = torch.from_numpy(
                value.reshape(row["shape"]))


def run_peft(args, path, layers):
    """In a process of its own, whose Python has torch and peft."""
    import torch
    from peft import LoraConfig, inject_adapter_in_model
    from peft.tuners.lora import LoraLayer
    if args.threads:
        torch.set_num_threads(int(args.threads))
    model = peft_model(torch, layers)
    rank = resize.RANK_IN
    for adapter in ("first", "second"):
        config = LoraConfig(r=rank, lora_alpha=rank, init_lora_weights=False,
                            target_modules=[m for m, _ in layers])
        inject_adapter_in_model(config, model, adapter)
        peft_fill(torch, model, path, layers, adapter)
    modules = [m for m in model.modules() if isinstance(m, LoraLayer)]

    def every(action):
        with torch.no_grad():
            for module in modules:
                action(module)

    def again(adapter, scale):
        def action(module):
            module.unmerge()
            module.set_scale(adapter, scale)
            module.merge(adapter_names=[adapter])
        every(action)

    times = {step: Times() for step in STEPS}
    for _ in range(args.runs):
        every(lambda module: module.set_scale("first", 0.8))
        measure(times["add"], lambda: every(
            lambda module: module.merge(adapter_names=["first"])))
        measure(times["strength"], lambda: again("first", 0.5))
        measure(times["swap"], lambda: again("second", 1.0))
        measure(times["remove"], lambda: every(lambda m: m.unmerge()))
    left = {module: getattr(model, module).get_base_layer().weight.numpy()
            for module, _ in layers}
    print(json.dumps({"changed": count_changed(left), "rows": {
        step: found.row() for step, found in times.items()}}))


def ask_peft(args):
    command = [args.peft, "-B", __file__, "--lora", args.lora, "--build",
               args.build, "--shared", args.shared, "--runs", args.runs,
               "--layers", args.layers, "--as-peft"]
    command += ["--threads", args.threads] if args.threads else []
    done = subprocess.run(list(map(str, command)), capture_output=True,
                          text=True, check=False)
    if done.returncode:
        print(f"no PEFT: {done.stderr.strip().splitlines()[-1]}")
        return None
    return json.loads(done.stdout.splitlines()[-1])


# The report -----------------------------------------------------------------

def parse():
    parser = resize.parser_for(__doc__, 3, "swap")
    parser.add_argument("--layers", type=float, default=1.0)
    parser.add_argument("--peft", default=sys.executable,
                        help="a Python with torch and peft")
    parser.add_argument("--as-peft", action="store_true",
                        help="what is run by that Python")
    return parser.parse_args()


def main():
    args = parse()
    folder = args.build / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    path, source = resize.make_adapter(folder, args.shared, unet=True)
    layers = layers_of(path, args.layers)
    if args.as_peft:
        run_peft(args, path, layers)
        return
    elements = sum(int(np.prod(shape)) for _, shape in layers)
    times, copy, kept, changed = run_plan(args, path, layers)
    rows = {step: found.row() for step, found in times.items()}
    print(f"{len(layers)} layers, {2 * elements:,} bytes of F16, rank "
          f"{resize.RANK_IN} ({source}), {args.runs} runs each; "
          f"{kept:,} bytes kept")
    print(f"numbers that are not as before: {changed:,}")
    peft = ask_peft(args)
    if peft:
        print(f"and by PEFT: {peft['changed']:,} of {elements:,}")
    shown = {f"plan: {step}": row for step, row in rows.items()}
    shown["copy of all weights"] = copy.row()
    if peft:
        shown |= {f"PEFT: {step}": row for step, row in peft["rows"].items()}
    resize.table(shown, rows["strength"])
    for step in STEPS if peft else ():
        print(f"{step:10} PEFT / plan: " + ", ".join(
            f"{what} {peft['rows'][step][what] / rows[step][what]:.2f}"
            for what in ("wall", "cpu")))
    if args.json:
        args.json.write_text(json.dumps(
            {"rows": rows, "copy": copy.row(), "peft": peft,
             "layers": len(layers), "bytes": 2 * elements}, indent=1) + "\n")


if __name__ == "__main__":
    main()
