"""Conversion of kinds whose change depends on the base weight: what the golden
cases expect of the weight is what the pair of factors has to add to it.

Changes are W' - W of the libraries of origin, in float64; products of factors,
singular values and errors are numpy's. An exact pair in F32 has two roundings
of 2^-24 a term, whose sizes add up to a few times the largest change: 4e-6 of
that. The best of a rank is within 1.01 of what numpy's singular values leave,
plus 1e-6 of the change, which is what a sketch in f32 costs.
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
import test_base  # noqa: E402
from support import FAILED, MISMATCH, USAGE, equal, require, tensor  # noqa: E402
from test_base import KOHYA, Case, arrays, base_file  # noqa: E402


# Of which nothing is learnt here, as they need no base.
ADDITIVE = ("full_", "norm_")

# Kinds whose tensors tell no pair: an embedding, and what is refused as such.
REFUSED = ("peft_lora_dora_embedding", "tlora_conv3")

DOWN = (".lora_down.weight", ".lora_A.weight")
UP = (".lora_up.weight", ".lora_B.weight")
BIAS = (".diff_b", ".lora_B.bias")


def member(tensors, prefix, names):
    return next((tensors[prefix + name] for name in names
                 if prefix + name in tensors), None)


def change(case, m):
    """What is added to the weight, as a matrix."""
    return support.flat(case.expected[m.target + ".weight@1"] - m.weight)


def made(m):
    """The name of what a module becomes: kohya's OFT names blocks alone."""
    return m.prefix.replace("oft_unet_", "lora_unet_")


def product(tensors, m):
    """up @ down of a module, whose alpha, if it has one, is the rank."""
    down, up = (member(tensors, made(m), names) for names in (DOWN, UP))
    equal(len(down.shape), m.weight.ndim, "dimensions of down")
    equal(down.shape[1:], m.weight.shape[1:], "down")
    equal(up.shape[2:], (1,) * (m.weight.ndim - 2), "kernel of up")
    alpha = tensors.get(made(m) + ".alpha")
    if alpha is not None:
        equal(float(alpha.array().reshape(-1)[0]), float(down.shape[0]),
              "alpha")
    return (support.flat(up.array().astype(np.float64)) @
            support.flat(down.array().astype(np.float64))), down.shape[0]


def convert(suite, case, *more, code=support.OK):
    out = suite.path("out.safetensors")
    out.unlink(missing_ok=True)
    run = suite.run("convert", case.path, "-o", out, "--base", case.base_path,
                    "--json", *case.more, *more, code=code)
    if code != support.OK:
        require(not out.exists(), "an output was left")
        equal(len(run.err.splitlines()), 1, "lines")
        return run.err, None
    support.require_writer_rules(out)
    return support.read_file(out)[0], json.loads(run.out)["report"]


def row(report, m):
    return support.one(report["modules"], "name", m.prefix)


def changes_nothing(case):
    """kohya's OFT with alpha 0: what is left is the rounding of its F32."""
    return all(np.abs(change(case, m)).max() <= case.case["atol"]
               for m in case.modules)


def test_nothing(suite, case):
    for more in ((), ("--rank", 2)):
        tensors, _ = convert(suite, case, "--as", "lora", "--dtype", "f32",
                             *more)
        for m in case.modules:
            got = product(tensors, m)[0]
            support.close(got, 0 * got, case.case["atol"], str(more))


def test_exact(suite, case):
    tensors, report = convert(suite, case, "--as", "lora", "--dtype", "f32")
    for m in case.modules:
        want = change(case, m)
        got, rank = product(tensors, m)
        largest = np.abs(want).max()
        support.close(got, want, support.flat(case.bound(
            case.expected[m.target + ".weight@1"])) + 4e-6 * largest, m.target)
        require(rank <= min(want.shape), "a rank above the full one")
        equal(row(report, m)["rank_out"], rank, "rank")
        require(row(report, m)["energy"] > 1 - 1e-11, "energy")
        bias = case.expected.get(m.target + ".bias@1")
        if bias is not None and not np.array_equal(bias, m.bias):
            support.close(member(tensors, made(m), BIAS).array(),
                          bias - m.bias, case.bound(bias), "bias")
        else:
            require(member(tensors, made(m), BIAS) is None, "a bias")


