"""Modules of every kind whose tensors do not fit together: each is refused
with its name, whatever the kind can compute, and left out with --skip-bad.

The shapes of sound modules are written from the formats, with a letter for
each size; the golden files of each kind have the same. A letter that is there
twice binds two dimensions: the module is unsound when one of them alone
changes. A letter that is there once is free: the module has another shape
then.
"""

import math
import pathlib
import re
import sys

import numpy as np

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import support  # noqa: E402
from support import MISMATCH, equal, require, tensor  # noqa: E402

# All different, so that no two dimensions agree by accident; r and s are the
# smallest, as contracted dimensions are.
SIZES = {"o": 12, "i": 10, "r": 2, "s": 3, "k": 5, "l": 7, "a": 8, "b": 4,
         "m": 14, "n": 6, "v": 21}

KOHYA = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
PEFT = "base_model.model.blk.to_q"
OLD = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
CONV1 = "lora_unet_down_blocks_0_attentions_0_proj_in"
GOOD = "lora_unet_down_blocks_1_attentions_1_transformer_blocks_0_attn2_to_v"

LOHA = {".hada_w1_a": "o r", ".hada_w1_b": "r i",
        ".hada_w2_a": "o s", ".hada_w2_b": "s i"}
LOHA_CORED = {".hada_w1_a": "r o", ".hada_w1_b": "r i", ".hada_t1": "r r k l",
              ".hada_w2_a": "s o", ".hada_w2_b": "s i", ".hada_t2": "s s k l"}
LORA = {".lora_down.weight": "r i", ".lora_up.weight": "o r"}
CONV = {".lora_down.weight": "r i k l", ".lora_up.weight": "o r 1 1"}
CORED = {".lora_down.weight": "r i 1 1", ".lora_mid.weight": "s r k l",
         ".lora_up.weight": "o s 1 1"}
LOKR = {".lokr_w1": "o i", ".lokr_w2": "a b"}
LIGHT = {".lora.down.weight": "r a", ".lora.up.weight": "b r",
         ".lora.down_aux.weight": "a i", ".lora.up_aux.weight": "o b"}
GLORA = {".a1.weight": "i r", ".a2.weight": "r i", ".b1.weight": "o r",
         ".b2.weight": "r i"}
ALPHA = {".alpha": ""}

