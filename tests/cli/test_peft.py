#!/usr/bin/env python3
"""PEFT folders as results: the configuration, read as PEFT reads it, gives each
module its scale; PEFT itself, where it is installed, computes the same change;
and whatever is refused leaves the folder as it was.
"""

import json
import os
import pathlib
import re
import sys

import numpy as np

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import support  # noqa: E402
from support import (FAILED, close, equal, require,  # noqa: E402
                     skip, tensor)

FILES = ["adapter_config.json", "adapter_model.safetensors"]
PREFIX = "base_model.model."

# path: (rank, alpha, out, in). Paths that end others, the commonest rank and
# alpha, a fraction, and an alpha below 0.
MODULES = {
    "layer": (2, 3.0, 6, 5),
    "x.layer": (4, 8.0, 6, 5),
    "x.y.layer": (4, 8.0, 7, 3),
    "y.layer": (1, 8.0, 4, 4),
    "transformer.h": (4, 0.75, 6, 6),
    "other": (3, -2.0, 3, 4),
}


def make(suite, name="in.safetensors"):
    """(path, dW by path): kohya's suffixes, so that alpha is a tensor."""
    rng = np.random.default_rng(11)
    tensors, deltas = {}, {}
    for module, (rank, alpha, rows, columns) in MODULES.items():
        up = tensor(rng.standard_normal((rows, rank)))
        down = tensor(rng.standard_normal((rank, columns)))
        tensors[PREFIX + module + ".lora_A.weight"] = down
        tensors[PREFIX + module + ".lora_B.weight"] = up
        tensors[PREFIX + module + ".alpha"] = tensor(alpha)
        deltas[module] = alpha / rank * (up.array().astype("f8") @
                                         down.array().astype("f8"))
    path = suite.path(name)
    support.write_file(path, tensors)
    return path, deltas


def by_pattern(patterns, path, default):
    """PEFT's rule: the first pattern that matches the whole path, or its end
    after a dot."""
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", path):
            return value
    return default


def try_scales(suite):
    """From the two files, by PEFT's formula in float64."""
    path, deltas = make(suite)
    folder = suite.path("out")
    suite.run("convert", path, "-o", f"{folder}/", "--dialect", "peft")
    equal(sorted(os.listdir(folder)), FILES, "files")
    support.require_writer_rules(folder / FILES[1])
    tensors, _ = support.read_file(folder / FILES[1])
    config = json.loads((folder / FILES[0]).read_text("utf-8"))
    equal(config["peft_type"], "LORA", "type")
    equal(sorted(config["target_modules"]), sorted(MODULES), "targets")
    equal(len(tensors), 2 * len(MODULES), "tensors")
    for module, delta in deltas.items():
        down = tensors[f"{PREFIX}{module}.lora_A.weight"].array().astype("f8")
        up = tensors[f"{PREFIX}{module}.lora_B.weight"].array().astype("f8")
        rank = by_pattern(config["rank_pattern"], module, config["r"])
        alpha = by_pattern(config["alpha_pattern"], module,
                           config["lora_alpha"])
        equal(rank, down.shape[0], f"rank of {module}")
        close(alpha / rank * (up @ down), delta, 1e-12, module)


def try_read_back(suite):
    """The same, as the program reads its own folder; metadata or not."""
    path, deltas = make(suite)
    for i, more in enumerate(([], ["--no-metadata"], ["--dtype", "f32"])):
        folder = suite.path(f"back{i}")
        folder.mkdir()
        suite.run("convert", path, "-o", folder, "--dialect", "peft", *more)
        out = suite.path(f"delta{i}.safetensors")
        suite.run("delta", folder, "-o", out, "--dtype", "f64")
        got, _ = support.read_file(out)
        for module, delta in deltas.items():
            close(got[PREFIX + module].array(), delta, 1e-12,
                  module)


def try_peft_itself(suite):
    try:
        import peft
        import torch
    except ImportError as error:
        skip(str(error))
    path, deltas = make(suite)
    folder = suite.path("own")
    suite.run("convert", path, "-o", f"{folder}/", "--dialect", "peft")
    model = torch.nn.Module()
    for module, (_, _, rows, columns) in MODULES.items():
        *parents, last = module.split(".")
        place = model
        for name in parents:
            if not hasattr(place, name):
                setattr(place, name, torch.nn.Module())
            place = getattr(place, name)
        setattr(place, last, torch.nn.Linear(columns, rows, bias=False))
    before = {name: value.detach().double().numpy().copy()
              for name, value in model.named_parameters()}
    loaded = peft.PeftModel.from_pretrained(model, folder)
    merged = loaded.merge_and_unload()
    for module, delta in deltas.items():
        after = merged.get_parameter(module + ".weight")
        # PEFT adds in f32: two roundings of numbers below 32.
        close(after.detach().double().numpy() - before[module + ".weight"],
              delta, 32 * 2.0 ** -23, module)


