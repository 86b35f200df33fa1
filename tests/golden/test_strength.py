#!/usr/bin/env python3
"""`convert` with --drop and with weights: what is left, and that the result
has at strength 1 the weight change that the input has at its weight, by numpy
in float64 from the stored numbers and the formulas of the kinds.

Bounds. Alpha is stored exactly in its own type or in F32, so that a change that
goes through alpha is off by no more than half of F32's last digit, 2^-24 of it,
and the few roundings of float64 in alpha / r: 2^-23 holds. What is multiplied
itself is rounded once to its own type: 2^-11 of each number in F16, 2^-8 in
BF16, 2^-24 in F32.
"""

import json
import pathlib
import sys

import numpy as np

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import support  # noqa: E402
from support import (FAILED, MISMATCH, USAGE, equal, require,  # noqa: E402
                     tensor)

UNET = "lora_unet_down_blocks_0_attentions_0_"
BLOCK = UNET + "transformer_blocks_0_"
TE = "lora_te_text_model_encoder_layers_0_self_attn_"
HALF = {"F32": 2.0 ** -24, "F16": 2.0 ** -11, "BF16": 2.0 ** -8}


def f64(tensors, name):
    return tensors[name].array().astype(np.float64)


def alpha_of(tensors, module, rank):
    if module + ".scale" in tensors:
        return float(f64(tensors, module + ".scale")) * rank
    name = module + ".alpha"
    value = float(f64(tensors, name).reshape(-1)[0]) if name in tensors else 0
    return value or rank


def pair_delta(tensors, module):
    down, up = (f64(tensors, f"{module}.lora_{side}.weight")
                for side in ("down", "up"))
    scale = alpha_of(tensors, module, len(down)) / len(down)
    if module + ".lora_mid.weight" in tensors:
        mid = f64(tensors, module + ".lora_mid.weight")
        return scale * np.einsum("pi,ijxy,jq->pqxy", up[:, :, 0, 0], mid,
                                 down[:, :, 0, 0])
    return scale * (up.reshape(len(up), -1) @ down.reshape(len(down), -1))


def loha_delta(tensors, module):
    a, b, c, d = (f64(tensors, f"{module}.hada_{part}")
                  for part in ("w1_a", "w1_b", "w2_a", "w2_b"))
    return alpha_of(tensors, module, len(b)) / len(b) * (a @ b) * (c @ d)


def lokr_delta(tensors, module):
    if module + ".lokr_w1" in tensors:
        one = f64(tensors, module + ".lokr_w1")
    else:
        one = (f64(tensors, module + ".lokr_w1_a")
               @ f64(tensors, module + ".lokr_w1_b"))
    if module + ".lokr_w2" in tensors:
        return np.kron(one, f64(tensors, module + ".lokr_w2"))
    a, b = (f64(tensors, f"{module}.lokr_w2_{part}") for part in "ab")
    return alpha_of(tensors, module, len(b)) / len(b) * np.kron(one, a @ b)


def plain(*suffixes):
    return lambda tensors, module: np.concatenate(
        [f64(tensors, module + s).reshape(-1) for s in suffixes])