# name: (kind, module, tensors, shape of the weight or None, tensors that may
# be missing, tensors that may have a kernel)
MODULES = {
    "lora": ("lora", KOHYA, {**LORA, **ALPHA}, "o i", (),
             (".lora_down.weight",)),
    "lora with biases": (
        "lora", KOHYA, {**LORA, ".lora_up.bias": "o", ".diff_b": "o"}, "o i",
        (".lora_up.bias", ".diff_b"), (".lora_down.weight",)),
    "lora of peft": ("lora", PEFT, {".lora_A.weight": "r i",
                                    ".lora_B.weight": "o r",
                                    ".lora_B.bias": "o"}, "o i",
                     (".lora_B.bias",), (".lora_A.weight",)),
    "dylora": ("locon", KOHYA, {".lora_down.weight": "r i k l",
                                ".lora_up.weight": "o r", **ALPHA}, "o i k l",
               (), (".lora_down.weight",)),
    "locon": ("locon", KOHYA, {**CONV, **ALPHA}, "o i k l", (),
              (".lora_down.weight",)),
    "locon with a core": ("locon", KOHYA, {**CORED, **ALPHA}, "o i k l",
                          (".lora_mid.weight",), (".lora_mid.weight",)),
    "loha": ("loha", KOHYA, {**LOHA, **ALPHA}, "o i", (), ()),
    "loha with a bias": ("loha", KOHYA, {**LOHA, ".diff_b": "o"}, "o i",
                         (".diff_b",), ()),
    "loha with cores": ("loha", KOHYA, {**LOHA_CORED, **ALPHA}, "o i k l", (),
                        ()),
    "loha of peft": ("loha", PEFT, LOHA, "o i", (), ()),
    "lokr, both whole": ("lokr", KOHYA, LOKR, "o*a i*b", (),
                         (".lokr_w2",)),
    "lokr, one factored": (
        "lokr", KOHYA, {".lokr_w1": "o i", ".lokr_w2_a": "a r",
                        ".lokr_w2_b": "r b", **ALPHA}, "o*a i*b", (), ()),
    "lokr, both factored": (
        "lokr", KOHYA, {".lokr_w1_a": "o r", ".lokr_w1_b": "r i",
                        ".lokr_w2_a": "a s", ".lokr_w2_b": "s b"}, "o*a i*b",
        (), ()),
    "lokr with a core": (
        "lokr", KOHYA, {".lokr_w1": "o i", ".lokr_t2": "r r k l",
                        ".lokr_w2_a": "r a", ".lokr_w2_b": "r b"},
        "o*a i*b k l", (), (".lokr_t2",)),
    "lokr of a convolution": (
        "lokr", KOHYA, {".lokr_w1": "o i", ".lokr_w2": "a b k l",
                        ".diff_b": "o*a"}, "o*a i*b k l", (".diff_b",),
        (".lokr_w2",)),
    "ia3": ("ia3", KOHYA, {".weight": "i", ".on_input": ""}, None, (), ()),
    "ia3 of a convolution": (
        "ia3", KOHYA, {".weight": "1 i 1 1", ".on_input": ""}, None, (), ()),
    "ia3 of peft": ("ia3", PEFT, {".ia3_l": "1 i"}, None, (), ()),
    "glora": ("glora", KOHYA, {**GLORA, **ALPHA}, "o i", (),
              (".b2.weight",)),
    "glora, old": (
        "glora", KOHYA, {".a1.weight": "r i", ".a2.weight": "i r",
                         ".b1.weight": "r i", ".b2.weight": "o r"}, "o i", (),
        (".b1.weight",)),
    "glora of a convolution": (
        "glora", KOHYA, {".a1.weight": "i r 1 1", ".a2.weight": "r i 1 1",
                         ".b1.weight": "o r 1 1", ".b2.weight": "r i k l"},
        "o i k l", (), (".b2.weight",)),
    "oft": ("oft", KOHYA, {".oft_blocks": "n b b", ".rescale": "n*b 1",
                           **ALPHA}, None, (".rescale",), ()),
    "oft of kohya": ("oft", "oft_unet_" + KOHYA[10:],
                     {".oft_blocks": "n b b", **ALPHA}, None, (), ()),
    "oft of peft": ("oft", PEFT, {".oft_R.weight": "n b*s/2"}, None, (), ()),
    "boft": ("boft", KOHYA, {".oft_blocks": "r b n n", ".rescale": "b*n 1 1 1",
                             **ALPHA}, None, (".rescale",), ()),
    "boft of peft": ("boft", PEFT, {".boft_R": "r b n n", ".boft_s": "o 1"},
                     None, (".boft_s",), ()),
    "dora": ("lora", KOHYA, {**LORA, **ALPHA, ".dora_scale": "o 1"}, "o i",
             (".dora_scale",), (".lora_down.weight",)),
    "dora of columns": ("lora", KOHYA, {**LORA, ".dora_scale": "1 i"}, "o i",
                        (".dora_scale",), (".lora_down.weight",)),
    "dora of peft": ("lora", PEFT, {".lora_A.weight": "r i",
                                    ".lora_B.weight": "o r",
                                    ".lora_magnitude_vector": "o"}, "o i",
                     (".lora_magnitude_vector",), (".lora_A.weight",)),
    "dora of loha": ("loha", KOHYA, {**LOHA, ".dora_scale": "o 1"}, "o i",
                     (".dora_scale",), ()),
    "dora of lokr": ("lokr", KOHYA, {**LOKR, ".dora_scale": "o*a 1"},
                     "o*a i*b", (".dora_scale",), (".lokr_w2",)),
    "tlora": ("tlora", KOHYA, {".q_layer.weight": "r i",
                               ".p_layer.weight": "o r",
                               ".lambda_layer": "1 r", **ALPHA}, "o i", (),
              ()),
    "tlora of a convolution": (
        "tlora", CONV1, {".q_layer.weight": "r i 1 1",
                         ".p_layer.weight": "o r 1 1", ".lambda_layer": "1 r"},
        "o i 1 1", (), ()),
    # Factors may be stored as their product, frozen matrices not at all; one
    # trained factor alone is nothing.
    "light": ("light", OLD, LIGHT, "o i",
              (".lora.down_aux.weight", ".lora.up_aux.weight"), ()),
    "light, product": ("light", OLD, {".lora.down_up.weight": "b a",
                                      ".lora.down_aux.weight": "a i",
                                      ".lora.up_aux.weight": "o b"}, "o i",
                       (".lora.down_aux.weight", ".lora.up_aux.weight"), ()),
    "full": ("full", KOHYA, {".diff": "o i k l", ".diff_b": "o"}, "o i k l",
             (".diff", ".diff_b"), (".diff",)),
    "norm": ("norm", KOHYA, {".w_norm": "o", ".b_norm": "o"}, "o",
             (".w_norm", ".b_norm"), ()),
    "embedding": ("embedding", PEFT, {".lora_embedding_A": "r v",
                                      ".lora_embedding_B": "o r"}, "v o", (),
                  ()),
    "dora of an embedding": (
        "embedding", PEFT, {".lora_embedding_A": "r v",
                            ".lora_embedding_B": "o r",
                            ".lora_magnitude_vector": "o"}, "v o",
        (".lora_magnitude_vector",), ()),
}

