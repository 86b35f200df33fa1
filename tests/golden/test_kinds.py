"""Golden weight changes: LoRA, LoCon, Tucker, LoHa, LoKr, DyLoRA, full and norm,
those of PEFT with its configuration, and the names of SD 1, SDXL and Flux in
every dialect, against what the libraries of origin computed.

Each case first compares the formula, in numpy float64, with the golden array,
which shows that the test reads the case rightly; then the program, at the
tolerance of the case: |got - expected| <= atol + rtol * |expected|.
"""

import json
import math
import pathlib
import re
import shutil
import sys

import numpy as np

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import support  # noqa: E402
from support import KOHYA, equal, require  # noqa: E402


# Kinds whose change does not depend on the weight.
ADDITIVE = ("full_", "norm_")


def tolerance(case, expected):
    return case["atol"] + case["rtol"] * np.abs(expected)


def arrays(path):
    return {name: t.array() for name, t in support.read_file(path)[0].items()}


# Weight changes -------------------------------------------------------------

def formula(tensors, module, expected):
    """The additive change of weight and of bias (or None), in `expected`'s
    shape: factors may have trailing ones the weight lacks."""
    def value(suffix):
        t = tensors.get(module + suffix)
        return None if t is None else t.array()

    weight = value(".diff")
    weight = value(".w_norm") if weight is None else weight
    if weight is None:
        weight = support.module_change(tensors, module)
    bias = value(".diff_b")
    bias = value(".b_norm") if bias is None else bias
    return weight.reshape(expected.shape), bias


def peft_file(suite, folder, case):
    """The case's file with the configuration beside it, by its usual name."""
    peft = suite.path(case["id"])
    peft.mkdir(exist_ok=True)
    shutil.copy(folder / case["params"]["config"], peft / "adapter_config.json")
    path = peft / "adapter_model.safetensors"
    shutil.copy(folder / case["adapter"], path)
    return path


def peft_scale(config, target, rank):
    """alpha / r as PEFT has it; the first pattern that ends the path."""
    alpha = config.get("lora_alpha", config.get("alpha"))
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        if re.fullmatch(rf"(.*\.)?({pattern})", target):
            alpha = value
            break
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def peft_formula(tensors, module, config, target):
    """(change of the weight, change of the bias or None)"""
    def value(suffix):
        t = tensors.get(module["prefix"] + suffix)
        return None if t is None else t.array()

    if module["type"] == "embedding":
        a, b = value(".lora_embedding_A"), value(".lora_embedding_B")
        return peft_scale(config, target, a.shape[0]) * (b @ a).T, None
    if config["peft_type"] in ("LOHA", "LOKR"):  # also where there is no rank
        scale = peft_scale(config, target, config["r"])
        return support.module_change(tensors, module["prefix"], scale), None
    a, b = value(".lora_A.weight"), value(".lora_B.weight")
    scale = peft_scale(config, target, a.shape[0])
    weight = support.lora_delta(a, b, None, scale)[0]
    bias = value(".lora_B.bias")
    return (weight.T if module["type"] == "linear_transposed" else weight,
            None if bias is None else scale * bias)


def test_peft(suite, folder, case):
    tensors, _ = support.read_file(folder / case["adapter"])
    config = json.loads((folder / case["params"]["config"]).read_text("utf-8"))
    expected = arrays(folder / case["expect"])
    path = peft_file(suite, folder, case)
    out = suite.path(case["id"] + ".delta.safetensors")
    suite.run("delta", path, "-o", out)
    got = arrays(out)
    for target, module in case["params"]["modules"].items():
        own = peft_formula(tensors, module, config, target)
        for name, key, value in ((module["prefix"], ".delta", own[0]),
                                 (module["prefix"] + ".bias", ".delta_bias",
                                  own[1])):
            if value is None:
                require(target + key not in expected, f"bias of {target}")
                continue
            want = expected[target + key]
            bound = tolerance(case, want)
            support.close(value.reshape(want.shape), want, bound,
                          f"formula of {target}{key}")
            change = got.pop(name)
            support.close(change.reshape(want.shape), want, bound, target + key)
        row = support.one(suite.json("info", path, "--modules")["modules"],
                          "name", module["prefix"])
        equal(tuple(row["shape"]), weight_shape(tensors, module),
              f"shape of {target}")
    equal(set(got), set(), "further tensors")


