"""Random LoHa, LoKr and DyLoRA against numpy float64: weight changes, pairs of
factors made of them, lower ranks, and what stays the same when names, types
and strengths change.

Bounds. With u the unit roundoff of the type, a product of two factors of rank
r is off by (r + 2) u of the product of the absolute values (each factor may be
rounded on reading), with a core by 2 r + 3; LoHa and LoKr multiply two such
numbers, round once, and once more by the scale, itself rounded. So all sums
of absolute values, times (r1 + r2 + 10) u (twice that with cores), to first
order. A pair written in f32 is off by twice 2^-24 of what the absolute values
of its balanced terms sum up to, which is compared with 1e-6 of the largest
change; best ranks with the singular values that numpy finds.
"""

import json
import pathlib
import sys

import numpy as np

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import support  # noqa: E402
from support import FAILED, KOHYA, MISMATCH, equal, require, tensor  # noqa: E402

START = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_"
LINEAR, CONV = START + "attn1_to_q", "lora_unet_down_blocks_0_resnets_0_conv1"

# what: (module, shapes by suffix), the rank of exact factors
LAYOUTS = {
    "loha": (LINEAR, {"hada_w1_a": (17, 3), "hada_w1_b": (3, 23),
                      "hada_w2_a": (17, 2), "hada_w2_b": (2, 23)}, 6),
    "loha of rank 1": (LINEAR, {"hada_w1_a": (9, 1), "hada_w1_b": (1, 31),
                                "hada_w2_a": (9, 1), "hada_w2_b": (1, 31)}, 1),
    "loha of more terms than rows": (
        LINEAR, {"hada_w1_a": (11, 6), "hada_w1_b": (6, 40),
                 "hada_w2_a": (11, 5), "hada_w2_b": (5, 40)}, 11),
    "loha of more terms than columns": (
        LINEAR, {"hada_w1_a": (40, 4), "hada_w1_b": (4, 13),
                 "hada_w2_a": (40, 4), "hada_w2_b": (4, 13)}, 13),
    "loha of a convolution": (
        CONV, {"hada_w1_a": (14, 3), "hada_w1_b": (3, 45),
               "hada_w2_a": (14, 3), "hada_w2_b": (3, 45)}, 9),
    "loha with cores": (
        CONV, {"hada_w1_a": (3, 16), "hada_w1_b": (3, 5),
               "hada_t1": (3, 3, 3, 3), "hada_w2_a": (2, 16),
               "hada_w2_b": (2, 5), "hada_t2": (2, 2, 3, 3)}, 6),
    "lokr, both whole": (LINEAR, {"lokr_w1": (4, 3), "lokr_w2": (5, 7)}, 15),
    "lokr of one": (LINEAR, {"lokr_w1": (1, 1), "lokr_w2_a": (7, 2),
                             "lokr_w2_b": (2, 6)}, 2),
    "lokr, w2 factored": (LINEAR, {"lokr_w1": (4, 6), "lokr_w2_a": (8, 2),
                                   "lokr_w2_b": (2, 5)}, 8),
    "lokr, w1 factored": (LINEAR, {"lokr_w1_a": (4, 2), "lokr_w1_b": (2, 6),
                                   "lokr_w2": (3, 5)}, 6),
    "lokr, both factored": (
        LINEAR, {"lokr_w1_a": (6, 2), "lokr_w1_b": (2, 5),
                 "lokr_w2_a": (8, 3), "lokr_w2_b": (3, 9)}, 6),
    "lokr of a rank above its sides": (
        LINEAR, {"lokr_w1_a": (3, 5), "lokr_w1_b": (5, 4),
                 "lokr_w2": (2, 9)}, 6),
    "lokr of a convolution": (
        CONV, {"lokr_w1": (4, 3), "lokr_w2": (4, 2, 3, 3)}, 12),
    "lokr of a convolution, factored": (
        CONV, {"lokr_w1": (4, 3), "lokr_w2_a": (4, 2),
               "lokr_w2_b": (2, 18)}, 6),
    "lokr with a core": (
        CONV, {"lokr_w1": (4, 3), "lokr_w2_a": (2, 6), "lokr_w2_b": (2, 5),
               "lokr_t2": (2, 2, 3, 3)}, 6),
}