# name: (embedding, bias, magnitude); rank 2, alpha 3, a layer of 4 to 6.
FORMS = {"bias": (False, True, False), "embedding": (True, False, False),
         "dora": (False, False, True), "dora-embedding": (True, False, True)}


def make_form(suite, form):
    """(path, tensors) of two layers, "a.layer" and "b.layer"; the second one
    is never an embedding and never has a bias."""
    embedding, bias, dora = FORMS[form]
    rng = np.random.default_rng(len(form))
    tensors = {}
    for name in ("a.layer", "b.layer"):
        token = embedding and name[0] == "a"
        part = f"{PREFIX}{name}.lora_" + ("embedding_" if token else "")
        end = "" if token else ".weight"
        tensors[f"{part}A{end}"] = tensor(rng.standard_normal((2, 4)))
        tensors[f"{part}B{end}"] = tensor(rng.standard_normal((6, 2)))
        tensors[f"{PREFIX}{name}.alpha"] = tensor(3.0)
        if bias and name[0] == "a":
            tensors[f"{part}B.bias"] = tensor(rng.standard_normal(6))
        if dora:
            tensors[f"{PREFIX}{name}.lora_magnitude_vector"] = tensor(
                rng.uniform(1, 2, 6))
    path = suite.path(f"{form}.safetensors")
    support.write_file(path, tensors)
    return path, tensors


def try_forms(suite):
    """What LoRA may have beside its pair: the tensors as they were, and the
    configuration that PEFT needs to make room for them."""
    for form, (_, bias, dora) in FORMS.items():
        path, tensors = make_form(suite, form)
        folder = suite.path(form)
        suite.run("convert", path, "-o", f"{folder}/", "--dialect", "peft")
        config = json.loads((folder / FILES[0]).read_text("utf-8"))
        equal((config["lora_bias"], config["use_dora"], config["r"],
               config["lora_alpha"]), (bias, dora, 2, 3), form)
        got, _ = support.read_file(folder / FILES[1])
        kept = {n: t for n, t in tensors.items() if not n.endswith(".alpha")}
        equal(sorted(got), sorted(kept), f"{form}: tensors")
        require(all(got[n].same(t) for n, t in kept.items()), form)


def try_forms_refused(suite):
    """What PEFT cannot be told."""
    fresh = suite.path("fresh-form")
    for name, change, word in (
            ("dora", lambda t: t.pop(PREFIX + "b.layer.lora_magnitude_vector"),
             "all modules are of DoRA"),
            ("dora", lambda t: t.update(
                {PREFIX + "a.layer.lora_magnitude_vector":
                 tensor(np.ones((6, 1)))}), "another shape"),
            ("embedding", lambda t: t.update(
                {PREFIX + "b.layer.lora_B.bias": tensor(np.ones(6))}),
             "no embeddings beside a bias"),
            ("dora", lambda t: t.update(
                {PREFIX + "b.layer.lora_B.bias": tensor(np.ones(6))}),
             "no DoRA beside a bias"),
            ("bias", lambda t: t.update(
                {PREFIX + "a.layer.lora_A.bias": tensor(np.ones(2))}),
             "down_bias")):
        path, tensors = make_form(suite, name)
        change(tensors)
        support.write_file(path, tensors)
        run = suite.run("convert", path, "-o", f"{fresh}/", "--dialect", "peft",
                        code=FAILED)
        require(word in run.err, f"{word!r} is not in {run.err}")
        require(not fresh.exists(), "the folder was left")


