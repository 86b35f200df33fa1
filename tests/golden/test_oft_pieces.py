"""OFT of Flux by kohya's trainer, whose blocks are in pieces: q, k and v, and
the MLP beside them, have rotations and a constraint of their own. The weights
that the program and the library make against the formula of the trainer's
forward, in numpy float64; the file kept as it is; every piece that is missing,
or does not fit.
"""

import pathlib
import sys

import numpy as np

sys.dont_write_bytecode = True
HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent)]
import support  # noqa: E402
from support import FAILED, MISMATCH, equal, require, tensor  # noqa: E402

QKV = "oft_unet_double_blocks_0_img_attn_qkv"
LINEAR1 = "oft_unet_single_blocks_0_linear1"
PROJ = "oft_unet_double_blocks_0_img_attn_proj"
INPUTS = 5


def forward_weight(weight, blocks, alpha, strength):
    """What a layer's input is multiplied by in the trainer's forward: pieces of
    rows, cut into blocks, each times the transpose of its rotation."""
    pieces, begin = [], 0
    for b in blocks:
        count, side, _ = b.shape
        q = b - b.transpose(0, 2, 1)
        norm = np.sqrt(np.square(q).sum())
        q = q * (min(norm, alpha * count * side) + 1e-8) / (norm + 1e-8)
        one = np.eye(side)
        r = np.stack([(one + x) @ np.linalg.inv(one - x) for x in q])
        r = strength * (r - one) + one
        rows = weight[begin:begin + count * side]
        rows = np.einsum("knm,knp->kmp", r, rows.reshape(count, side, -1))
        pieces.append(rows.reshape(count * side, -1))
        begin += count * side
    equal(begin, len(weight), "rows of pieces")
    return np.concatenate(pieces)


def random_blocks(rng, count, sides):
    return [rng.uniform(-0.4, 0.4, (count, s, s)).astype(np.float32)
            .astype(np.float64) for s in sides]


def named(module, blocks, alpha):
    """Tensors in the order of the trainer's modules: alpha is a buffer."""
    tensors = {f"{module}.oft_blocks.{i}": tensor(b, "F32")
               for i, b in enumerate(blocks)}
    if alpha is not None:
        tensors[module + ".alpha"] = tensor(np.float32(alpha), "F32")
    return tensors


def changed(suite, path, base, *more, code=support.OK):
    out = suite.path("out.safetensors")
    out.unlink(missing_ok=True)
    run = suite.run("delta", path, "-o", out, "--base", base, *more, code=code)
    if code != support.OK:
        require(not out.exists(), "an output was left")
        equal(len(run.err.splitlines()), 1, "lines")
        return run.err
    return {n: t.array() for n, t in support.read_file(out)[0].items()}


# name: (module, blocks of each piece, their sides, alpha, inputs)
CASES = {
    "q, k and v": (QKV, 4, (3, 3, 3), 0.3, INPUTS),
    "q, k, v and the MLP": (LINEAR1, 4, (3, 3, 3, 12), 0.3, INPUTS),
    # Blocks of the MLP begin at no multiple of their side.
    "one block each": (LINEAR1, 1, (6, 6, 6, 24), 10.0, INPUTS),
    "two blocks each": (LINEAR1, 2, (5, 5, 5, 20), 0.02, INPUTS),
    "a single piece": (PROJ, 2, (6,), 0.1, INPUTS),
    "ten pieces of sides of 1 and 7": (QKV, 3, (1, 7) * 4, 0.2, INPUTS),
    "nothing is turned": (QKV, 2, (4, 4, 4), 0.0, INPUTS),
    # Several rounds of rows, which end within blocks.
    "wide": (LINEAR1, 2, (24, 24, 24, 96), 0.05, 4096),
}


