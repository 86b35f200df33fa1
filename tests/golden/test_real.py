"""Real adapters, and round trips between dialects.

The nine files of ../shared/data (skipped where absent) are compared with every
fact that was measured when they were fetched: container, tensors and their
bytes, modules, targets, ranks, dtypes, alphas, metadata, and singular values
and norms of dW to 1e-5 relative. Round trips kohya -> diffusers -> kohya must
give back every byte of tensor data, dtype of alpha included, and every entry
of the metadata.
"""

import collections
import hashlib
import json
import math
import pathlib
import subprocess
import sys

import numpy as np

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import support  # noqa: E402
from support import equal, require, tensor  # noqa: E402

DATA = support.SHARED / "data"

# file: the family that is guessed; SAM is none that has a catalogue.
FILES = {
    "cloneofsimo--lora/lora_disney.safetensors": "sd15",
    "cloneofsimo--lora/analog_svd_rank4.safetensors": "sd15",
    "catundchat--stable-diffusion-v1.5-lora/"
    "pytorch_lora_weights.safetensors": "sd15",
    "catundchat--stable-diffusion-v1.5-lora/pytorch_lora_weights.bin": "sd15",
    **{f"MathieuNlp--Sam_LoRA/lora_rank{rank}.safetensors": None
       for rank in (2, 4, 6, 8, 16)}}

# The names of the facts and of the program.
DIALECTS = {"cloneofsimo": "cloneofsimo", "sam-lora": "sam-positional",
            "diffusers-attn-processor": "diffusers-old"}
CONTAINERS = {"safetensors": "safetensors", "torch-zip": "torch zip"}

SYNTHETIC = support.SHARED / "peers" / "make_synthetic.py"
CATALOGUES = support.SHARED / "catalogues"

RELATIVE = 1e-5


def real(name):
    """(path, facts by canonical target, all facts)"""
    path = DATA / name
    facts = DATA / "facts" / (name.replace("/", "--") + ".json")
    if not path.exists() or not facts.exists():
        support.skip("not here")
    facts = json.loads(facts.read_text("utf-8"))
    targets = {m["target"]: m for m in facts["per_module"].values()}
    equal(len(targets), facts["modules"], "targets of the facts")
    return path, targets, facts


def check_info(suite, name):
    path, targets, facts = real(name)
    info = suite.json("info", path, "--modules")
    equal(info["container"], CONTAINERS[facts["container"]], "container")
    equal(info["bytes"], facts["size"], "bytes")
    equal(info["tensors"], facts["tensors"], "tensors")
    equal(info["dtype"], facts["dtypes"], "dtypes")
    equal(info["metadata"], facts["metadata"] or {}, "metadata")
    equal(info["dialects"], [DIALECTS[d] for d in facts["dialect"]], "names")
    equal(info["base"]["family"], FILES[name], "family")
    equal({e["token"]: [e["shape"]] for e in info["embeddings"]},
          {n: [facts["per_tensor"][n]["shape"]]
           for n in facts["other_tensors"]}, "embeddings")
    equal(info["parameters"],
          sum(math.prod(t["shape"]) for n, t in facts["per_tensor"].items()
              if n not in facts["other_tensors"]), "parameters")
    equal([p for p in info["problems"] if p["severity"] == "error"], [],
          "problems")
    modules = info["modules"]
    equal(sorted(m["target"] for m in modules), sorted(targets), "targets")
    ranks = collections.Counter(str(m["rank"]) for m in modules)
    equal(ranks, facts["ranks"], "ranks")
    equal(facts["alphas"], {}, "alphas of the facts")
    for module in modules:
        fact = targets[module["target"]]
        what = module["target"]
        equal(module["rank"], fact["rank"], f"rank of {what}")
        equal(module["shape"], fact["shape"], f"shape of {what}")
        equal({module["dtype"]}, {fact["up_dtype"], fact["down_dtype"]},
              f"dtype of {what}")
        equal((module["alpha"], module["scale"]), (None, 1),
              f"alpha and scale of {what}")
    equal(suite.json("hash", path)["hashes"]["sha256"], facts["sha256"],
          "sha256")
    suite.run("check", path)


def check_tensors(suite, name):
    """Every tensor as it is stored, read by a plain copy."""
    path, _, facts = real(name)
    out = suite.path("tensors.safetensors")
    suite.run("convert", path, "-o", out, "--force")
    support.require_writer_rules(out)
    tensors, metadata = support.read_file(out)
    equal(metadata, facts["metadata"] or {}, "metadata")
    equal(set(tensors), set(facts["per_tensor"]), "names")
    for key, fact in facts["per_tensor"].items():
        got = tensors[key]
        equal((got.dtype, list(got.shape)), (fact["dtype"], fact["shape"]), key)
        digest = hashlib.sha256(got.data).hexdigest()
        equal(digest[:len(fact["sha256"])], fact["sha256"], f"sha256 of {key}")
        values = got.array()
        # The order of the sum is unknown: n roundings of its partial sums.
        size = values.size * support.ROUNDOFF["F64"]
        support.close(np.sum(values), fact["sum_f64"],
                      size * np.sum(np.abs(values)), f"sum of {key}")
        support.close(np.sum(values * values), fact["sumsq_f64"],
                      size * fact["sumsq_f64"], f"sum of squares of {key}")