def test_reads_back(suite, case):
    """The program reads what it made as the same change, without a base."""
    convert(suite, case, "--as", "lora", "--dtype", "f32")
    out, dense = suite.path("out.safetensors"), suite.path("dense.safetensors")
    suite.run("delta", out, "-o", dense, "--force")
    for m in case.modules:
        want = change(case, m)
        got = support.flat(arrays(dense)[made(m)])
        support.close(got, want, 1e-5 * np.abs(want).max(), m.target)


def test_ranks(suite, case):
    for rank in (1, 3):
        tensors, report = convert(suite, case, "--as", "lora", "--dtype",
                                  "f32", "--rank", rank)
        for m in case.modules:
            want = change(case, m)
            got, kept = product(tensors, m)
            size = np.linalg.norm(want)
            sigma = np.linalg.svd(want, compute_uv=False)
            equal(kept, rank, "rank")
            error = np.linalg.norm(got - want)
            tail = np.linalg.norm(sigma[rank:])
            require(error <= 1.01 * tail + 1e-6 * size + case.case["atol"],
                    f"rank {rank}: error {error}, the least {tail}")
            said = row(report, m)
            support.close(said["error"], error, 1e-5 * size, "error reported")
            support.close(1 - said["energy"], (error / size) ** 2, 1e-5,
                          "share reported")


def test_energy(suite, case):
    tensors, report = convert(suite, case, "--as", "lora", "--dtype", "f32",
                              "--energy", 0.9)
    for m in case.modules:
        want = change(case, m)
        squares = np.linalg.svd(want, compute_uv=False) ** 2
        kept = 1 + int(np.sum(np.cumsum(squares) < 0.9 * squares.sum()))
        equal(product(tensors, m)[1], kept, "directions")
        equal(row(report, m)["rank_out"], kept, "rank")


def test_full(suite, case):
    """The difference itself, rounded once to the type."""
    if "peft" in case.case["id"]:
        said, _ = convert(suite, case, "--as", "full", code=FAILED)
        require("no name for a full difference" in said, said)
        return
    for dtype, unit in (("f32", 0.0), ("f16", 2.0 ** -11)):
        tensors, report = convert(suite, case, "--as", "full", "--dtype", dtype)
        names = set()
        for m in case.modules:
            want = change(case, m).reshape(m.weight.shape)
            got = tensors[made(m) + ".diff"]
            names.add(made(m) + ".diff")
            equal(got.dtype, dtype.upper(), "type")
            expected = case.expected[m.target + ".weight@1"]
            support.close(got.array(), want, case.bound(expected) +
                          unit * np.abs(want) + 2.0 ** -25, m.target)
            lost = np.linalg.norm(got.array() - want) / np.linalg.norm(want)
            said = np.sqrt(max(0.0, 1 - row(report, m)["energy"]))
            support.close(said, lost, 1e-5 if unit else 1e-4, "error reported")
        equal(set(tensors), names, "tensors")


def test_refused_case(suite, case):
    said, _ = convert(suite, case, "--as", "lora", code=None)
    require(case.modules[0].prefix in said, said)


def test_no_base(suite, case):
    out = suite.path("out.safetensors")
    out.unlink(missing_ok=True)
    run = suite.run("convert", case.path, "-o", out, "--as", "lora",
                    *case.more, code=FAILED)
    require("--base" in run.err and case.modules[0].prefix in run.err, run.err)
    equal(len(run.err.splitlines()), 1, "lines")
    require(not out.exists(), "an output was left")


# Built ---------------------------------------------------------------------

def glora_file(suite, out, in_, rank, seed=1):
    rng = np.random.default_rng(seed)
    parts = {"a1": (in_, rank), "a2": (rank, in_), "b1": (out, rank),
             "b2": (rank, in_)}
    parts = {name: rng.standard_normal(shape).astype(np.float32)
             for name, shape in parts.items()}
    path = suite.path("glora.safetensors")
    support.write_file(path, {
        **{f"{KOHYA}.{name}.weight": tensor(value, "F32")
           for name, value in parts.items()},
        KOHYA + ".alpha": tensor(np.float32(rank / 2), "F32")})
    weight = rng.standard_normal((out, in_)).astype(np.float32)
    base = base_file(suite, {KOHYA + ".weight": tensor(weight, "F32")})
    p = {name: value.astype(np.float64) for name, value in parts.items()}
    want = 0.5 * (weight @ p["a1"] @ p["a2"] + p["b1"] @ p["b2"])
    return path, base, want