# Tensors that may be stored flat, or of one dimension.
VECTORS = (".diff", ".dora_scale", ".ia3_l", ".rescale", ".boft_s",
           ".lambda_layer", ".weight", ".lora_magnitude_vector")


def size(text):
    """Of a dimension: letters, products and halves of them."""
    number, *divisor = text.split("/")
    value = math.prod(int(f) if f.isdigit() else SIZES[f]
                      for f in number.split("*"))
    return value // int(divisor[0]) if divisor else value


def shape(text):
    return tuple(size(d) for d in text.split())


def filled(dims, rng, dtype="F32"):
    if dtype == "I32":
        return tensor(np.ones(dims), dtype)
    return tensor(rng.uniform(0.5, 1.5, dims), dtype)


def sound(name, rng):
    """Tensors by suffix."""
    _, _, dims, _, _, _ = MODULES[name]
    tensors = {suffix: filled(shape(text), rng) for suffix, text in
               dims.items()}
    if ".on_input" in tensors:
        tensors[".on_input"] = tensor(np.uint8(1), "U8")
    return tensors


def bound(name, suffix, at):
    """Another dimension has the letter: it cannot change alone."""
    _, _, dims, _, _, _ = MODULES[name]
    letters = re.findall("[a-z]", dims[suffix].split()[at])
    everything = [letter for text in dims.values()
                  for letter in re.findall("[a-z]", text)]
    return not letters or any(everything.count(x) > 1 for x in letters)


def is_scalar(suffix):
    return suffix in (".alpha", ".on_input")


def damaged(name, rng):
    """(what, tensors by suffix), each unsound."""
    _, _, dims, _, optional, kernels = MODULES[name]
    whole = sound(name, rng)
    for suffix, text in dims.items():
        def with_(new, dtype="F32"):
            return {**whole, suffix: filled(new, rng, dtype)}

        old = shape(text)
        if is_scalar(suffix):
            yield f"{suffix} of two", with_((2,))
            yield f"{suffix} of none", with_((0,))
            continue
        if suffix not in optional and len(dims) > 1:
            yield (f"without {suffix}",
                   {s: t for s, t in whole.items() if s != suffix})
        for at, dim in enumerate(old):
            if bound(name, suffix, at):
                yield (f"{suffix}, dimension {at} larger",
                       with_(old[:at] + (dim + 1,) + old[at + 1:]))
            yield (f"{suffix}, dimension {at} of none",
                   with_(old[:at] + (0,) + old[at + 1:]))
        yield f"{suffix} of integers", with_(old, "I32")
        yield f"{suffix} without dimensions", with_(())
        if suffix not in kernels:
            yield f"{suffix}, one more dimension", with_(old + (2,))
        if suffix == ".dora_scale":
            rows, inputs = shape(MODULES[name][3])[:2]
            yield (f"{suffix} as long as the other side",
                   with_((1, rows) if old[0] == 1 else (inputs, 1)))
        if len(old) > 1 and suffix not in VECTORS:
            yield f"{suffix} of one dimension", with_((math.prod(old),))


