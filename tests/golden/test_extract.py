"""Golden extraction: what `lora extract` makes of two checkpoints, against numpy
float64, kohya's and LyCORIS' own tools, and the floor of rounding noise.

The written file is judged by its own dense weight change, computed here from
its factors. Bounds, for factors stored in F32 (u = 2^-24):

  |dW - dW_k|  1.01 tail_error[k] + 4 u |dW|: two norms of rounding, of factors
               and of the difference that is read in F32
  peers        the tolerance of their cases, of the largest element; LyCORIS
               stores F16
"""

import math
import pathlib
import sys

import numpy as np

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import support  # noqa: E402
import test_ranks  # noqa: E402
from support import equal, require  # noqa: E402

UP, DOWN = ".lora_B.weight", ".lora_A.weight"
WEIGHT = ".weight"


def delta_of(tensors, module):
    """The dense change of a module that was written in diffusers' names."""
    up, down = (tensors[module + key].array() for key in (UP, DOWN))
    up, down = up.reshape(up.shape[0], -1), down.reshape(down.shape[0], -1)
    return up.astype(np.float64) @ down.astype(np.float64)


def rank_of(tensors, module):
    return tensors[module + DOWN].shape[0] if module + DOWN in tensors else 0


class Pair:
    """Two checkpoints, and what is known of their difference."""

    def __init__(self, suite, folder, case):
        self.suite = suite
        self.base = folder / (case["base"] or case["adapter"])
        self.tuned = folder / case["params"]["tuned"]
        self.values = case["values"]
        base, _ = support.read_file(self.base)
        tuned, _ = support.read_file(self.tuned)
        self.delta = {name: support.flat(tuned[name].array().astype(np.float64)
                                         - base[name].array())
                      for name in base if base[name].array().ndim > 1}
        self.shapes = {name: t.shape for name, t in base.items()}

    def extract(self, *args, dtype="f32"):
        out = self.suite.path("extracted.safetensors")
        report = self.suite.json("extract", self.base, self.tuned, "-o", out,
                                 "--force", "--dtype", dtype, *args)
        support.require_writer_rules(out)
        require(not out.with_name(out.name + ".journal").exists(),
                "the journal is still there")
        return report, support.read_file(out)[0]


def spectrum(delta):
    return np.linalg.svd(delta, compute_uv=False)


def tail(sigma, rank):
    return float(np.linalg.norm(sigma[rank:]))


def check_best(pair, tensors, name, rank):
    """The best approximation of that rank, or nearly."""
    module = name.removesuffix(WEIGHT)
    delta = pair.delta[name]
    error = np.linalg.norm(delta_of(tensors, module) - delta)
    best = tail(spectrum(delta), rank)
    slack = 4 * 2**-24 * np.linalg.norm(delta)
    require(error <= 1.01 * best + slack,
            f"{name} rank {rank}: error {error:g}, least {best:g}")
    return error


def check_shapes(pair, tensors, name, rank):
    shape, module = pair.shapes[name], name.removesuffix(WEIGHT)
    equal(tensors[module + DOWN].shape, (rank,) + tuple(shape[1:]), name)
    equal(tensors[module + UP].shape,
          (shape[0], rank) + (1,) * (len(shape) - 2), name)


def check_report(pair, report, tensors):
    """Norm, error and energy as measured."""
    for row in report["modules"]:
        name = row["name"] + WEIGHT
        if row["name"] + DOWN not in tensors:
            continue
        norm = np.linalg.norm(pair.delta[name])
        error = np.linalg.norm(delta_of(tensors, row["name"])
                               - pair.delta[name])
        slack = 1e-6 * norm
        support.close(row["norm"], norm, slack, f"norm of {name}")
        support.close(row["error"], error, slack, f"error of {name}")
        support.close(row["energy"], 1 - (error / norm)**2, 4e-6, name)
        sigma = np.array(row["sigma"])
        support.close(sigma[:row["rank_out"]],
                      spectrum(pair.delta[name])[:row["rank_out"]],
                      2e-6 * sigma[0], f"sigma of {name}")


