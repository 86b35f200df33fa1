"""Plans through the Python package: golden weights, several adapters, fused
weights, what comes back.

Golden cases are what the libraries of origin make of a weight, at the tolerance
of the case. Sums of several adapters are those of numpy in float64; a weight in
F32 is rounded once, by 2^-24 of it, and each product of r terms by r 2^-24 of
the sum of their sizes.
"""

import json
import pathlib
import sys

import numpy as np

sys.dont_write_bytecode = True
HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "golden"), str(HERE)]
import bindinglib  # noqa: E402
import support  # noqa: E402
import test_base  # noqa: E402
from support import close, equal, require, tensor  # noqa: E402

FLUX = "lora_transformer_transformer_blocks_0_attn_"
QKV = "double_blocks.0.img_attn.qkv.weight"


def weights_of(case, dtype=np.float32):
    """Copies of the base's tensors, as a host would have them."""
    return {name: value.astype(dtype) for name, value in case.base.items()
            if value.dtype.kind == "f"}


def assert_restored(plan, weights, before):
    plan.restore()
    for name, value in weights.items():
        bindinglib.same(value, before[name], name)
    equal(plan.saved_bytes, 0, "bytes kept")
    equal(plan.changed, [], "changed")


def try_golden(liblora, case):
    """Every strength that was recorded, on one plan, in F32 and F64."""
    for dtype in (np.float32, np.float64):
        weights = weights_of(case, dtype)
        before = {name: value.copy() for name, value in weights.items()}
        plan = liblora.Plan(weights)
        with liblora.open(case.path, config=case.config) as adapter:
            number = plan.add(adapter, 0.0)
        equal(plan.changed, [], "at strength 0")
        for strength in case.case["params"]["multipliers"]:
            plan.set_strength(number, strength)
            plan.run()
            changed = set()
            for m, part, want in case.wants(strength):
                name = f"{m.target}.{part}"
                changed.add(name)
                close(weights[name].astype(np.float64), want, case.bound(want),
                      f"{name} at {strength}")
            for name in set(weights) - changed:
                bindinglib.same(weights[name], before[name], name)
        assert_restored(plan, weights, before)


def try_delta(liblora, case, folder):
    """Changes that are added: the weight that is changed is 0."""
    expected = test_base.arrays(folder / case["expect"])
    config = case["params"].get("config")
    if config is not None:
        config = json.loads((folder / config).read_text("utf-8"))
    weights = {}
    for name, value in expected.items():
        target, _, what = name.rpartition(".")
        member = {"delta": ".weight", "delta_bias": ".bias"}.get(what)
        if member is None:
            return False
        weights[target + member] = np.zeros(value.shape, np.float32)
    plan = liblora.Plan(weights)
    with liblora.open(folder / case["adapter"], config=config) as adapter:
        plan.add(adapter)
    plan.run()
    for name, value in expected.items():
        target, _, what = name.rpartition(".")
        got = weights[target + (".weight" if what == "delta" else ".bias")]
        close(got.astype(np.float64), value,
              case["atol"] + case["rtol"] * np.abs(value), name)
    assert_restored(plan, weights,
                    {name: np.zeros_like(w) for name, w in weights.items()})
    return True


def pair(rng, out, in_, rank):
    return (rng.standard_normal((out, rank)).astype(np.float32),
            rng.standard_normal((rank, in_)).astype(np.float32))


def write_pairs(path, pairs, alpha):
    tensors = {}
    for name, (up, down) in pairs.items():
        tensors[name + ".lora_up.weight"] = tensor(up, "F32")
        tensors[name + ".lora_down.weight"] = tensor(down, "F32")
        tensors[name + ".alpha"] = tensor(np.float64(alpha), "F32")
    support.write_file(path, tensors)
    return path


def product(up, down):
    return up.astype(np.float64) @ down.astype(np.float64)


def sizes(up, down):
    return product(np.abs(up), np.abs(down))