def built(suite, path, base, *more, code=support.OK):
    out = suite.path("out.safetensors")
    out.unlink(missing_ok=True)
    run = suite.run("convert", path, "-o", out, "--base", base, *more,
                    code=code)
    if code != support.OK:
        require(not out.exists(), "an output was left")
        return run.err
    return support.read_file(out)[0]


def test_glora_rank(suite):
    """Twice the rank, whatever more is asked for, in the type of the file."""
    path, base, want = glora_file(suite, 40, 30, 4)
    for more in ((), ("--rank", 8), ("--rank", 20)):
        tensors = built(suite, path, base, "--as", "lora", *more)
        got = support.module_delta(tensors, KOHYA)[0]
        equal(tensors[KOHYA + ".lora_down.weight"].shape[0], 8, "rank")
        support.close(got, want, 4e-6 * np.abs(want).max(), "change")


def test_large(suite):
    """A change without factors of more than a sketch decomposes in full."""
    rng = np.random.default_rng(3)
    rows, cols, rank = 300, 400, 12
    u = np.linalg.qr(rng.standard_normal((rows, rows)))[0]
    v = np.linalg.qr(rng.standard_normal((cols, cols)))[0][:rows]
    weight = (u * 0.8 ** np.arange(rows)) @ v
    scales = rng.uniform(-0.2, 0.2, cols).astype(np.float32)
    path = suite.path("ia3.safetensors")
    support.write_file(path, {KOHYA + ".weight": tensor(scales, "F32"),
                              KOHYA + ".on_input": tensor(np.int64(1), "I64")})
    weight = weight.astype(np.float32)
    base = base_file(suite, {KOHYA + ".weight": tensor(weight, "F32")})
    want = weight.astype(np.float64) * scales
    sigma = np.linalg.svd(want, compute_uv=False)
    tensors = built(suite, path, base, "--as", "lora", "--rank", rank)
    got = support.module_delta(tensors, KOHYA)[0]
    equal(tensors[KOHYA + ".lora_down.weight"].shape, (rank, cols), "down")
    error, tail = np.linalg.norm(got - want), np.linalg.norm(sigma[rank:])
    require(error <= 1.01 * tail + 1e-6 * sigma[0], f"{error}, not {tail}")


def test_half(suite):
    """An identity is exact in any type, so that a change is rounded once."""
    rng = np.random.default_rng(4)
    for shape in ((5, 9), (9, 5)):
        weight = 300 * rng.standard_normal(shape).astype(np.float32)
        scales = rng.uniform(-1, 1, shape[0]).astype(np.float16)
        path = suite.path("ia3.safetensors")
        support.write_file(path, {
            KOHYA + ".weight": tensor(scales, "F16"),
            KOHYA + ".on_input": tensor(np.int64(0), "I64")})
        base = base_file(suite, {KOHYA + ".weight": tensor(weight, "F32")})
        want = weight.astype(np.float64) * scales[:, None]
        tensors = built(suite, path, base, "--as", "lora")
        equal(tensors[KOHYA + ".lora_up.weight"].dtype, "F16", "type")
        got = support.module_delta(tensors, KOHYA)[0]
        support.close(got, want, 2.0 ** -11 * np.abs(want), str(shape))


def test_transposed(suite):
    """Of a weight that is stored [in, out] the pair is the layer's, as PEFT has
    it."""
    rng = np.random.default_rng(5)
    name, rows, cols = "base_model.model.h.0.c_attn", 4, 6  # in, out
    weight = rng.standard_normal((rows, cols)).astype(np.float32)
    base = base_file(suite, {"h.0.c_attn.weight": tensor(weight, "F32")})
    folder = suite.path("transposed")
    folder.mkdir(exist_ok=True)
    path = folder / "adapter_model.safetensors"
    (folder / "adapter_config.json").write_text(json.dumps(
        {"r": 2, "lora_alpha": 3, "fan_in_fan_out": True,
         "feedforward_modules": []}), "utf-8")
    a, b = rng.standard_normal((2, rows)), rng.standard_normal((cols, 2))
    magnitude = rng.uniform(0.5, 1.5, cols)
    vector = rng.standard_normal((cols, 1))
    dora = {name + ".lora_A.weight": tensor(a, "F32"),
            name + ".lora_B.weight": tensor(b, "F32"),
            name + ".lora_magnitude_vector": tensor(magnitude, "F32")}
    for tensors, changed in (
            (dora, test_base.dora_peft(weight.T, 1.5 * b @ a, magnitude, 0, 1)),
            ({name + ".ia3_l": tensor(vector, "F32")}, weight.T * vector)):
        support.write_file(path, tensors)
        want = changed - weight.T
        for more in ((), ("--rank", 4)):
            got = built(suite, folder, base, "--as", "lora", *more)
            up, down = (got[name + x].array().astype(np.float64)
                        for x in (".lora_B.weight", ".lora_A.weight"))
            support.close(up @ down, want, 1e-5, "the layer's change")


