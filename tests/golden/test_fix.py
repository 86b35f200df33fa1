#!/usr/bin/env python3
"""`check --fix`: what is repaired, what is left, and that weight changes stay.

Files are made here, each wrong in its way; the weight changes of both sides are
computed by numpy in float64 from the stored numbers. All repairs are exact, so
they must be equal to the bit.
"""

import pathlib
import sys

import numpy as np

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import support  # noqa: E402
from support import (MISMATCH, OK, USAGE, equal, require,  # noqa: E402
                     tensor)

BLOCK = "down_blocks.0.attentions.0.transformer_blocks.0."
FLAT = BLOCK.replace(".", "_")
KOHYA = (".lora_down.weight", ".lora_up.weight")
PEFT = (".lora_A.weight", ".lora_B.weight")


def pair(rng, rank=2, dtype="F32", rows=6, cols=5, scale=1.0):
    return (tensor(rng.normal(size=(rank, cols)), dtype),
            tensor(rng.normal(size=(rows, rank)) * scale, dtype))


def delta(down, up, alpha=None):
    """(alpha / r) up down; exact enough to tell one bit of a factor."""
    scale = support.resolve_scale(alpha, down.shape[0])
    return scale * (up.array().astype(np.float64)
                    @ down.array().astype(np.float64))


def fix(suite, tensors, metadata=None, code=OK, *options):
    """(tensors, metadata, JSON) of the result."""
    path, out = suite.path("in.safetensors"), suite.path("out.safetensors")
    support.write_file(path, tensors, metadata or {})
    done = suite.json("check", "--fix", path, "-o", out, "--force", *options,
                      code=code)
    after, kept = support.read_file(out)
    support.require_writer_rules(out)
    found = suite.json("check", out, code=None)
    equal([p["code"] for p in found["problems"]],
          [p["code"] for p in done["problems"]], "findings in the result")
    equal(done["written"], True, "written")
    path.unlink()
    out.unlink()
    return after, kept, done


def codes(list_):
    return [one["code"] for one in list_]


# Names ----------------------------------------------------------------------

# (module, suffixes of down and up, what they become)
NAMES = [
    ("lora_unet_unet_" + FLAT + "attn1_to_q",
     ("_lora_down.weight", "_lora_up.weight"),
     "lora_unet_" + FLAT + "attn1_to_q", KOHYA),
    ("lora_unet_base_model_model_" + FLAT + "attn1_to_q", KOHYA,
     "lora_unet_" + FLAT + "attn1_to_q", KOHYA),
    ("lora_unet_unet_" + FLAT + "attn1_processor_to_out",
     ("_lora_down.weight", "_lora_up.weight"),
     "lora_unet_" + FLAT + "attn1_to_out_0", KOHYA),
    ("lora_unet_" + BLOCK + "attn1.to_q", KOHYA,
     "lora_unet_" + FLAT + "attn1_to_q", KOHYA),
    ("base_model.model.base_model.model." + BLOCK + "attn1.to_q", PEFT,
     "base_model.model." + BLOCK + "attn1.to_q", PEFT),
    ("module.unet._orig_mod." + BLOCK + "attn1.to_q", PEFT,
     "unet." + BLOCK + "attn1.to_q", PEFT),
    ("diffusion_model.diffusion_model.blocks.3.self_attn.q", PEFT,
     "diffusion_model.blocks.3.self_attn.q", PEFT),
    ("unet." + BLOCK + "attn1.to_q",
     (".lora_A.default_0.weight", ".lora_B.default_0.weight"),
     "unet." + BLOCK + "attn1.to_q", PEFT),
    ("base_model.model.model.layers.0.self_attn.q_proj",
     (".lora_A.default.weight", ".lora_B.default.weight"),
     "base_model.model.model.layers.0.self_attn.q_proj", PEFT),
    ("pipe.dit.blocks.3.self_attn.q",
     (".lora_A.default.weight", ".lora_B.default.weight"),
     "blocks.3.self_attn.q", PEFT),
    ("unet." + BLOCK + "attn1.to_q",
     (".lora_down.default.weight", ".lora_up.default.weight"),
     "unet." + BLOCK + "attn1.to_q", PEFT),
]