def try_forms_by_peft(suite):
    """PEFT loads the folders, has their tensors, and computes with them what
    the formulas say."""
    try:
        import peft
        import torch
    except ImportError as error:
        skip(str(error))
    rng = np.random.default_rng(8)
    for form, (embedding, bias, dora) in FORMS.items():
        path, tensors = make_form(suite, form)
        folder = suite.path(f"{form}-own")
        suite.run("convert", path, "-o", f"{folder}/", "--dialect", "peft")
        model = torch.nn.Module()
        model.a, model.b = torch.nn.Module(), torch.nn.Module()
        model.a.layer = (torch.nn.Embedding(4, 6) if embedding
                         else torch.nn.Linear(4, 6))
        model.b.layer = torch.nn.Linear(4, 6)
        base = {name: value.detach().double().numpy().copy()
                for name, value in model.named_parameters()}
        loaded = peft.PeftModel.from_pretrained(model, folder).eval()
        x = rng.standard_normal((5, 4)).astype("f4")
        for name in ("a", "b"):
            values = {n.split("lora_")[-1]: t.array().astype("f8")
                      for n, t in tensors.items() if f".{name}.layer." in n}
            token = embedding and name == "a"
            down, up = (values[f"embedding_{k}"] if token else
                        values[f"{k}.weight"] for k in "AB")
            weight = base[f"{name}.layer.weight"]
            weight = weight.T if token else weight
            after = weight + 1.5 * (up @ down)
            if dora:
                size = np.sqrt((after ** 2).sum(1, keepdims=True))
                after *= values["magnitude_vector"][:, None] / size
            layer = getattr(loaded.base_model.model, name).layer
            with torch.no_grad():
                got = layer(torch.arange(4) if token else torch.from_numpy(x))
            want = (np.eye(4) if token else x.astype("f8")) @ after.T
            want += 0 if token else base[f"{name}.layer.bias"]
            want += 1.5 * values.get("B.bias", 0.0)
            # Some tens of products below 32, each rounded in f32.
            close(got.double().numpy(), want, 32 * 32 * 2.0 ** -24,
                  f"{form}: {name}")


def try_transposed(suite):
    """Weights stored [in, out], as GPT-2's: the change is transposed, and the
    folder says so."""
    path, _ = make(suite)
    folder = suite.path("gpt")
    suite.run("convert", path, "-o", f"{folder}/", "--dialect", "peft")
    config = json.loads((folder / FILES[0]).read_text("utf-8"))
    (folder / FILES[0]).write_text(json.dumps(
        {**config, "fan_in_fan_out": True}), "utf-8")
    again = suite.path("gpt-again")
    suite.run("convert", folder, "-o", f"{again}/", "--dialect", "peft")
    config = json.loads((again / FILES[0]).read_text("utf-8"))
    equal(config["fan_in_fan_out"], True, "fan_in_fan_out")
    (again / FILES[0]).unlink()  # the metadata say it as well
    out = suite.path("gpt.safetensors")
    suite.run("delta", again, "-o", out, "--dtype", "f64")
    got, _ = support.read_file(out)
    for module, delta in make(suite)[1].items():
        close(got[PREFIX + module].array(), delta.T, 1e-12, module)


def small(rng, *shape):
    """Integers that bf16 has."""
    return tensor(rng.integers(-4, 5, shape))


def deltas_of(suite, source):
    """By the end of the name that all spellings of a test have."""
    out = suite.path("dense.safetensors")
    suite.run("delta", source, "-o", out, "--dtype", "f64", "--force")
    return {re.sub(r".*model\.|^transformer\.", "", name): each.array()
            for name, each in support.read_file(out)[0].items()}


def try_transposed_kept(suite):
    """Whatever writes such an adapter anew keeps the flag and the first level
    of GPT-2's names, which is also what diffusers calls a component."""
    rng = np.random.default_rng(5)
    folder = suite.path("gpt2")
    folder.mkdir()
    tensors, wanted = {}, {}
    for i, (rank, rows, columns) in enumerate(((2, 6, 4), (3, 4, 4))):
        name = f"h.{i}.attn.c_attn"
        down, up = small(rng, rank, columns), small(rng, rows, rank)
        tensors[f"{PREFIX}transformer.{name}.lora_A.weight"] = down
        tensors[f"{PREFIX}transformer.{name}.lora_B.weight"] = up
        delta = up.array().astype("f8") @ down.array().astype("f8")
        wanted["transformer." + name] = 6 / rank * delta.T
    support.write_file(folder / FILES[1], tensors)
    (folder / FILES[0]).write_text(json.dumps(
        {"peft_type": "LORA", "r": 2, "lora_alpha": 6, "fan_in_fan_out": True}),
        "utf-8")
    out, raw = suite.path("kept.safetensors"), suite.path("raw.safetensors")
    suite.run("convert", folder, "-o", raw, "--dialect", "peft-raw")
    require(any(".default." in name for name in support.read_file(raw)[0]),
            "these are not raw names")
    for command, strength, bound in (
            (["convert", folder, "--dtype", "bf16"], 1, 1e-12),
            (["convert", f"{folder}:0.5"], 0.5, 1e-12),
            (["convert", f"{folder}:-2", "--dialect", "peft-raw"], -2, 1e-12),
            (["convert", raw, "--dtype", "bf16"], 1, 1e-12),
            (["convert", raw, "--dialect", "peft"], 1, 1e-12),
            # Sums of 3 products below 16, times 3: f32 factors of an SVD.
            (["resize", folder, "--rank", "3"], 1, 144 * 2.0 ** -20)):
        suite.run(*command, "-o", out, "--force")
        got = deltas_of(suite, out)
        equal(sorted(got), sorted(wanted), f"names of {command}")
        for name, delta in wanted.items():
            close(got[name], strength * delta, bound, f"{command}: {name}")
    for dialect in ("kohya", "lycoris-kohya", "comfy/native"):
        run = suite.run("convert", folder, "-o", out, "--force", "--dialect",
                        dialect, code=support.MISMATCH)
        require("no known model" in run.err, run.err)


