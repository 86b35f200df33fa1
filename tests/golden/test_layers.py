"""Golden activations: forward and back of LoRA, LoCon, LoHa and LoKr, as LyCORIS
and torch's autograd computed them in float64, against layers of the Python
package, at the tolerance of the case."""

import json
import pathlib
import sys

import numpy as np

sys.dont_write_bytecode = True
HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "bindings")]
import bindinglib  # noqa: E402
import support  # noqa: E402
from support import equal  # noqa: E402


DELTAS = ("delta", "light_expand", "light_expand_regen")


def arrays(path):
    return {name: t.array() for name, t in support.read_file(path)[0].items()}


def bound(case, expected):
    return case["atol"] + case["rtol"] * np.abs(expected)


def layer_of(adapter, module):
    how = {}
    if module["type"] == "conv":
        how = {"stride": module["stride"], "padding": module["padding"],
               "kernel": module["shape"][2:]}
    return adapter.layer(module["prefix"], **how)


def test_forward(layer, case, target, base, expected):
    want = expected[target + ".y"]
    x = base["x"].astype(np.float32)
    got = layer.forward(x)
    equal(got.shape, want.shape, "shape")
    support.close(got, want, bound(case, want), "y")
    out = np.ones(want.shape, np.float32)
    layer.forward(x, out=out, add=True)
    support.close(out, want + 1, bound(case, want) + 2.0**-22, "y added")


def test_backward(layer, case, target, base, expected):
    x, g = (base[name].astype(np.float32) for name in "xg")
    got = layer.backward(x, g)
    found = {"grad.x": got.x}
    for role, name in layer.factors.items():
        suffix = name[len(case["params"]["modules"][target]["prefix"]) + 1:]
        found[f"{target}.grad.{suffix}"] = got.factors[role]
    equal(set(found), set(expected), "gradients")
    for name, value in found.items():
        want = expected[name]
        equal(value.shape, want.shape, f"shape of {name}")
        support.close(value, want, bound(case, want), name)
    apart = layer.backward(x, g, factors=False)
    equal(apart.factors, {}, "no factors")
    equal(apart.x.tobytes(), got.x.tobytes(), "x alone")
    apart = layer.backward(x, g, input=False)
    require_none = apart.x is None
    equal(require_none, True, "no x")
    for role, value in apart.factors.items():
        equal(value.tobytes(), got.factors[role].tobytes(), f"{role} alone")


def test_delta(suite, liblora, folder, case):
    """An image of the kernel's size, without padding, has one position: y is
    x with the golden weight change, and of an embedding its rows. f32 may err as
    in layer_numbers."""
    rng = np.random.default_rng(len(case["id"]))
    expected = arrays(folder / case["expect"])
    alpha = case["params"].get("network_alpha")  # which no tensor tells
    strength = 1.0 if alpha is None else alpha / case["params"]["rank"]
    with open_case(suite, liblora, folder, case) as adapter:
        for target, module in case["params"]["modules"].items():
            delta = expected[target + ".delta"]
            turned = module["type"] == "linear_transposed"
            flat = delta.T if turned else delta.reshape(len(delta), -1)
            name, = (row["name"] for row in adapter.modules
                     if module["prefix"] in (row["name"], row["name"] + "_lora",
                                             row["name"] + ".lora") or
                     len(adapter.modules) == 1)
            layer = adapter.layer(name, strength)
            if module["type"] == "embedding":  # all rows, in another order
                ids = rng.permutation(len(delta))
                support.close(layer.forward(ids), delta[ids],
                              bound(case, delta[ids]) + 2.0**-19 *
                              np.abs(delta[ids]), target)
                continue
            dims = layer._info.dims
            shape = delta.shape[2:2 + dims] if dims else ()
            x = rng.standard_normal((5, flat.shape[1])).astype(np.float32)
            got = layer.forward(x.reshape(5, layer.shape[1], *shape))
            room = np.abs(x) @ (bound(case, np.abs(flat)) + 2.0**-19 *
                                np.abs(flat)).T
            want = x @ flat.T + expected.get(target + ".delta_bias", 0.0)
            support.close(got.reshape(5, -1), want, room + case["atol"], target)


def open_case(suite, liblora, folder, case):
    """The adapter, with what is known of it from elsewhere."""
    params = case["params"]
    adapter = liblora.open(folder / case["adapter"],
                           config=folder / params["config"]
                           if "config" in params else None)
    if case["operation"] != "light_expand_regen":
        return adapter
    builder = liblora.Builder(adapter)
    builder.set_metadata("light_lora", json.dumps({
        "seed": params["seed"],
        "draws": ",".join(name for name, *_ in params["draws"]),
        "shapes": {row["name"]: params["modules"]["target"]["shape"]
                   for row in adapter.modules}}))
    return builder.finish()


def main():
    suite = support.Suite(__doc__.splitlines()[0])
    liblora = bindinglib.load(suite)
    folder, cases = suite.unpack("layers")
    for case in cases:
        run = (test_forward if case["operation"] == "forward"
               else test_backward)
        base, expected = (arrays(folder / case[k]) for k in ("base", "expect"))
        with suite.case(case["id"]), \
                liblora.open(folder / case["adapter"]) as adapter:
            for target, module in case["params"]["modules"].items():
                run(layer_of(adapter, module), case, target, base, expected)
    for pack in ("kinds", "light"):
        folder, cases = suite.unpack(pack)
        for case in cases:
            if case["operation"] not in DELTAS:
                continue
            with suite.case(case["id"] + " on activations"):
                test_delta(suite, liblora, folder, case)
    return suite.finish()


if __name__ == "__main__":
    sys.exit(main())
