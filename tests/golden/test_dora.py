"""Rank conversion of DoRA: the change inside is cut, the magnitudes stay; with the
base, errors are those of the changed weight.

W' = V o (g / |V|), V = W + dW, with a norm for each row, or each input of a
linear layer. Golden weights, norms and errors are numpy's, in float64; factors
of the result are F32, so that a weight is off by some 2^-24 of its size, for
which the cases have 2e-6.
"""

import json
import pathlib
import sys

import numpy as np

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import support  # noqa: E402
from support import FAILED, KOHYA, MISMATCH, equal, require, tensor  # noqa: E402

MAGNITUDES = (".dora_scale", ".lora_magnitude_vector")


def arrays(path):
    return {name: t.array() for name, t in support.read_file(path)[0].items()}


def resize(suite, path, *more, code=support.OK):
    out = suite.path("out.safetensors")
    out.unlink(missing_ok=True)
    run = suite.run("resize", path, "-o", out, "--json", *more, code=code)
    if code != support.OK:
        require(not out.exists(), "an output was left")
        equal(len(run.err.splitlines()), 1, "lines")
        return run.err, None
    support.require_writer_rules(out)
    return support.read_file(out)[0], json.loads(run.out)


def changed(weight, change, magnitude, axis=0):
    v = weight + change
    norms = np.sqrt(np.square(v).sum(axis=1 - axis, keepdims=True))
    return v * (magnitude.reshape(norms.shape) / norms)


def product(tensors, name):
    """The change inside: kohya's names with an alpha, PEFT's without, whose rank
    is alpha here."""
    if name + ".lora_A.weight" in tensors:
        down, up = (support.flat(tensors[name + x].array().astype(np.float64))
                    for x in (".lora_A.weight", ".lora_B.weight"))
        return up @ down
    return support.flat(support.module_change(tensors, name))


def names_of(case, tensors):
    """{the case's name of a module: the file's}"""
    stored = {n[:-len(m)] for n in tensors for m in MAGNITUDES
              if n.endswith(m)}
    return {name: next(s for s in stored if s.split("model.")[-1] == name)
            for name in case["values"]}


def test_case(suite, folder, case):
    path, base_path = folder / case["adapter"], folder / case["base"]
    base, golden = arrays(base_path), arrays(folder / case["expect"])
    before = support.read_file(path)[0]
    for rank in case["params"]["ranks"]:
        after, report = resize(suite, path, "--rank", rank, "--base", base_path)
        for name, stored in names_of(case, before).items():
            values = case["values"][name]
            numbers = values["ranks"][str(rank)]
            kept = next(stored + m for m in MAGNITUDES if stored + m in before)
            equal(after[kept].array().tobytes(), before[kept].array().tobytes(),
                  "magnitudes")
            weight = support.flat(base[name + ".weight"].astype(np.float64))
            got = changed(weight, product(after, stored), after[kept].array(),
                          0 if values["axis"] == "out" else 1)
            want = next(v for k, v in golden.items() if k.startswith(name) and
                        f"{rank}" in k[len(name):] and "weight" in k)
            support.close(got, want, 2e-6 * np.abs(want).max(), name)
            row = support.one(report["modules"], "name", stored)
            support.close(row["error"], numbers["error"],
                          2e-6 * values["norm"], "error")
            support.close(np.sqrt(1 - row["energy"]),
                          numbers["error_relative_to_change"], 1e-5, "share")
        equal([p["code"] for p in report["problems"]], [], "problems")
        lost = sum(v["ranks"][str(rank)]["error"] ** 2
                   for v in case["values"].values())
        whole = sum(v["change"] ** 2 for v in case["values"].values())
        support.close(report["totals"]["relative_error"],
                      np.sqrt(lost / whole), 1e-5, "of the whole")


def test_refused_case(suite, folder, case):
    (name,) = case["values"]
    for more in ((), ("--base", folder / case["base"])):
        said, _ = resize(suite, folder / case["adapter"], "--rank", 1, *more,
                         code=FAILED)
        require(name in said and "inputs" in said, said)


# Built ----------------------------------------------------------------------

MODULE = "lora_unet_a"


def built(suite, rank=4, kind="lora", shape=(9, 7)):
    rng = np.random.default_rng(11)
    out, in_ = shape
    sides = {"lora": {".lora_up.weight": (out, rank),
                      ".lora_down.weight": (rank, in_)},
             "loha": {".hada_w1_a": (out, rank), ".hada_w1_b": (rank, in_),
                      ".hada_w2_a": (out, rank), ".hada_w2_b": (rank, in_)}}
    tensors = {MODULE + name: tensor(rng.standard_normal(side), "F32")
               for name, side in sides[kind].items()}
    tensors[MODULE + ".alpha"] = tensor(np.float32(rank / 2), "F32")
    tensors[MODULE + ".dora_scale"] = tensor(
        rng.uniform(0.5, 1.5, (out, 1)), "F32")
    path, base = suite.path("dora.safetensors"), suite.path("base.safetensors")
    support.write_file(path, tensors)
    weight = rng.standard_normal(shape).astype(np.float32)
    support.write_file(base, {MODULE + ".weight": tensor(weight, "F32")})
    return path, base, weight.astype(np.float64), tensors