def test_skipped(suite):
    """What the base lacks, or does not fit, is left out when told so."""
    path, base, want = glora_file(suite, 6, 5, 2)
    tensors, _ = support.read_file(path)
    other = KOHYA.replace("to_q", "to_k")
    tensors.update({name.replace("to_q", "to_k"): t
                    for name, t in tensors.items()})
    support.write_file(path, tensors)
    said = built(suite, path, base, "--as", "lora", code=MISMATCH)
    require(other in said, said)
    got = built(suite, path, base, "--as", "lora", "--skip-bad")
    support.close(support.module_delta(got, KOHYA)[0], want, 1e-5, "kept")
    require(not any(other in name for name in got), "not left out")
    got = built(suite, path, base, "--as", "full", "--skip-bad")
    equal(set(got), {KOHYA + ".diff"}, "kept")


def test_refused(suite):
    path, base, _ = glora_file(suite, 6, 5, 2)
    said = built(suite, path, base, code=USAGE)
    require("--base" in said and "--as" in said, said)
    for rule in (("--energy", 0.5), ("--ratio", 2), ("--threshold", 1)):
        said = built(suite, path, base, *rule, code=USAGE)
        require("--as" in said, said)
        said = built(suite, path, base, "--as", "lora", "--rank", 2, *rule,
                     code=USAGE)
        require("--rank" in said, said)
    said = built(suite, path, suite.path("no.safetensors"), "--as", "lora",
                 code=support.UNREADABLE)
    require("no.safetensors" in said, said)
    for rule in ("--rank", "--energy"):
        said = built(suite, path, base, "--as", "full", rule, 1, code=USAGE)
        require("lora" in said, said)
    nan = np.full((6, 5), np.nan, np.float32)
    base = base_file(suite, {KOHYA + ".weight": tensor(nan, "F32")})
    said = built(suite, path, base, "--as", "lora", code=MISMATCH)
    require(KOHYA in said and "finite" in said, said)
    said = built(suite, path, base, "--as", "lora", "--rank", 1, code=MISMATCH)
    require(KOHYA in said and "finite" in said, said)
    said = built(suite, path, base, "--as", "full", code=MISMATCH)
    require(KOHYA in said and "finite" in said, said)
    large = np.full((6, 5), 1e6, np.float32)
    base = base_file(suite, {KOHYA + ".weight": tensor(large, "F32")})
    said = built(suite, path, base, "--as", "full", "--dtype", "f16",
                 code=MISMATCH)
    require(KOHYA in said and "F16" in said, said)
    run = suite.run("convert", path, "-o", suite.path("out.safetensors"),
                    "--as", "full", code=FAILED)
    require("--base" in run.err, run.err)
    run = suite.run("resize", path, "-o", suite.path("out.safetensors"),
                    "--rank", 1, code=FAILED)
    require("--base" in run.err and KOHYA in run.err, run.err)


def test_additive(suite, folder, cases):
    """Kinds that need no base become differences without one."""
    for entry in cases:
        if entry["operation"] != "delta" or "config" in entry["params"]:
            continue
        with suite.case(entry["id"] + ", full"):
            out = suite.path("out.safetensors")
            suite.run("convert", folder / entry["adapter"], "-o", out, "--as",
                      "full", "--dtype", "f32", "--force")
            got = arrays(out)
            wants = arrays(folder / entry["expect"])
            for target, info in entry["params"]["modules"].items():
                want = wants[target + ".delta"]
                value = got.get(info["prefix"] + ".diff",
                                got.get(info["prefix"] + ".w_norm"))
                support.close(value.reshape(want.shape), want, entry["atol"] +
                              entry["rtol"] * np.abs(want), target)
            require(not any("lora_" in name[9:] or "hada" in name or
                            "lokr" in name for name in got), str(set(got)))


