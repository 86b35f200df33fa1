"""Golden weights: kinds whose change depends on the base weight, as the program
changes it and as the library does, at every strength that was recorded.

Each case first compares the formula, in numpy float64, with what the library of
origin made of the weight; then the program, with and without --weights, and the
library through the Python package, at the tolerance of the case: |got -
expected| <= atol + rtol * |expected|.
"""

import json
import math
import pathlib
import sys

import numpy as np

sys.dont_write_bytecode = True
HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "bindings")]
import bindinglib  # noqa: E402
import support  # noqa: E402
import test_kinds  # noqa: E402
from support import FAILED, MISMATCH, USAGE, equal, require, tensor  # noqa: E402


def arrays(path):
    return {name: t.array() for name, t in support.read_file(path)[0].items()}


# Formulas -------------------------------------------------------------------

class Module:
    """The tensors of one module, and the base's, in float64."""

    def __init__(self, case, config, target, tensors, base):
        self.case, self.config, self.target = case, config, target
        self.info = case["params"]["modules"][target]
        prefix = self.info["prefix"] + "."
        self.tensors, self.prefix = tensors, self.info["prefix"]
        self.own = {name[len(prefix):]: t.array().astype(np.float64)
                    for name, t in tensors.items() if name.startswith(prefix)}
        self.weight = base[target + ".weight"].astype(np.float64)
        self.bias = base.get(target + ".bias")

    def along(self, vector, axis):
        """A vector in the shape that multiplies one axis of the weight."""
        shape = [1] * self.weight.ndim
        shape[axis] = -1
        return vector.reshape(shape)


def ia3(m, strength):
    axis = 1 if m.own["on_input"] != 0 else 0
    return m.weight * (1 + strength * m.along(m.own["weight"], axis)), m.bias


def peft_ia3(m, strength):
    equal(strength, 1.0, "PEFT has no other strength")
    vector = m.own["ia3_l"]
    if m.target in m.config["feedforward_modules"]:
        return m.weight * m.along(vector, 1), m.bias
    bias = None if m.bias is None else m.bias * vector.reshape(-1)
    return m.weight * m.along(vector, 0), bias


def glora(m, strength):
    a1, a2, b1 = (support.flat(m.own[name + ".weight"])
                  for name in ("a1", "a2", "b1"))
    b2 = m.own["b2.weight"]
    scale = float(m.own["alpha"]) / a2.shape[0]
    change = np.einsum("oi...,ij->oj...", m.weight, a1 @ a2)
    change += np.einsum("or,r...->o...", b1, b2)
    return m.weight + strength * scale * change, m.bias


def full(m, strength):
    bias = m.own.get("diff_b")
    return (m.weight + strength * m.own["diff"],
            m.bias if bias is None else m.bias + strength * bias)


def norm(m, strength):
    return (m.weight + strength * m.own["w_norm"],
            m.bias + strength * m.own["b_norm"])


def norms(v, axis):
    """Of slices along an axis, in the shape that divides them."""
    others = tuple(i for i in range(v.ndim) if i != axis)
    return np.sqrt(np.square(v).sum(axis=others, keepdims=True))


def dora_lycoris(weight, change, magnitude, axis, strength):
    v = weight + change
    shape = [1] * v.ndim
    shape[axis] = -1
    ratio = magnitude.reshape(shape) / norms(v, axis)
    return v * (strength * (ratio - 1) + 1)


def dora_peft(weight, change, magnitude, axis, strength):
    v = weight + strength * change
    shape = [1] * v.ndim
    shape[axis] = -1
    return v * magnitude.reshape(shape) / norms(v, axis)


def dora(m, strength, rule=dora_lycoris):
    change = support.module_change(m.tensors, m.prefix)
    axis = 0 if m.case["params"]["options"]["wd_on_out"] else 1
    return rule(m.weight, change.reshape(m.weight.shape), m.own["dora_scale"],
                axis, strength), m.bias


def peft_dora(m, strength, rule=dora_peft):
    magnitude = m.own["lora_magnitude_vector"]
    if m.info["type"] == "embedding":
        a, b = m.own["lora_embedding_A"], m.own["lora_embedding_B"]
        change, axis = (b @ a).T, 1
    else:
        a, b = m.own["lora_A.weight"], m.own["lora_B.weight"]
        change, axis = support.lora_delta(a, b)[0].reshape(m.weight.shape), 0
    scale = test_kinds.peft_scale(m.config, m.target, a.shape[0])
    return rule(m.weight, scale * change, magnitude, axis, strength), m.bias


def tlora(m, strength):
    """Less what it was trained from: the largest directions of the weight."""
    q, p = (support.flat(m.own[name + "_layer.weight"]) for name in "qp")
    gates, rank = m.own["lambda_layer"].reshape(-1), q.shape[0]
    u, sigma, vt = np.linalg.svd(support.flat(m.weight), full_matrices=False)
    start = (u[:, :rank] * sigma[:rank]) @ vt[:rank]
    change = (p * gates) @ q - start
    scale = strength * float(m.own["alpha"]) / rank
    return m.weight + scale * change.reshape(m.weight.shape), m.bias


def cayley(q):
    """Of each of a stack of skew matrices."""
    one = np.eye(q.shape[-1])
    return (one + q) @ np.linalg.inv(one - q)


def flipped(blocks):
    return np.swapaxes(blocks, -1, -2)


def turned(m, strength, limit):
    """kohya's and LyCORIS' blocks, between the identity and rotations."""
    q = m.own["oft_blocks"] - flipped(m.own["oft_blocks"])
    most = float(m.own["alpha"]) * m.weight.shape[0]
    r = cayley(q * limit(np.sqrt(np.square(q).sum()), most))
    return np.eye(r.shape[-1]) + strength * (r - np.eye(r.shape[-1]))


def limit_kohya(norm, most):
    return (min(norm, most) + 1e-8) / (norm + 1e-8)


