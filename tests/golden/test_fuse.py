"""Golden fusing: what `lora fuse` makes of weights, against the libraries the
golden cases come from and against numpy float64, rounded once.

fusing.py derives the interval that each number must lie in. Golden cases have
a tolerance of their own, which takes the place of the error of the sum there.
"""

import pathlib
import shutil
import sys

import numpy as np

sys.dont_write_bytecode = True
HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "bindings")]
import fusing  # noqa: E402
import models  # noqa: E402
import support  # noqa: E402
import test_base  # noqa: E402
from fusing import UNIT, Module, fuse, fused, nearest, stored  # noqa: E402
from support import MISMATCH, equal, require, tensor  # noqa: E402
from test_base import KOHYA, TARGET  # noqa: E402

SIGMAS = 5.0  # of a mean that is tested: one false alarm in a million


# Golden cases ---------------------------------------------------------------

def adapter_of(suite, folder, case):
    """The file, or PEFT's folder of it and its configuration."""
    path = folder / case["adapter"]
    if "config" not in case["params"]:
        return path
    place = suite.path("peft-" + case["id"])
    if not place.exists():
        place.mkdir()
        shutil.copy(path, place / "adapter_model.safetensors")
        shutil.copy(folder / case["params"]["config"],
                    place / "adapter_config.json")
    return place


def test_patched(suite, folder, entry):
    """Kinds that depend on the weight, at each strength that was recorded."""
    case = test_base.Case(folder, entry)
    adapter = adapter_of(suite, folder, entry)
    for strength in entry["params"]["multipliers"]:
        out = fuse(suite, case.base_path, [f"{adapter}:{strength}"])
        got = fusing.numbers(out)
        equal(set(got), set(case.base), "tensors")
        changed = set()
        for m, part, want in case.wants(strength):
            name = f"{m.target}.{part}"
            changed.add(name)
            support.close(got[name], want, case.bound(want) + UNIT *
                          np.abs(want), f"{name} at {strength}")
        fusing.require_same(out, case.base_path, changed, str(strength))


def test_refused(suite, folder, entry):
    case = test_base.Case(folder, entry)
    said = fuse(suite, case.base_path, [case.path], code=MISMATCH)
    require(case.modules[0].prefix in said, said)


def golden_base(rng, modules, expected, dtype):
    """Weights of a size at which both they and the change matter."""
    base = {}
    for target in modules:
        for part, key in (("weight", ".delta"), ("bias", ".delta_bias")):
            if target + key in expected:
                want = expected[target + key]
                base[f"{target}.{part}"] = stored(
                    np.abs(want).max() * rng.standard_normal(want.shape), dtype)
    return base


def test_added(suite, folder, entry):
    """Kinds that are added, to weights of every type."""
    rng = np.random.default_rng(3)
    expected = test_base.arrays(folder / entry["expect"])
    adapter = adapter_of(suite, folder, entry)
    path = suite.path("base.safetensors")
    for dtype, strength in (("F32", 1.0), ("F16", 0.5), ("BF16", -0.7)):
        base = golden_base(rng, entry["params"]["modules"], expected, dtype)
        support.write_file(path, base)
        out = fuse(suite, path, [f"{adapter}:{strength}"])
        got, _ = support.read_file(out)
        for target in entry["params"]["modules"]:
            for part, key in (("weight", ".delta"), ("bias", ".delta_bias")):
                name = f"{target}.{part}"
                if name not in base:
                    continue
                change = strength * expected[target + key]
                want = base[name].array() + change
                room = abs(strength) * entry["atol"] + entry["rtol"] * np.abs(
                    change) + UNIT * np.abs(want)
                fusing.check(got[name], want, room, f"{name} at {strength}")
        fusing.require_same(out, path, set(base), dtype)


# One adapter ----------------------------------------------------------------

