"""Golden weights: kinds whose change depends on the base weight, as the program
changes it and as the library does, at every strength that was recorded.

Each case first compares the formula, in numpy float64, with what the library of
origin made of the weight; then the program, with and without --weights, and the
library through the Python package, at the tolerance of the case: |got -
expected| <= atol + rtol * |expected|.
"""

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


def arrays(path):
    return {name: t.array() for name, t in support.read_file(path)[0].items()}


# Formulas -------------------------------------------------------------------

class Module:
    """The tensors of one module, and the base's, in float64."""

    def __init__(self, case, config, target, tensors, base):
        self.case, self.config, self.target = case, config, target
        self.info = case["params"]["modules"][target]
        prefix = self.info["prefix"] + "."
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


FORMULAS = {"ia3": ia3, "peft_ia3": peft_ia3, "glora": glora, "full": full,
            "norm": norm}


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


def main():
    suite = support.Suite(__doc__.splitlines()[0])
    liblora = bindinglib.load(suite)
    folder, cases = suite.unpack("kinds")
    for entry in cases:
        if entry["operation"] != "patched_weight":
            continue
        case = Case(folder, entry)
        with suite.case(entry["id"] + ", formula"):
            test_formula(suite, case)
        with suite.case(entry["id"]):
            test_program(suite, case)
        with suite.case(entry["id"] + ", by the library"):
            test_library(suite, liblora, case)
    return suite.finish()


if __name__ == "__main__":
    sys.exit(main())
