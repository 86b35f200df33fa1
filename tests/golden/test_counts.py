"""The ranks that kohya's resize_lora and LyCORIS' extract_locon chose, which
are reproduced when asked for; exact where they are not.

Kohya's cases resize adapters. LyCORIS' cases extract differences of weights:
each becomes an adapter here, with the factors of its SVD in F32. Their rounding
moves singular values by 1e-6 of the largest at most, and every case is further
from its limit than that.
"""

import sys

import numpy as np

sys.dont_write_bytecode = True
import test_ranks  # noqa: E402
from test_ranks import support  # noqa: E402
from support import KOHYA, equal, require  # noqa: E402

METHOD = {"sv_ratio": "--ratio", "sv_fro": "--energy",
          "sv_cumulative": "--cumulative"}
DTYPE = {"fp16": "f16", "bf16": "bf16"}


def kohya_args(params):
    """The rank is a cap where there is a method."""
    method = params.get("method")
    args = ["--max-rank" if method else "--rank", params["rank"]]
    if method:
        share = params["param"]
        args += [METHOD[method],
                 repr(share * share if method == "sv_fro" else share)]
    if "conv" in params:
        args += ["--conv-rank", params["conv"]]
    if "save" in params:
        args += ["--dtype", DTYPE[params["save"]]]
    return args


def resize(suite, source, *args):
    out = suite.path("out.safetensors")
    report = suite.json("resize", source, "-o", out, "--force", *args)
    support.require_writer_rules(out)
    return ({row["name"]: row for row in report["modules"]},
            support.read_file(out)[0])


def check_kohya(suite, folder, case, deltas):
    """The rank, and an error that is no larger."""
    args = kohya_args(case["params"])
    path = folder / case["adapter"]
    rows, tensors = resize(suite, path, *args, "--kohya-count")
    exact, _ = resize(suite, path, *args)
    equal(sorted(rows), sorted(case["values"]), "modules")
    for module, want in case["values"].items():
        rank = want["kohya_rank"]
        equal(rows[module]["rank_out"], rank, f"rank of {module}")
        equal(tensors[module + KOHYA["down"]].shape[0], rank, module)
        if "method" in case["params"]:
            equal(exact[module]["rank_out"],
                  min(max(1, want["rule_rank_capped"]),
                      rows[module]["rank_in"]), f"exact rank of {module}")
        sigma = deltas[module + ".sigma"]
        slack = test_ranks.rounding(sigma[:rank], module, tensors)
        unit = sigma[0] if sigma[0] else 1.0
        apart = (test_ranks.dense(tensors, module) -
                 deltas[module + ".delta"]) / unit
        error = unit * np.linalg.norm(apart)
        require(error <= want["error"] * (1 + 1e-5) + slack,
                f"{module}: error {error:g}, kohya's {want['error']:g}, "
                f"rounding {slack:g}")


def lycoris_args(params):
    option = {"fixed": "--rank", "threshold": "--threshold",
              "ratio": "--ratio", "quantile": "--cumulative"}[params["mode"]]
    value = params["linear"]
    equal(params["conv"], value, "one number for both")
    return [option, repr(1 / value if params["mode"] == "ratio" else value)]


def write_difference(path, folder, case, keys):
    """tuned - base as the factors of its SVD, one module a weight."""
    base, tuned = (support.read_file(folder / name)[0] for name in
                   (case["base"], case["params"]["tuned"]))
    tensors = {}
    for i, key in enumerate(keys):
        delta = tuned[key].array() - base[key].array()
        rows = delta.shape[0]
        u, s, v = np.linalg.svd(delta.reshape(rows, -1), full_matrices=False)
        root = np.sqrt(s)
        kernel = (1,) * (delta.ndim - 2)
        name = f"lora_unet_m{i}"
        tensors[name + KOHYA["up"]] = support.tensor(
            (u * root).reshape(rows, s.size, *kernel))
        tensors[name + KOHYA["down"]] = support.tensor(
            (root[:, None] * v).reshape(s.size, *delta.shape[1:]))
        tensors[name + KOHYA["alpha"]] = support.tensor(
            np.array(float(s.size)))
    support.write_file(path, tensors)


def check_lycoris(suite, folder, case):
    keys = [k for k, v in case["values"].items() if "rank" in v]
    path = suite.path("difference.safetensors")
    write_difference(path, folder, case, keys)
    args = lycoris_args(case["params"])
    rows, _ = resize(suite, path, *args, "--lycoris-count")
    exact, _ = resize(suite, path, *args)
    for i, key in enumerate(keys):
        want = case["values"][key]
        require(want.get("rule_margin", 1) > 1e-5, f"margin of {key}")
        equal(rows[f"lora_unet_m{i}"]["rank_out"], want["rank"], key)
        equal(exact[f"lora_unet_m{i}"]["rank_out"],
              want.get("rule_rank", want["rank"]), f"exact rank of {key}")


def main():
    suite = support.Suite(__doc__.splitlines()[0])
    folder, cases = suite.unpack("ops")
    deltas = {case["adapter"]: {n: t.array() for n, t in
                                support.read_file(folder / case["expect"])[0]
                                .items()}
              for case in cases if case["operation"] == "rank_conversion"}
    counts = {"rank_conversion_kohya": 0, "extract_lycoris": 0}
    for case in cases:
        operation = case["operation"]
        if operation not in counts or "peer_error" in case["values"]:
            continue
        counts[operation] += 1
        with suite.case(case["id"]):
            if operation == "extract_lycoris":
                check_lycoris(suite, folder, case)
            else:
                check_kohya(suite, folder, case, deltas[case["adapter"]])
    with suite.case("cases"):
        equal(counts, {"rank_conversion_kohya": 28, "extract_lycoris": 8},
              "cases")
    return suite.finish()


if __name__ == "__main__":
    sys.exit(main())