def one(suite, rng, shape, dtype, size=0.05, **more):
    """(path of a base of two tensors, its first, path of an adapter, its
    module)."""
    weight = stored(rng.standard_normal(shape), dtype)
    base = suite.path("base.safetensors")
    support.write_file(base, {TARGET + ".weight": weight,
                              "other.weight": stored(np.ones((3, 3)), dtype)},
                       {"kept": "as it is"})
    module = Module(rng, shape, size=size, **more)
    adapter = fusing.write_adapter(suite.path("adapter.safetensors"),
                                   {KOHYA: module})
    return base, weight, adapter, module


def test_types(suite):
    """Every type, rounded once. The numbers that are not the nearest to W' are
    counted: as many as have a tie within the error, at most; three standard
    deviations are allowed above the expected share of 2 e / spacing."""
    rng = np.random.default_rng(1)
    for dtype in ("F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"):
        for shape in ((96, 160), (24, 16, 3, 3)):
            for strength in (1.0, -0.3):
                base, weight, adapter, module = one(
                    suite, rng, shape, dtype, alpha=2.5)
                out = fuse(suite, base, [f"{adapter}:{strength}"])
                got, _ = support.read_file(out)
                want, error = fused(weight.array(), (module, strength))
                missed = fusing.check(got[TARGET + ".weight"], want, error,
                                      f"{shape} at {strength}")
                share = np.minimum(1, 2 * error / fusing.spacing(want, dtype))
                most = share.sum() + 3 * np.sqrt(share.sum()) + 1
                require(missed <= most, f"{dtype}: {missed} of {want.size} "
                        f"are not the nearest, {most:.1f} may be")
                fusing.require_same(out, base, {TARGET + ".weight"}, dtype)


def test_wide(suite):
    """Longer and wider than what is read at once; with and without threads."""
    rng = np.random.default_rng(2)
    base, weight, adapter, module = one(suite, rng, (1500, 700), "BF16",
                                        rank=9)
    outs = [fuse(suite, base, [adapter], "--threads", n, out=f"{n}.safetensors")
            for n in (1, 2, 3)]
    want, error = fused(weight.array(), (module, 1.0))
    fusing.check(support.read_file(outs[0])[0][TARGET + ".weight"], want, error,
                 "wide")
    for out in outs[1:]:
        require(out.read_bytes() == outs[0].read_bytes(), f"{out.name} differs")


def test_bounds(suite):
    """NaN stays NaN, an infinity an infinity; what leaves the range of F16 or
    BF16 is an infinity, as IEEE rounds."""
    for dtype in ("F32", "F16", "BF16"):
        largest = fusing.FLOATS[dtype][2]
        weight = np.array([[np.nan, np.inf, -np.inf, largest, -largest, 1.0]])
        base = suite.path("base.safetensors")
        support.write_file(base, {TARGET + ".weight": stored(weight, dtype)})
        module = Module(np.random.default_rng(4), weight.shape, rank=1)
        # A quarter of the largest: the sum is past it, the addend is not.
        module.down[:] = [[0, 0, 0, 1, -1, 1]]
        module.up[:] = largest / 4 if dtype != "F32" else 1e38
        module.fill()
        adapter = fusing.write_adapter(suite.path("a.safetensors"),
                                       {KOHYA: module})
        got = fusing.numbers(fuse(suite, base, [adapter]))[TARGET + ".weight"]
        want = nearest(weight + module.change, dtype)
        require(np.array_equal(got, want, equal_nan=True),
                f"{dtype}: {got}, expected {want}")