def made(what, rng, dtype, alpha=1.5, size=1.0):
    module, shapes, _ = LAYOUTS[what]
    tensors = {f"{module}.{suffix}": tensor(rng.standard_normal(shape) * size,
                                            dtype)
               for suffix, shape in shapes.items()}
    if alpha is not None:
        tensors[module + ".alpha"] = tensor(np.float64(alpha))
    return tensors


def absolute(tensors):
    return {name: support.Tensor("F64", t.shape, np.abs(t.array()).tobytes())
            for name, t in tensors.items()}


def bound(what, tensors, unit):
    """See the head of this file."""
    module, shapes, _ = LAYOUTS[what]
    ranks = sum(shapes[s][0] for s in shapes if s.endswith("_b"))
    count = (ranks + 10) * (2 if len(shapes) != 4 and any(
        s[5] == "t" for s in shapes) else 1)
    size = np.abs(support.module_change(absolute(tensors), module))
    return count * unit * size


def write(suite, tensors, metadata=None):
    path = suite.path("in.safetensors")
    support.write_file(path, tensors, metadata)
    return path


def read_delta(suite, path, *options):
    out = suite.path("delta.safetensors")
    suite.run("delta", path, "-o", out, "--force", *options)
    return {n: support.flat(t.array())
            for n, t in support.read_file(out)[0].items()}


def check_delta(suite, what, rng, dtype):
    module, _, _ = LAYOUTS[what]
    tensors = made(what, rng, dtype)
    path = write(suite, tensors)
    want = support.module_change(tensors, module)
    for kind, unit in (("f32", 2.0**-24), ("f64", 2.0**-52)):
        for strength in (1.0, -0.7, 0.0):
            got = read_delta(suite, path, "--dtype", kind, "--strength",
                             strength)[module]
            support.close(got, strength * want,
                          abs(strength) * bound(what, tensors, unit),
                          f"{kind} at {strength}")
    data = suite.path("delta.safetensors").read_bytes()
    read_delta(suite, path, "--dtype", "f64", "--strength", 0, "--threads", 3)
    equal(suite.path("delta.safetensors").read_bytes(), data, "with threads")