def test_peft_resize(suite, folder, case):
    """Rank 2 of the change: its singular values, and the best change of that
    rank in the layer's own factors, whichever way the weight is stored. New
    factors have the scale in them."""
    types = {m["type"] for m in case["params"]["modules"].values()}
    path = peft_file(suite, folder, case)
    out = suite.path(case["id"] + ".resized.safetensors")
    if "embedding" in types:  # nothing lowers these
        run = suite.run("resize", path, "-o", out, "--rank", 2,
                        code=support.FAILED)
        require("no factors" in run.err, f"reason: {run}")
        return
    expected = arrays(folder / case["expect"])
    config = json.loads((folder / case["params"]["config"]).read_text("utf-8"))
    report = suite.json("resize", path, "-o", out, "--rank", 2, "--dtype",
                        "f32")
    got = arrays(out)
    for target, module in case["params"]["modules"].items():
        want = support.flat(expected[target + ".delta"])
        if module["type"] == "linear_transposed":
            want = want.T
        u, sigma, vt = np.linalg.svd(want, full_matrices=False)
        row = support.one(report["modules"], "name", module["prefix"])
        count = len(row["sigma"])
        # A change of E moves sigma by |E| and the best rank 2 by no more than
        # |E| (1 + 4 sigma_1 / gap); f32 factors add 2^-22 sigma_1.
        room = np.linalg.norm(tolerance(case, want))
        support.close(row["sigma"], sigma[:count], room, f"sigma of {target}")
        gap = sigma[1] - (sigma[2] if len(sigma) > 2 else 0.0)
        bound = room + 2.0**-22 * sigma[0]
        best = (u[:, :2] * sigma[:2]) @ vt[:2]
        a, b = (support.flat(got[module["prefix"] + f".lora_{x}.weight"])
                for x in "AB")
        kept = (peft_scale(config, target, 2)
                if row["rank_in"] == row["rank_out"] else 1.0)
        support.close(kept * b @ a, best, bound * (1 + 4 * sigma[0] / gap), f"rank 2 of {target}")


def test_peft_pairs(suite, folder, case):
    """LoHa and LoKr as pairs: the same change without their configuration, and
    the best of rank 2."""
    expected = arrays(folder / case["expect"])
    path = peft_file(suite, folder, case)
    out = suite.path(case["id"] + ".pairs.safetensors")
    delta = suite.path(case["id"] + ".pairs.delta.safetensors")
    for rank in (None, 2):
        suite.run("convert", path, "-o", out, "--as", "lora", "--dtype", "f32",
                  "--force", *([] if rank is None else ["--rank", rank]))
        suite.run("delta", out, "-o", delta, "--force")
        got = arrays(delta)
        equal({m["kind"] for m in suite.json("info", out, "--modules")
               ["modules"]} - {"lora", "locon"}, set(), "kinds")
        for target, module in case["params"]["modules"].items():
            want = support.flat(expected[target + ".delta"])
            bound = support.flat(tolerance(case, want))
            change = support.flat(got[module["prefix"]])
            if rank is None:
                support.close(change, want, bound, f"pairs of {target}")
                continue
            u, sigma, vt = np.linalg.svd(want, full_matrices=False)
            tail = np.linalg.norm(sigma[rank:])
            error = np.linalg.norm(change - want)
            require(error <= tail * (1 + 1e-6) + np.linalg.norm(bound),
                    f"rank {rank} of {target}: {error:g}, best {tail:g}")


def test_pairs(suite, folder, case):
    """LoHa and LoKr as pairs: the change stays, to 1e-6 of its largest."""
    expected = arrays(folder / case["expect"])
    out = suite.path(case["id"] + ".pairs.safetensors")
    suite.run("convert", folder / case["adapter"], "-o", out, "--as", "lora",
              "--dtype", "f32")
    support.require_writer_rules(out)
    tensors, metadata = support.read_file(out)
    for target, module in case["params"]["modules"].items():
        prefix = module["prefix"]
        names = {n for n in tensors if n.startswith(prefix + ".")}
        equal(names, {prefix + KOHYA[role] for role in ("down", "up", "alpha")},
              "tensors")
        rank = tensors[prefix + KOHYA["down"]].shape[0]
        equal(float(tensors[prefix + KOHYA["alpha"]].array()), rank, "alpha")
        want = support.flat(expected[target + ".delta"])
        got = support.flat(support.module_delta(tensors, prefix)[0])
        support.close(got, want, 1e-6 * np.max(np.abs(want)), target)
    equal(metadata.get("ss_network_module"), "networks.lora", "its trainer")