def try_component_lost(suite):
    """Names of diffusers that no family knows say their component, those of
    PEFT do not: the scale is found without it."""
    rng = np.random.default_rng(6)
    tensors, wanted = {}, {}
    for name, alpha in (("foo.0.lin", 16), ("foo.1.lin", 3)):
        down, up = small(rng, 2, 4), small(rng, 6, 2)
        tensors[f"transformer.{name}.lora_A.weight"] = down
        tensors[f"transformer.{name}.lora_B.weight"] = up
        wanted[name] = alpha / 2 * (up.array().astype("f8") @
                                    down.array().astype("f8"))
    path, out = suite.path("named.safetensors"), suite.path("less.safetensors")
    support.write_file(path, tensors, {"lora_adapter_metadata": json.dumps(
        {"transformer.r": 2, "transformer.lora_alpha": 16,
         "transformer.alpha_pattern": {"foo.1.lin": 3}})})
    for dialect in ("peft", "peft-raw", "diffusers-unet"):
        suite.run("convert", path, "-o", out, "--force", "--dialect", dialect)
        got = deltas_of(suite, out)
        for name, delta in wanted.items():
            close(got[name], delta, 1e-12, f"{dialect}: {name}")


def try_refused(suite):
    """What is there stays, and no empty folder is left behind."""
    path, _ = make(suite)
    kohya = suite.path("kohya.safetensors")
    support.write_file(kohya, {
        "lora_unet_a.lora_down.weight": tensor(np.ones((1, 2))),
        "lora_unet_a.lora_up.weight": tensor(np.ones((2, 1)))})
    fresh = suite.path("fresh")
    for source, more, code, word in (
            (kohya, [], FAILED, "--dialect peft"),
            (path, ["--dialect", "kohya"], FAILED, "--dialect peft")):
        run = suite.run("convert", source, "-o", f"{fresh}/", *more, code=code)
        require(word in run.err, f"{word!r} is not in {run.err}")
        require(not fresh.exists(), "the folder was left")
    suite.run("convert", path, "-o", suite.path("no") / "such/", "--dialect",
              "peft", code=FAILED)
    for name in FILES:
        there = suite.path("there-" + name)
        there.mkdir()
        (there / name).write_bytes(b"old")
        (there / "README.md").write_bytes(b"card")
        run = suite.run("convert", path, "-o", there, "--dialect", "peft",
                        code=FAILED)
        require("--force" in run.err, run.err)
        equal(sorted(os.listdir(there)), sorted(["README.md", name]), "files")
        equal((there / name).read_bytes(), b"old", "the old file")
        suite.run("convert", path, "-o", there, "--dialect", "peft", "--force")
        equal(sorted(os.listdir(there)), ["README.md", *FILES], "files")
        equal((there / "README.md").read_bytes(), b"card", "the card")
    suite.run("convert", path, "-o", f"{fresh}/", "--dialect", "peft",
              code=FAILED, largest=2048)  # the configuration still fits
    require(not fresh.exists(), "a full disk left a folder")
    suite.run("convert", path, "-o", f"{fresh}/", "--dialect", "peft",
              "--dry-run")
    require(not fresh.exists(), "a dry run made a folder")


def main():
    suite = support.Suite(__doc__.splitlines()[0])
    for attempt in (try_scales, try_read_back, try_peft_itself, try_forms,
                    try_forms_refused, try_forms_by_peft,
                    try_transposed, try_transposed_kept, try_component_lost,
                    try_refused):
        with suite.case(attempt.__name__):
            attempt(suite)
    return suite.finish()


if __name__ == "__main__":
    sys.exit(main())