def check_rule(pair, kind, value, exact):
    args = test_ranks.rule_args(kind, value)
    report, tensors = pair.extract(*args, *(["--exact"] if exact else []))
    seen = {row["name"] + WEIGHT for row in report["modules"]}
    for name, known in pair.values.items():
        delta = pair.delta[name]
        if not delta.any():
            require(name not in seen, f"{name} did not change")
            continue
        require(name in seen, f"{name} is missing")
        rank = rank_of(tensors, name.removesuffix(WEIGHT))
        golden = known["rules"][test_ranks.rule_name(kind, value)]
        if golden["margin"] >= 1e-6:
            equal(rank, max(golden["rank"], 1), f"{kind}:{value} of {name}")
        check_shapes(pair, tensors, name, rank)
        check_best(pair, tensors, name, rank)
    check_report(pair, report, tensors)


def check_optimal(suite, folder, case):
    pair = Pair(suite, folder, case)
    for kind, value in case["params"]["rules"]:
        if kind == "stable":  # reported, no rule
            continue
        for exact in (False, True):
            with suite.case(f"{case['id']} {test_ranks.rule_name(kind, value)}"
                            f"{' --exact' if exact else ''}"):
                check_rule(pair, kind, value, exact)


# Peers ----------------------------------------------------------------------

def clamped(delta, rank, quantile):
    """kohya's clamp of the factors U S and V^T, with the quantile taken of
    their elements and of these negated: the tool's own depends on the signs
    that LAPACK happens to give singular vectors, and nothing else can have
    those."""
    u, s, vt = np.linalg.svd(delta, full_matrices=False)
    up, down = u[:, :rank] * s[:rank], vt[:rank]
    both = np.concatenate([up.ravel(), down.ravel()])
    limit = np.quantile(np.concatenate([both, -both]), quantile)
    return np.clip(up, -limit, limit) @ np.clip(down, -limit, limit)


def check_kohya(suite, folder, case):
    """Ranks as kohya's tool; the clamp by its formula, whose error is not the
    tool's own (up to 2.4 times that on these), for the reason given above.
    Layers without change have factors of zeros there and are left out here; its
    least difference, below which it leaves text encoders out, is --exclude."""
    params = case["params"]
    pair = Pair(suite, folder, case)
    args = ["--rank", params["dim"], "--clamp", params["clamp"]]
    args += (["--conv-rank", params["conv_dim"]] if "conv_dim" in params
             else ["--kind", "lora"])
    args += ["--exclude", "te.*"] if "min_diff" in params else []
    half = params.get("save") == "fp16"
    _, tensors = pair.extract(*args, dtype="f16" if half else "f32")
    for name, known in case["values"].items():
        module, delta = name.removesuffix(WEIGHT), pair.delta[name]
        if not known["extracted"] or not delta.any():
            equal(rank_of(tensors, module), 0, f"rank of {name}")
            continue
        rank, got = known["rank"], delta_of(tensors, module)
        equal(rank_of(tensors, module), rank, f"rank of {name}")
        want = clamped(delta, rank, params["clamp"])
        slack = (1e-3 if half else 1e-5) * np.abs(want).max()
        support.close(got, want, slack, name)


LYCORIS = {"fixed": "--rank", "threshold": "--threshold", "ratio": "--ratio",
           "quantile": "--cumulative"}


def check_lycoris_core(pair, case):
    """LyCORIS decomposes the factor of a pair again; a core that is fitted to
    the difference is nearer, and has the same shapes."""
    rank = case["params"]["conv"]
    _, tensors = pair.extract("--kind", "tucker", "--rank", rank, "--dialect",
                              "kohya", dtype="f16")
    for name, known in case["values"].items():
        if known["form"] != "low rank+mid":
            continue
        module = name.removesuffix(WEIGHT)
        up, mid, down = (tensors[f"{module}.lora_{part}.weight"].array()
                         .astype(np.float64) for part in ("up", "mid", "down"))
        equal(tensors[module + ".alpha"].array(), known["rank"], "alpha")
        got = support.lora_delta(down, up, mid)[0]
        error = np.linalg.norm(support.flat(got) - pair.delta[name])
        require(error <= known["error"], f"{name}: {error:g}, {known}")


