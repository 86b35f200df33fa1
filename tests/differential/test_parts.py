"""Splitting and joining modules of every kind: the rows of q, k and v in one
weight of Flux, and back; and what cannot be, with the reason.

The tensors that must come out are made here, from the formulas of the kinds: a
row of the change needs certain rows of certain tensors and all of the others.
They are compared bit by bit. Only a baked scale rounds, once, to the type of
the factor.
"""

import pathlib
import sys

import numpy as np

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import support  # noqa: E402
from support import FAILED, MISMATCH, equal, require, tensor  # noqa: E402

FUSED = "lora_unet_double_blocks_0_img_attn_qkv"
SPLIT = "lora_transformer_transformer_blocks_0_attn_to_"
SWAPPED = "lora_unet_final_layer_adaLN_modulation_1"
STRAIGHT = "lora_transformer_norm_out_linear"
# Others of the base, one of each dialect, so that it is known for Flux.
OTHER = {"kohya": "lora_unet_double_blocks_1_img_mlp_0",
         "OneTrainer DiT": "lora_transformer_transformer_blocks_1_ff_net_0_proj"}
OPTIONS = ("--family", "flux1_dev", "--force")
ROWS, SHARE, WIDTH = 12, 4, 5


def numbers(seed, *shape):
    """Of 8 bits, none of them zero."""
    rng = np.random.default_rng([seed, *shape])
    return (rng.integers(65, 128, shape) * rng.choice([-1.0, 1.0], shape)) / 64


def lora(seed, rows=ROWS, rank=2, alpha=2.0, dtype="F32"):
    return {".lora_up.weight": tensor(numbers(seed, rows, rank), dtype),
            ".lora_down.weight": tensor(numbers(seed + 1, rank, WIDTH), dtype),
            ".alpha": tensor(np.array(alpha), dtype)}


# What each kind has, as {suffix: (shape, dimension of the rows or None, rows of
# the weight for a step of it)}.
KINDS = {
    "lora": {".lora_up.weight": ((12, 2), 0, 1),
             ".lora_down.weight": ((2, 5), None, 1), ".alpha": ((), None, 1)},
    "lora with biases": {
        ".lora_up.weight": ((12, 2), 0, 1), ".diff_b": ((12,), 0, 1),
        ".lora_down.weight": ((2, 5), None, 1), ".alpha": ((), None, 1)},
    "lora with dora": {
        ".lora_up.weight": ((12, 2), 0, 1), ".dora_scale": ((12, 1), 0, 1),
        ".lora_down.weight": ((2, 5), None, 1), ".alpha": ((), None, 1)},
    "full": {".diff": ((12, 5), 0, 1), ".diff_b": ((12,), 0, 1)},
    "loha": {".hada_w1_a": ((12, 2), 0, 1), ".hada_w1_b": ((2, 5), None, 1),
             ".hada_w2_a": ((12, 2), 0, 1), ".hada_w2_b": ((2, 5), None, 1),
             ".alpha": ((), None, 1)},
    "lokr": {".lokr_w1": ((6, 1), 0, 2), ".lokr_w2": ((2, 5), None, 1)},
    "lokr of pairs": {
        ".lokr_w1_a": ((3, 2), 0, 4), ".lokr_w1_b": ((2, 5), None, 1),
        ".lokr_w2_a": ((4, 2), None, 1), ".lokr_w2_b": ((2, 1), None, 1),
        ".alpha": ((), None, 1)},
    "glora": {".a1.weight": ((5, 2), None, 1), ".a2.weight": ((2, 5), None, 1),
              ".b1.weight": ((12, 2), 0, 1), ".b2.weight": ((2, 5), None, 1),
              ".alpha": ((), None, 1)},
    "glora of old": {
        ".a1.weight": ((2, 5), None, 1), ".a2.weight": ((5, 2), None, 1),
        ".b1.weight": ((2, 5), None, 1), ".b2.weight": ((12, 2), 0, 1),
        ".alpha": ((), None, 1)},
    "ia3": {".weight": ((12,), 0, 1), ".on_input": (False, None, 1)},
    "ia3 of inputs": {".weight": ((5,), None, 1), ".on_input": (True, None, 1)},
}