def kinds(rng, dtype):
    """{name: (module, tensors, formula, whether alpha takes the strength)}"""
    def some(*shape):
        return tensor(rng.normal(size=shape), dtype)

    def pair(module, rank=3, **more):
        return {module + ".lora_down.weight": some(rank, 5),
                module + ".lora_up.weight": some(6, rank),
                **{module + "." + k: v for k, v in more.items()}}

    q, k = BLOCK + "attn1_to_q", BLOCK + "attn1_to_k"
    conv = "lora_unet_down_blocks_0_resnets_0_conv1"
    loha = {f"{q}.hada_{p}": some(*s) for p, s in
            (("w1_a", (6, 2)), ("w1_b", (2, 5)), ("w2_a", (6, 2)),
             ("w2_b", (2, 5)))}
    return {
        "lora": (q, pair(q, alpha=tensor(2.0, dtype)), pair_delta, 1),
        "lora without alpha": (q, pair(q), pair_delta, 1),
        "lora of alpha 0": (q, pair(q, alpha=tensor(0.0)), pair_delta, 1),
        "lora below 0": (q, pair(q, alpha=tensor(-2.0)), pair_delta, 1),
        "lora of alpha [1]": (q, pair(q, alpha=tensor([2.0], "F64")),
                              pair_delta, 1),
        "lora with a scale": (q, pair(q, scale=tensor(0.3)), pair_delta, 1),
        "text encoder": (TE + "q_proj", pair(TE + "q_proj",
                                             alpha=tensor(1.0)),
                         pair_delta, 1),
        "locon": (conv, {conv + ".lora_down.weight": some(2, 4, 3, 3),
                         conv + ".lora_up.weight": some(6, 2, 1, 1),
                         conv + ".alpha": tensor(1.0)}, pair_delta, 1),
        "core": (conv, {conv + ".lora_down.weight": some(2, 4, 1, 1),
                        conv + ".lora_mid.weight": some(2, 2, 3, 3),
                        conv + ".lora_up.weight": some(6, 2, 1, 1),
                        conv + ".alpha": tensor(1.0)}, pair_delta, 1),
        "loha": (q, {**loha, q + ".alpha": tensor(3.0)}, loha_delta, 1),
        "lokr": (q, {q + ".lokr_w1": some(2, 3), q + ".lokr_w2_a": some(3, 2),
                     q + ".lokr_w2_b": some(2, 2),
                     q + ".alpha": tensor(1.0)}, lokr_delta, 1),
        "lokr, full": (q, {q + ".lokr_w1": some(2, 3),
                           q + ".lokr_w2": some(3, 2),
                           q + ".alpha": tensor(1e10)}, lokr_delta, 0),
        "full": (k, {k + ".diff": some(6, 5), k + ".diff_b": some(6)},
                 plain(".diff", ".diff_b"), 0),
        "norm": (UNET + "norm", {UNET + "norm.w_norm": some(6),
                                 UNET + "norm.b_norm": some(6)},
                 plain(".w_norm", ".b_norm"), 0),
        "bias": (k, pair(k, alpha=tensor(1.0), diff_b=some(6)),
                 plain(".diff_b"), 0),
        "ia3": (k, {k + ".weight": some(6), k + ".on_input": tensor(0, "I64")},
                plain(".weight"), 0),
    }


def convert(suite, tensors, weight, *options, metadata=None):
    path, out = suite.path("in.safetensors"), suite.path("out.safetensors")
    support.write_file(path, tensors, metadata or {})
    suite.run("convert", f"{path}:{weight}" if weight else path, "-o", out,
              "--force", *options)
    result = support.read_file(out)
    support.require_writer_rules(out)
    path.unlink()
    out.unlink()
    return result


def check_kinds(suite):
    for dtype in HALF:
        rng = np.random.default_rng(11)
        for name, (module, tensors, formula, by_alpha) in kinds(rng,
                                                                dtype).items():
            before = formula(tensors, module)
            for weight in (0.7, 2.0, -0.5, -1.3):
                after, _ = convert(suite, tensors, weight)
                got = formula(after, module)
                bound = (2.0 ** -23 if by_alpha else HALF[dtype])
                require((np.abs(got - weight * before)
                         <= bound * np.abs(weight * before) + 1e-300).all(),
                        f"{name} {dtype} * {weight}")
                if by_alpha:
                    alpha = float(f64(after, module + ".alpha").reshape(-1)[0])
                    require(alpha > 0, f"{name}: alpha {alpha}")
                    require(module + ".scale" not in after, name)
                for key, one in after.items():
                    if key in tensors and not key.endswith(".alpha"):
                        equal(one.dtype, tensors[key].dtype, key)


def check_exact(suite):
    """Where alpha's own type has the number, it keeps it; factors their
    bytes."""
    rng = np.random.default_rng(12)
    for dtype in HALF:
        module, tensors, _, _ = kinds(rng, dtype)["lora"]
        after, _ = convert(suite, tensors, 0.5)
        equal(after[module + ".alpha"].dtype, dtype, "alpha's type")
        equal(float(f64(after, module + ".alpha")), 1.0, "alpha")
        for side in ("down", "up"):
            key = f"{module}.lora_{side}.weight"
            equal(after[key].data, tensors[key].data, key)
        again, _ = convert(suite, after, 2)
        equal({n: t.data for n, t in again.items()},
              {n: t.data for n, t in tensors.items()}, "back")
    same, _ = convert(suite, tensors, 1)
    equal({n: t.data for n, t in same.items()},
          {n: t.data for n, t in tensors.items()}, "weight 1")