def check_spectra(suite, name):
    """Singular values and norms, from the report of a resize."""
    path, targets, facts = real(name)
    stored = {m["name"]: m["target"]
              for m in suite.json("info", path, "--modules")["modules"]}
    out = suite.path("rank1.safetensors")
    report = suite.json("resize", path, "-o", out, "--rank", 1, "--force")
    equal({r["name"] for r in report["modules"]}, set(stored), "modules")
    total = 0.0
    for row in report["modules"]:
        fact = targets[stored[row["name"]]]
        sigma = np.array(row["sigma"])
        want = np.array(fact["singular_values"])
        support.close(sigma, want, 1e-9 * want[0], f"sigma of {row['name']}")
        norm = math.sqrt(float(np.sum(sigma * sigma)))
        support.close(norm, fact["frobenius"], RELATIVE * fact["frobenius"],
                      f"norm of {row['name']}")
        support.close(sigma[0], fact["spectral"], RELATIVE * fact["spectral"],
                      f"spectral norm of {row['name']}")
        total += norm * norm
    support.close(math.sqrt(total), facts["total_frobenius"],
                  RELATIVE * facts["total_frobenius"], "norm of all")
    support.close(max(row["sigma"][0] for row in report["modules"]),
                  facts["max_spectral"], RELATIVE * facts["max_spectral"],
                  "greatest spectral norm")


def check_dense(suite, name):
    """Norms of the dense weight changes, under their canonical names."""
    path, targets, _ = real(name)
    out = suite.path("dense.safetensors")
    suite.run("delta", path, "-o", out, "--names", "canonical")
    header, start = support.read_header(out)
    header.pop("__metadata__", None)
    equal(set(header), set(targets), "canonical names")
    data = np.memmap(out, "u1", "r", start)
    for target, entry in header.items():
        fact = targets[target]
        equal((entry["dtype"], entry["shape"]), ("F32", fact["shape"]), target)
        begin, end = entry["data_offsets"]
        values = data[begin:end].view("<f4").astype(np.float64)
        norm = float(np.linalg.norm(values))
        support.close(norm, fact["frobenius"], RELATIVE * fact["frobenius"],
                      f"norm of {target}")
    del data
    out.unlink()


# Round trips ----------------------------------------------------------------

def same_tensors(got, expected, shapes=True):
    equal(sorted(got), sorted(expected), "names")
    for name, tensor_ in expected.items():
        require(got[name].same(tensor_, shapes),
                f"{name}: {tensor_.dtype}{list(tensor_.shape)} became "
                f"{got[name].dtype}{list(got[name].shape)}, or other bytes")


def convert(suite, path, out, dialect):
    suite.run("convert", path, "-o", out, "--dialect", dialect, "--force")
    support.require_writer_rules(out)
    return support.read_file(out)


def check_round_trip(suite, path, shapes=True):
    tensors, metadata = support.read_file(path)
    there = suite.path("there.safetensors")
    back = suite.path("back.safetensors")
    middle, _ = convert(suite, path, there, "diffusers")
    for name in middle:
        require(name.startswith(("unet.", "text_encoder.", "text_encoder_2.")),
                f"{name} is no name of diffusers")
        require(name.endswith((".lora_A.weight", ".lora_B.weight")),
                f"{name} is no key of diffusers")
    factors = [t.data for n, t in tensors.items() if not n.endswith(".alpha")]
    equal(sorted(t.data for t in middle.values()), sorted(factors),
          "bytes of the factors between")
    check_same_delta(suite, path, there)
    got, kept = convert(suite, there, back, "kohya")
    same_tensors(got, tensors, shapes)
    for key, value in metadata.items():
        equal(kept.get(key), value, f"metadata {key}")


def check_same_delta(suite, one, two):
    """The file between is the same adapter; bit for bit, as the factors and
    the scale are the same."""
    if one.stat().st_size > 1 << 20:
        return  # gigabytes of dense matrices
    results = []
    for path in (one, two):
        out = suite.path("round.delta.safetensors")
        suite.run("delta", path, "-o", out, "--names", "canonical", "--force")
        results.append(support.read_file(out)[0])
    equal(sorted(results[0]), sorted(results[1]), "modules between")
    for name, delta in results[0].items():
        equal(results[1][name].data, delta.data, f"delta of {name} between")