def check_names(suite):
    rng = np.random.default_rng(1)
    for module, suffixes, wanted, become in NAMES:
        down, up = pair(rng)
        after, _, done = fix(suite, {module + suffixes[0]: down,
                                     module + suffixes[1]: up})
        equal(sorted(after), sorted(wanted + s for s in become), module)
        equal(after[wanted + become[0]].data, down.data, f"{module}: down")
        equal(after[wanted + become[1]].data, up.data, f"{module}: up")
        equal(len(done["fixes"]), 1, f"{module}: {done['fixes']}")
        require(done["fixes"][0]["code"] in ("broken_names", "raw_names"),
                module)
        left = codes(done["problems"])
        require("broken_names" not in left and "raw_names" not in left, left)


def check_names_alpha(suite):
    """Alpha that one script names after half of the pair, and a name that is
    not free: that module stays as it is."""
    rng = np.random.default_rng(2)
    broken = "lora_unet_unet_" + FLAT + "attn1_to_q"
    good = "lora_unet_" + FLAT + "attn1_to_q"
    down, up = pair(rng)
    after, _, _ = fix(suite, {broken + "_lora_down.weight": down,
                              broken + "_lora_up.weight": up,
                              broken + "_lora_down.alpha": tensor(0.5, "F16")})
    equal(sorted(after), sorted([good + KOHYA[0], good + KOHYA[1],
                                 good + ".alpha"]), "names")
    equal(after[good + ".alpha"].array().tolist(), 0.5, "alpha")
    both = {broken + "_lora_down.weight": down, broken + "_lora_up.weight": up,
            good + KOHYA[0]: down, good + KOHYA[1]: up}
    path, out = suite.path("two.safetensors"), suite.path("none.safetensors")
    support.write_file(path, both)
    done = suite.json("check", "--fix", path, "-o", out, code=MISMATCH)
    equal(done["fixes"], [], "fixes")
    equal(done["written"], False, "written")
    require(not out.exists(), "a result as unusable as the input is written")
    require("duplicate_module" in codes(done["problems"]), "the reason")
    path.unlink()


# Numbers --------------------------------------------------------------------

def check_alpha(suite):
    """None beside others, 0, below 0: one that all read alike, of which the
    weight change is the same to the bit."""
    rng = np.random.default_rng(3)
    for dtype in ("F32", "F16", "BF16"):
        for rank in (1, 3, 300):
            names = ["lora_unet_" + FLAT + "attn1_to_" + end
                     for end in ("q", "k", "v", "out_0")]
            alphas = [1.5, None, 0.0, -0.75]
            tensors = {}
            before = {}
            for name, alpha in zip(names, alphas):
                down, up = pair(rng, rank, dtype)
                tensors[name + KOHYA[0]], tensors[name + KOHYA[1]] = down, up
                if alpha is not None:
                    tensors[name + ".alpha"] = tensor(alpha, dtype)
                before[name] = delta(down, up, alpha)
            after, _, done = fix(suite, tensors)
            equal(codes(done["fixes"]), ["alpha_mixed", "alpha_zero",
                                         "alpha_negative"], "fixes")
            for name in names:
                alpha = after[name + ".alpha"]
                value = float(alpha.array())
                require(value > 0, f"{name}: alpha {value}")
                got = delta(after[name + KOHYA[0]], after[name + KOHYA[1]],
                            value)
                require((got == before[name]).all(), f"{name} {dtype}: dW")
                for suffix in KOHYA:
                    equal(after[name + suffix].dtype, dtype, "dtype")
            equal(after[names[0] + ".alpha"].data,
                  tensors[names[0] + ".alpha"].data, "a sound alpha")


def check_alpha_kept(suite):
    """A file without any alpha is sound; .scale goes before alpha; where there
    is no factor for the sign, it stays."""
    rng = np.random.default_rng(4)
    name = "lora_unet_" + FLAT + "attn1_to_q"
    down, up = pair(rng)
    tensors = {name + KOHYA[0]: down, name + KOHYA[1]: up}
    after, _, done = fix(suite, tensors)
    equal(done["fixes"], [], "none at all")
    equal({n: t.data for n, t in after.items()},
          {n: t.data for n, t in tensors.items()}, "tensors")
    tensors[name + ".alpha"] = tensor(0.0)
    tensors[name + ".scale"] = tensor(0.25)
    equal(fix(suite, tensors)[2]["fixes"], [], "beside a scale")
    loha = {name + ".hada_" + part: tensor(rng.normal(size=shape))
            for part, shape in (("w1_a", (6, 2)), ("w1_b", (2, 5)),
                                ("w2_a", (6, 2)), ("w2_b", (2, 5)))}
    loha[name + ".alpha"] = tensor(-1.0)
    _, _, done = fix(suite, loha)
    equal(done["fixes"], [], "LoHa")
    require("no factor for the sign" in done["problems"][0]["message"],
            done["problems"])