def check_dialects(suite):
    """Names and strength at once: alpha in metadata, or in the factors."""
    rng = np.random.default_rng(13)
    module, tensors, formula, _ = kinds(rng, "F32")["lora"]
    before = formula(tensors, module)
    name = ("unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q")
    after, metadata = convert(suite, tensors, -0.7, "--dialect", "diffusers")
    config = json.loads(metadata["lora_adapter_metadata"])
    down, up = (f64(after, name + s) for s in (".lora_A.weight",
                                               ".lora_B.weight"))
    got = config["unet.lora_alpha"] / 3 * (up @ down)
    require(np.allclose(got, -0.7 * before, rtol=2.0 ** -50, atol=0),
            "in metadata")
    for options in (["--bake-alpha"], ["--dialect", "diffusers-old"]):
        after, _ = convert(suite, tensors, 0.7, *options)
        down, up = (f64(after, next(n for n in after if e in n)) for e in
                    ("down.weight", "up.weight"))
        bound = HALF["F32"] * (np.abs(0.7 * 2 / 3 * f64(
            tensors, module + ".lora_up.weight")) @ np.abs(down)) * 2
        require((np.abs(up @ down - 0.7 * before) <= bound).all(), options)


def check_encoders(suite):
    """A weight of their own; one of 0 leaves them out."""
    rng = np.random.default_rng(14)
    q, tensors, formula, _ = kinds(rng, "F32")["lora"]
    te, more, _, _ = kinds(rng, "F32")["text encoder"]
    te2 = te.replace("lora_te_", "lora_te2_")
    tensors = {**tensors, **more,
               **{n.replace(te, te2): t for n, t in more.items()}}
    before = {m: formula(tensors, m) for m in (q, te, te2)}
    after, _ = convert(suite, tensors, "0.5:2")
    for module, weight in ((q, 0.5), (te, 2.0), (te2, 2.0)):
        require((formula(after, module) == weight * before[module]).all(),
                module)
    for weight, left in (("0.5:0", {q}), ("0:0.5", {te, te2})):
        after, _ = convert(suite, tensors, weight)
        equal({n.split(".")[0] for n in after}, left, weight)
    path = suite.path("all.safetensors")
    support.write_file(path, tensors)
    for weight, code in (("0", MISMATCH), ("0:0", MISMATCH),
                         ("x", support.UNREADABLE)):
        suite.run("convert", f"{path}:{weight}", "-o", suite.path("no"),
                  code=code)
    require(not suite.path("no").exists(), "an output")
    # The name of a file may have colons that are not for weights.
    odd = suite.path("a:b.safetensors")
    path.rename(odd)
    suite.run("convert", f"{odd}:0.5", "-o", path)
    odd.unlink()
    path.unlink()


def check_refused(suite):
    """Kinds whose change is not in proportion to the strength."""
    rng = np.random.default_rng(15)
    module, tensors, _, _ = kinds(rng, "F32")["lora"]
    cases = {
        "dora": {**tensors, module + ".dora_scale":
                 tensor(rng.normal(size=(6, 1)))},
        "oft": {module + ".oft_blocks": tensor(rng.normal(size=(2, 3, 3))),
                module + ".alpha": tensor(0.0)},
    }
    path, out = suite.path("non.safetensors"), suite.path("no.safetensors")
    for kind, wrong in cases.items():
        support.write_file(path, wrong)
        run = suite.run("convert", f"{path}:0.5", "-o", out, code=FAILED)
        require(module in run.err and "strength" in run.err, str(run))
        require(not out.exists(), kind)
        suite.run("convert", f"{path}:1", "-o", out, "--dialect", "keep")
        out.unlink()
    # A number that does not fit its type any more.
    support.write_file(path, {module + ".diff": tensor([[60000.0]], "F16")})
    suite.run("convert", f"{path}:2", "-o", out, code=MISMATCH)
    require(not out.exists(), "overflow")
    path.unlink()