# Golden files whose names SD 1.5 or SDXL know and whose kinds diffusers has a
# spelling for. In two of them the factors have other dimensions than the layer
# of that name, which a writer may put right.
GOLDEN = {
    "kinds": ("kohya_lora_lin", "kohya_lora_lin_alpha1_f16",
              "kohya_lora_lin_noalpha", "kohya_lora_lin_alpha_tenth_bf16",
              "kohya_lora_conv1", "kohya_lora_conv3_bf16",
              "kohya_lora_lin_4d_factors", "kohya_lora_conv1_2d_factors",
              "locon_lin_alpha_eq", "locon_lin_alpha_ne_f16",
              "locon_lin_alpha_frac_bf16", "locon_lin_rslora",
              "locon_lin_alpha_int", "locon_conv1_f16", "locon_conv3",
              "locon_conv3_alpha_ne_bf16"),
    "names": ("names_sd1_kohya", "names_sdxl_kohya"),
}

MODULE = "lora_unet_{}_blocks_1_attentions_{}_transformer_blocks_0_attn{}_to_{}"


def alphas():
    """what: how an alpha may be stored."""
    i64 = np.array(4, "<i8").tobytes()
    return {
        "f32": tensor(np.float64(2.5)), "f16": tensor(np.float64(0.1), "F16"),
        "bf16": tensor(np.float64(0.1), "BF16"),
        "f64": tensor(np.float64(1 / 3), "F64"),
        "i64": support.Tensor("I64", (), i64),
        "i64 vector": support.Tensor("I64", (1,), i64),
        "i32": support.Tensor("I32", (), i64[:4]),
        "f16 vector": tensor(np.array([3.0]), "F16"),
        "zero": tensor(np.float64(0)), "negative": tensor(np.float64(-2)),
        "missing": None,
    }


def alpha_file(suite, dtype, chosen):
    """One module for each way to store alpha, several dtypes of factors."""
    rng = np.random.default_rng(3)
    tensors = {}
    for i, alpha in enumerate(chosen):
        name = MODULE.format("up" if i % 2 else "down", (i // 2) % 2,
                             1 + (i // 4) % 2, "qkv"[i // 8 % 3])
        down, up = rng.standard_normal((3, 8)), rng.standard_normal((7, 3))
        tensors[name + ".lora_down.weight"] = tensor(down, dtype)
        tensors[name + ".lora_up.weight"] = tensor(up, dtype)
        if alpha is not None:
            tensors[name + ".alpha"] = alpha
    path = suite.path("alphas.safetensors")
    support.write_file(path, tensors, {
        "ss_network_dim": "3", "ss_tag_frequency": '{"a": {"b \\" c": 1}}',
        "note": "tab\t, quote \", back\\slash, \u00e9, \u4e16, \U0001f600",
        "modelspec.title": "x", "empty": ""})
    return path


def synthetic(suite, family, *args):
    """An adapter with every default target of a family."""
    catalogue = CATALOGUES / f"{family}.tsv"
    if not SYNTHETIC.exists() or not catalogue.exists():
        support.skip("no generator here")
    out = suite.path("synthetic.safetensors")
    subprocess.run([sys.executable, SYNTHETIC, "adapter", "--catalogue",
                    catalogue, "--dialect", "kohya", "--out", out, *args],
                   check=True, capture_output=True, timeout=support.TIMEOUT)
    return out


def check_counts(suite, path, family):
    """The family's name, all targets known, none twice."""
    info = suite.json("info", path, "--modules")
    equal(info["base"]["family"], family, "family")
    equal(info["problems"], [], "problems")
    targets = [m["target"] for m in info["modules"]]
    equal(len(set(targets)), len(targets), "different targets")
    names, _ = support.read_file(path)
    equal(len(targets), sum(n.endswith(".lora_down.weight") for n in names),
          "modules")
    require(all(t.startswith(("unet.", "text_encoder")) for t in targets),
            "a target of no component")


def main():
    suite = support.Suite(__doc__.splitlines()[0])
    for name in FILES:
        for check in (check_info, check_tensors, check_spectra, check_dense):
            with suite.case(f"{pathlib.Path(name).name} {check.__name__[6:]}"):
                check(suite, name)
    for pack, names in GOLDEN.items():
        folder, _ = suite.unpack(pack)
        for name in names:
            with suite.case(f"round trip of {name}"):
                check_round_trip(suite, folder / f"{name}.safetensors",
                                 not name.endswith("d_factors"))
    for dtype in ("F32", "F16", "BF16"):
        for what, alpha in alphas().items():
            with suite.case(f"round trip, {dtype}, alpha {what}"):
                check_round_trip(suite, alpha_file(suite, dtype, [alpha]))
        with suite.case(f"round trip, {dtype}, all alphas in one file"):
            check_round_trip(suite, alpha_file(suite, dtype, alphas().values()))
    for family, args in (("sd15", ("--rank", "4", "--alpha", "1")),
                         ("sd15", ("--rank", "3", "--targets", "conv",
                                   "--conv-rank", "2", "--dtype", "BF16")),
                         ("sdxl", ("--rank", "2", "--alpha", "1.5"))):
        with suite.case(f"synthetic {family} {' '.join(args)}"):
            path = synthetic(suite, family, *args)
            check_counts(suite, path, family)
            check_round_trip(suite, path)
    return suite.finish()


if __name__ == "__main__":
    sys.exit(main())