def limit_lycoris(norm, most):
    return most / (norm + 1e-8) if 0 < most < norm + 1e-8 else 1.0


def oft(m, strength, limit=limit_lycoris):
    r = turned(m, strength, limit)
    rows = m.weight.reshape(r.shape[0], r.shape[1], -1)
    w = np.einsum("knm,knp->kmp", r, rows).reshape(m.weight.shape)
    return w * m.along(m.own.get("rescale", np.ones(len(w))), 0), m.bias


def oft_kohya(m, strength):
    return oft(m, strength, limit_kohya)


def boft(m, strength):
    """Rows 2^i half blocks apart, one of each half in turn."""
    r = turned(m, strength, limit_lycoris)
    stages, count, side, _ = r.shape
    w = support.flat(m.weight)
    for i in range(stages):
        apart = 2**i * side // 2
        order = np.arange(len(w)).reshape(-1, 2, apart)
        order = order.transpose(0, 2, 1).reshape(-1)
        blocks = w[order].reshape(count, side, -1)
        w = w.copy()
        w[order] = (r[i] @ blocks).reshape(len(w), -1)
    w = w.reshape(m.weight.shape)
    return w * m.along(m.own.get("rescale", np.ones(len(w))), 0), m.bias


def series(q, terms, version):
    """What PEFT has in the place of the inverse; since 0.18 it is another."""
    powers = [np.eye(q.shape[-1]) + 0 * q]
    new = tuple(int(x) for x in version.split(".")[:2]) >= (0, 18) and terms > 2
    for _ in range(max(terms, 4) - 1 if new else terms - 1):
        powers.append(powers[-1] @ q)
    last = 1 if new else 2
    return sum(p * (1 if i == 0 else last if i == len(powers) - 1 else 2)
               for i, p in enumerate(powers))


def peft_oft(m, strength):
    equal(strength, 1.0, "PEFT has no other strength")
    triangles = m.own["oft_R.weight"]
    side = int((1 + math.sqrt(1 + 8 * triangles.shape[1])) / 2)
    q = np.zeros((len(triangles), side, side))
    q[(slice(None), *np.triu_indices(side, 1))] = triangles
    q -= flipped(q)
    if m.config["coft"]:
        most = m.config["eps"] / math.sqrt(len(q))
        norm = np.sqrt(np.square(q).sum(axis=(1, 2), keepdims=True))
        q *= np.minimum(1, most / norm)
    r = (series(q, m.config["num_cayley_neumann_terms"],
                m.config.get("peft_version", "0.17"))
         if m.config["use_cayley_neumann"] else cayley(-q))
    columns = support.flat(m.weight).reshape(len(m.weight), -1, side)
    if m.config["block_share"]:
        r = np.repeat(r, columns.shape[1], 0)
    return (np.einsum("onk,njk->onj", columns, r).reshape(m.weight.shape),
            m.bias)