def try_fused(suite, liblora):
    """Adapters of q, k and v of which the model has one weight, one of them
    without k; the second after the first."""
    rng = np.random.default_rng(3)
    first = {FLUX + x: pair(rng, 16, 24, 4) for x in ("to_q", "to_k", "to_v")}
    second = {FLUX + x: pair(rng, 16, 24, 2) for x in ("to_q", "to_v")}
    paths = [write_pairs(suite.path(f"flux{i}.safetensors"), pairs, alpha)
             for i, (pairs, alpha) in enumerate(((first, 2), (second, 2)))]
    base = rng.standard_normal((48, 24)).astype(np.float32)
    weight = base.copy()
    plan = liblora.Plan([(QKV, weight)], family="flux1_dev")
    numbers = [plan.add(liblora.open(path), strength)
               for path, strength in zip(paths, (0.5, -2.0))]
    equal(plan.changed, [QKV], "changed")
    plan.run()
    want, room = base.astype(np.float64), 2.0**-23 * np.abs(base)
    for pairs, factor in ((first, 0.5 * 2 / 4), (second, -2.0 * 2 / 2)):
        for i, x in enumerate(("to_q", "to_k", "to_v")):
            if FLUX + x in pairs:
                rows = slice(16 * i, 16 * i + 16)
                want[rows] += factor * product(*pairs[FLUX + x])
                room[rows] += (8 * 2.0**-24 * abs(factor) *
                               sizes(*pairs[FLUX + x]))
    close(weight.astype(np.float64), want, room + 2.0**-23 * np.abs(want),
          "both")
    change = want - base
    up, down, error = plan.factors(QKV, pad_rank=32)
    equal(up.shape + down.shape, (48, 32, 32, 24), "padded")
    equal(error, 0.0, "error")
    close(product(up, down), change, 2.0**-22 * sizes(up, down), "factors")
    sigma = np.linalg.svd(change, compute_uv=False)
    up, down, error = plan.factors(QKV, rank=5)
    equal(up.shape, (48, 5), "compressed")
    left = np.sqrt((sigma[5:]**2).sum())
    close(error, left / np.linalg.norm(sigma), 1e-6, "error")
    close(np.linalg.norm(product(up, down) - change), left, 1e-5 * sigma[0],
          "what is left")
    plan.remove(numbers[0])
    plan.run()
    require(np.array_equal(weight[16:32], base[16:32]), "k is not as it was")
    assert_restored(plan, {QKV: weight}, {QKV: base})


def try_order(suite, liblora):
    """DoRA has the weight that those before it left."""
    rng = np.random.default_rng(4)
    name = "lora_unet_a"
    plain, other = pair(rng, 12, 10, 3), pair(rng, 12, 10, 2)
    magnitude = rng.uniform(1, 2, (1, 10)).astype(np.float32)
    paths = [write_pairs(suite.path("plain.safetensors"), {name: plain}, 3),
             write_pairs(suite.path("dora.safetensors"), {name: other}, 2)]
    tensors, _ = support.read_file(paths[1])
    tensors[name + ".dora_scale"] = tensor(magnitude, "F32")
    support.write_file(paths[1], tensors)
    base = rng.standard_normal((12, 10)).astype(np.float32)
    adapters = [liblora.open(path) for path in paths]

    def dora(weight):
        return test_base.dora_lycoris(weight, product(*other),
                                      magnitude.reshape(-1), 1, 1.0)

    for first in (0, 1):
        weight = base.copy()
        plan = liblora.Plan({name + ".weight": weight})
        for index in (first, 1 - first):
            plan.add(adapters[index])
        plan.run()
        start = base.astype(np.float64)
        want = (dora(start + product(*plain)) if first == 0 else
                dora(start) + product(*plain))
        close(weight.astype(np.float64), want, 1e-5, f"{first} first")
        assert_restored(plan, {name + ".weight": weight},
                        {name + ".weight": base})