def check_drop(suite):
    rng = np.random.default_rng(16)
    q, tensors, _, _ = kinds(rng, "F16")["lora"]
    te, more, _, _ = kinds(rng, "F16")["text encoder"]
    k = BLOCK + "attn2_to_k"
    te2 = te.replace("lora_te_", "lora_te2_")
    odd = "lora_te_nobody_knows"
    tensors = {**tensors, **more, "other": tensor([1.0]),
               **{n.replace(q, k): t for n, t in tensors.items()},
               **{n.replace(te, te2): t for n, t in more.items()},
               **{n.replace(te, odd): t for n, t in more.items()}}
    for patterns, gone in (
            (["text_encoder"], {te, odd}), (["text_encoder_2"], {te2}),
            (["text_encoder", "text_encoder_2"], {te, odd, te2}),
            (["unet"], {q, k}), (["*attn2*"], {k}),
            (["unet.down_blocks.0.*.attn1.to_?"], {q}), ([te], {te})):
        options = [o for p in patterns for o in ("--drop", p)]
        after, _ = convert(suite, tensors, None, *options)
        equal(set(after), {n for n in tensors if n.split(".")[0] not in gone},
              patterns)
        for name, one in after.items():
            equal(one.data, tensors[name].data, name)
    path, out = suite.path("in.safetensors"), suite.path("no.safetensors")
    support.write_file(path, tensors)
    for patterns, word in ((["nobody"], "nobody"), (["*"], "left"),
                           (["unet", "text_encoder*"], "left")):
        options = [o for p in patterns for o in ("--drop", p)]
        run = suite.run("convert", path, "-o", out, *options, code=MISMATCH)
        require(word in run.err and not out.exists(), str(run))
    suite.run("convert", path, "-o", out, "--drop", code=USAGE)
    # An unusable module does not matter if it is dropped.
    bad = {**tensors, "lora_unet_half.lora_up.weight": tensor([[1.0]])}
    after, _ = convert(suite, bad, None, "--drop", "*_half")
    equal(set(after), set(tensors), "without the half")


def check_metadata(suite):
    """Summaries and hashes are of what is left, and how strong it is."""
    rng = np.random.default_rng(17)
    q, tensors, _, _ = kinds(rng, "F32")["lora"]
    te = TE + "q_proj"
    tensors.update({te + ".lora_down.weight": tensor(rng.normal(size=(2, 5))),
                    te + ".lora_up.weight": tensor(rng.normal(size=(6, 2))),
                    te + ".alpha": tensor(1.0)})
    kept = {"ss_network_dim": "2", "ss_network_alpha": "1",
            "sshs_model_hash": "00"}
    _, metadata = convert(suite, tensors, None, "--drop", "text_encoder",
                          metadata=kept)
    equal((metadata["ss_network_dim"], metadata["ss_network_alpha"]),
          ("3", "2"), "dropped")
    _, metadata = convert(suite, tensors, "0.5", metadata=kept)
    equal((metadata["ss_network_dim"], metadata["ss_network_alpha"]),
          ("2", "Dynamic"), "weaker")
    _, metadata = convert(suite, tensors, "0.25:0.5", metadata=kept)
    equal(metadata["ss_network_alpha"], "0.5", "weaker to the same")
    path = suite.path("hash.safetensors")
    after, metadata = convert(suite, tensors, "0.5", metadata=kept)
    support.write_file(path, after, metadata)
    require("stale_hash" not in [p["code"] for p in
                                 suite.json("check", path)["problems"]], "hash")
    path.unlink()


def main():
    suite = support.Suite(__doc__.splitlines()[0])
    for name, check in (("kinds", check_kinds), ("exact", check_exact),
                        ("dialects", check_dialects),
                        ("text encoders", check_encoders),
                        ("refused", check_refused), ("drop", check_drop),
                        ("metadata", check_metadata)):
        with suite.case(name):
            check(suite)
    return suite.finish()


if __name__ == "__main__":
    sys.exit(main())