def test_truncate(suite, folder, case):
    """DyLoRA's first directions, with the scales of two programs."""
    tensors, _ = support.read_file(folder / case["adapter"])
    expected = arrays(folder / case["expect"])
    rank = case["params"]["rank"]
    for mode, key in (("keep-alpha", ".delta"),
                      ("trained-sqrt", ".delta_trained_scale"),
                      ("keep-scale", None)):
        out = suite.path(f"{case['id']}.{mode}.safetensors")
        suite.run("convert", folder / case["adapter"], "-o", out,
                  "--rank-prefix", rank, "--truncate", mode)
        got, _ = support.read_file(out)
        for target, module in case["params"]["modules"].items():
            down, up = (tensors[module["prefix"] + KOHYA[role]]
                        for role in ("down", "up"))
            for tensor, role, part in (
                    (down, "down", down.array()[:rank]),
                    (up, "up", up.array()[:, :rank])):
                new = got[module["prefix"] + KOHYA[role]]
                equal(new.dtype, tensor.dtype, f"type of {role}")
                require(np.array_equal(new.array(), part), f"bits of {role}")
            if key is None:
                support.close(support.module_scale(got, module["prefix"]),
                              support.module_scale(tensors, module["prefix"]),
                              1e-7, "scale")
                continue
            want = expected[target + key]
            change = support.module_delta(got, module["prefix"])[0]
            support.close(change.reshape(want.shape), want,
                          tolerance(case, want), f"{target}, {mode}")


def weight_shape(tensors, module):
    """Of the weight; factors of two dimensions cannot tell that of a kernel,
    nor whether it is a convolution."""
    shape = tuple(module["shape"])
    names = [n for n in tensors if n.startswith(module["prefix"] + ".")]
    told = (any(len(tensors[n].shape) > 2 for n in names) or
            ("resnets" in module["prefix"] and shape[2:] == (3, 3)))
    return shape if told else (shape[0], math.prod(shape[1:]))


def test_delta(suite, folder, case):
    tensors, _ = support.read_file(folder / case["adapter"])
    expected = arrays(folder / case["expect"])
    out = suite.path(case["id"] + ".delta.safetensors")
    suite.run("delta", folder / case["adapter"], "-o", out)
    support.require_writer_rules(out)
    got, _ = support.read_file(out)
    modules = case["params"]["modules"]
    equal(set(got), set(modules), "tensors written")
    for target, module in modules.items():
        want = expected[target + ".delta"]
        bound = tolerance(case, want)
        own, _ = formula(tensors, module["prefix"], want)
        support.close(own, want, bound, f"formula of {target}")
        tensor = got[module["prefix"]]
        equal(tensor.dtype, "F32", "dtype")
        equal(tensor.shape, weight_shape(tensors, module), f"shape of {target}")
        support.close(tensor.array().reshape(want.shape), want, bound, target)


def test_patched(suite, folder, case):
    """W + dW at each multiplier, with dW from `delta --strength`."""
    tensors, _ = support.read_file(folder / case["adapter"])
    base = arrays(folder / case["base"])
    expected = arrays(folder / case["expect"])
    for strength in case["params"]["multipliers"]:
        out = suite.path(f"{case['id']}{strength}.safetensors")
        suite.run("delta", folder / case["adapter"], "-o", out, "--strength",
                  strength)
        got = arrays(out)
        for target, module in case["params"]["modules"].items():
            prefix = module["prefix"]
            weight, bias = formula(tensors, prefix, base[target + ".weight"])
            parts = [("weight", prefix, weight)]
            if bias is not None:
                parts.append(("bias", prefix + ".bias", bias))
            for part, name, own in parts:
                want = expected[f"{target}.{part}@{strength:g}"]
                start = base[f"{target}.{part}"]
                bound = tolerance(case, want)
                what = f"{target}.{part} at {strength}"
                support.close(start + strength * own, want, bound,
                              "formula of " + what)
                support.close(start + got.pop(name), want, bound, what)
        equal(set(got), set(), f"further tensors at {strength}")