def case_files(suite, name, rng):
    module, count, sides, alpha, inputs = CASES[name]
    blocks = random_blocks(rng, count, sides)
    weight = rng.standard_normal((count * sum(sides), inputs))
    weight = weight.astype(np.float32).astype(np.float64)
    path, base = suite.path("oft.safetensors"), suite.path("base.safetensors")
    support.write_file(path, named(module, blocks, alpha))
    support.write_file(base, {module.replace("oft_", "lora_") + ".weight":
                              tensor(weight, "F32")})
    return path, base, module, weight, blocks, float(np.float32(alpha))


def test_numbers(suite, name):
    """An element is a sum of `side` products: as many roundings of what sums of
    magnitudes are at most, here 16 times the largest element."""
    path, base, module, weight, blocks, alpha = case_files(
        suite, name, np.random.default_rng(21))
    side = max(len(b[0]) for b in blocks)
    for strength in (1.0, 0.25, -1.5):
        want = forward_weight(weight, blocks, alpha, strength)
        require(np.abs(want - weight).max() > 1e-2 or alpha == 0.0,
                "nothing is turned")
        for dtype, unit in (("f64", 2.0**-53), ("f32", 2.0**-24)):
            bound = 16 * side * unit * np.abs(want).max()
            for more, expected in ((["--weights"], want), ([], want - weight)):
                got = changed(suite, path, base, "--force", "--dtype", dtype,
                              "--strength", strength, *more)
                (key, value), = got.items()
                require(key.startswith(module) or more, f"name {key}")
                support.close(value, expected, bound,
                              f"{name} at {strength} in {dtype} {more}")


def test_own_norms(suite):
    """The constraint is of a piece, not of all: doubling the blocks of k leaves
    those of q and v as they were."""
    rng = np.random.default_rng(22)
    blocks = random_blocks(rng, 2, (4, 4, 4))
    weight = rng.standard_normal((24, INPUTS)).astype(np.float32)
    path, base = suite.path("oft.safetensors"), suite.path("base.safetensors")
    support.write_file(base, {QKV.replace("oft_", "lora_") + ".weight":
                              tensor(weight, "F32")})
    made = []
    for k in (1.0, 2.0):
        support.write_file(path, named(
            QKV, [blocks[0], k * blocks[1], blocks[2]], 0.05))
        (_, value), = changed(suite, path, base).items()
        made.append(np.split(value, 3))
    for i, same in ((0, True), (2, True)):
        equal(np.array_equal(made[0][i], made[1][i]), same, f"piece {i}")
    require(np.abs(made[0][1]).max() > 1e-3, "k is not turned")


def test_kept(suite):
    """Copies are the same bytes; another type keeps the names, whose numbers
    their trainer looks for."""
    rng = np.random.default_rng(23)
    tensors = {**named(LINEAR1, random_blocks(rng, 2, (3, 3, 3, 12)), 0.5),
               **named(QKV, random_blocks(rng, 2, (3, 3, 3)), 0.5),
               **named(PROJ, random_blocks(rng, 2, (9,)), 0.5)}
    path, out = suite.path("oft.safetensors"), suite.path("copy.safetensors")
    support.write_file(path, tensors, {"ss_network_module": "networks.oft_flux"})
    for more in ((), ("--dialect", "kohya-oft")):
        suite.run("convert", path, "-o", out, "--force", *more)
        got, _ = support.read_file(out)
        equal({n: t.data for n, t in got.items()},
              {n: t.data for n, t in tensors.items()}, f"tensors {more}")
    first = suite.path("first.safetensors")
    suite.run("convert", path, "-o", first, "--force")
    suite.run("convert", first, "-o", out, "--force")
    equal(out.read_bytes(), first.read_bytes(), "bytes")
    suite.run("convert", path, "-o", out, "--force", "--dtype", "bf16")
    got, _ = support.read_file(out)
    equal(set(got), set(tensors), "names")
    equal({t.dtype for n, t in got.items() if ".oft_blocks." in n}, {"BF16"},
          "types")
    report = suite.run("info", path, "--json", "--modules").json()
    equal(sorted(m["kind"] for m in report["modules"]), ["oft"] * 3, "kinds")