def test_overflow(suite):
    """In F8 what is too large is NaN, or an infinity where the type has one, as
    torch has it; the largest number when told so. NaN stays NaN. The tie above
    the largest goes to it in E4M3, whose mantissa is even, and in E5M2 not."""
    for dtype, beyond, tie in (("F8_E4M3", np.nan, 448.0),
                               ("F8_E5M2", np.inf, np.inf)):
        largest = fusing.FLOATS[dtype][2]
        half = fusing.spacing(largest, dtype) / 2
        weight = stored([[largest, -largest, largest, largest, np.nan, 1.0]],
                        dtype)
        change = np.array([[half * 1.01, -2.0 * half, half, -largest, 8.0,
                            100.0 * largest]])
        base = suite.path("base.safetensors")
        support.write_file(base, {TARGET + ".weight": weight})
        module = Module(np.random.default_rng(4), change.shape, rank=1)
        module.down, module.up = change.astype("f4"), np.ones((1, 1), "f4")
        module.fill()
        adapter = fusing.write_adapter(suite.path("a.safetensors"),
                                       {KOHYA: module})
        for more, past, even in (((), beyond, tie),
                                 (("--saturate",), largest, largest)):
            got = fusing.numbers(fuse(suite, base, [adapter], *more))
            got = got[TARGET + ".weight"]
            want = [[past, -past, even, 0.0, np.nan, past]]
            require(np.array_equal(got, want, equal_nan=True),
                    f"{dtype} {more}: {got}, expected {want}")


# Several --------------------------------------------------------------------

def test_several(suite):
    """One rounding, whatever their number: small changes add up where each
    alone would be lost. Rounding after each adapter would be seen."""
    rng = np.random.default_rng(5)
    for dtype in ("F16", "BF16"):
        shape = (64, 96)
        weight = stored(1 + rng.random(shape), dtype)
        base = suite.path("base.safetensors")
        support.write_file(base, {TARGET + ".weight": weight})
        unit = fusing.spacing(1.0, dtype)
        changes = [(Module(rng, shape, rank=r, size=0.3 * unit), m)
                   for r, m in ((2, 1.0), (5, -0.5), (1, 0.25), (3, 2.0))]
        paths = [fusing.write_adapter(suite.path(f"{i}.safetensors"),
                                      {KOHYA: module})
                 for i, (module, _) in enumerate(changes)]
        want, error = fused(weight.array(), *changes)
        out = fuse(suite, base, [f"{path}:{m}" for path, (_, m) in
                                 zip(paths, changes)])
        got = support.read_file(out)[0][TARGET + ".weight"]
        fusing.check(got, want, error, "four")
        each = weight.array()
        for module, m in changes:
            each = nearest(each + m * module.change, dtype)
        low, high = fusing.allowed(want, error, dtype)
        require(np.mean((each < low) | (each > high)) > 0.1,
                "rounding after each adapter would not be seen")


def test_order(suite):
    """A kind that multiplies has the weight that those before it left."""
    rng = np.random.default_rng(6)
    shape = (12, 7)
    weight = stored(rng.standard_normal(shape), "F32")
    base = suite.path("base.safetensors")
    support.write_file(base, {TARGET + ".weight": weight})
    module = Module(rng, shape, size=1.0)
    pair = fusing.write_adapter(suite.path("pair.safetensors"),
                                {KOHYA: module})
    factors = rng.standard_normal(shape[1]).astype("f4")
    ia3 = suite.path("ia3.safetensors")
    support.write_file(ia3, {KOHYA + ".weight": tensor(factors),
                             KOHYA + ".on_input": tensor(np.int64(1), "I64")})
    w = weight.array()
    for adapters, want in (
            ([pair, f"{ia3}:0.5"], (w + module.change) * (1 + 0.5 * factors)),
            ([f"{ia3}:0.5", pair], w * (1 + 0.5 * factors) + module.change),
            ([ia3, pair, ia3],
             (w * (1 + factors) + module.change) * (1 + factors))):
        got = fusing.numbers(fuse(suite, base, adapters))[TARGET + ".weight"]
        support.close(got, want, 20 * UNIT * np.abs(want).max(), str(adapters))


