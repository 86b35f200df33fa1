"""LoRA, LoCon, LoHa and Light-LoRA as the nearest LoKr, against numpy float64.

The rearranged change, a row for each block, is decomposed by numpy: the nearest
product leaves all but its largest singular value. What is written must leave as
much as the report says, and no more than that by the bounds: the change is made
in f32 (2^-24 of each number, times the terms of a sum), factors are rounded to
their type (2^-24, 2^-11 for f16), each of which moves the product by so much of
its norm, and the error by no more.

With a rank, w2 is cut to its best, and w1 fitted to it once: so is it done here.
"""

import pathlib
import sys

import numpy as np

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import support  # noqa: E402
from support import FAILED, USAGE, close, equal, require, tensor  # noqa: E402
from test_products import CONV, LINEAR  # noqa: E402

TEXT = "lora_te_text_model_encoder_layers_0_mlp_fc1"
ROUNDED = {"f32": 2.0**-24, "f16": 2.0**-11}


def split(side, factor):
    """As LyCORIS divides: the smaller part first."""
    if factor and side % factor == 0:
        return tuple(sorted((factor, side // factor)))
    m = max(d for d in range(1, int(side**0.5) + 1)
            if side % d == 0 and (not factor or d <= factor))
    return m, side // m


def rearranged(change, o1, i1):
    """[o1 i1, o2 i2 K] of [out, in K]."""
    rows, cols = change.shape
    blocks = change.reshape(o1, rows // o1, i1, cols // i1)
    return blocks.transpose(0, 2, 1, 3).reshape(o1 * i1, -1)


def best(change, o1, i1, rank):
    """|change - product|"""
    r = rearranged(change, o1, i1)
    u, sigma, vt = np.linalg.svd(r, full_matrices=False)
    if rank is None:
        return np.sqrt(np.square(sigma[1:]).sum())
    w2 = (sigma[0] * vt[0]).reshape(change.shape[0] // o1, -1)
    a, s, b = np.linalg.svd(w2, full_matrices=False)
    w2 = ((a[:, :rank] * s[:rank]) @ b[:rank]).reshape(-1)
    w1 = r @ w2 / (w2 @ w2)
    return np.linalg.norm(r - np.outer(w1, w2))


def check(suite, path, changes, dtype, factor=None, rank=None, more=()):
    out = suite.path("lokr.safetensors")
    report = suite.json("convert", path, "-o", out, "--as", "lokr", "--force",
                        "--dtype", dtype, *more,
                        *(["--factor", factor] if factor else []),
                        *(["--rank", rank] if rank else []))["report"]
    support.require_writer_rules(out)
    tensors, _ = support.read_file(out)
    equal({row["name"] for row in report["modules"]}, set(changes), "modules")
    lost = norm = 0.0
    for row in report["modules"]:
        shape, change = changes[row["name"]]
        (o1, o2), (i1, i2) = (split(side, factor or 0) for side in shape[:2])
        cut = rank and rank * (o2 + i2 * int(np.prod(shape[2:]))) < \
            o2 * i2 * int(np.prod(shape[2:]))
        equal((row["w1"], row["w2"]), ([o1, i1], [o2, i2, *shape[2:]]),
              "shapes")
        equal(row["rank_out"], rank if cut else 0, "rank")
        own = {n.rpartition(".")[2]: t for n, t in tensors.items()
               if n.startswith(row["name"] + ".")}
        equal(set(own), {"alpha", "lokr_w1", *(("lokr_w2_a", "lokr_w2_b")
                                               if cut else ("lokr_w2",))},
              "tensors")
        if not cut:
            equal(own["lokr_w2"].shape, (o2, i2, *shape[2:]), "shape of w2")
        equal(float(own["alpha"].array()), rank if cut else 1, "alpha")
        stored = support.module_change(tensors, row["name"])
        size = np.linalg.norm(change)
        got = np.linalg.norm(change - stored)
        want = best(change, o1, i1, rank if cut else None)
        bound = (64 * 2.0**-24 + 4 * ROUNDED[dtype]) * size
        require(abs(got - row["error"]) <= bound, f"told: {row}, is {got}")
        # Lanczos stops at 1e-6 of the vector: 1e-10 of the squares
        require(abs(got - want) <= bound + 1e-5 * size,
                f"{row['name']}: {got}, nearest {want} of {size}")
        close(row["norm"], size, bound, "norm")
        close(row["energy"], 1 - (row["error"] / row["norm"])**2, 1e-12,
              "energy")
        lost += row["error"]**2
        norm += row["norm"]**2
    close(report["totals"]["error"], np.sqrt(lost), 1e-9 * np.sqrt(norm),
          "totals")
    return tensors


def make(rng, shapes, spread=1.0):
    """(tensors, {module: (shape of the weight, change)}); ranks of 3, terms
    fall off by `spread`."""
    tensors, changes = {}, {}
    for name, (rows, cols, *kernel) in shapes.items():
        down = rng.standard_normal((3, cols, *kernel))
        up = rng.standard_normal((rows, 3, *[1] * len(kernel)))
        up *= (spread ** np.arange(3)).reshape(1, 3, *[1] * len(kernel))
        tensors[name + ".lora_down.weight"] = tensor(down)
        tensors[name + ".lora_up.weight"] = tensor(up)
        tensors[name + ".alpha"] = tensor(np.array(1.5))
        changes[name] = ((rows, cols, *kernel), support.flat(
            support.module_delta(tensors, name)[0]))
    return tensors, changes


SHAPES = {LINEAR: (24, 18), CONV: (16, 12, 3, 3), TEXT: (15, 7)}


def try_nearest(suite):
    for seed in range(3):
        tensors, changes = make(np.random.default_rng(seed), SHAPES, 0.3)
        path = suite.path("in.safetensors")
        support.write_file(path, tensors)
        for dtype in ROUNDED:
            for factor in (None, 2, 4, 5):
                for rank in (None, 1, 2):
                    check(suite, path, changes, dtype, factor, rank)


def try_found_again(suite):
    """What is a product comes back as one."""
    rng = np.random.default_rng(9)
    a, b = rng.standard_normal((4, 1)), rng.standard_normal((1, 3))
    u, v = rng.standard_normal((6, 1)), rng.standard_normal((1, 6))
    tensors = {LINEAR + ".lora_up.weight": tensor(np.kron(a, u)),
               LINEAR + ".lora_down.weight": tensor(np.kron(b, v))}
    path = suite.path("in.safetensors")
    support.write_file(path, tensors)
    change = support.flat(support.module_delta(tensors, LINEAR)[0])
    for rank in (None, 1):
        got = check(suite, path, {LINEAR: ((24, 18), change)}, "f32", 4, rank) \
            if split(18, 4) == (3, 6) else None
        require(got is not None, "sides")
        close(support.module_change(got, LINEAR), change,
              8 * 2.0**-24 * np.abs(change).max(), "change")


def try_zero(suite):
    """A layer that was not trained yet is a product of zeros."""
    tensors, changes = make(np.random.default_rng(1), {LINEAR: (24, 18)})
    tensors[LINEAR + ".lora_up.weight"] = tensor(np.zeros((24, 3)))
    path = suite.path("in.safetensors")
    support.write_file(path, tensors)
    for rank in (None, 1):
        out = suite.path("zero.safetensors")
        suite.run("convert", path, "-o", out, "--as", "lokr", "--force",
                  *(["--rank", rank] if rank else []))
        got, _ = support.read_file(out)
        require(not support.module_change(got, LINEAR).any(), "change")


def try_others(suite):
    """LoHa and a core become products too; what has no factors stays."""
    rng = np.random.default_rng(3)
    norm = "lora_unet_down_blocks_0_resnets_0_norm1"
    tensors = {f"{LINEAR}.hada_{part}": tensor(rng.standard_normal(shape))
               for part, shape in (("w1_a", (24, 2)), ("w1_b", (2, 18)),
                                   ("w2_a", (24, 2)), ("w2_b", (2, 18)))}
    tensors |= {CONV + ".lora_down.weight":
                tensor(rng.standard_normal((3, 12, 1, 1))),
                CONV + ".lora_mid.weight":
                tensor(rng.standard_normal((3, 3, 3, 3))),
                CONV + ".lora_up.weight":
                tensor(rng.standard_normal((16, 3, 1, 1)))}
    tensors[norm + ".w_norm"] = tensor(rng.standard_normal(32))
    path = suite.path("in.safetensors")
    support.write_file(path, tensors)
    changes = {LINEAR: ((24, 18), support.module_change(tensors, LINEAR)),
               CONV: ((16, 12, 3, 3), support.flat(
                   support.module_delta(tensors, CONV)[0]))}
    got = check(suite, path, changes, "f32", 4)
    require(got[norm + ".w_norm"].same(tensors[norm + ".w_norm"]), "norm")


def try_names(suite):
    """With another dialect the names are those of it; PEFT's folder has what
    it needs to make such layers."""
    tensors, changes = make(np.random.default_rng(4), SHAPES)
    path = suite.path("in.safetensors")
    support.write_file(path, tensors)
    run = suite.run("convert", path, "-o", suite.path("no.safetensors"),
                    "--as", "lokr", "--dialect", "diffusers", code=FAILED)
    require("diffusers cannot hold lokr" in run.err, f"reason: {run}")
    folder = suite.path("peft")
    suite.run("convert", path, "-o", f"{folder}/", "--as", "lokr", "--dialect",
              "peft", "--drop", "text_encoder", "--dtype", "f32")
    out, there = (suite.path(f"{x}.safetensors") for x in ("a", "b"))
    suite.run("convert", path, "-o", there, "--as", "lokr", "--dtype", "f32")
    deltas = []
    for file in (there, folder):
        suite.run("delta", file, "-o", out, "--force", "--dtype", "f64",
                  "--names", "canonical")
        deltas.append({name.removeprefix("unet."): t.array() for name, t in
                       support.read_file(out)[0].items()
                       if "text_encoder" not in name})
    equal(set(deltas[0]), set(deltas[1]), "layers")
    for name, change in deltas[0].items():
        close(deltas[1][name], change, 2.0**-50 * np.abs(change).max(), name)
    for more in (["--factor", 2], ["--rank", 2],
                 ["--as", "lora", "--factor", 2]):
        suite.run("convert", path, "-o", out, "--force", *more, code=USAGE)


def main():
    suite = support.Suite(__doc__.splitlines()[0])
    for test in (try_nearest, try_found_again, try_zero, try_others, try_names):
        with suite.case(test.__name__[4:]):
            test(suite)
    return suite.finish()


if __name__ == "__main__":
    sys.exit(main())