def try_together(suite, liblora):
    """DoRA of q, k and v in one, whose norms are of all their rows, on a model
    that has them apart, with a LoRA of k before it."""
    rng = np.random.default_rng(6)
    module = "lora_unet_double_blocks_0_img_attn_qkv"
    factors, before = pair(rng, 48, 24, 3), pair(rng, 16, 24, 2)
    magnitude = rng.uniform(1, 2, (1, 24)).astype(np.float32)
    path = write_pairs(suite.path("qkv.safetensors"), {module: factors}, 3)
    tensors, _ = support.read_file(path)
    tensors[module + ".dora_scale"] = tensor(magnitude, "F32")
    support.write_file(path, tensors)
    single = write_pairs(suite.path("k.safetensors"),
                         {FLUX + "to_k": before}, 2)
    names = [f"transformer.transformer_blocks.0.attn.{x}.weight"
             for x in ("to_q", "to_k", "to_v")]
    base = rng.standard_normal((48, 24)).astype(np.float32)
    weights = {name: base[16 * i:16 * i + 16].copy()
               for i, name in enumerate(names)}
    plan = liblora.Plan(weights, family="flux1_dev")
    plan.add(liblora.open(single), 0.5)
    whole = plan.add(liblora.open(path))
    equal(plan.changed, names, "changed")
    plan.run()
    start = base.astype(np.float64)
    start[16:32] += 0.5 * product(*before)
    want = test_base.dora_lycoris(start, product(*factors),
                                  magnitude.reshape(-1), 1, 1.0)
    close(np.concatenate(list(weights.values())).astype(np.float64), want, 1e-5,
          "together")
    plan.remove(whole)
    plan.run()
    close(weights[names[1]].astype(np.float64), start[16:32], 1e-5, "k alone")
    require(np.array_equal(weights[names[0]], base[:16]), "q is not as it was")
    assert_restored(plan, weights, {name: base[16 * i:16 * i + 16]
                                    for i, name in enumerate(names)})


def try_turned(suite, liblora):
    """A weight that the model has transposed: CLIP-G's projection."""
    rng = np.random.default_rng(7)
    factors = pair(rng, 12, 10, 3)
    path = write_pairs(suite.path("turned.safetensors"),
                       {"lora_te2_text_projection": factors}, 3)
    name = "conditioner.embedders.1.model.text_projection"
    base = rng.standard_normal((10, 12)).astype(np.float32)
    weight = base.copy()
    plan = liblora.Plan({name: weight}, family="sdxl")
    plan.add(liblora.open(path), (7.0, 0.5))
    plan.run()
    change = 0.5 * product(*factors).T
    close(weight.astype(np.float64), base + change, 1e-5, "turned")
    up, down, _ = plan.factors(name)
    close(product(up, down), change, 1e-5, "factors")
    assert_restored(plan, {name: weight}, {name: base})


def try_refused(suite, liblora):
    rng = np.random.default_rng(5)
    path = write_pairs(suite.path("a.safetensors"),
                       {"lora_unet_a": pair(rng, 4, 3, 2)}, 2)
    weight = np.zeros((4, 3), np.float16)
    frozen = weight.copy()
    frozen.flags.writeable = False
    bindinglib.raises(liblora.ArgumentError, liblora.Plan,
                      {"lora_unet_a.weight": frozen})
    bindinglib.raises(liblora.ArgumentError, liblora.Plan,
                      {"lora_unet_a.weight": np.zeros((3, 4)).T})
    plan = liblora.Plan({"lora_unet_b.weight": weight})
    with liblora.open(path) as adapter:
        bindinglib.raises(liblora.KeyMatchError, plan.add, adapter)
        plan = liblora.Plan({"lora_unet_a.weight": weight}, saved_bytes=7)
        number = plan.add(adapter)
    bindinglib.raises(liblora.LimitError, plan.run)
    equal(plan.changed, ["lora_unet_a.weight"], "changed")
    require(not weight.any(), "a refused run wrote")
    bindinglib.raises(liblora.KeyMatchError, plan.remove, number + 1)
    bindinglib.raises(liblora.KeyMatchError, plan.factors, "x")
    bindinglib.raises(liblora.OptionError, liblora.Plan, {}, dora="x")
    bindinglib.raises(liblora.RangeError, plan.set_strength, number,
                      float("nan"))


def main():
    suite = support.Suite(__doc__.splitlines()[0])
    liblora = bindinglib.load(suite)
    folder, cases = suite.unpack("kinds")
    added = 0
    for entry in cases:
        if (entry["operation"] == "patched_weight" and
                entry["id"] not in test_base.REFUSED):
            with suite.case(entry["id"]):
                try_golden(liblora, test_base.Case(folder, entry))
        elif entry["operation"] == "delta":
            with suite.case(entry["id"]):
                added += try_delta(liblora, entry, folder)
    with suite.case("cases of changes that are added"):
        require(added > 20, f"{added} of them")
    for attempt in (try_fused, try_order, try_together, try_turned,
                    try_refused):
        with suite.case(attempt.__name__):
            attempt(suite, liblora)
    return suite.finish()


if __name__ == "__main__":
    sys.exit(main())