def test_dora_rules(suite):
    """Rules by name, on the weight that an adapter before it changed."""
    rng = np.random.default_rng(7)
    shape = (10, 6)
    weight = stored(rng.standard_normal(shape), "F32")
    base = suite.path("base.safetensors")
    support.write_file(base, {TARGET + ".weight": weight})
    first, second = Module(rng, shape), Module(rng, shape, size=0.4)
    pair = fusing.write_adapter(suite.path("pair.safetensors"), {KOHYA: first})
    magnitude = rng.uniform(0.5, 1.5, (shape[0], 1)).astype("f4")
    dora = suite.path("dora.safetensors")
    support.write_file(dora, {**second.tensors(KOHYA),
                              KOHYA + ".dora_scale": tensor(magnitude)})
    w = weight.array() + first.change
    for name, rule in (("lycoris", test_base.dora_lycoris),
                       ("peft", test_base.dora_peft)):
        want = rule(w, second.change, magnitude.reshape(-1), 0, 0.5)
        out = fuse(suite, base, [pair, f"{dora}:0.5"], "--dora", name)
        got = fusing.numbers(out)[TARGET + ".weight"]
        support.close(got, want, 50 * UNIT * np.abs(want).max(), name)
    whole = test_base.dora_lycoris(w, second.change, magnitude.reshape(-1), 0,
                                   1.0)
    out = fuse(suite, base, [pair, f"{dora}:0.25"], "--strength-rule",
               "interpolate")
    support.close(fusing.numbers(out)[TARGET + ".weight"],
                  w + 0.25 * (whole - w), 50 * UNIT * np.abs(whole).max(),
                  "interpolated")


# Weights and selections -----------------------------------------------------

class Small:
    """A small Stable Diffusion 1.5 with an adapter for all layers."""

    def __init__(self, suite, dtype="F32"):
        self.model = models.Model(width=16, context=12, blocks=3)
        self.base = self.model.write_single(suite.path("small.safetensors"),
                                            self.model.base, dtype)
        self.weights = fusing.numbers(self.base)
        rng = np.random.default_rng(8)
        self.modules = {name: Module(rng, shape)
                        for name, _, _, shape in self.model.layers}
        self.adapter = fusing.write_adapter(
            suite.path("small-a.safetensors"),
            {models.kohya(component, ours): self.modules[name]
             for name, component, ours, _ in self.model.layers})

    def check(self, out, strength, what):
        """strength(component, diffusers' name): of each layer."""
        got, _ = support.read_file(out)
        touched = set()
        for name, component, ours, _ in self.model.layers:
            weight = name + ".weight"
            m = strength(component, ours)
            if m == 0:
                continue
            touched.add(weight)
            fusing.check(got[weight], *fused(self.weights[weight], (
                self.modules[name], m)), f"{what}: {name}")
        fusing.require_same(out, self.base, touched, what)


def test_weights(suite):
    small = Small(suite)
    for given, unet, encoder in (("", 1, 1), (":0.5", 0.5, 0.5),
                                 (":-2", -2, -2), (":0.5:-1.5", 0.5, -1.5),
                                 (":0:1", 0, 1), (":1:0", 1, 0)):
        out = fuse(suite, small.base, [f"{small.adapter}{given}"])
        small.check(out, lambda part, _: unet if part == "unet" else encoder,
                    given)


def test_select(suite):
    """Factors of components and patterns; of several that match, the product;
    0 leaves a layer's bytes alone."""
    small = Small(suite)
    for options, factor in (
            (["unet=0.5"], lambda part, _: 0.5 if part == "unet" else 1),
            (["text_encoder=0"], lambda part, _: 1 if part == "unet" else 0),
            (["*attn1*=0"], lambda _, name: 0 if "attn1" in name else 1),
            (["*=0"], lambda *_: 0),
            (["unet=-0.5", "*attn2.to_k=3"],
             lambda part, name: (-0.5 if part == "unet" else 1) *
             (3 if name.endswith("attn2.to_k") else 1)),
            (["unet.mid_block*=2"],
             lambda part, name: 2 if "mid_block" in name else 1)):
        more = [x for option in options for x in ("--select", option)]
        out = fuse(suite, small.base, [f"{small.adapter}:0.5"], *more)
        small.check(out, lambda *layer: 0.5 * factor(*layer), str(options))


