"""Extraction with rules for the whole file, against numpy float64: the file is
never larger than asked, and its directions are those that numpy takes first, in
descending order of sigma^2 / bytes.

Layers are those of test_extract_forms.py, whose singular values are a few
percent apart: their order is certain.
"""

import sys
import pathlib

import numpy as np

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import support  # noqa: E402
from support import close, equal, require  # noqa: E402
from test_extract_forms import LAYERS, U, Pair, flat, meaning, of_layer  # noqa: E402

BYTES = {"f32": 4, "f16": 2, "bf16": 2}
DIRECTION = {key: shape[0] + int(np.prod(shape[1:]))
             for key, (_, _, shape) in LAYERS.items()}


def ranks_of(tensors):
    layers = {key: of_layer(tensors, key) for key in LAYERS}
    for key, layer in layers.items():
        equal(set(layer), {"lora_up.weight", "lora_down.weight", "alpha"}, key)
        equal(layer["alpha"], len(layer["lora_down.weight"]), f"alpha of {key}")
    return {k: len(v["lora_down.weight"]) for k, v in layers.items()}


def taken_first(pair, count, most=128, fixed=()):
    """The ranks after so many directions beyond the first of each layer."""
    ranks, steps = dict.fromkeys(LAYERS, 1), []
    for key, delta in pair.delta.items():
        if key in dict(fixed):
            continue
        sigma = np.linalg.svd(flat(delta), compute_uv=False)
        steps += [(-s**2 / DIRECTION[key], key) for s in sigma[1:most]]
    steps.sort()
    for _, key in steps[:count]:
        ranks[key] += 1
    return ranks, steps[count:]


def check_size(pair, asked, dtype="f16", most=128, fixed=(), more=()):
    """`fixed`: ranks of layers that have a rule of their own."""
    report, tensors = pair.extract("--size", asked, *more, dtype=dtype)
    bytes_out = pair.suite.path("forms.safetensors").stat().st_size
    require(bytes_out <= asked, f"{bytes_out} bytes, {asked} asked for")
    ranks = ranks_of(tensors)
    free = sum(r - 1 for key, r in ranks.items() if key not in dict(fixed))
    expected, left = taken_first(pair, free, most, fixed)
    equal(ranks, {**expected, **dict(fixed)}, "ranks")
    if left:  # the next did not fit, with some digits of the header
        room = DIRECTION[left[0][1]] * BYTES[dtype] + 64
        require(asked - bytes_out < room, f"{asked - bytes_out} bytes unused")
    check_numbers(pair, report, tensors, ranks, dtype)
    return bytes_out


def check_numbers(pair, report, tensors, ranks, dtype):
    """What the report says, and that nothing better has that rank."""
    for key, (stored, _, shape) in LAYERS.items():
        delta = pair.delta[key]
        row = next(r for r in report["modules"] if r["name"] == stored)
        got = meaning(of_layer(tensors, key), shape)
        sigma = np.linalg.svd(flat(delta), compute_uv=False)
        best = np.linalg.norm(sigma[ranks[key]:])
        error, norm = np.linalg.norm(got - delta), np.linalg.norm(delta)
        equal(row["rank_out"], ranks[key], f"rank of {key}")
        slack = 4 * U[dtype] * norm
        close(row["error"], error, 0.01 * best + slack, f"error of {key}")
        require(error <= 1.01 * best + slack, f"{key}: {error:g}, {best:g}")
        close(row["energy"], 1 - (row["error"] / norm)**2, 1e-6, key)


def check_all(pair):
    """More than there is: everything, and no more."""
    _, tensors = pair.extract("--size", "1MB", dtype="f32")
    ranks = ranks_of(tensors)
    for key, (_, _, shape) in LAYERS.items():
        full = min(shape[0], int(np.prod(shape[1:])))
        require(ranks[key] <= full, f"rank of {key}")
        close(meaning(of_layer(tensors, key), shape), pair.delta[key],
              1e-5, key)


def check_grows(pair):
    """Larger sizes, no smaller ranks."""
    before = dict.fromkeys(LAYERS, 1)
    for asked in range(6000, 40000, 3407):
        ranks = ranks_of(pair.extract("--size", asked, dtype="f16")[1])
        for key in LAYERS:
            require(ranks[key] >= before[key], f"{key} at {asked}")
        before = ranks


