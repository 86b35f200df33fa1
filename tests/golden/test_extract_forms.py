"""Forms of extraction: cores, Kronecker products and full differences, against
numpy float64.

What the written file means is computed here from the formulas of each form, and
its error compared with that of the best approximation that numpy finds. Bounds:

  core          1.01 of what alternating least squares from the truncated HOSVD
                comes to, and 4 u |dW| for the rounding of three factors
  Kronecker     1e-4 of the least error, as the library says, and 4 u |dW|
  u             half the spacing of the type at 1: 2^-24, 2^-11, 2^-8
"""

import sys
import pathlib

import numpy as np

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import support  # noqa: E402
from support import close, equal, require  # noqa: E402

BLOCK = "model.diffusion_model.input_blocks.1."
OURS = "lora_unet_down_blocks_0_"
U = {"f32": 2**-24, "f16": 2**-11, "bf16": 2**-8}

# name in the checkpoint, in kohya's, shape. The prime sides leave nothing to
# divide; the 1 x 1 convolution is a matrix with four dimensions.
LAYERS = {
    "to_q": (BLOCK + "1.transformer_blocks.0.attn1.to_q",
             OURS + "attentions_0_transformer_blocks_0_attn1_to_q", (48, 40)),
    "ff": (BLOCK + "1.transformer_blocks.0.ff.net.2",
           OURS + "attentions_0_transformer_blocks_0_ff_net_2", (36, 60)),
    "prime": (BLOCK + "1.transformer_blocks.0.attn2.to_k",
              OURS + "attentions_0_transformer_blocks_0_attn2_to_k", (37, 41)),
    "flat": (BLOCK + "1.proj_in", OURS + "attentions_0_proj_in",
             (40, 40, 1, 1)),
    "conv": (BLOCK + "0.in_layers.2", OURS + "resnets_0_conv1",
             (32, 24, 3, 3)),
}


def spectrum_matrix(random, rows, cols, fall=0.75):
    """Singular values that fall off, and what is near no form in particular."""
    rank = min(rows, cols)
    u = np.linalg.qr(random.standard_normal((rows, rank)))[0]
    v = np.linalg.qr(random.standard_normal((cols, rank)))[0]
    return 0.5 * u * fall**np.arange(rank) @ v.T


class Pair:
    """A base, what it was tuned to, and the f64 difference of both."""

    def __init__(self, suite, dtype="F32", unchanged=(), conv=None):
        random = np.random.default_rng(11)
        self.suite = suite
        self.base, self.tuned = (suite.path(f"{part}.safetensors")
                                 for part in ("base", "tuned"))
        self.delta, files = {}, ({}, {})
        for key, (name, _, shape) in LAYERS.items():
            rows, cols = shape[0], int(np.prod(shape[1:]))
            base = random.standard_normal(shape).astype("f4")
            change = spectrum_matrix(random, rows, cols).reshape(shape)
            change = conv if key == "conv" and conv is not None else change
            tuned = base + (0 if key in unchanged else change)
            pieces = [support.tensor(a.astype("f4"), t)
                      for a, t in ((base, "F32"), (tuned, dtype))]
            for file, piece in zip(files, pieces):
                file[name + ".weight"] = piece
            one, two = (p.array().astype(np.float64) for p in pieces)
            self.delta[key] = two - one
        for path, tensors in zip((self.base, self.tuned), files):
            support.write_file(path, tensors)

    def extract(self, *args, dtype="f32"):
        out = self.suite.path("forms.safetensors")
        report = self.suite.json(
            "extract", self.base, self.tuned, "-o", out, "--force", "--dialect",
            "kohya", "--dtype", dtype, *args)
        support.require_writer_rules(out)
        problems = self.suite.json("check", out)["problems"]
        equal([p for p in problems if p["severity"] != "note"], [],
              "problems of the result")
        tensors = support.read_file(out)[0]
        for name, t in tensors.items():
            if not name.endswith(".alpha"):
                equal(t.dtype, dtype.upper(), name)
        return report, tensors


def of_layer(tensors, key):
    """{suffix: f64 array} of a layer."""
    name = LAYERS[key][1] + "."
    return {k.removeprefix(name): t.array().astype(np.float64)
            for k, t in tensors.items() if k.startswith(name)}


def flat(array):
    return array.reshape(array.shape[0], -1)


def meaning(layer, shape):
    """dW of a layer's tensors, by the formula of whatever form they are."""
    if "diff" in layer:
        equal(set(layer), {"diff"}, "tensors of a full difference")
        return layer["diff"]
    if "lokr_w1" in layer:
        return lokr_meaning(layer, shape)
    up, down = flat(layer["lora_up.weight"]), flat(layer["lora_down.weight"])
    rank = down.shape[0]
    equal(layer["alpha"], rank, "alpha")
    if "lora_mid.weight" not in layer:
        return (up @ down).reshape(shape)
    return np.einsum("pi,ij...,jq->pq...", up, layer["lora_mid.weight"], down)