def check_range(suite):
    """A power of two goes from one factor to the other, where that is exact."""
    rng = np.random.default_rng(5)
    name = "lora_unet_" + FLAT + "attn1_to_q"
    for dtype in ("F32", "BF16"):
        for which in (0, 1):
            factors = list(pair(rng, dtype=dtype))
            factors[which] = tensor(factors[which].array() * 3e6, dtype)
            before = delta(*factors, 1.0)
            after, _, done = fix(suite, {name + KOHYA[0]: factors[0],
                                         name + KOHYA[1]: factors[1],
                                         name + ".alpha": tensor(1.0)})
            equal(codes(done["fixes"]), ["f16_overflow"], "fixes")
            got = [after[name + suffix] for suffix in KOHYA]
            require((delta(*got, 1.0) == before).all(), "dW")
            for one, was in zip(got, factors):
                equal(one.dtype, dtype, "dtype")
                require(np.abs(one.array()).max() <= 65504, "still too large")
                ratio = (one.array() / was.array()).astype(np.float64)
                require((ratio == ratio.flat[0]).all()
                        and np.log2(ratio.flat[0]) % 1 == 0, "no power of two")
            require("f16_overflow" not in codes(done["problems"]), "left")


def check_range_left(suite):
    """Both too large, or a number that would lose digits: nothing is done."""
    name = "lora_unet_" + FLAT + "attn1_to_q"
    tiny = [[1e6, 2.0 ** -149], [1.0, 1.0]]  # the smallest number of F32
    for down, up in (([[1e6, 1.0]], [[1e6], [1.0]]),
                     (tiny, [[1.0, 1.0], [2.0, 1.0]])):
        tensors = {name + KOHYA[0]: tensor(down), name + KOHYA[1]: tensor(up)}
        after, _, done = fix(suite, tensors)
        equal(done["fixes"], [], "fixes")
        require("exactly" in [p["message"] for p in done["problems"]
                              if p["code"] == "f16_overflow"][0], "reason")
        equal({n: t.data for n, t in after.items()},
              {n: t.data for n, t in tensors.items()}, "tensors")


# Metadata -------------------------------------------------------------------

def check_metadata(suite):
    rng = np.random.default_rng(6)
    names = ["lora_unet_" + FLAT + "attn1_to_" + end for end in "qkv"]

    def file(ranks, alphas):
        tensors = {}
        for name, rank, alpha in zip(names, ranks, alphas):
            tensors[name + KOHYA[0]], tensors[name + KOHYA[1]] = pair(rng, rank)
            tensors[name + ".alpha"] = tensor(alpha)
        return tensors

    stale = {"ss_network_dim": "7", "ss_network_alpha": "9",
             "sshs_model_hash": "00", "sshs_legacy_hash": "11", "title": "x"}
    for ranks, alphas, dim, alpha in (((2, 2, 2), (1.5, 1.5, 1.5), "2", "1.5"),
                                      ((2, 2, 2), (1.0, 2.0, 1.0), "2",
                                       "Dynamic"),
                                      ((2, 3, 2), (1.0, 1.5, 1.0), "Dynamic",
                                       "Dynamic")):
        tensors = file(ranks, alphas)
        after, metadata, done = fix(suite, tensors, stale)
        equal(codes(done["fixes"]), ["stale_metadata", "stale_hash"], "fixes")
        equal((metadata["ss_network_dim"], metadata["ss_network_alpha"]),
              (dim, alpha), "ranks")
        equal(metadata["title"], "x", "what is not stale")
        equal({n: t.data for n, t in after.items()},
              {n: t.data for n, t in tensors.items()}, "tensors")
        path = suite.path("hash.safetensors")
        support.write_file(path, after, metadata)
        hashes = suite.json("hash", "--all", path)["hashes"]
        for key in ("sshs_model_hash", "sshs_legacy_hash"):
            equal(metadata[key], hashes[key], key)
        path.unlink()