def test_renamed(suite):
    """LyCORIS has no pieces, but what is of one piece; nor can they be shared
    out to q, k and v."""
    rng = np.random.default_rng(24)
    path, out = suite.path("oft.safetensors"), suite.path("out.safetensors")
    out.unlink(missing_ok=True)
    support.write_file(path, named(QKV, random_blocks(rng, 2, (3, 3, 3)), 0.5))
    for dialect in ("lycoris-kohya", "lycoris-wrapper", "peft", "diffusers"):
        run = suite.run("convert", path, "-o", out, "--dialect", dialect,
                        code=FAILED)
        require(QKV in run.err, f"{dialect}: {run.err}")
        require(not out.exists(), "an output was left")
    blocks = random_blocks(rng, 2, (9,))
    support.write_file(path, named(PROJ, blocks, 0.5))
    suite.run("convert", path, "-o", out, "--dialect", "lycoris-kohya")
    got, _ = support.read_file(out)
    equal(set(got), {PROJ.replace("oft_", "lora_") + s
                     for s in (".oft_blocks", ".alpha")}, "names")


def test_made(suite):
    """As LoRA of full rank it is the same change."""
    path, base, module, weight, blocks, alpha = case_files(
        suite, "q, k, v and the MLP", np.random.default_rng(25))
    out = suite.path("pairs.safetensors")
    suite.run("convert", path, "-o", out, "--as", "lora", "--base", base,
              "--rank", INPUTS, "--dialect", "kohya", "--force")
    tensors, _ = support.read_file(out)
    want = forward_weight(weight, blocks, alpha, 1.0) - weight
    got, _ = support.module_delta(tensors, module.replace("oft_", "lora_"))
    # Factors in F32 of a change of full rank.
    support.close(got.reshape(want.shape), want,
                  2.0**-20 * np.abs(want).max() * INPUTS, "as LoRA")


def test_made_names(suite):
    """What becomes of OFT has names of kohya's other trainer, whether a model is
    known that has the layer or not."""
    rng = np.random.default_rng(27)
    path, out = suite.path("oft.safetensors"), suite.path("made.safetensors")
    base = suite.path("base.safetensors")
    for layer in ("single_blocks_0_linear2", "blocks_0_unheard_of"):
        blocks = random_blocks(rng, 2, (6,))
        weight = rng.standard_normal((12, INPUTS)).astype(np.float32)
        support.write_file(path, named(f"oft_unet_{layer}", blocks, 0.5))
        support.write_file(base, {f"oft_unet_{layer}.weight": tensor(weight)})
        want = forward_weight(weight.astype(np.float64), blocks, 0.5, 1.0)
        for kind, suffixes in (("lora", {".alpha", ".lora_down.weight",
                                         ".lora_up.weight"}),
                               ("full", {".diff"})):
            for more in ((), ("--dialect", "keep"), ("--dialect", "kohya")):
                suite.run("convert", path, "-o", out, "--as", kind, "--base",
                          base, "--force", *more)
                tensors, _ = support.read_file(out)
                equal(set(tensors), {f"lora_unet_{layer}{s}" for s in suffixes},
                      f"{kind} {more}")
            got = (tensors[f"lora_unet_{layer}.diff"].array() if kind == "full"
                   else support.module_delta(tensors, f"lora_unet_{layer}")[0])
            support.close(got.reshape(want.shape), want - weight,
                          2.0**-20 * np.abs(want).max() * INPUTS, kind)
    # What stays OFT stays as it is.
    suite.run("convert", path, "-o", out, "--dtype", "bf16", "--force")
    equal({n.partition(".")[0] for n in support.read_file(out)[0]},
          {f"oft_unet_{layer}"}, "names")