def lokr_meaning(layer, shape):
    if "lokr_w2" in layer:
        # No rank: some programs take it for 1, others the scale for 1.
        equal(layer["alpha"], 1, "alpha of a product without rank")
        w2 = layer["lokr_w2"]
        equal(w2.ndim, len(shape), "dimensions of w2")
    else:
        w2_a, w2_b = layer["lokr_w2_a"], layer["lokr_w2_b"]
        equal(layer["alpha"], w2_b.shape[0], "alpha")
        equal(w2_a.shape[1], w2_b.shape[0], "ranks of w2")
        w2 = w2_a @ w2_b
    equal(layer["lokr_w1"].ndim, 2, "dimensions of w1")
    return np.kron(layer["lokr_w1"], flat(w2)).reshape(shape)


def row_of(report, key):
    stored = LAYERS[key][0]
    return next(row for row in report["modules"]
                if row["name"] == stored)


def check_row(report, key, delta, got, slack):
    row = row_of(report, key)
    norm, error = np.linalg.norm(delta), np.linalg.norm(got - delta)
    close(row["norm"], norm, 1e-6 * norm, f"norm of {key}")
    close(row["error"], error, slack, f"error of {key}")
    require(not row["estimate"] or "conv" != key, "an error that was measured")
    return error


# Cores -----------------------------------------------------------------------

def best_core(delta, rank):
    """The error of the Tucker form with a core [rank, rank, k k]: alternating
    least squares from the leading vectors of both unfoldings."""
    def leading(matrix):
        return np.linalg.svd(matrix, full_matrices=False)[0][:, :rank]

    m = delta.reshape(delta.shape[0], delta.shape[1], -1)
    down = leading(m.transpose(1, 0, 2).reshape(m.shape[1], -1))
    for _ in range(200):
        up = leading(np.einsum("pqx,qj->pjx", m, down).reshape(len(m), -1))
        down = leading(np.einsum("pqx,pi->qix", m, up).reshape(m.shape[1], -1))
    core = np.einsum("pqx,pi,qj->ijx", m, up, down)
    return np.sqrt(max(0.0, np.sum(m**2) - np.sum(core**2)))


def check_core(pair, rank, dtype, *rule):
    report, tensors = pair.extract("--kind", "tucker", *rule, dtype=dtype)
    for key, (_, _, shape) in LAYERS.items():
        layer, delta = of_layer(tensors, key), pair.delta[key]
        got = meaning(layer, shape)
        slack = 4 * U[dtype] * np.linalg.norm(delta)
        error = check_row(report, key, delta, got, slack)
        if key == "conv":
            equal(layer["lora_up.weight"].shape, (32, rank, 1, 1), "up")
            equal(layer["lora_mid.weight"].shape, (rank, rank, 3, 3), "core")
            equal(layer["lora_down.weight"].shape, (rank, 24, 1, 1), "down")
            best = best_core(delta, rank)
        else:
            require("lora_mid.weight" not in layer, f"a core of {key}")
            sigma = np.linalg.svd(flat(delta), compute_uv=False)
            best = np.linalg.norm(sigma[layer["lora_up.weight"].shape[1]:])
        require(error <= 1.01 * best + slack,
                f"{key}: error {error:g}, least {best:g}")


def check_core_rule(suite, outer, inner):
    """The rank of a core is the larger of what the rule says of the weight as
    [out, in k k] and as [in, out k k]; there is none where a pair is smaller.
    Whether there is one."""
    random = np.random.default_rng(3)
    core = random.standard_normal((8, 8, 3, 3))
    core *= (outer**np.arange(8))[:, None, None, None]
    core *= (inner**np.arange(8))[:, None, None]
    up, down = (np.linalg.qr(random.standard_normal((n, 8)))[0]
                for n in (32, 24))
    pair = Pair(suite, conv=np.einsum("pi,ijxy,qj->pqxy", up, core, down))
    ranks = []
    for axis in (0, 1):
        unfolded = flat(np.moveaxis(pair.delta["conv"], axis, 0))
        sigma = np.linalg.svd(unfolded, compute_uv=False)
        share = np.cumsum(sigma**2) / np.sum(sigma**2)
        ranks.append(int(np.argmax(share >= 0.9)) + 1)
    equal(ranks[0] > ranks[1], outer > inner, "which is larger")
    if max(ranks) * (32 + 24 + 9 * max(ranks)) < ranks[0] * (32 + 24 * 9):
        check_core(pair, max(ranks), "f32", "--energy", 0.9)
        return True
    _, tensors = pair.extract("--kind", "tucker", "--energy", 0.9)
    layer = of_layer(tensors, "conv")
    require("lora_mid.weight" not in layer, "a core larger than a pair")
    equal(layer["lora_down.weight"].shape, (ranks[0], 24, 3, 3), "down")
    return False