def write(suite, module, tensors):
    path = suite.path("module.safetensors")
    support.write_file(path, {module + s: t for s, t in tensors.items()})
    return path


def check_sound(suite, name, rng):
    kind, module, dims, weight, _, _ = MODULES[name]
    path = write(suite, module, sound(name, rng))
    info = suite.json("info", path, "--modules")
    equal([p for p in info["problems"] if p["severity"] == "error"], [],
          "problems")
    row, = info["modules"]
    equal((row["kind"], row["name"]), (kind, module), "kind and name")
    if weight is not None:
        equal(tuple(row["shape"]), shape(weight), "shape")
    suite.run("check", path)
    for suffix, text in dims.items():
        for at, letters in enumerate(text.split()):
            if is_scalar(suffix) or bound(name, suffix, at):
                continue  # no letter, or one that other tensors have
            if weight is not None:
                check_free(suite, name, suffix, at, letters, rng)


def check_free(suite, name, suffix, at, letters, rng):
    """A dimension that no other binds may have any size."""
    _, module, dims, weight, _, _ = MODULES[name]
    letter, = re.findall("[a-z]", letters)
    SIZES[letter] += 1
    try:
        path = write(suite, module, sound(name, rng))
        row, = suite.json("info", path, "--modules")["modules"]
        equal(tuple(row["shape"]), shape(weight),
              f"shape with another dimension {at} of {suffix}")
        suite.run("check", path)
    finally:
        SIZES[letter] -= 1


def check_damaged(suite, name, rng):
    """All of them in one file, beside a module that is sound."""
    _, module, _, _, _, _ = MODULES[name]
    whats, file = {}, {GOOD + ".lora_down.weight": filled((2, 6), rng),
                       GOOD + ".lora_up.weight": filled((5, 2), rng)}
    for what, tensors in damaged(name, rng):
        other = f"{module}{len(whats)}"
        whats[other] = what
        file.update({other + suffix: t for suffix, t in tensors.items()})
    path = suite.path("damaged.safetensors")
    support.write_file(path, file)
    info = suite.json("info", path, "--modules")
    equal(len(info["modules"]), len(whats) + 1, "modules")
    found = [whats.get(p["subject"], p["subject"]) for p in info["problems"]
             if p["severity"] == "error"]
    equal(sorted(found), sorted(whats.values()), "what is refused")
    checked = suite.json("check", path, code=MISMATCH)
    equal(sorted(p["subject"] for p in checked["problems"]
                 if p["severity"] == "error"), sorted(whats), "by check")
    out = suite.path("out.safetensors")
    run = suite.run("delta", path, "-o", out, code=MISMATCH)
    require(any(other in run.err for other in whats) and
            len(run.err.splitlines()) == 1, f"no module named: {run}")
    require(not out.exists(), "an output was left")
    suite.run("delta", path, "-o", out, "--skip-bad", "--force")
    equal(set(support.read_file(out)[0]), {GOOD}, "with --skip-bad")
    out.unlink()


def main():
    suite = support.Suite(__doc__.splitlines()[0])
    rng = np.random.default_rng(3)
    for name in MODULES:
        with suite.case(name):
            check_sound(suite, name, rng)
        with suite.case(f"{name}, damaged"):
            check_damaged(suite, name, rng)
    return suite.finish()


if __name__ == "__main__":
    sys.exit(main())