def test_damaged(suite):
    rng = np.random.default_rng(26)
    weight = rng.standard_normal((24, INPUTS)).astype(np.float32)
    base = suite.path("base.safetensors")
    support.write_file(base, {QKV.replace("oft_", "lora_") + ".weight":
                              tensor(weight, "F32")})

    def blocks(*shape, dtype="F32"):
        return tensor(rng.uniform(-0.4, 0.4, shape), dtype)

    good = {"oft_blocks.0": blocks(2, 4, 4), "oft_blocks.1": blocks(2, 4, 4),
            "oft_blocks.2": blocks(2, 4, 4), "alpha": tensor(np.float32(0.5))}
    path = suite.path("bad.safetensors")
    whole = np.zeros((2, 4, 4), np.int32)
    for what, changes, status, word in (
            ("whole", {}, None, None),
            ("no k", {"oft_blocks.1": None}, "KEY", "number 1"),
            ("no q", {"oft_blocks.0": None}, "KEY", "number 0"),
            ("no v", {"oft_blocks.2": None}, "SHAPE", "24"),
            ("v alone", {"oft_blocks.0": None, "oft_blocks.1": None}, "KEY",
             "number 0"),
            ("one more without a number", {"oft_blocks": blocks(2, 4, 4)},
             "KEY", "oft_blocks"),
            ("the same number twice", {"oft_blocks.02": blocks(2, 4, 4)},
             "KEY", "number 3"),
            ("a large number", {"oft_blocks.2": None,
                                "oft_blocks.4294967298": blocks(2, 4, 4)},
             "KEY", "number 2"),
            ("an empty number", {"oft_blocks.2": None,
                                 "oft_blocks.": blocks(2, 4, 4)}, "SHAPE", "24"),
            ("a vector", {"oft_blocks.1": blocks(8)}, "SHAPE", "dimensions"),
            ("a butterfly", {"oft_blocks.0": blocks(1, 2, 4, 4)}, "SHAPE", ""),
            ("a late butterfly", {"oft_blocks.2": blocks(1, 2, 4, 4)}, "SHAPE",
             "dimensions"),
            ("no squares", {"oft_blocks.2": blocks(2, 4, 3)}, "SHAPE", "sides"),
            ("other blocks", {"oft_blocks.1": blocks(4, 2, 2)}, "SHAPE",
             "blocks of two pieces"),
            ("other rows", {"oft_blocks.1": blocks(2, 5, 5)}, "SHAPE", "26"),
            ("none at all", {"oft_blocks.1": blocks(0, 4, 4)}, "SHAPE", "empty"),
            ("whole numbers", {"oft_blocks.1": tensor(whole, "I32")}, "DTYPE",
             "I32"),
            ("not finite", {"oft_blocks.1": tensor(whole * np.nan, "F32")},
             "NONFINITE", "finite"),
            ("no alpha", {"alpha": None}, "KEY", "alpha"),
            ("nine of them", {f"oft_blocks.{i}": blocks(2, 4, 4)
                              for i in range(9)}, "UNSUPPORTED", "8 pieces")):
        tensors = {f"{QKV}.{name}": value
                   for name, value in {**good, **changes}.items()
                   if value is not None}
        support.write_file(path, tensors)
        if status is None:
            changed(suite, path, base)
            continue
        said = changed(suite, path, base, code=FAILED
                       if status == "UNSUPPORTED" else MISMATCH)
        require(word in said and QKV in said, f"{what}: {said}")
        # What is not of a module is kept as it is, by every copy.
        out = suite.path("copy.safetensors")
        suite.run("convert", path, "-o", out, "--force")
        equal({n: t.data for n, t in support.read_file(out)[0].items()},
              {n: t.data for n, t in tensors.items()}, f"{what}, copied")


def main():
    suite = support.Suite(__doc__.splitlines()[0])
    for name in CASES:
        with suite.case(name):
            test_numbers(suite, name)
    for test in (test_own_norms, test_kept, test_renamed, test_made,
                 test_made_names, test_damaged):
        with suite.case(test.__name__[5:]):
            test(suite)
    return suite.finish()


if __name__ == "__main__":
    sys.exit(main())