def test_strengths(suite, folder, case):
    """LoRA is linear in the strength; 0 gives zeros."""
    expected = arrays(folder / case["expect"])
    for strength in (0.0, -0.7, 2.0):
        out = suite.path(f"{case['id']}{strength}.safetensors")
        suite.run("delta", folder / case["adapter"], "-o", out, "--strength",
                  strength, "--dtype", "f64")
        got, _ = support.read_file(out)
        for target, module in case["params"]["modules"].items():
            want = strength * expected[target + ".delta"]
            tensor = got[module["prefix"]]
            equal(tensor.dtype, "F64", "dtype")
            support.close(tensor.array(), want.reshape(tensor.shape),
                          tolerance(case, want).reshape(tensor.shape), target)


# Names ----------------------------------------------------------------------

def factors(tensors, entry):
    """(down, up, scale, key of each role) of one entry of a case's map; up
    are the rows that belong to it."""
    prefix = entry.get("prefix")
    if prefix is None and entry["down"].endswith(KOHYA["down"]):
        prefix = entry["down"][:-len(KOHYA["down"])]
    if prefix is not None:
        keys = {role: prefix + KOHYA[role] for role in ("down", "up", "alpha")}
        scale = support.module_scale(tensors, prefix)
    else:
        keys = {"down": entry["down"], "up": entry["up"]}
        scale = 1.0
    up = tensors[keys["up"]].array()
    begin, end = entry.get("rows", (0, up.shape[0]))
    return tensors[keys["down"]].array(), up[begin:end], scale, \
        {role: key for role, key in keys.items() if key in tensors}


def is_whole(tensors, entry):
    """The entry's layer has a module of its own in the file."""
    keys = factors(tensors, entry)[3]
    rows = tensors[keys["up"]].shape[0]
    return entry.get("rows", [0, rows]) == [0, rows]


def config_scale(case, folder):
    """The scale a PEFT configuration beside the file would add; without it the
    program must take 1."""
    name = case["params"].get("config")
    if not name:
        return 1.0
    config = json.loads((folder / name).read_text("utf-8"))
    return config["lora_alpha"] / config["r"]


def metadata_scales(metadata):
    """component: lora_alpha / r, from what diffusers puts into the metadata."""
    config = json.loads(metadata.get("lora_adapter_metadata", "{}"))
    return {key[:-2]: config[key[:-2] + ".lora_alpha"] / config[key]
            for key in config if key.endswith(".r")}


def test_names(suite, folder, case):
    check_names(suite, folder, case, folder / case["adapter"],
                config_scale(case, folder))


def test_config(suite, folder, case):
    """With the PEFT configuration beside it, under its usual name."""
    check_names(suite, folder, case, peft_file(suite, folder, case), 1.0)


def check_names(suite, folder, case, path, outside):
    """outside: what the expected change has that the file cannot tell."""
    tensors, metadata = support.read_file(path)
    expected = arrays(folder / case["expect"])
    config = config_scale(case, folder)
    inside = metadata_scales(metadata)
    out = suite.path(case["id"] + ".safetensors")
    suite.run("delta", path, "-o", out, "--names", "canonical", "--force")
    got = arrays(out)
    targets = case["params"]["map"]
    equal(set(got), set(targets), "canonical names")
    for target, entry in targets.items():
        want = expected[target + ".delta"]
        bound = tolerance(case, want)
        down, up, scale, _ = factors(tensors, entry)
        scale *= inside.get(target.split(".")[0], 1.0)
        own = support.lora_delta(down, up, None, scale)[0]
        support.close(config * own.reshape(want.shape), want, bound,
                      f"formula of {target}")
        support.close(outside * got[target].reshape(want.shape), want, bound,
                      target)
        equal(got[target].size, want.size, f"elements of {target}")