# Stochastic rounding --------------------------------------------------------

def test_stochastic(suite):
    """Each number is one of the two neighbours of W', the upper one as often as
    W' is near it: the mean of the error, in units of the distance, is 0 within
    SIGMAS / (2 sqrt n), as the variance of each is 1/4 at most. The same in
    each tenth of the way from one neighbour to the other."""
    rng = np.random.default_rng(9)
    for dtype in ("F16", "BF16", "F8_E4M3", "F8_E5M2"):
        base, weight, adapter, module = one(suite, rng, (300, 400), dtype)
        out = fuse(suite, base, [adapter], "--stochastic", "--seed", 7)
        got = support.read_file(out)[0][TARGET + ".weight"].array()
        want, error = fused(weight.array(), (module, 1.0))
        low = nearest(want - error, dtype, np.floor)
        high = nearest(want + error, dtype, np.ceil)
        require(np.all((low <= got) & (got <= high)), f"{dtype}: no neighbour")
        unit = fusing.spacing(want, dtype)
        deviation = (got - want) / unit
        most = SIGMAS / 2 / np.sqrt(want.size) + np.mean(error / unit)
        require(abs(deviation.mean()) <= most,
                f"{dtype}: mean error {deviation.mean():g}, {most:g} allowed")
        share = want / unit - np.floor(want / unit)
        for tenth in range(10):
            some = (share >= tenth / 10) & (share < (tenth + 1) / 10)
            n = int(some.sum())
            if n < 100:
                continue
            most = SIGMAS / 2 / np.sqrt(n) + np.mean(error / unit)
            mean = deviation[some].mean()
            require(abs(mean) <= most, f"{dtype}: tenth {tenth}: {mean:g}")
        fusing.require_same(out, base, {TARGET + ".weight"}, dtype)


def test_seeds(suite):
    """The bytes depend on the seed, the target and the element alone: not on
    threads, nor on what else is in the file, nor on whose names it has."""
    rng = np.random.default_rng(10)
    base, weight, adapter, _ = one(suite, rng, (200, 300), "BF16")
    name = TARGET + ".weight"

    def bytes_of(path, *more):
        out = fuse(suite, path, [adapter], "--stochastic", *more)
        return support.read_file(out)[0][name].data

    first = bytes_of(base, "--seed", 7)
    equal(first == bytes_of(base, "--seed", 7, "--threads", 1), True, "again")
    equal(first == bytes_of(base, "--seed", 8), False, "another seed")
    alone = suite.path("alone.safetensors")
    support.write_file(alone, {name: weight, "zzz": tensor(np.ones(999))})
    equal(first == bytes_of(alone, "--seed", 7), True, "another file")
    stored_name = ("model.diffusion_model.middle_block.1.transformer_blocks.0."
                   "attn1.to_q.weight")
    other = suite.path("other.safetensors")
    support.write_file(other, {stored_name: weight})
    out = fuse(suite, other, [adapter], "--stochastic", "--seed", 7)
    equal(support.read_file(out)[0][stored_name].data == first, True,
          "other names")


def main():
    suite = support.Suite(__doc__.splitlines()[0])
    folder, cases = suite.unpack("kinds")
    for entry in cases:
        if entry["operation"] not in ("patched_weight", "delta"):
            continue
        with suite.case(entry["id"]):
            if entry["operation"] == "delta":
                test_added(suite, folder, entry)
            elif entry["id"] in test_base.REFUSED:
                test_refused(suite, folder, entry)
            else:
                test_patched(suite, folder, entry)
    for test in (test_types, test_wide, test_bounds, test_overflow,
                 test_several, test_order, test_dora_rules, test_weights,
                 test_select, test_stochastic, test_seeds):
        with suite.case(test.__name__[5:]):
            test(suite)
    return suite.finish()


if __name__ == "__main__":
    sys.exit(main())