def check_clean(suite):
    """A sound file comes out as it went in."""
    rng = np.random.default_rng(7)
    name = "lora_unet_" + FLAT + "attn1_to_q"
    down, up = pair(rng)
    tensors = {name + KOHYA[0]: down, name + KOHYA[1]: up,
               name + ".alpha": tensor(1.0), "something.else": down}
    path, out = suite.path("sound.safetensors"), suite.path("same.safetensors")
    support.write_file(path, tensors, {"a": "b", "ss_network_dim": "2"})
    done = suite.json("check", "--fix", path, "-o", out)
    equal(done["fixes"], [], "fixes")
    equal(out.read_bytes(), path.read_bytes(), "the file")
    suite.run("check", "--fix", out, "-o", out, "--force")
    equal(out.read_bytes(), path.read_bytes(), "over itself")
    again = suite.json("check", "--fix", path, "--dry-run")
    equal((again["written"], again["output"]), (False, None), "dry run")
    path.unlink()
    out.unlink()


# What is left ---------------------------------------------------------------

def check_bad(suite):
    """Halves and NaN are kept, or left out on demand; with nothing else to
    repair there is no result."""
    rng = np.random.default_rng(8)
    good, half, lost = ("lora_unet_" + FLAT + "attn1_to_" + e for e in "qkv")
    tensors = {}
    for name in (good, half, lost):
        tensors[name + KOHYA[0]], tensors[name + KOHYA[1]] = pair(rng)
    del tensors[half + KOHYA[1]]
    values = tensors[lost + KOHYA[1]].array().copy()
    values[1, 1] = np.nan
    tensors[lost + KOHYA[1]] = tensor(values)
    path, out = suite.path("bad.safetensors"), suite.path("left.safetensors")
    support.write_file(path, tensors)
    run = suite.run("check", "--fix", path, "-o", out, code=MISMATCH)
    require(not out.exists() and "nothing was written" in run.err, str(run))
    done = suite.json("check", "--fix", path, "-o", out, "--skip-bad")
    equal(sorted(support.read_file(out)[0]),
          sorted([good + KOHYA[0], good + KOHYA[1]]), "what is left")
    equal(sorted((f["code"], f["subject"]) for f in done["fixes"]),
          sorted([("nonfinite", lost), ("unusable", half)]), "left out")
    out.unlink()
    # With something to repair the rest is kept, and the code says so.
    support.write_file(path, tensors, {"ss_network_dim": "7"})
    suite.run("check", "--fix", path, "-o", out, code=MISMATCH)
    equal(sorted(support.read_file(out)[0]), sorted(tensors), "all kept")
    out.unlink()
    only = {n: t for n, t in tensors.items() if n.startswith(half)}
    support.write_file(path, only)
    run = suite.run("check", "--fix", path, "-o", out, "--skip-bad",
                    code=MISMATCH)
    require("nothing would be left" in run.err and not out.exists(), str(run))
    support.write_file(path, {"w": tensor([1.0])})
    suite.run("check", "--fix", path, "-o", out, code=MISMATCH)
    require(not out.exists(), "no adapter, but a result")
    path.unlink()


def check_strict(suite):
    """Warnings that are left fail with --strict; the result is there."""
    rng = np.random.default_rng(9)
    name = "lora_unet_" + FLAT + "attn1_to_q"
    down, up = pair(rng)
    tensors = {name + KOHYA[0]: down, name + KOHYA[1]: up, "x": down}
    fix(suite, tensors, None, MISMATCH, "--strict")
    path, out = suite.path("in.safetensors"), suite.path("out.safetensors")
    support.write_file(path, tensors)
    for args in (["--fix", path], ["--fix", path, path, "-o", out],
                 [path, "-o", out], [path, "--dry-run"], [path, "--skip-bad"]):
        suite.run("check", *args, code=USAGE)
    require(not out.exists(), "an output in spite of a wrong command")
    path.unlink()


def main():
    suite = support.Suite(__doc__.splitlines()[0])
    for name, check in (("names", check_names),
                        ("names and alpha", check_names_alpha),
                        ("alpha", check_alpha),
                        ("alpha kept", check_alpha_kept),
                        ("range", check_range),
                        ("range left", check_range_left),
                        ("metadata", check_metadata),
                        ("clean", check_clean), ("bad", check_bad),
                        ("strict", check_strict)):
        with suite.case(name):
            check(suite)
    return suite.finish()


if __name__ == "__main__":
    sys.exit(main())