def check_lycoris(suite, folder, case):
    params = case["params"]
    if params.get("sparse"):
        support.skip("its sparse rest is not written")
    pair = Pair(suite, folder, case)
    if params.get("small_conv"):
        check_lycoris_core(pair, case)
        return
    value = params["linear"]
    if params["mode"] == "ratio":  # of the largest, not its divisor
        value = 1 / value
    _, tensors = pair.extract(LYCORIS[params["mode"]], value,
                              "--lycoris-count", dtype="f16")
    for name, known in case["values"].items():
        module = name.removesuffix(WEIGHT)
        if known["form"] == "absent":
            equal(rank_of(tensors, module), 0, f"rank of {name}")
        elif known["form"] == "low rank":
            equal(rank_of(tensors, module), known["rank"], f"rank of {name}")
            error = np.linalg.norm(delta_of(tensors, module)
                                   - pair.delta[name])
            norm = np.linalg.norm(pair.delta[name])
            support.close(error, known["error"], case["rtol"] * norm, name)


# Rounding noise -------------------------------------------------------------

def check_floor(suite, folder, case):
    """By the largest row and column, as the text says: the golden average form
    finds directions in plain rounding (floor_rows says so itself), and where
    both forms agree, so do the ranks."""
    pair = Pair(suite, folder, case)
    report, tensors = pair.extract("--rank", "auto")
    rows = {row["name"] + WEIGHT: row for row in report["modules"]}
    for name, known in case["values"].items():
        if name not in pair.delta:
            continue
        rank = rank_of(tensors, name.removesuffix(WEIGHT))
        floor = known["sigma_noise_by_rule"]["rows"]
        own = int(np.sum(spectrum(pair.delta[name]) > floor))
        equal(known["rank_by_rule"]["rows"], own, f"golden rank of {name}")
        if known["dropped"]:
            equal(rank, 0, f"rank of {name}")
            continue
        equal(rank, max(own, 1), f"rank of {name}")
        support.close(rows[name]["noise"], floor, 1e-6 * floor, name)
        check_best(pair, tensors, name, rank)


def check_vectors(suite, folder, case):
    """Biases and norms that changed, and only they, are written whole, where
    the dialect has names for them."""
    pair = Pair(suite, folder, case)
    _, tensors = pair.extract("--rank", "auto", "--dialect", "kohya")
    got = {key.rpartition(".")[2] for key in tensors}
    base, tuned = (support.read_file(p)[0] for p in (pair.base, pair.tuned))
    kept = [name for name, known in case["values"].items()
            if name not in pair.delta and not known["dropped"]]
    equal(sum(key.endswith(("diff_b", "w_norm", "b_norm")) for key in tensors),
          len(kept), f"vectors, of {sorted(got)}")
    for name in kept:
        want = tuned[name].array().astype(np.float64) - base[name].array()
        require(any(t.shape == want.shape and
                    np.allclose(t.array(), want, atol=1e-7 * np.abs(want).max())
                    for t in tensors.values()), f"{name} is not there")


def check_floor_rules(suite, folder, case):
    """Other rules keep no noise either, where the formats differ."""
    pair = Pair(suite, folder, case)
    _, tensors = pair.extract("--energy", 1)
    for name, known in case["values"].items():
        if name not in pair.delta:
            continue
        rank = rank_of(tensors, name.removesuffix(WEIGHT))
        if case["params"]["base_dtype"] != case["params"]["tuned_dtype"]:
            equal(rank, known["rank_by_rule"]["rows"], f"rank of {name}")
        elif not known["dropped"]:
            sigma = spectrum(pair.delta[name])
            require(rank >= int(np.sum(sigma > 1e-6 * sigma[0])), name)


CHECKS = {"extract": check_optimal, "extract_kohya": check_kohya,
          "extract_lycoris": check_lycoris,
          "extract_noise_floor": check_floor}


def main():
    suite = support.Suite(__doc__.splitlines()[0])
    folder, cases = suite.unpack("extract")
    for case in cases:
        check = CHECKS[case["operation"]]
        if check is check_optimal:
            check(suite, folder, case)
            continue
        with suite.case(case["id"]):
            check(suite, folder, case)
        if check is check_floor:
            with suite.case(f"{case['id']} --energy 1"):
                check_floor_rules(suite, folder, case)
            with suite.case(f"{case['id']} vectors"):
                check_vectors(suite, folder, case)
    return suite.finish()


if __name__ == "__main__":
    sys.exit(main())