# Tensors no part can have some of, and the word that tells which.
REFUSED = {
    "oft": ({".oft_blocks": (3, 4, 4), ".alpha": ()}, "oft cannot follow"),
    "boft": ({".oft_blocks": (1, 3, 4, 4), ".alpha": ()}, "boft cannot follow"),
    "tlora": ({".q_layer.weight": (2, 5), ".p_layer.weight": (12, 2),
               ".lambda_layer": (1, 2), ".alpha": ()}, "tlora cannot follow"),
    "dora of inputs": ({".lora_up.weight": (12, 2), ".dora_scale": (1, 5),
                        ".lora_down.weight": (2, 5), ".alpha": ()},
                       "dora_scale of lora"),
    "lokr of thirds": ({".lokr_w1": (4, 1), ".lokr_w2": (3, 5)},
                       "lokr of this size can be cut at every 3 rows only"),
}


def make(kind):
    result = {}
    for i, (suffix, (shape, _, _)) in enumerate(KINDS[kind].items()):
        if suffix == ".on_input":
            result[suffix] = support.Tensor("I64", (), np.int64(shape).tobytes())
        else:
            result[suffix] = tensor(np.array(2.0) if shape == () else
                                    numbers(i, *shape), "F32")
    return result


def cut(kind, module, slices):
    """The tensors of the rows."""
    result = {}
    for suffix, (_, axis, grain) in KINDS[kind].items():
        t = module[suffix]
        if axis is not None:
            t = tensor(np.concatenate([t.array()[a // grain:b // grain]
                                       for a, b in slices], axis), t.dtype)
        result[suffix] = t
    return result


def third(i):
    return [(i * SHARE, (i + 1) * SHARE)]


class Converter:
    def __init__(self, suite):
        self.suite = suite
        self.step = 0

    def __call__(self, modules, dialect, *more, weight="", code=0):
        """{module: {suffix: tensor}} in another dialect, perhaps with a weight
        (":0.5") put in; the run if it is refused."""
        self.step += 1
        start = self.suite.path(f"{self.step}.safetensors")
        out = self.suite.path(f"{self.step}.out.safetensors")
        source = "kohya" if dialect != "kohya" else "OneTrainer DiT"
        modules = {**modules, OTHER[source]: lora(90)}
        support.write_file(start, join_names(modules),
                           {"modelspec.architecture": "flux-1-dev"})
        run = self.suite.run("convert", f"{start}{weight}", "-o", out,
                             "--dialect", dialect,
                             *OPTIONS, *more, code=code)
        if code:
            require(not out.exists(), "refused, but written")
            return run
        got = split_names(support.read_file(out)[0], [
            FUSED, SWAPPED, STRAIGHT, *(SPLIT + part for part in "qkv")])
        require(OTHER[dialect] in got, "the other module")
        del got[OTHER[dialect]]
        return got


def join_names(modules):
    return {name + suffix: t for name, module in modules.items()
            for suffix, t in module.items()}


def split_names(tensors, known):
    result = {}
    for name, t in tensors.items():
        module = next((m for m in known if name.startswith(m + ".")),
                      name.split(".")[0])
        result.setdefault(module, {})[name[len(module):]] = t
    return result


def same(got, expected, what):
    equal({m: set(t) for m, t in got.items()},
          {m: set(t) for m, t in expected.items()}, f"{what}: tensors")
    for module, tensors in expected.items():
        for suffix, t in tensors.items():
            require(got[module][suffix].same(t), f"{what}: {module}{suffix}: "
                    f"{got[module][suffix].array()}, not {t.array()}")


def delta(module):
    if ".diff" in module:
        return module[".diff"].array()
    return support.module_delta({"m" + s: t for s, t in module.items()}, "m")[0]


def refused(run, *words):
    for word in words:
        require(word in run.err, f"{word!r} is not in: {run.err}")


# Kinds -----------------------------------------------------------------------

def test_kind(convert, kind):
    """Cut into thirds, and joined again; halves swapped, and back."""
    module = make(kind)
    parts = {SPLIT + part: cut(kind, module, third(i))
             for i, part in enumerate("qkv")}
    same(convert({FUSED: module}, "OneTrainer DiT"), parts, "split")
    same(convert(parts, "kohya"), {FUSED: module}, "joined")
    swapped = cut(kind, module, [(6, 12), (0, 6)])
    if kind != "lokr of pairs":  # of which three rows make the weight
        same(convert({SWAPPED: module}, "OneTrainer DiT"), {STRAIGHT: swapped},
             "put in order")
        same(convert({STRAIGHT: swapped}, "kohya"), {SWAPPED: module},
             "swapped")


def test_kind_partly(convert, kind):
    """The middle part is missing: rows of zeros, where these change nothing."""
    module = make(kind)
    parts = {SPLIT + part: cut(kind, module, third(i))
             for i, part in enumerate("qkv") if part != "k"}
    if kind.startswith(("glora", "ia3 of")) or "dora" in kind:
        run = convert(parts, "kohya", code=FAILED)
        refused(run, kind.split()[0], "missing", SPLIT)
        return
    for suffix, (_, axis, grain) in KINDS[kind].items():
        if axis is not None:
            values = module[suffix].array().copy()
            values[4 // grain:8 // grain] = 0
            module[suffix] = tensor(values, "F32")
    same(convert(parts, "kohya"), {FUSED: module}, "joined")
    same(convert({FUSED: module}, "OneTrainer DiT"), parts, "split")


def test_refused(convert, kind):
    shapes, word = REFUSED[kind]
    module = {suffix: tensor(numbers(i, *shape), "F32") if shape else
              tensor(np.array(2.0), "F32")
              for i, (suffix, shape) in enumerate(shapes.items())}
    refused(convert({FUSED: module}, "OneTrainer DiT", code=FAILED), word,
            FUSED)


# Pairs -----------------------------------------------------------------------

def test_ranks(convert):
    """Three ranks, one scale that no number of 24 bits is."""
    parts = {SPLIT + part: lora(10 * i, SHARE, 3 << i, float(1 << i), "F16")
             for i, part in enumerate("qkv")}
    got = convert(parts, "kohya")
    equal({s: t.shape for s, t in got[FUSED].items()},
          {".lora_up.weight": (12, 21), ".lora_down.weight": (21, 5),
           ".alpha": ()}, "shapes")
    equal(float(got[FUSED][".alpha"].array()), 7.0, "alpha")
    up = np.zeros((12, 21))
    at = 0
    for i, module in enumerate(parts.values()):
        part = module[".lora_up.weight"].array()
        up[4 * i:4 * i + 4, at:at + part.shape[1]] = part
        at += part.shape[1]
    require((got[FUSED][".lora_up.weight"].array() == up).all(), "up")
    same(convert(got, "OneTrainer DiT"), parts, "split")


def test_strength(convert):
    """Put in and split, or joined, at once: full differences are multiplied
    themselves, pairs by their alpha and a sign."""
    for module in (lora(1), make("full")):
        parts = {SPLIT + part: cut("full" if ".diff" in module else "lora",
                                   module, third(i))
                 for i, part in enumerate("qkv")}
        got = convert({FUSED: module}, "OneTrainer DiT", weight=":-0.5")
        equal(set(got), set(parts), "parts")
        for name, part in parts.items():
            require((delta(got[name]) == -0.5 * delta(part)).all(), name)
        back = convert(parts, "kohya", weight=":-2")
        require((delta(back[FUSED]) == -2 * delta(module)).all(), "joined")
    none = convert({FUSED: lora(1)}, "OneTrainer DiT", "--drop",
                   "*img_attn*", weight=":2")
    equal(none, {}, "dropped")


def test_thirds_of_alpha(convert):
    """Blocks of which no part could say its alpha: all get all of down."""
    module = lora(1, ROWS, 9, 1.0)
    up = module[".lora_up.weight"].array()
    for i in range(3):
        up[4 * i:4 * i + 4, :3 * i] = up[4 * i:4 * i + 4, 3 * i + 3:] = 0
    module[".lora_up.weight"] = tensor(up, "F32")
    parts = {SPLIT + part: cut("lora", module, third(i))
             for i, part in enumerate("qkv")}
    same(convert({FUSED: module}, "OneTrainer DiT"), parts, "split")
    same(convert(parts, "kohya"), {FUSED: module}, "joined")


def test_zeros(convert):
    """Not trained at all: every part stays."""
    module = lora(1)
    module[".lora_up.weight"] = tensor(np.zeros((12, 2)), "F32")
    parts = {SPLIT + part: cut("lora", module, third(i))
             for i, part in enumerate("qkv")}
    same(convert({FUSED: module}, "OneTrainer DiT"), parts, "split")
    same(convert(parts, "kohya"), {FUSED: module}, "joined")


def test_alpha_of_zero(convert):
    """Which means the rank, whatever that is."""
    parts = {SPLIT + part: lora(10 * i, SHARE, 2, 0.0)
             for i, part in enumerate("qkv")}
    got = convert(parts, "kohya")
    equal(float(got[FUSED][".alpha"].array()), 0.0, "alpha")
    same(convert(got, "OneTrainer DiT"), parts, "split")


def test_scales(convert):
    """Powers of two go into up and round nothing; others are baked in, where
    that is allowed."""
    parts = {SPLIT + part: lora(10 * i, SHARE, 2, alpha, "F16")
             for i, (part, alpha) in enumerate(zip("qkv", (2.0, 0.5, 8.0)))}
    got = convert(parts, "kohya")[FUSED]
    equal(float(got[".alpha"].array()), 1.5, "alpha")
    expected = np.concatenate([delta(module) for module in parts.values()])
    require((delta(got) == expected).all(), "the change")

    parts[SPLIT + "k"][".alpha"] = tensor(np.array(3.0), "F16")
    run = convert(parts, "kohya", code=FAILED)
    refused(run, SPLIT, "1.5", "bake")
    got = convert(parts, "kohya", "--bake-alpha")[FUSED]
    equal(float(got[".alpha"].array()), 6.0, "alpha")
    up = np.zeros((12, 6), "<f2")
    for i, (module, scale) in enumerate(zip(parts.values(), (1, 1.5, 4))):
        up[4 * i:4 * i + 4, 2 * i:2 * i + 2] = (
            module[".lora_up.weight"].array() * scale).astype("<f2")
    require(got[".lora_up.weight"].same(tensor(up, "F16")), "up")


def test_types(convert):
    """Two types in one module: the one that has both; or the one asked for."""
    parts = {SPLIT + part: lora(10 * i, SHARE, 2, 2.0, dtype)
             for i, (part, dtype) in enumerate(zip("qkv", ("F16", "BF16",
                                                           "F16")))}
    got = convert(parts, "kohya")[FUSED]
    equal(got[".lora_up.weight"].dtype, "F32", "type")
    expected = np.concatenate([delta(module) for module in parts.values()])
    require((delta(got) == expected).all(), "the change")
    got = convert({FUSED: lora(3)}, "OneTrainer DiT", "--dtype", "bf16")
    up = lora(3)[".lora_up.weight"].array()
    for i, part in enumerate("qkv"):
        require(got[SPLIT + part][".lora_up.weight"].same(
            tensor(up[4 * i:4 * i + 4], "BF16")), f"{part}: rounded rows")


def test_gate(convert):
    """A trained scalar, for which alpha makes up."""
    module = {**lora(5), ".scalar": tensor(np.array(0.25), "F32")}
    got = convert({FUSED: module}, "OneTrainer DiT")
    for i, part in enumerate("qkv"):
        require((delta(got[SPLIT + part]) ==
                 delta(module)[4 * i:4 * i + 4]).all(), part)


def test_unlike(convert):
    """Parts that no one module can be."""
    parts = {SPLIT + part: lora(10 * i, SHARE) for i, part in enumerate("qkv")}
    full = {".diff": tensor(numbers(1, SHARE, WIDTH), "F32")}
    run = convert({**parts, SPLIT + "k": full}, "kohya", code=FAILED)
    refused(run, SPLIT + "k", "full", "lora")
    loha = {p: cut("loha", make("loha"), third(i))
            for i, p in enumerate(parts)}
    loha[SPLIT + "v"][".hada_w2_b"] = tensor(numbers(9, 2, WIDTH), "F32")
    run = convert(loha, "kohya", code=FAILED)
    refused(run, SPLIT, "hada_w", "loha")
    run = convert({**parts, SPLIT + "v": lora(7, 6)}, "kohya", code=MISMATCH)
    refused(run, "attn.to_v", "6 rows")
    run = convert({FUSED: lora(1, 13)}, "OneTrainer DiT", code=MISMATCH)
    refused(run, FUSED, "13 rows", "3 equal")


def test_misfits(convert):
    """Tensors beside those of the kind that have other rows."""
    loha, lokr = make("loha"), make("lokr")
    for shape in ((11,), (0,), ()):
        bias = tensor(np.zeros(shape), "F32")
        run = convert({FUSED: {**loha, ".diff_b": bias}}, "OneTrainer DiT",
                      code={FAILED, MISMATCH})
        refused(run, FUSED)
    pair = tensor(numbers(1, 3, 2), "F32")
    run = convert({FUSED: {**lokr, ".lokr_w1_a": pair}}, "OneTrainer DiT",
                  code=MISMATCH)
    refused(run, FUSED)


def test_sizes(convert):
    """Rows longer than what is made at once, and many short ones."""
    rows, rank, width = 3 * 701, 7, 2500
    up, down = numbers(1, rows, rank), numbers(2, rank, width)
    diff = numbers(3, 12, width)
    module = {".lora_up.weight": tensor(up), ".lora_down.weight": tensor(down),
              ".alpha": tensor(np.array(2.0))}
    parts = {SPLIT + part: {**module, ".lora_up.weight": tensor(
        up[701 * i:701 * i + 701])} for i, part in enumerate("qkv")}
    same(convert({FUSED: module}, "OneTrainer DiT"), parts, "split")
    same(convert(parts, "kohya"), {FUSED: module}, "joined")
    same(convert({FUSED: {".diff": tensor(diff)}}, "OneTrainer DiT"),
         {SPLIT + part: {".diff": tensor(diff[4 * i:4 * i + 4])}
          for i, part in enumerate("qkv")}, "rows")
    for i, part in enumerate("qkv"):
        parts[SPLIT + part][".lora_down.weight"] = tensor(
            numbers(4 + i, rank, width))
    got = convert(parts, "kohya")
    equal(got[FUSED][".lora_up.weight"].shape, (rows, 3 * rank), "shape")
    blocks = got[FUSED][".lora_up.weight"].array()
    for i in range(3):
        part = blocks[701 * i:701 * i + 701]
        require((part[:, 7 * i:7 * i + 7] ==
                 up[701 * i:701 * i + 701]).all(), "block")
        equal(np.count_nonzero(part), 701 * rank, "zeros beside it")
    same(convert(got, "OneTrainer DiT"), parts, "split again")


def test_transposed(suite):
    """OpenCLIP has the projection the other way round: so have its factors."""
    up, down = numbers(1, 1300, 3), numbers(2, 3, 700)
    start, out = suite.path("start.safetensors"), suite.path("out.safetensors")
    name = "conditioner.embedders.1.model.text_projection"
    other = "conditioner.embedders.1.model.transformer.resblocks.0.mlp.c_fc"
    tensors = {name + ".lora_B.weight": tensor(up, "F16"),
               name + ".lora_A.weight": tensor(down, "F16"),
               other + ".lora_B.weight": tensor(numbers(3, 6, 2)),
               other + ".lora_A.weight": tensor(numbers(4, 2, 5))}
    support.write_file(start, tensors)
    suite.run("convert", start, "-o", out, "--dialect", "diffusers",
              "--family", "sdxl")
    got = support.read_file(out)[0]
    name = "text_encoder_2.text_projection"
    require(got[name + ".lora_B.weight"].same(tensor(down.T, "F16")), "up")
    require(got[name + ".lora_A.weight"].same(tensor(up.T, "F16")), "down")



def main():
    suite = support.Suite(__doc__.splitlines()[0])
    convert = Converter(suite)
    for kind in KINDS:
        with suite.case(f"{kind}: all rows"):
            test_kind(convert, kind)
        with suite.case(f"{kind}: some rows"):
            test_kind_partly(convert, kind)
    for kind in REFUSED:
        with suite.case(f"{kind}: refused"):
            test_refused(convert, kind)
    for test in (test_ranks, test_strength, test_thirds_of_alpha, test_zeros,
                 test_alpha_of_zero, test_scales, test_types, test_gate,
                 test_unlike, test_misfits, test_sizes):
        with suite.case(test.__name__):
            test(convert)
    with suite.case("test_transposed"):
        test_transposed(suite)
    sys.exit(suite.finish())


if __name__ == "__main__":
    main()