def test_full_names(suite):
    """What diffusers' names cannot say, kohya's can; a bias goes with it."""
    rng = np.random.default_rng(6)
    name = test_base.TARGET
    vector = rng.standard_normal((4, 1)).astype(np.float32)
    weight = rng.standard_normal((4, 3)).astype(np.float32)
    bias = rng.standard_normal(4).astype(np.float32)
    path = suite.path("ia3.safetensors")
    support.write_file(path, {name + ".ia3_l": tensor(vector, "F32")})
    base = base_file(suite, {name + ".weight": tensor(weight, "F32"),
                             name + ".bias": tensor(bias, "F32")})
    said = built(suite, path, base, "--as", "full", code=FAILED)
    require("kohya" in said and name in said, said)
    got = built(suite, path, base, "--as", "full", "--dialect", "kohya")
    equal(set(got), {KOHYA + ".diff", KOHYA + ".diff_b"}, "names")
    support.close(got[KOHYA + ".diff"].array(), weight * (vector - 1), 1e-6,
                  "weight")
    support.close(got[KOHYA + ".diff_b"].array(), bias * (vector[:, 0] - 1),
                  1e-6, "bias")
    got = built(suite, f"{path}:-0.5", base, "--as", "full", "--dialect",
                "kohya")
    support.close(got[KOHYA + ".diff"].array(), -0.5 * weight * (vector - 1),
                  1e-6, "weight at -0.5")


def test_full_large(suite):
    """Read in pieces, the state of a module is made once: of T-LoRA that is a
    decomposition, and a file of it takes no more than two."""
    rng = np.random.default_rng(7)
    rows, cols, rank = 600, 900, 4
    weight = rng.standard_normal((rows, cols)).astype(np.float32)
    p, q = rng.standard_normal((rows, rank)), rng.standard_normal((rank, cols))
    lam = rng.uniform(0.5, 2, (1, rank))
    path = suite.path("tlora.safetensors")
    support.write_file(path, {
        KOHYA + ".p_layer.weight": tensor(p, "F32"),
        KOHYA + ".q_layer.weight": tensor(q, "F32"),
        KOHYA + ".lambda_layer": tensor(lam, "F32"),
        KOHYA + ".alpha": tensor(np.float32(rank), "F32")})
    base = base_file(suite, {KOHYA + ".weight": tensor(weight, "F32")})
    u, s, vt = np.linalg.svd(weight.astype(np.float64), full_matrices=False)
    want = (p * lam) @ q - (u[:, :rank] * s[:rank]) @ vt[:rank]
    got = built(suite, path, base, "--as", "full")[KOHYA + ".diff"].array()
    support.close(got, want, 1e-5 * np.abs(want).max(), "change")


def test_library(suite, liblora):
    """The same from Python, with the report."""
    path, base, want = glora_file(suite, 12, 10, 2)
    out = suite.path("out.safetensors")
    for ours, theirs in (({}, ()), ({"rank": 2}, ("--rank", 2)),
                         ({"energy": 0.5}, ("--energy", 0.5))):
        built(suite, path, base, "--as", "lora", *theirs)
        with liblora.open(path) as adapter:
            made = adapter.convert(kind="lora", base=base, **ours)
            equal(made.to_bytes(), out.read_bytes(), str(ours))
            got = support.module_delta(support.read_file(out)[0], KOHYA)[0]
            (layer,) = made.report.modules
            support.close(layer["error"], np.linalg.norm(got - want),
                          1e-6 * np.linalg.norm(want), "error")
            equal(adapter.convert(dtype="f16").report, None, "no report")


def main():
    suite = support.Suite(__doc__.splitlines()[0])
    liblora = bindinglib.load(suite)
    folder, cases = suite.unpack("kinds")
    with suite.case("library"):
        test_library(suite, liblora)
    for entry in cases:
        if (entry["operation"] != "patched_weight" or
                entry["id"].startswith(ADDITIVE)):
            continue
        case = Case(folder, entry)
        if entry["id"] in REFUSED:
            with suite.case(entry["id"] + ", refused"):
                test_refused_case(suite, case)
            continue
        tests = (test_exact, test_reads_back, test_ranks, test_energy,
                 test_full, test_no_base)
        if changes_nothing(case):
            tests = (test_nothing, test_no_base)
        for test in tests:
            with suite.case(f"{entry['id']}, {test.__name__[5:]}"):
                test(suite, case)
    test_additive(suite, folder, cases)
    for test in (test_full_names, test_full_large, test_glora_rank, test_large, test_half, test_transposed,
                 test_skipped, test_refused):
        with suite.case(test.__name__[5:]):
            test(suite)
    return suite.finish()


if __name__ == "__main__":
    sys.exit(main())