def peft_boft(m, strength):
    """Columns 2^i half blocks apart, one half after the other."""
    equal(strength, 1.0, "PEFT has no other strength")
    r = cayley((flipped(m.own["boft_R"]) - m.own["boft_R"]) / 2)
    stages, count, side, _ = r.shape
    w = support.flat(m.weight).T
    for i in range(stages):
        order = np.arange(len(w))
        if i > 0:
            order = order.reshape(-1, 2, 2**i, side // 2)
            order = order.transpose(0, 2, 1, 3).reshape(-1)
        blocks = w[order].reshape(count, side, -1)
        w = w.copy()
        w[order] = (r[i] @ blocks).reshape(len(w), -1)
    return w.T.reshape(m.weight.shape) * m.along(m.own["boft_s"], 0), m.bias


FORMULAS = {"tlora": tlora, "ia3": ia3, "peft_ia3": peft_ia3, "glora": glora,
            "full": full, "norm": norm, "dora": dora,
            "peft_lora_dora": peft_dora, "oft": oft, "oft_kohya": oft_kohya,
            "boft": boft, "peft_oft": peft_oft, "peft_boft": peft_boft}


def formula_of(case):
    return FORMULAS[next(name for name in sorted(FORMULAS, key=len)[::-1]
                         if case["id"].startswith(name + "_"))]


# Cases ----------------------------------------------------------------------

class Case:
    def __init__(self, folder, case):
        self.case = case
        self.path, self.base_path = (folder / case[x]
                                     for x in ("adapter", "base"))
        self.base = arrays(self.base_path)
        self.expected = arrays(folder / case["expect"])
        self.more, self.config = [], None
        if "config" in case["params"]:
            path = folder / case["params"]["config"]
            self.more = ["--config", path]
            self.config = json.loads(path.read_text("utf-8"))
        tensors, _ = support.read_file(self.path)
        self.modules = [Module(case, self.config, target, tensors, self.base)
                        for target in case["params"]["modules"]]

    def bound(self, want):
        return self.case["atol"] + self.case["rtol"] * np.abs(want)

    def wants(self, strength):
        """(module, part, what is expected) of each tensor."""
        for m in self.modules:
            for part in ("weight", "bias"):
                want = self.expected.get(f"{m.target}.{part}@{strength:g}")
                if want is not None:
                    yield m, part, want

    def changes(self, strength):
        """The same for parts that do change."""
        return [(m, part, want) for m, part, want in self.wants(strength)
                if part == "weight" or
                not np.array_equal(want, self.base[m.target + ".bias"])]


def test_formula(suite, case):
    for strength in case.case["params"]["multipliers"]:
        for m, part, want in case.wants(strength):
            own = formula_of(case.case)(m, strength)[part == "bias"]
            support.close(own, want, case.bound(want),
                          f"{m.target}.{part} at {strength}")


def test_program(suite, case):
    for strength in case.case["params"]["multipliers"]:
        for weights in (False, True):
            out = suite.path("out.safetensors")
            suite.run("delta", case.path, "-o", out, "--base", case.base_path,
                      "--strength", strength, "--force", *case.more,
                      *(["--weights"] if weights else []))
            support.require_writer_rules(out)
            got = arrays(out)
            for m, part, want in case.changes(strength):
                name = m.info["prefix"]
                name += f".{part}" if weights or part == "bias" else ""
                start = 0 if weights else case.base[f"{m.target}.{part}"]
                equal(got[name].shape, want.shape, f"shape of {name}")
                support.close(start + got.pop(name).astype(np.float64), want,
                              case.bound(want), f"{name} at {strength}")
            equal(set(got), set(), f"further tensors at {strength}")


def test_library(suite, liblora, case):
    """The same through the interface of C, the base in F32 and F64."""
    with liblora.open(case.path, config=case.config) as adapter:
        for strength in case.case["params"]["multipliers"]:
            for m, part, want in case.changes(strength):
                start = case.base[f"{m.target}.{part}"]
                given = {"bias": m.bias}
                for dtype in ("F32", "F64"):
                    given["weight"] = m.weight.astype(
                        np.float32 if dtype == "F32" else np.float64)
                    for weights in (False, True):
                        got = adapter.delta(m.info["prefix"], strength, dtype,
                                            part=part, weights=weights, **given)
                        support.close((0 if weights else start) +
                                      got.astype(np.float64), want,
                                      case.bound(want),
                                      f"{m.target}.{part} at {strength}")


def delta(suite, case, *more):
    """W' of the modules, by the program."""
    out = suite.path("out.safetensors")
    suite.run("delta", case.path, "-o", out, "--base", case.base_path,
              "--force", "--weights", *case.more, *more)
    got = arrays(out)
    return {m: got[f"{m.prefix}.weight"] for m in case.modules}


def test_interpolated(suite, case):
    """The share of the way from the weight to what the origin makes of it."""
    for strength in (0.0, 0.25, -0.5, 2.0):
        got = delta(suite, case, "--strength", strength, "--strength-rule",
                    "interpolate")
        for m, value in got.items():
            whole = case.expected[m.target + ".weight@1"]
            want = m.weight + strength * (whole - m.weight)
            room = (case.bound(whole) * max(1, abs(strength)) +
                    1e-6 * np.abs(want))
            support.close(value, want, room, f"{m.target} at {strength}")


def test_dora_rules(suite, case):
    """The rules of either origin, asked for by name."""
    form = formula_of(case.case)
    for name, rule in (("lycoris", dora_lycoris), ("peft", dora_peft)):
        for strength in (0.0, 0.5, -0.7):
            got = delta(suite, case, "--strength", strength, "--dora", name)
            for m, value in got.items():
                want = form(m, strength, rule)[0]
                support.close(value, want, case.bound(want),
                              f"{m.target} at {strength} as {name}")


# Of which the trainer's merge and its forward pass disagree.
REFUSED = ("tlora_conv3",)


def test_refused_case(suite, case):
    said = changed(suite, case.path, case.base_path, code=MISMATCH)
    require(case.modules[0].prefix in said, said)


# Names, and what is refused -------------------------------------------------

KOHYA = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
TARGET = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
PEFT = "base_model.model.blk.to_q"


def ia3_file(suite, module, count=3):
    path = suite.path("ia3.safetensors")
    support.write_file(path, {
        module + ".weight": tensor(np.arange(count) - 1.0, "F32"),
        module + ".on_input": tensor(np.int64(1), "I64")})
    return path


def base_file(suite, tensors):
    path = suite.path("base.safetensors")
    support.write_file(path, tensors)
    return path


def changed(suite, path, base, *more, code=support.OK):
    out = suite.path("out.safetensors")
    out.unlink(missing_ok=True)
    run = suite.run("delta", path, "-o", out, "--base", base, *more, code=code)
    if code != support.OK:
        require(not out.exists(), "an output was left")
        equal(len(run.err.splitlines()), 1, "lines")
        return run.err
    return arrays(out)


def test_names(suite):
    weight = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    want = weight * [-1.0, 0.0, 1.0]
    for module, names in ((KOHYA, (KOHYA, TARGET)),
                          (PEFT, (PEFT, "blk.to_q"))):
        path = ia3_file(suite, module)
        for name in names:
            base = base_file(suite, {
                name + ".weight": tensor(weight, "BF16"),
                "other.weight": tensor(np.ones((2, 3)), "F32")})
            got = changed(suite, path, base)
            equal(set(got), {module}, f"tensors, the base having {name}")
            equal(got[module].tolist(), want.tolist(), name)
            got = changed(suite, path, base, "--weights", "--names",
                          "canonical")
            (_, value), = got.items()
            equal(value.tolist(), (weight + want).tolist(), name)


FLUX = "transformer.transformer_blocks.0.attn."
ORIGINAL = "model.diffusion_model.double_blocks.0.img_attn.qkv"
FUSED = "lora_unet_double_blocks_0_img_attn_qkv"
MODULATION = "lora_unet_final_layer_adaLN_modulation_1"


def rows_file(suite, name, factors):
    path = suite.path("rows.safetensors")
    support.write_file(path, {
        name + ".weight": tensor(factors, "F32"),
        name + ".on_input": tensor(np.int64(0), "I64"),
        # Tells the family.
        "lora_unet_single_blocks_0_linear1.lora_down.weight":
            tensor(np.ones((1, 4)), "F32"),
        "lora_unet_single_blocks_0_linear1.lora_up.weight":
            tensor(np.ones((28, 1)), "F32")})
    return path


def test_layouts(suite):
    """A base as its authors name and fuse it, or as diffusers has it, and the
    adapter the same way or the other."""
    rng = np.random.default_rng(5)
    whole = rng.standard_normal((12, 4)).astype(np.float32)
    original = {ORIGINAL + ".weight": tensor(whole, "F32")}
    split = {f"{FLUX}to_{x}.weight": tensor(part, "F32")
             for x, part in zip("qkv", np.split(whole, 3))}
    one = "lora_transformer_transformer_blocks_0_attn_to_k"
    for name, rows in ((FUSED, slice(0, 12)), (one, slice(4, 8))):
        factors = rng.standard_normal(12)[rows].astype(np.float32)
        path = rows_file(suite, name, factors)
        want = whole[rows] * factors[:, None]
        for what, tensors in (("original", original), ("diffusers", split)):
            base = base_file(suite, tensors)
            got = changed(suite, path, base)
            equal(got[name].tolist(), want.tolist(), f"{name}, {what} base")
            got = changed(suite, path, base, "--names", "canonical")
            parts = [got[f"{FLUX}to_{x}"] for x in "qkv"
                     if f"{FLUX}to_{x}" in got]
            equal(np.concatenate(parts).tolist(), want.tolist(),
                  f"{name}, {what} base, parts")
    del split[f"{FLUX}to_v.weight"]
    said = changed(suite, rows_file(suite, FUSED, np.ones(12)),
                   base_file(suite, split), code=MISMATCH)
    require(FUSED in said, said)
    moved = base_file(suite, {"transformer.norm_out.linear.weight":
                              tensor(whole, "F32")})
    factors = rng.standard_normal(12).astype(np.float32)
    got = changed(suite, rows_file(suite, MODULATION, factors), moved)
    want = np.roll(whole, 6, axis=0) * factors[:, None]
    equal(got[MODULATION].tolist(), want.tolist(), "moved rows")


def test_wide(suite):
    """Of a base in F64 no digit is lost in F64: whole, fused, in parts, with
    its rows in another order. A product and a sum are two roundings."""
    rng = np.random.default_rng(13)
    whole = rng.standard_normal((12, 4))
    require(np.abs(whole - whole.astype(np.float32)).max() > 1e-9, "digits")
    original = {ORIGINAL + ".weight": tensor(whole, "F64")}
    split = {f"{FLUX}to_{x}.weight": tensor(part, "F64")
             for x, part in zip("qkv", np.split(whole, 3))}
    moved = {"transformer.norm_out.linear.weight": tensor(whole, "F64")}
    one = "lora_transformer_transformer_blocks_0_attn_to_k"
    for name, want, bases in ((FUSED, whole, (original, split)),
                              (one, whole[4:8], (original, split)),
                              (MODULATION, np.roll(whole, 6, axis=0),
                               (moved,))):
        factors = rng.standard_normal(len(want)).astype(np.float32)
        path = rows_file(suite, name, factors)
        scale = factors[:, None].astype(np.float64)
        for tensors in bases:
            base = base_file(suite, {
                **tensors, "lora_unet_single_blocks_0_linear1.weight":
                tensor(np.ones((28, 4)), "F64")})
            change = changed(suite, path, base, "--dtype", "f64")[name]
            support.close(change, want * scale, 2.0 ** -52 *
                          np.abs(want * scale), f"change of {name}")
            weight = changed(suite, path, base, "--dtype", "f64",
                             "--weights")[name + ".weight"]
            support.close(weight, want * (1.0 + scale), 2.0 ** -51 *
                          np.abs(want) * (1 + np.abs(scale)), name)


def test_refused(suite):
    path = ia3_file(suite, KOHYA)
    weight = tensor(np.ones((2, 3)), "F32")
    out = suite.path("refused.safetensors")
    run = suite.run("delta", path, "-o", out, code=FAILED)
    require(KOHYA in run.err and "base" in run.err, f"no reason: {run}")
    suite.run("delta", path, "-o", out, "--weights", code=USAGE)
    suite.run("delta", path, "-o", out, "--base", suite.path("nowhere"),
              code=support.UNREADABLE)
    for what, tensors in {
            "no such weight": {"other.weight": weight},
            "too many columns": {KOHYA + ".weight":
                                 tensor(np.ones((2, 4)), "F32")},
            "a vector": {KOHYA + ".weight": tensor(np.ones(3), "F32")},
            "nothing": {KOHYA + ".weight": tensor(np.ones((0, 3)), "F32")},
            "integers": {KOHYA + ".weight": tensor(np.ones((2, 3)), "I32")},
    }.items():
        base = base_file(suite, tensors)
        said = changed(suite, path, base, code=MISMATCH)
        require(KOHYA in said, f"{what}: {said}")
        said = changed(suite, path, base, "--dry-run", code=MISMATCH)
        require(KOHYA in said, f"{what}, tried: {said}")


def test_skipped(suite):
    """With --skip-bad modules that the base does not fit are left out."""
    path = suite.path("two.safetensors")
    support.write_file(path, {
        name + suffix: data for name, count in ((KOHYA, 3), (PEFT, 5))
        for suffix, data in (
            (".weight", tensor(np.ones(count), "F32")),
            (".on_input", tensor(np.int64(1), "I64")))})
    weight = tensor(np.ones((2, 3)), "F32")
    for base in ({KOHYA + ".weight": weight},
                 {KOHYA + ".weight": weight, PEFT + ".weight": weight}):
        base = base_file(suite, base)
        said = changed(suite, path, base, code=MISMATCH)
        require(PEFT in said, said)
        equal(set(changed(suite, path, base, "--skip-bad")), {KOHYA}, "left")


def test_ia3_sides(suite):
    """PEFT's vector of a convolution says which side it is of by its length;
    where both are as long only the configuration does."""
    name = "base_model.model.conv"
    path = suite.path("peft.safetensors")
    support.write_file(path, {
        name + ".ia3_l": tensor(np.array([2.0, 0.5]).reshape(1, 2, 1, 1),
                                "F32")})
    rng = np.random.default_rng(1)
    for shape, axis in (((2, 3, 3, 3), 0), ((3, 2, 3, 3), 1), ((2, 2, 1, 1), None)):
        weight = rng.standard_normal(shape).astype(np.float32)
        bias = np.arange(shape[0]) + 1.0
        base = base_file(suite, {"conv.weight": tensor(weight, "F32"),
                                 "conv.bias": tensor(bias, "F32")})
        if axis is None:
            said = changed(suite, path, base, code=FAILED)
            require("feedforward_modules" in said, said)
            continue
        got = changed(suite, path, base, "--weights")
        factor = np.array([2.0, 0.5], np.float32)
        want = weight * factor.reshape((-1, 1, 1, 1) if axis == 0 else
                                       (1, -1, 1, 1))
        support.close(got[name + ".weight"], want, 1e-6 * np.abs(want), "W'")
        want = bias * factor if axis == 0 else bias
        support.close(got[name + ".bias"], want, 1e-6 * np.abs(want), "b'")


def tlora_file(suite, rank=2, metadata=None):
    rng = np.random.default_rng(7)
    path = suite.path("tlora.safetensors")
    support.write_file(path, {
        KOHYA + ".q_layer.weight": tensor(rng.standard_normal((rank, 6)), "F32"),
        KOHYA + ".p_layer.weight": tensor(rng.standard_normal((8, rank)), "F32"),
        KOHYA + ".lambda_layer": tensor(np.ones((1, rank)), "F32")}, metadata)
    return path


def test_tlora_start(suite):
    """What it was trained from must be known: by the trainer's arguments, and
    by the weight's singular values."""
    rng = np.random.default_rng(8)
    u, _ = np.linalg.qr(rng.standard_normal((8, 6)))
    v, _ = np.linalg.qr(rng.standard_normal((6, 6)))
    for sigma, code in (((5, 4, 3, 2, 1, 0.5), support.OK),
                        ((5, 3, 3, 2, 1, 0.5), FAILED),
                        ((5, 3, 2, 2, 1, 0.5), support.OK),
                        ((0, 0, 0, 0, 0, 0), support.OK)):
        base = base_file(suite, {KOHYA + ".weight":
                                 tensor((u * sigma) @ v.T, "F32")})
        got = changed(suite, tlora_file(suite), base, code=code)
        require(code == support.OK or KOHYA in got, f"{sigma}: {got}")
    for arguments, code in (
            ({"algo": "tlora", "sig_type": "principal"}, support.OK),
            ({"algo": "tlora", "sig_type": "last"}, FAILED),
            ({"algo": "tlora", "sig_type": "middle"}, FAILED),
            ({"use_data_init": "False"}, FAILED),
            ({"use_data_init": False}, FAILED),
            ({"use_data_init": "True"}, support.OK)):
        path = tlora_file(suite, 2, {"ss_network_args": json.dumps(arguments)})
        changed(suite, path, base, code=code)
    for rank, code in ((6, support.OK), (7, MISMATCH)):
        changed(suite, tlora_file(suite, rank), base, code=code)


def test_glora_layouts(suite):
    """Either layout, of any shape, also where the rank is the larger side; and
    one that could be either."""
    rng = np.random.default_rng(9)
    for out, in_, rank, kernel in ((7, 5, 2, ()), (5, 7, 2, (3, 3)),
                                   (6, 6, 2, ()), (5, 7, 8, ()), (4, 3, 3, ())):
        w = rng.standard_normal((out, in_) + kernel)
        base = base_file(suite, {KOHYA + ".weight": tensor(w, "F64")})
        ones = (1,) * len(kernel)
        left, right = (rng.standard_normal((in_, rank)),
                       rng.standard_normal((rank, in_)))
        up = rng.standard_normal((out, rank))
        down = rng.standard_normal((rank, in_) + kernel)
        want = 0.5 * (np.einsum("oi...,ij->oj...", w, left @ right) +
                      np.einsum("or,r...->o...", up, down))
        for old in (False, True):
            names = ("a2", "a1", "b2", "b1") if old else ("a1", "a2", "b1", "b2")
            path = suite.path("glora.safetensors")
            support.write_file(path, {
                **{f"{KOHYA}.{name}.weight": tensor(
                    value if value is down else
                    value.reshape(value.shape + ones), "F64")
                   for name, value in zip(names, (left, right, up, down))},
                KOHYA + ".alpha": tensor(np.float64(0.5 * rank), "F32")})
            got = changed(suite, path, base, "--dtype", "f64")[KOHYA]
            support.close(got, want, 1e-6 * np.abs(want).max(),
                          f"{out} x {in_} of {rank}, old: {old}")
    square = tensor(rng.standard_normal((4, 4)), "F32")
    path = suite.path("glora.safetensors")
    support.write_file(path, {f"{KOHYA}.{name}.weight": square
                              for name in ("a1", "a2", "b1", "b2")})
    base = base_file(suite, {KOHYA + ".weight": square})
    said = changed(suite, path, base, code=FAILED)
    require("layout" in said and KOHYA in said, said)


# name: (formula, shape of the weight, of the blocks, of rescale or boft_s,
# the configuration or alpha)
TURNED = {
    "oft": (oft, (120, 7, 3, 3), (3, 40, 40), (120, 1, 1, 1), 0.0),
    "oft of one block": (oft, (97, 5), (1, 97, 97), None, 0.0),
    "oft of ones": (oft, (5, 4), (5, 1, 1), (5, 1), 0.0),
    "oft, limited": (oft, (66, 5), (2, 33, 33), None, 0.02),
    "oft in pieces": (oft, (288, 4096), (3, 96, 96), (288, 1), 0.0),
    "oft of kohya": (oft_kohya, (70, 6), (2, 35, 35), None, 0.01),
    "boft": (boft, (80, 9), (4, 8, 10, 10), (80, 1), 0.0),
    "boft, odd": (boft, (36, 5, 3, 3), (2, 6, 6, 6), None, 0.05),
    "boft in pieces": (boft, (256, 4096), (4, 8, 32, 32), None, 0.0),
    "oft of PEFT": (peft_oft, (40, 99), (3, 528), None,
                    {"use_cayley_neumann": False}),
    "oft of PEFT, shared": (peft_oft, (7, 11, 3, 3), (1, 528), None,
                            {"use_cayley_neumann": False, "block_share": True}),
    "oft of PEFT, series": (peft_oft, (33, 60), (5, 66), None,
                            {"use_cayley_neumann": True,
                             "num_cayley_neumann_terms": 8,
                             "peft_version": "0.18.1"}),
    "oft of PEFT, old series": (peft_oft, (33, 60), (5, 66), None,
                                {"use_cayley_neumann": True}),
    "oft of PEFT, limited": (peft_oft, (33, 60), (5, 66), None,
                             {"use_cayley_neumann": True, "coft": True,
                              "eps": 0.3}),
    "boft of PEFT": (peft_boft, (35, 48), (3, 12, 4, 4), (35, 1), {}),
    "boft of PEFT, odd": (peft_boft, (9, 7, 3, 3), (1, 7, 9, 9), (1, 9), {}),
}


def turned_module(suite, name, rng):
    """(module, path of the adapter, options), made of random numbers."""
    form, shape, blocks, factors, told = TURNED[name]
    of_peft = isinstance(told, dict)
    m = Module.__new__(Module)
    m.prefix = PEFT if of_peft else KOHYA
    if form is oft_kohya:
        m.prefix = m.prefix.replace("lora_unet_", "oft_unet_")
    m.weight, m.bias = rng.standard_normal(shape).astype(np.float32), None
    m.weight = m.weight.astype(np.float64)  # bases are read as F32
    key = ("oft_blocks" if not of_peft else
           "oft_R.weight" if form is peft_oft else "boft_R")
    m.own = {key: rng.uniform(-0.2, 0.2, blocks).astype(np.float32)}
    if factors is not None:
        m.own["boft_s" if of_peft else "rescale"] = rng.uniform(
            0.5, 1.5, factors).astype(np.float32)
    more = []
    if of_peft:
        m.config = {"coft": False, "block_share": False,
                    "num_cayley_neumann_terms": 5, **told}
        config = suite.path("turned.json")
        config.write_text(json.dumps(m.config), "utf-8")
        more = ["--config", config]
    else:
        m.own["alpha"] = np.float32(told)
    path = suite.path("turned.safetensors")
    support.write_file(path, {f"{m.prefix}.{suffix}": tensor(value, "F32")
                              for suffix, value in m.own.items()})
    m.own = {suffix: value.astype(np.float64) for suffix, value in
             m.own.items()}
    return m, path, more


def test_turned(suite, name):
    """Blocks of many sizes, in F64 and F32, against the formula.

    An element is a sum of b products, M times over: b M roundings of what sums
    of magnitudes are at most, here 16 times the largest element."""
    m, path, more = turned_module(suite, name, np.random.default_rng(14))
    form, _, blocks, _, _ = TURNED[name]
    base = base_file(suite, {m.prefix.replace(PEFT, "blk.to_q") + ".weight":
                             tensor(m.weight, "F64")})
    side = (blocks[-1] if len(blocks) > 2 else
            int((1 + math.sqrt(1 + 8 * blocks[1])) / 2))
    roundings = 16 * side * (blocks[0] if len(blocks) == 4 else 1)
    for strength in (1.0, 0.25, -2.0):
        want = form(m, 1.0 if more else strength)[0]
        if more:
            want = m.weight + strength * (want - m.weight)
        for dtype, unit in (("f64", 2.0**-53), ("f32", 2.0**-24)):
            got = changed(suite, path, base, "--force", "--weights", "--dtype",
                          dtype, "--strength", strength, *more)
            (_, value), = got.items()
            support.close(value, want, roundings * unit * np.abs(want).max(),
                          f"{name} at {strength} in {dtype}")


def test_turned_parts(suite):
    """Blocks that q, k and v have rows of, in a base that has them in one weight
    or in three, written as one or as three."""
    rng = np.random.default_rng(17)
    m = Module.__new__(Module)
    m.weight = rng.standard_normal((12, 4)).astype(np.float32)
    m.bias, m.own = None, {"oft_blocks": rng.uniform(-1, 1, (2, 6, 6)),
                           "alpha": 0.0}
    path = suite.path("parts.safetensors")
    support.write_file(path, {
        FUSED + ".oft_blocks": tensor(m.own["oft_blocks"], "F32"),
        # Tells the family.
        "lora_unet_single_blocks_0_linear1.diff":
            tensor(np.ones((28, 4)), "F32")})
    want = oft(m, 1.0)[0] - m.weight
    for tensors in (
            {ORIGINAL + ".weight": m.weight},
            {f"{FLUX}to_{x}.weight": part
             for x, part in zip("qkv", np.split(m.weight, 3))}):
        base = base_file(suite, {name: tensor(value, "F32")
                                 for name, value in tensors.items()})
        got = changed(suite, path, base)[FUSED]
        support.close(got, want, 1e-5, "in one")
        got = changed(suite, path, base, "--names", "canonical", "--force")
        got = np.concatenate([got[f"{FLUX}to_{x}"] for x in "qkv"])
        support.close(got, want, 1e-5, "in three")


def test_kept(suite):
    """What a configuration says of OFT is in the files made with it."""
    for name in TURNED:
        m, path, more = turned_module(suite, name, np.random.default_rng(15))
        base = base_file(suite, {m.prefix.replace(PEFT, "blk.to_q") +
                                 ".weight": tensor(m.weight, "F32")})
        want = changed(suite, path, base, "--force", *more)
        copy, again = suite.path("kept.safetensors"), suite.path("2.safetensors")
        suite.run("convert", path, "-o", copy, "--force", *more)
        suite.run("convert", copy, "-o", again, "--force")
        got = changed(suite, again, base, "--force")
        require(np.array_equal(got[m.prefix], want[m.prefix]), name)


def test_meaning(suite):
    """Blocks are not given names under which they mean something else."""
    rng = np.random.default_rng(16)
    other = "oft_unet_" + KOHYA[10:]
    blocks = tensor(rng.uniform(-0.4, 0.4, (2, 3, 3)), "F32")
    wide = tensor(rng.uniform(-0.4, 0.4, (1, 2, 4, 4)), "F32")
    rescale = tensor(np.ones((6, 1)), "F32")
    path, out = suite.path("named.safetensors"), suite.path("respelled.st")
    base = base_file(suite, {KOHYA + ".weight":
                             tensor(rng.standard_normal((6, 4)), "F32")})
    for names, tensors, dialect, meant in (
            (KOHYA, {".oft_blocks": blocks, ".alpha": 0.01}, "kohya-oft", None),
            (KOHYA, {".oft_blocks": blocks, ".alpha": 1.0}, "kohya-oft", None),
            (KOHYA, {".oft_blocks": blocks, ".alpha": 0.0}, "kohya-oft",
             "alpha"),
            (KOHYA, {".oft_blocks": blocks}, "kohya-oft", "alpha"),
            (KOHYA, {".oft_blocks": blocks, ".alpha": 1.0,
                     ".rescale": rescale}, "kohya-oft", "only blocks"),
            (KOHYA, {".oft_blocks": wide, ".alpha": 1.0}, "kohya-oft", "BOFT"),
            (KOHYA, {".oft_blocks": blocks, ".alpha": 0.0}, "lycoris-wrapper",
             None),
            (other, {".oft_blocks": blocks, ".alpha": 0.02}, "lycoris-kohya",
             None),
            (other, {".oft_blocks": blocks, ".alpha": 0.0}, "lycoris-kohya",
             "alpha")):
        tensors = {names + suffix: tensor(np.float32(value), "F32")
                   if suffix == ".alpha" else value
                   for suffix, value in tensors.items()}
        support.write_file(path, tensors)
        run = suite.run("convert", path, "-o", out, "--dialect", dialect,
                        code=support.OK if meant is None else FAILED)
        if meant is not None:
            require(meant in run.err and names in run.err, run.err)
            require(not out.exists(), "an output was left")
            continue
        (_, was), = changed(suite, path, base, "--force").items()
        (_, new), = changed(suite, out, base, "--force").items()
        # kohya and LyCORIS differ by 1e-8 of a norm, F32 by some 2^-24.
        support.close(new, was, 1e-6, f"{dialect} of {names}")
        require(np.abs(was).max() > 1e-3, "nothing is turned")
        out.unlink()


def test_set(suite):
    rng = np.random.default_rng(10)
    old, new = rng.standard_normal((2, 3, 4)).astype(np.float32)
    path = suite.path("set.safetensors")
    support.write_file(path, {KOHYA + ".set_weight": tensor(new, "F32")})
    base = base_file(suite, {KOHYA + ".weight": tensor(old, "F32")})
    for strength in (1.0, 0.5, 0.0):
        want = old + strength * (new.astype(np.float64) - old)
        got = changed(suite, path, base, "--weights", "--strength", strength)
        support.close(got[KOHYA + ".weight"], want, 1e-6, f"at {strength}")
    base = base_file(suite, {KOHYA + ".weight": tensor(old.T, "F32")})
    require(KOHYA in changed(suite, path, base, code=MISMATCH), "no name")


def sparse_tensors(rng, shape, cols, places):
    out, in_, *kernel = shape
    rows, columns = zip(*places)
    wrapped = np.array([rows, columns], np.uint16).view(np.int16)
    return {".lora_down.weight": tensor(rng.standard_normal(
                (2, in_, *kernel)), "F32"),
            ".lora_up.weight": tensor(rng.standard_normal(
                (out, 2, *(1 for _ in kernel))), "F32"),
            ".alpha": tensor(np.float32(2), "F32"),
            ".bias_indices": tensor(wrapped, "I16"),
            ".bias_values": tensor(rng.standard_normal(len(places)), "F16"),
            ".bias_size": tensor(np.array([out, cols], np.uint16)
                                 .view(np.int16), "I16")}


def test_sparse(suite):
    """Elements of the change beside the factors; indices above 32767 too."""
    rng = np.random.default_rng(11)
    path, out = suite.path("sparse.safetensors"), suite.path("out.safetensors")
    for shape, places in (((4, 6), [(3, 5), (0, 0), (0, 5), (0, 0)]),
                          ((3, 2, 3, 3), [(2, 17), (1, 4)]),
                          ((2, 40000), [(1, 39999), (0, 32768), (1, 7)])):
        cols = math.prod(shape[1:])
        tensors = sparse_tensors(rng, shape, cols, places)
        support.write_file(path, {KOHYA + s: t for s, t in tensors.items()})
        want = support.module_delta(support.read_file(path)[0], KOHYA)[0]
        want = want.reshape(shape[0], cols).copy()
        for (row, column), value in zip(
                places, tensors[".bias_values"].array().astype(np.float64)):
            want[row, column] += value
        suite.run("delta", path, "-o", out, "--force", "--strength", 0.5)
        got = arrays(out)[KOHYA]
        support.close(got.reshape(want.shape), 0.5 * want, 1e-6, str(shape))
        run = suite.run("resize", path, "-o", out, "--rank", 1, "--force",
                        code=FAILED)
        require("sparse" in run.err, run.err)
    whole = sparse_tensors(rng, (4, 6), 6, [(3, 5), (0, 0)])
    for what, suffix, bad in (
            ("row", ".bias_indices", np.array([[4, 0], [5, 0]], np.int16)),
            ("column", ".bias_indices", np.array([[3, 0], [6, 0]], np.int16)),
            ("negative", ".bias_indices", np.array([[3, 0], [-1, 0]], np.int16)),
            ("size", ".bias_size", np.array([4, 7], np.int16)),
            ("count", ".bias_indices", np.array([[3], [0]], np.int16)),
            ("side", ".bias_indices", np.array([[3, 0, 1]], np.int16)),
            ("floats", ".bias_indices", np.array([[3, 0], [5, 0]], np.float16)),
            ("none", ".bias_size", None),
            ("no values", ".bias_values", None)):
        tensors = dict(whole)
        if bad is None:
            del tensors[suffix]
        else:
            tensors[suffix] = tensor(bad, "I16" if bad.dtype == np.int16
                                     else "F16")
        support.write_file(path, {KOHYA + s: t for s, t in tensors.items()})
        run = suite.run("delta", path, "-o", out, "--force", code=MISMATCH)
        require(KOHYA in run.err, f"{what}: {run.err}")


def test_padded(suite):
    """Zeros are put to a weight that is too small, in rows and inputs."""
    rng = np.random.default_rng(13)
    path = suite.path("padded.safetensors")
    for shape, small in (((6, 5), (6, 3)), ((6, 5), (4, 5)), ((6, 5), (6, 5)),
                         ((4, 3, 2, 2), (3, 2, 2, 2))):
        a = rng.standard_normal((2,) + shape[1:])
        b = rng.standard_normal((shape[0], 2) + (1,) * (len(shape) - 2))
        tensors = {KOHYA + ".lora_down.weight": tensor(a, "F32"),
                   KOHYA + ".lora_up.weight": tensor(b, "F32"),
                   KOHYA + ".reshape_weight": tensor(np.array(shape), "I64")}
        support.write_file(path, tensors)
        w = rng.standard_normal(small)
        base = base_file(suite, {KOHYA + ".weight": tensor(w, "F32")})
        change = support.lora_delta(a, b)[0].reshape(shape)
        want = change + np.pad(w, [(0, x - y) for x, y in zip(shape, small)])
        for more, value in (((), change), (("--weights",), want)):
            (_, got), = changed(suite, path, base, *more).items()
            support.close(got, value, 1e-5, f"{small} in {shape}")
    larger = base_file(suite, {KOHYA + ".weight":
                               tensor(np.ones((4, 4, 2, 2)), "F32")})
    said = changed(suite, path, larger, "--weights", code=MISMATCH)
    require(KOHYA in said, said)
    for bad in (np.array([4, 3, 2, 3]), np.array([4, 3]), np.array([4.0] * 4)):
        tensors[KOHYA + ".reshape_weight"] = tensor(
            bad, "F32" if bad.dtype == np.float64 else "I64")
        support.write_file(path, tensors)
        said = changed(suite, path, larger, code=MISMATCH)
        require(KOHYA in said, said)


def test_stored_transposed(suite):
    """Layers of GPT-2's class store [in, out]: PEFT turns what it has."""
    rng = np.random.default_rng(12)
    name, rows, cols = "base_model.model.h.0.c_attn", 4, 6  # in, out
    weight = rng.standard_normal((rows, cols)).astype(np.float32)
    base = base_file(suite, {"h.0.c_attn.weight": tensor(weight, "F32")})
    folder = suite.path("transposed")
    folder.mkdir(exist_ok=True)
    path = folder / "adapter_model.safetensors"
    config = {"r": 2, "lora_alpha": 3, "fan_in_fan_out": True,
              "feedforward_modules": []}
    (folder / "adapter_config.json").write_text(json.dumps(config), "utf-8")
    a, b = rng.standard_normal((2, rows)), rng.standard_normal((cols, 2))
    magnitude = rng.uniform(0.5, 1.5, cols)
    support.write_file(path, {
        name + ".lora_A.weight": tensor(a, "F32"),
        name + ".lora_B.weight": tensor(b, "F32"),
        name + ".lora_magnitude_vector": tensor(magnitude, "F32")})
    got = changed(suite, path, base, "--weights", "--strength", 0.5)
    want = dora_peft(weight.T, 1.5 * b @ a, magnitude, 0, 0.5).T
    support.close(got[name + ".weight"], want, 1e-6, "DoRA")
    for shape in ((cols, 1), (1, rows)):
        vector = rng.standard_normal(shape)
        support.write_file(path, {name + ".ia3_l": tensor(vector, "F32")})
        got = changed(suite, path, base, "--weights")
        support.close(got[name + ".weight"], (weight.T * vector).T, 1e-6,
                      f"(IA)3 of {shape}")


def main():
    suite = support.Suite(__doc__.splitlines()[0])
    liblora = bindinglib.load(suite)
    folder, cases = suite.unpack("kinds")
    for entry in cases:
        if entry["operation"] != "patched_weight":
            continue
        case = Case(folder, entry)
        if entry["id"] in REFUSED:
            with suite.case(entry["id"] + ", refused"):
                test_refused_case(suite, case)
            continue
        with suite.case(entry["id"] + ", formula"):
            test_formula(suite, case)
        with suite.case(entry["id"]):
            test_program(suite, case)
        with suite.case(entry["id"] + ", by the library"):
            test_library(suite, liblora, case)
        if "dora" in entry["id"] or "oft" in entry["id"]:
            with suite.case(entry["id"] + ", interpolated"):
                test_interpolated(suite, case)
        if "dora" in entry["id"]:
            with suite.case(entry["id"] + ", by rule"):
                test_dora_rules(suite, case)
    for name in TURNED:
        with suite.case(name):
            test_turned(suite, name)
    for test in (test_names, test_layouts, test_wide, test_refused, test_skipped,
                 test_ia3_sides, test_tlora_start, test_glora_layouts, test_set,
                 test_turned_parts, test_kept, test_meaning, test_sparse,
                 test_padded, test_stored_transposed):
        with suite.case(test.__name__[5:]):
            test(suite)
    return suite.finish()


if __name__ == "__main__":
    sys.exit(main())
