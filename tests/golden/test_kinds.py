"""Golden weight changes: LoRA, LoCon, Tucker, full and norm, and the names of
SD 1 and SDXL in every dialect, against what the libraries of origin computed.

Each case first compares the formula, in numpy float64, with the golden array,
which shows that the test reads the case rightly; then the program, at the
tolerance of the case: |got - expected| <= atol + rtol * |expected|.
"""

import json
import pathlib
import shutil
import sys

import numpy as np

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import support  # noqa: E402
from support import KOHYA, equal, require  # noqa: E402


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

    if module + KOHYA["down"] in tensors:
        weight = support.module_delta(tensors, module)[0]
    else:
        weight = value(".diff")
        weight = value(".w_norm") if weight is None else weight
    bias = value(".diff_b")
    bias = value(".b_norm") if bias is None else bias
    return weight.reshape(expected.shape), bias


def weight_shape(tensors, module):
    """Of the weight; 2-D factors cannot tell that it is a 1x1 convolution."""
    shape = tuple(module["shape"])
    down = tensors[module["prefix"] + KOHYA["down"]]
    return shape if len(down.shape) > 2 else shape[:2]


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
    """(down, up, scale, key of each role) of one entry of a case's map."""
    if "prefix" in entry:
        keys = {role: entry["prefix"] + KOHYA[role]
                for role in ("down", "up", "alpha")}
        scale = support.module_scale(tensors, entry["prefix"])
    else:
        keys = {"down": entry["down"], "up": entry["up"]}
        scale = 1.0
    return tensors[keys["down"]].array(), tensors[keys["up"]].array(), scale, \
        {role: key for role, key in keys.items() if key in tensors}


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
    peft = suite.path(case["id"])
    peft.mkdir()
    shutil.copy(folder / case["params"]["config"], peft / "adapter_config.json")
    path = peft / "adapter_model.safetensors"
    shutil.copy(folder / case["adapter"], path)
    check_names(suite, folder, case, path, 1.0)


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
    stored = {m["target"]: m["name"] for m in modules}
    equal(set(stored), set(case["params"]["map"]), "targets")
    for target, entry in case["params"]["map"].items():
        for role, key in factors(tensors, entry)[3].items():
            row = support.one(rows, "name", key)
            equal((row["role"], row["module"]), (role, stored[target]),
                  f"role and module of {key}")


FAMILY = {"names_sd1": {"sd15", "sd21"}, "names_sdx": {"sdxl"}}


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
        run = test_delta if case["operation"] == "delta" else test_patched
        with suite.case(case["id"]):
            run(suite, folder, case)
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