def check_pairs(suite, what, rng, dtype):
    """As a pair, exact: the change, its shapes, its rank."""
    module, shapes, rank = LAYOUTS[what]
    tensors = made(what, rng, dtype)
    path, out = write(suite, tensors), suite.path("pairs.safetensors")
    suite.run("convert", path, "-o", out, "--as", "lora", "--dtype", "f32",
              "--force")
    got, _ = support.read_file(out)
    want = support.module_change(tensors, module)
    change = support.module_delta(got, module)[0]
    support.close(support.flat(change), want, 1e-6 * np.max(np.abs(want)),
                  "the change")
    down, up = (got[module + KOHYA[role]].shape for role in ("down", "up"))
    equal((down[0], up[1]), (rank, rank), "rank")
    if module == CONV:
        equal(change.shape, want.shape[:1] + (want.shape[1] // 9, 3, 3),
              "shape of the weight")
        equal((down[2:], up[2:]), ((3, 3), (1, 1)), "kernels")
    row, = suite.json("info", out, "--modules")["modules"]
    equal(row["scale"], 1.0, "scale")
    require(row["kind"] in ("lora", "locon"), row["kind"])


def check_ranks(suite, what, rng):
    """Lower ranks are the best ones, by every way to ask for them."""
    module, _, full = LAYOUTS[what]
    tensors = made(what, rng, "F32")
    path, out = write(suite, tensors), suite.path("low.safetensors")
    want = support.module_change(tensors, module)
    sigma = np.linalg.svd(want, compute_uv=False)
    squares = np.cumsum(sigma**2) / np.sum(sigma**2)
    energy = int(np.argmax(squares >= 0.8)) + 1
    for options, rank in (
            (["convert", "--as", "lora", "--rank", 2], min(2, full)),
            (["resize", "--rank", 2], min(2, full)),
            (["resize", "--energy", 0.8], energy),
            (["resize", "--ratio", 2], int(np.sum(sigma > sigma[0] / 2)))):
        verb, *options = options
        suite.run(verb, path, "-o", out, "--force", "--dtype", "f32", *options)
        got, _ = support.read_file(out)
        error = np.linalg.norm(support.module_change(got, module) - want)
        best = np.linalg.norm(sigma[rank:])
        slack = 4 * 2.0**-24 * np.sum(sigma)
        require(error <= best * (1 + 1e-9) + slack,
                f"{verb} {options}: error {error:g}, best {best:g}")
        if module + KOHYA["down"] in got:
            equal(got[module + KOHYA["down"]].shape[0], rank, f"{options}")
        else:  # it has no more directions than asked for
            equal((verb, rank), ("resize", full), f"{options}")
    report = suite.json("resize", path, "-o", out, "--force", "--rank", 1,
                        "--dtype", "bf16")["modules"][0]
    got, _ = support.read_file(out)
    error = np.linalg.norm(support.module_change(got, module) - want)
    support.close(report["error"], error, 1e-6 * error + 1e-9 * sigma[0],
                  "reported error")
    report = suite.json("resize", path, "-o", out, "--force", "--rank", 99,
                        "--dtype", "bf16")["modules"][0]
    got, _ = support.read_file(out)
    equal(KOHYA["down"] in "".join(got), False, "it stays of its kind")
    error = np.linalg.norm(support.module_change(got, module) - want)
    require(error > 0, "rounding changes something")
    support.close(report["error"], error, 1e-6 * error, "what rounding costs")
    count = len(report["sigma"])
    equal(count, full, "values")
    support.close(report["sigma"], sigma[:count], 1e-10 * sigma[0], "sigma")
    equal(np.all(sigma[count:] <= 1e-10 * sigma[0]), True, "the others")


def check_dense(suite, rng):
    """Where the terms are more than half of the rows or columns the change
    itself is decomposed, within 1.01 of the best."""
    shapes = {"hada_w1_a": (600, 20), "hada_w1_b": (20, 700),
              "hada_w2_a": (600, 30), "hada_w2_b": (30, 700)}
    tensors = {f"{LINEAR}.{suffix}": tensor(rng.standard_normal(shape) * 0.2)
               for suffix, shape in shapes.items()}
    for n in (1, 2):  # directions that matter, and such that hardly do
        a = tensors[f"{LINEAR}.hada_w{n}_a"]
        falling = a.array() * 0.6 ** np.arange(a.shape[1])
        tensors[f"{LINEAR}.hada_w{n}_a"] = tensor(falling)
    tensors[LINEAR + ".alpha"] = tensor(np.float64(7))
    path, out = write(suite, tensors), suite.path("low.safetensors")
    want = support.module_change(tensors, LINEAR)
    sigma = np.linalg.svd(want, compute_uv=False)
    squares = np.cumsum(sigma**2) / np.sum(sigma**2)
    for options, rank in (
            (["--rank", 12], 12),
            (["--energy", 0.9], int(np.argmax(squares >= 0.9)) + 1),
            (["--ratio", 4], int(np.sum(sigma > sigma[0] / 4))),
            (["--threshold", sigma[6] * 0.999], 7),
            (["--energy", 0.9, "--max-rank", 3], 3)):
        report = suite.json("resize", path, "-o", out, "--force", "--dtype",
                            "f32", *options)
        row, = report["modules"]
        got, _ = support.read_file(out)
        error = np.linalg.norm(support.module_change(got, LINEAR) - want)
        best = np.linalg.norm(sigma[rank:])
        equal(row["rank_out"], rank, f"rank by {options}")
        require(error <= 1.01 * best, f"{options}: {error:g}, best {best:g}")
        support.close(row["error"], error, 1e-5 * error, "reported error")
        kept = 1 - (error / np.linalg.norm(want)) ** 2
        for where in (row, report["totals"]):
            support.close(where["energy"], kept, 1e-5, "reported energy")
        count = len(row["sigma"])
        support.close(row["sigma"][:rank], sigma[:rank], 1e-2 * sigma[0],
                      "sigma")
        require(count < 600, f"{count} values were found")
    direct = suite.path("direct.safetensors")
    suite.run("resize", path, "-o", direct, "--force", "--rank", 12)
    suite.run("resize", path, "-o", f"{out}@rank=12", "-o",
              f"{suite.path('other.safetensors')}@rank=5", "--force")
    equal(out.read_bytes(), direct.read_bytes(), "one of two results")
    plain = suite.json("resize", path, "-o", out, "--force", "--effective")
    equal(len(plain["modules"][0]["sigma"]), 600, "a rule of all values")


def check_same(suite, what, rng):
    """The change is what it was, times the weight, however it is written."""
    module, _, _ = LAYOUTS[what]
    out = suite.path("same.safetensors")
    for alpha, gate in ((1.5, None), (None, None), (0.0, None), (-2.0, None),
                        (1.5, -0.5)):
        tensors = made(what, rng, "F32", alpha)
        if gate is not None:
            tensors[module + KOHYA["scalar"]] = tensor(np.float64(gate))
        want = support.module_change(tensors, module)
        path = write(suite, tensors)
        for options, weight in (
                (["--dialect", "peft"], 1.0), (["--bake-alpha"], 1.0),
                (["--dialect", "lycoris-kohya"], 1.0),
                (["--as", "lora"], -0.5), (["--dialect", "peft"], 0.25),
                (["--as", "lora", "--dialect", "diffusers"], 1.0)):
            suite.run("convert", f"{path}:{weight}", "-o", out, "--force",
                      *options)
            got, = read_delta(suite, out, "--dtype", "f64").values()
            support.close(got, weight * want, 1e-6 * np.max(np.abs(want)),
                          f"alpha {alpha}, gate {gate}, {options}, {weight}")
            if "peft" in options:  # and back
                back = suite.path("back.safetensors")
                suite.run("convert", out, "-o", back, "--force", "--dialect",
                          "kohya")
                got, = read_delta(suite, back, "--dtype", "f64").values()
                support.close(got, weight * want, 1e-6 * np.max(np.abs(want)),
                              f"back, alpha {alpha}, gate {gate}, {weight}")


def check_whole_scale(suite, rng):
    """PEFT divides alpha by r also where LoKr is whole, and says so beside the
    tensors only, with patterns for some."""
    module = "base_model.model.blk.to_q"
    tensors = {module + ".lokr_w1": tensor(rng.standard_normal((3, 4))),
               module + ".lokr_w2": tensor(rng.standard_normal((5, 2)))}
    folder = suite.path("peft")
    folder.mkdir(exist_ok=True)
    support.write_file(folder / "adapter_model.safetensors", tensors)
    plain = support.module_change(tensors, module, 1.0)
    out = suite.path("whole.safetensors")
    for config, scale in (
            ({"alpha": 4, "r": 16}, 0.25), ({"alpha": 4}, 0.5),
            ({"r": 4}, 1.0), ({}, 1.0),
            ({"alpha": 4, "r": 16, "rank_pattern": {"to_q": 2}}, 2.0),
            ({"alpha": 4, "r": 16, "alpha_pattern": {"blk.to_q": -8}}, -0.5)):
        (folder / "adapter_config.json").write_text(
            json.dumps({"peft_type": "LOKR", **config}), "utf-8")
        want = scale * plain
        slack = 1e-6 * np.max(np.abs(want))
        got, = read_delta(suite, folder).values()
        support.close(got, want, slack, f"{config}")
        for options in (["--dtype", "f32"], ["--bake-alpha"],
                        ["--as", "lora"], ["--dialect", "peft"]):
            suite.run("convert", folder, "-o", out, "--force", *options)
            got, = read_delta(suite, out).values()
            support.close(got, want, slack, f"{config}, {options}")
        suite.run("resize", folder, "-o", out, "--force", "--rank", 99)
        got, = read_delta(suite, out).values()
        support.close(got, want, slack, f"{config}, resized")
    for config in ({"alpha": 4, "r": 0.5}, {"alpha": 4, "r": -1},
                   {"alpha": 4, "r": 16, "rank_pattern": {"to_(q|k)": 2}}):
        (folder / "adapter_config.json").write_text(json.dumps(config), "utf-8")
        run = suite.run("delta", folder, "-o", out, "--force", code=MISMATCH)
        require(module in run.err, f"module not named: {run}")


def check_alpha_of_whole(suite, rng):
    """Trainers store what they like there: even what f16 cannot hold."""
    tensors = made("lokr, both whole", rng, "F32", None)
    want = support.module_change(tensors, LINEAR, 1.0)
    for alpha in (tensor(np.float64(1e10)), tensor(np.float64(0))):
        path = write(suite, {**tensors, LINEAR + ".alpha": alpha})
        got = read_delta(suite, path)[LINEAR]
        support.close(got, want, 1e-6 * np.max(np.abs(want)), "the change")


def check_prefix(suite, rng):
    """Of several modules those of a higher rank are cut; alpha by the mode."""
    path, out = suite.path("dylora.safetensors"), suite.path("cut.safetensors")
    shapes = {LINEAR: ((8, 12), (10, 8)), CONV: ((6, 4, 3, 3), (5, 6)),
              START + "attn1_to_k": ((2, 12), (10, 2))}
    for alpha in (None, 0.0, 3.0):
        tensors = {}
        for module, (down, up) in shapes.items():
            for role, shape in (("down", down), ("up", up)):
                tensors[module + KOHYA[role]] = tensor(
                    rng.standard_normal(shape), "F16")
            if alpha is not None:
                tensors[module + KOHYA["alpha"]] = tensor(np.float64(alpha))
        support.write_file(path, tensors, {"ss_network_dim": "8"})
        for mode, power in (("keep-alpha", 0.0), ("trained-sqrt", 0.5),
                            ("keep-scale", 1.0)):
            suite.run("convert", path, "-o", out, "--rank-prefix", 4,
                      "--truncate", mode, "--force")
            got, metadata = support.read_file(out)
            equal(metadata["ss_network_dim"], "Dynamic", "summary")
            for module, (down, up) in shapes.items():
                rank = min(4, down[0])
                for role, part in (("down", np.s_[:rank]),
                                   ("up", np.s_[:, :rank])):
                    key = module + KOHYA[role]
                    require(np.array_equal(got[key].array(),
                                           tensors[key].array()[part]), key)
                    equal(got[key].dtype, "F16", "type")
                given = alpha or down[0]
                want = given * (rank / down[0]) ** power / rank
                if not alpha and mode == "keep-alpha":
                    want = 1.0  # none was given, none is
                support.close(support.module_scale(got, module), want,
                              1e-6 * want, f"{mode}, alpha {alpha}")


def check_refused(suite, rng):
    out = suite.path("none.safetensors")
    loha = write(suite, made("loha", rng, "F32"))
    for options, code, text in (
            (["--rank-prefix", 2], FAILED, "DyLoRA"),
            (["--rank", 2], support.USAGE, "--as"),
            (["--truncate", "keep-scale"], support.USAGE, "--rank-prefix"),
            (["--as", "loha"], support.USAGE, "loha")):
        run = suite.run("convert", loha, "-o", out, *options, code=code)
        require(text in run.err, f"{options}: {run}")
    for suffix in (".hada_w1_b", ".hada_w2_a"):
        tensors = made("loha", rng, "F32")
        values = tensors[LINEAR + suffix].array().copy()
        values.flat[1] = np.nan
        tensors[LINEAR + suffix] = tensor(values)
        for verb, *options in (["delta"], ["convert", "--as", "lora"],
                               ["resize", "--rank", 2]):
            run = suite.run(verb, write(suite, tensors), "-o", out, *options,
                            code=MISMATCH)
            require(suffix in run.err, f"tensor not named: {run}")
    require(not out.exists(), "an output was left")
    # A high rank is said to be one, and not made.
    wide = {f"lora_unet_a.hada_w{n}_{side}": tensor(np.ones(shape, "<f4"))
            for n in "12" for side, shape in (("a", (2, 2)), ("b", (2, 3)))}
    wide["lora_unet_a.oft_blocks"] = tensor(np.ones((1, 2, 2)))
    run = suite.run("convert", write(suite, wide), "-o", out, "--as", "lora",
                    code={FAILED, MISMATCH})
    require("lora_unet_a" in run.err, f"module not named: {run}")


def main():
    suite = support.Suite(__doc__.splitlines()[0])
    rng = np.random.default_rng(29)
    for what in LAYOUTS:
        for dtype in ("F32", "F16", "BF16", "F64"):
            with suite.case(f"{what} in {dtype}"):
                check_delta(suite, what, rng, dtype)
            with suite.case(f"{what} in {dtype} as a pair"):
                check_pairs(suite, what, rng, dtype)
        with suite.case(f"{what}, lower ranks"):
            check_ranks(suite, what, rng)
        with suite.case(f"{what}, written otherwise"):
            check_same(suite, what, rng)
    with suite.case("more terms than half of the rows"):
        check_dense(suite, rng)
    for name, check in (("PEFT's scale of whole factors", check_whole_scale),
                        ("alpha beside whole factors", check_alpha_of_whole),
                        ("prefixes", check_prefix),
                        ("what is refused", check_refused)):
        with suite.case(name):
            check(suite, rng)
    return suite.finish()


if __name__ == "__main__":
    sys.exit(main())