def test_keys(suite, folder, case):
    """`keys`: every tensor with what it was taken for and where it lies."""
    path = folder / case["adapter"]
    tensors, _ = support.read_file(path)
    report = suite.json("keys", path)
    rows = report["tensors"]
    equal(sorted(row["name"] for row in rows), sorted(tensors), "tensors")
    for row in rows:
        tensor = tensors[row["name"]]
        equal(row["dtype"], tensor.dtype, f"dtype of {row['name']}")
        equal(tuple(row["shape"]), tensor.shape, f"shape of {row['name']}")
        equal(row["offset"], tensor.offset, f"offset of {row['name']}")
    modules = suite.json("info", path, "--modules")["modules"]
    stored = {m["name"]: m["target"] for m in modules}
    equal(len(stored), len(modules), "different modules")
    for target, entry in case["params"]["map"].items():
        names = set()
        for role, key in factors(tensors, entry)[3].items():
            row = support.one(rows, "name", key)
            equal(row["role"], role, f"role of {key}")
            names.add(row["module"])
        name, = names
        if is_whole(tensors, entry):
            equal(stored.pop(name), target, f"target of {name}")
        else:  # several entries have it
            require(stored[name] not in case["params"]["map"],
                    f"{name} is not {stored[name]} alone")
    fused = {target for target, entry in case["params"]["map"].items()
             if not is_whole(tensors, entry)}
    require(len(stored) <= len(fused) // 2, f"nothing is in {stored}")


FAMILY = {"names_sd1": {"sd15", "sd21"}, "names_sdx": {"sdxl"},
          "names_flu": {"flux1_dev"}}


def test_family(suite, folder, case):
    """The widths of these files are unreal, so SD 1 and 2 look the same."""
    info = suite.json("info", folder / case["adapter"])
    require(info["base"]["family"] in FAMILY[case["id"][:9]],
            f"family {info['base']}")
    require(0 < info["base"]["confidence"] <= 1, f"confidence {info['base']}")
    equal(info["container"], "safetensors", "container")
    equal(info["problems"], [], "problems")
    _, metadata = support.read_file(folder / case["adapter"])
    equal(info["metadata"], metadata, "metadata")


# Positional names -----------------------------------------------------------

def test_positional(suite, folder, case):
    """unet:3:up, ...: the file numbers its modules; tokens are embeddings."""
    path = folder / case["adapter"]
    tensors, metadata = support.read_file(path)
    expected = arrays(folder / case["expect"])
    out = suite.path(case["id"] + ".safetensors")
    suite.run("delta", path, "-o", out)
    got = arrays(out)
    deltas = {n[:-len(".delta")]: v for n, v in expected.items()
              if n.endswith(".delta")}
    equal(set(got), set(deltas), "modules")
    for name, want in deltas.items():
        bound = tolerance(case, want)
        own = support.lora_delta(tensors[name + ":down"].array(),
                                 tensors[name + ":up"].array())[0]
        own = own.reshape(want.shape)
        support.close(own, want, bound, "formula of " + name)
        support.close(got[name].reshape(want.shape), want, bound, name)
    info = suite.json("info", path)
    equal({e["token"] for e in info["embeddings"]},
          {n for n in expected if n.startswith("<")}, "tokens")
    for entry in info["embeddings"]:
        equal(tuple(entry["shape"]), expected[entry["token"]].shape,
              f"shape of {entry['token']}")
    equal(info["metadata"], metadata, "metadata")


def main():
    suite = support.Suite(__doc__.splitlines()[0])
    folder, cases = suite.unpack("kinds")
    for case in cases:
        if case["operation"] == "patched_weight" and \
                not case["id"].startswith(ADDITIVE):
            continue  # in test_base.py
        if "config" in case["params"]:
            is_pair = case["params"]["peft_type"] == "LORA"
            for test in (test_peft,
                         test_peft_resize if is_pair else test_peft_pairs):
                with suite.case(f"{case['id']} {test.__name__[5:]}"):
                    test(suite, folder, case)
            continue
        run = {"delta": test_delta, "patched_weight": test_patched,
               "truncate": test_truncate}[case["operation"]]
        with suite.case(case["id"]):
            run(suite, folder, case)
        if case["kind"] in ("loha", "lokr"):
            with suite.case(case["id"] + " as pairs"):
                test_pairs(suite, folder, case)
        if run is test_delta:
            with suite.case(case["id"] + " at other strengths"):
                test_strengths(suite, folder, case)
    folder, cases = suite.unpack("names")
    for case in cases:
        if case["operation"] == "load_positional":
            with suite.case(case["id"]):
                test_positional(suite, folder, case)
            continue
        tests = [test_names, test_keys, test_family]
        tests += [test_config] if "config" in case["params"] else []
        for test in tests:
            with suite.case(f"{case['id']} {test.__name__[5:]}"):
                test(suite, folder, case)
    return suite.finish()


if __name__ == "__main__":
    sys.exit(main())