def check_own(pair):
    """Layers with rules of their own keep them, named by the checkpoint's key
    or by ours."""
    check_size(pair, 20000, fixed=(("conv", 3), ("ff", 9)), more=(
        "--conv-rank", 3, "--module-rank", f"{LAYERS['ff'][0]}=9"))
    check_size(pair, 20000, fixed=(("to_q", 2),), more=(
        "--module-rank", "*attn1.to_q=2"))


def check_cores(pair):
    """With cores, which pay at the cap, the file is no larger either, and they
    are kept. What the report says of their error is an estimate: what is lost
    twice need not be orthogonal."""
    for asked in (4500, 6000):
        report, tensors = pair.extract("--kind", "tucker", "--size", asked,
                                       "--max-rank", 12, dtype="f16")
        size = pair.suite.path("forms.safetensors").stat().st_size
        require(0.8 * asked < size <= asked, f"{size} bytes, not {asked}")
        layer = of_layer(tensors, "conv")
        rank = layer["lora_mid.weight"].shape[0]
        equal(layer["lora_mid.weight"].shape, (rank, rank, 3, 3), "core")
        got = meaning(layer, LAYERS["conv"][2])
        row = next(r for r in report["modules"]
                   if r["name"] == LAYERS["conv"][0])
        error = np.linalg.norm(got - pair.delta["conv"])
        require(row["estimate"] and row["rank_out"] == rank, str(row))
        close(row["error"], error, 0.1 * error, "error")


def check_too_small(suite, pair):
    out = suite.path("small.safetensors")
    run = suite.run("extract", pair.base, pair.tuned, "-o", out, "--size", 900,
                    "--dialect", "kohya", code=None)
    require(run.code not in (0, support.MEMORY), str(run))
    require("size" in run.err and not out.exists(), str(run))


def check_refused(suite, pair, *args):
    out = suite.path("refused.safetensors")
    run = suite.run("extract", pair.base, pair.tuned, "-o", out, "--dialect",
                    "kohya", *args, code=None)
    require(run.code not in (0, support.MEMORY), str(run))
    require(not out.exists(), "a file in spite of that")


def check_types(suite):
    """Without --dtype: one of half the size of F32, BF16 of BF16."""
    for dtype, wanted in (("F32", "F16"), ("BF16", "BF16"), ("F16", "F16")):
        pair = Pair(suite, dtype)
        out = suite.path("types.safetensors")
        suite.json("extract", pair.base, pair.tuned, "-o", out, "--force",
                   "--dialect", "kohya", "--size", 20000)
        require(out.stat().st_size <= 20000, f"{out.stat().st_size} bytes")
        tensors = support.read_file(out)[0]
        equal({t.dtype for n, t in tensors.items() if "lora_" in
               n.rpartition(".weight")[0].rpartition(".")[2]}, {wanted}, dtype)


def check_threshold(pair):
    """The same threshold in all layers."""
    _, tensors = pair.extract("--global-threshold", 0.1)
    for key, delta in pair.delta.items():
        sigma = np.linalg.svd(flat(delta), compute_uv=False)
        layer = of_layer(tensors, key)
        equal(len(layer["lora_down.weight"]), int(np.sum(sigma > 0.1)), key)


def main():
    suite = support.Suite(__doc__.splitlines()[0])
    pair = Pair(suite)
    for dtype in BYTES:
        for asked in (6000, 13001, 27500):
            asked *= BYTES[dtype] // 2
            with suite.case(f"{asked} bytes of {dtype}"):
                check_size(pair, asked, dtype)
    with suite.case("a cap"):
        check_size(pair, 20000, most=5, more=("--max-rank", 5))
    for check in (check_all, check_grows, check_own, check_threshold,
                  check_cores):
        with suite.case(check.__name__):
            check(pair)
    with suite.case("too small"):
        check_too_small(suite, pair)
    with suite.case("types"):
        check_types(suite)
    for args in (("--size", 20000, "--rank", 4),
                 ("--size", 20000, "--kind", "full"),
                 ("--size", 20000, "--kind", "lokr"),
                 ("--size", 20000, "--clamp", 0.99),
                 ("--global-threshold", 0.1, "--conv-rank", 3)):
        with suite.case(f"refused: {' '.join(map(str, args))}"):
            check_refused(suite, pair, *args)
    return suite.finish()


if __name__ == "__main__":
    sys.exit(main())