def check_core_too_large(pair):
    """From r k k + in >= in k k on, here 22, a pair is smaller and better."""
    for rank, cored in ((21, True), (22, False)):
        _, tensors = pair.extract("--kind", "tucker", "--rank", 1,
                                  "--conv-rank", rank)
        layer = of_layer(tensors, "conv")
        equal("lora_mid.weight" in layer, cored, f"core of rank {rank}")
        equal(flat(layer["lora_down.weight"]).shape[0], rank, "rank")


# Kronecker products ------------------------------------------------------------

def divided(size, factor):
    """How LyCORIS divides a dimension: (small, large)."""
    if factor > 0 and size % factor == 0:
        return tuple(sorted((factor, size // factor)))
    limit = min(factor, size) if factor > 0 else size
    best = max(d for d in range(1, int(size**0.5) + 1)
               if size % d == 0 and d <= limit)
    return best, size // best


def blocks(matrix, one, two):
    """R[o1 i1, o2 i2k] of M[o1 o2, i1 i2k]: its rows are blocks of M."""
    return matrix.reshape(one[0], two[0], one[1], two[1]).transpose(
        0, 2, 1, 3).reshape(one[0] * one[1], -1)


def best_product(delta, one, two, rank):
    """The nearest product, w2 cut to a rank, w1 fitted to that; its error."""
    r = blocks(flat(delta), one, two)
    u, s, vt = np.linalg.svd(r, full_matrices=False)
    w2 = vt[0].reshape(two)
    values = np.linalg.svd(w2, compute_uv=False) * s[0]
    if rank:
        a, b, c = np.linalg.svd(w2, full_matrices=False)
        w2 = (a[:, :rank] * b[:rank]) @ c[:rank]
    w1 = r @ w2.ravel() / np.sum(w2**2)
    return np.linalg.norm(r - np.outer(w1, w2.ravel())), values


def check_lokr(pair, factor, rank, dtype="f32"):
    args = ["--kind", "lokr"] + (["--rank", rank] if rank else [])
    args += ["--factor", factor] if factor else []
    report, tensors = pair.extract(*args, dtype=dtype)
    for key, (_, _, shape) in LAYERS.items():
        delta, layer = pair.delta[key], of_layer(tensors, key)
        small, large = zip(divided(shape[0], factor), divided(shape[1], factor))
        kernel = int(np.prod(shape[2:]))
        two = (large[0], large[1] * kernel)
        slack = 4 * U[dtype] * np.linalg.norm(delta)
        if small == (1, 1) and not (rank and rank * sum(two) < np.prod(two)):
            require("diff" in layer, f"{key} pays nowhere")
            close(layer["diff"], delta, 2 * U[dtype] * np.abs(delta).max(), key)
            continue
        equal(layer["lokr_w1"].shape, small, f"w1 of {key}")
        cut = rank if rank and rank * sum(two) < np.prod(two) else 0
        if cut:
            equal(layer["lokr_w2_a"].shape, (two[0], cut), f"w2_a of {key}")
            equal(layer["lokr_w2_b"].shape, (cut, two[1]), f"w2_b of {key}")
        else:
            equal(layer["lokr_w2"].shape, large + shape[2:], f"w2 of {key}")
        got = meaning(layer, shape)
        error = check_row(report, key, delta, got, slack)
        best, values = best_product(delta, small, two, cut)
        require(error <= (1 + 1e-4) * best + slack,
                f"{key}: error {error:g}, least {best:g}")
        if cut:
            close(row_of(report, key)["sigma"][:cut], values[:cut],
                  1e-5 * values[0], f"values of {key}")


def check_lokr_rule(pair):
    """A rule is about |w1| sigma(w2)."""
    _, tensors = pair.extract("--kind", "lokr", "--factor", 4, "--energy", 0.9)
    for key, (_, _, shape) in LAYERS.items():
        small, large = zip(divided(shape[0], 4), divided(shape[1], 4))
        two = (large[0], large[1] * int(np.prod(shape[2:])))
        _, values = best_product(pair.delta[key], small, two, 0)
        share = np.cumsum(values**2) / np.sum(values**2)
        rank = int(np.argmax(share >= 0.9)) + 1
        layer = of_layer(tensors, key)
        if rank * sum(two) < np.prod(two):
            equal(layer["lokr_w2_b"].shape[0], rank, f"rank of {key}")
        else:
            require("lokr_w2" in layer or "diff" in layer, f"{key} is cut")


def check_exact_product(suite):
    """A difference that is a product is found, and kept to rounding."""
    random = np.random.default_rng(5)
    w1, w2 = (random.standard_normal(s) for s in ((4, 4), (8, 6, 3, 3)))
    delta = np.kron(w1, flat(w2)).reshape(32, 24, 3, 3).astype("f4")
    name = LAYERS["conv"][0] + ".weight"
    base, tuned = (suite.path(f"product.{i}.safetensors") for i in (0, 1))
    support.write_file(base, {name: support.tensor(0 * delta)})
    support.write_file(tuned, {name: support.tensor(delta)})
    out = suite.path("product.safetensors")
    suite.json("extract", base, tuned, "-o", out, "--force", "--kind", "lokr",
               "--dialect", "kohya", "--dtype", "f32", "--rank", 8)
    got = meaning(of_layer(support.read_file(out)[0], "conv"), delta.shape)
    close(got, delta, 1e-6 * np.abs(delta).max(), "the product")


# Full differences ---------------------------------------------------------------

def check_full(pair):
    """A pair of r (out + in) numbers, or the difference where that is as small:
    for [36, 60] from 23 on (22 * 96 < 2160 <= 23 * 96), for [40, 40] with
    equality at 20."""
    for key, rank, full in (("ff", 22, 0), ("ff", 23, 1),
                            ("flat", 19, 0), ("flat", 20, 1)):
        _, tensors = pair.extract("--rank", rank)
        layer, delta = of_layer(tensors, key), pair.delta[key]
        equal("diff" in layer, bool(full), f"{key} at rank {rank} in full")
        if full:
            equal(layer["diff"].shape, LAYERS[key][2], f"shape of {key}")
            close(layer["diff"], delta, 2**-23 * np.abs(delta).max(), key)


def check_no_full(suite, pair):
    """A dialect without a name for it gets the factors."""
    out = suite.path("diffusers.safetensors")
    suite.json("extract", pair.base, pair.tuned, "-o", out, "--force", "--rank",
               64)
    names = set(support.read_file(out)[0])
    require(all(n.endswith((".lora_A.weight", ".lora_B.weight"))
                for n in names) and len(names) == 2 * len(LAYERS), str(names))


# Noise ------------------------------------------------------------------------

def check_noise(suite, kind):
    """Layers that differ by nothing but the rounding to BF16 are left out of
    every form."""
    pair = Pair(suite, "BF16", ("to_q", "conv"))
    require(all(pair.delta[key].any() for key in LAYERS), "rounding is there")
    report, tensors = pair.extract("--kind", kind, "--rank", 3)
    for key in LAYERS:
        equal(bool(of_layer(tensors, key)), key not in ("to_q", "conv"), key)
    equal(report["totals"]["noise"], 2, "layers of noise")


# What is refused ------------------------------------------------------------------

def check_refused(suite, pair, kind, dialect):
    """Before any work, with the name of a dialect that can."""
    out = suite.path("refused.safetensors")
    run = suite.run("extract", pair.base, pair.tuned, "-o", out, "--kind", kind,
                    "--rank", 4, "--dialect", dialect, code=None)
    require(run.code not in (0, support.MEMORY), f"{kind} in {dialect}: {run}")
    require("kohya" in run.err and dialect in run.err, str(run))
    require(not out.exists(), "a file in spite of that")
    require(not out.with_name(out.name + ".journal").exists(), "a journal")


def main():
    suite = support.Suite(__doc__.splitlines()[0])
    pair = Pair(suite)
    for dtype in U:
        with suite.case(f"core {dtype}"):
            check_core(pair, 6, dtype, "--rank", 6)
        for factor in (0, 4):
            for rank in (0, 3, 64):  # 64 is more than there is
                with suite.case(f"lokr {factor}, rank {rank}, {dtype}"):
                    check_lokr(pair, factor, rank, dtype)
    for check in (check_core_too_large, check_lokr_rule, check_full):
        with suite.case(check.__name__):
            check(pair)
    for kind, dialect in (("tucker", "diffusers"), ("tucker", "peft"),
                          ("lokr", "diffusers"), ("lokr", "peft"),
                          ("full", "diffusers")):
        with suite.case(f"{kind} in {dialect} is refused"):
            check_refused(suite, pair, kind, dialect)
    with suite.case("exact product"):
        check_exact_product(suite)
    with suite.case("no full differences"):
        check_no_full(suite, pair)
    for outer, inner, core in ((0.9, 0.7, 1), (0.7, 0.9, 1), (0.6, 0.9, 0)):
        with suite.case(f"rule of a core, {outer} {inner}"):
            equal(check_core_rule(suite, outer, inner), bool(core), "a core")
    for kind in ("locon", "tucker", "lokr"):
        with suite.case(f"noise and {kind}"):
            check_noise(suite, kind)
    return suite.finish()


if __name__ == "__main__":
    sys.exit(main())