def test_without_base(suite):
    """Errors are those of the change inside then, and the report says so."""
    path, _, _, tensors = built(suite)
    after, report = resize(suite, path, "--rank", 2)
    sigma = np.linalg.svd(product(tensors, MODULE), compute_uv=False)
    (row,) = report["modules"]
    support.close(row["error"], np.linalg.norm(sigma[2:]), 1e-5, "error")
    support.close(row["sigma"], sigma[:4], 1e-5, "sigma")
    (note,) = report["problems"]
    equal((note["code"], note["severity"], note["subject"]),
          ("dora", "note", MODULE), "note")


def test_loha(suite):
    """LoHa becomes a pair with the same magnitudes around it."""
    path, base, weight, tensors = built(suite, 2, "loha")
    after, report = resize(suite, path, "--rank", 3, "--base", base)
    equal(set(after), {MODULE + x for x in (
        ".lora_up.weight", ".lora_down.weight", ".alpha", ".dora_scale")},
        "tensors")
    magnitude = tensors[MODULE + ".dora_scale"].array()
    want = changed(weight, product(tensors, MODULE), magnitude)
    got = changed(weight, product(after, MODULE), magnitude)
    (row,) = report["modules"]
    support.close(row["error"], np.linalg.norm(got - want), 1e-5, "error")
    sigma = np.linalg.svd(product(tensors, MODULE), compute_uv=False)
    inner = product(after, MODULE) - product(tensors, MODULE)
    run = suite.run("resize", path, "-o", suite.path("out.safetensors"),
                    "--rank", 3, "--base", base, "--force")
    share = 100 * (1 - np.linalg.norm(got - want) ** 2 /
                   np.linalg.norm(want - weight) ** 2)
    require(run.out.count(f"{share:.2f} % kept") == 2, run.out)
    require(np.linalg.norm(inner) <= 1.01 * np.linalg.norm(sigma[3:]) + 1e-5,
            "not the best of its rank")


def test_kept(suite):
    """A rank that is not lowered keeps the bytes; another type is measured."""
    for kind in ("lora", "loha"):
        path, base, weight, tensors = built(suite, 2, kind)
        after, report = resize(suite, path, "--rank", 60, "--base", base)
        for name, t in tensors.items():
            equal(after[name].array().tobytes(), t.array().tobytes(), name)
        equal(report["modules"][0]["error"], 0.0, "error")
        after, report = resize(suite, path, "--rank", 60, "--base", base,
                               "--dtype", "f16")
        want, got = (changed(weight, product(t, MODULE),
                             t[MODULE + ".dora_scale"].array())
                     for t in (tensors, after))
        support.close(report["modules"][0]["error"],
                      np.linalg.norm(got - want), 1e-6, "error of rounding")
        after, report = resize(suite, path, "--rank", 60, "--dtype", "f16")
        support.close(report["modules"][0]["error"], np.linalg.norm(
            product(after, MODULE) - product(tensors, MODULE)), 1e-6, "inside")


def test_size(suite):
    """A size of the whole file counts the magnitudes, which stay."""
    path, _, _, _ = built(suite, 16, shape=(64, 48))
    whole = path.stat().st_size
    for size in (whole // 2, whole * 3 // 4):
        resize(suite, path, "--size", size)
        got = suite.path("out.safetensors").stat().st_size
        require(size - 4 * (64 + 48) < got <= size, f"{got} of {size}")


def test_refused(suite):
    path, base, _, tensors = built(suite)
    support.write_file(base, {"other.weight": tensor(np.ones((9, 7)), "F32")})
    said, _ = resize(suite, path, "--rank", 1, "--base", base, code=MISMATCH)
    require(MODULE in said, said)
    said, _ = resize(suite, path, "--rank", 1, "--base",
                     suite.path("none.safetensors"), code=support.UNREADABLE)
    require("none.safetensors" in said, said)


def main():
    suite = support.Suite(__doc__.splitlines()[0])
    folder, cases = suite.unpack("dora")
    for case in cases:
        with suite.case(case["id"]):
            if case["id"] == "dora_refused":
                test_refused_case(suite, folder, case)
            else:
                test_case(suite, folder, case)
    for test in (test_without_base, test_loha, test_kept, test_size,
                 test_refused):
        with suite.case(test.__name__[5:]):
            test(suite)
    return suite.finish()


if __name__ == "__main__":
    sys.exit(main())
