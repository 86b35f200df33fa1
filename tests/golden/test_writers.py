"""Every kind in every dialect that can hold it, and a reason where one cannot.

The files of other programs are converted, and then: the weight change is the
one that the library of origin computed, at the tolerance of the case; each
tensor has the bytes of the one it was, in the dimensions that the dialect's
readers want, which are written down here; converting back gives the same
tensors; and saving what was saved changes no byte.

Of folders for PEFT the layers that PEFT would make of the configuration are
made here, by its rules: they must have the shapes of the tensors, and give the
change. Where PEFT is installed it loads the folder and merges it.

IA3 has other numbers there, 1 + w in F32, rounded once: 2^-24 of 1 + |w|.
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
from support import (FAILED, close, equal, flat, require,  # noqa: E402
                     skip, tensor)

KINDS = ("kohya_lora", "locon", "loha", "lokr", "dylora", "ia3", "full",
         "norm", "glora", "tlora", "dora_locon", "dora_loha", "dora_lokr")
LYCORIS = ("lycoris-wrapper", "comfy/native")
OTHERS = ("peft", "peft-raw", "diffusers", "diffusers-unet", "kohya-oft")
PEFT_NAMES = {".lora_down.weight": ".lora_A.weight",
              ".lora_up.weight": ".lora_B.weight",
              ".dora_scale": ".lora_magnitude_vector"}


class Case:
    def __init__(self, folder, case):
        self.case, self.id, self.kind = case, case["id"], case["kind"]
        self.path = folder / case["adapter"]
        self.tensors, _ = support.read_file(self.path)
        (self.target, self.info), = case["params"]["modules"].items()
        self.prefix = self.info["prefix"]
        self.own = {name[len(self.prefix):]: t
                    for name, t in self.tensors.items()}
        self.expected = support.read_file(folder / case["expect"])[0]
        self.base = folder / case["base"] if case.get("base") else None

    def has(self, *suffixes):
        return any(suffix in self.own for suffix in suffixes)

    def change(self, part):
        """What the library of origin makes of the weight or the bias, or
        None."""
        if self.base is None:
            suffix = ".delta" if part == "weight" else ".delta_bias"
            t = self.expected.get(self.target + suffix)
            return None if t is None else t.array()
        t = self.expected.get(f"{self.target}.{part}@1")
        if t is None:
            return None
        before = support.read_file(self.base)[0][f"{self.target}.{part}"]
        change = t.array() - before.array()
        return change if part == "weight" or change.any() else None

    def bound(self, part):
        """Of the change; that of a weight was recorded for the weight."""
        want = self.change(part)
        if self.base is not None:
            want = self.expected[f"{self.target}.{part}@1"].array()
        return self.case["atol"] + self.case["rtol"] * np.abs(want)


def why_not(case, dialect):
    """What refuses the case; None: nothing does. Written from formats.md 4.2
    and 5."""
    if dialect in LYCORIS:
        return None
    kinds = {"kohya_lora": "(lora|locon)", "dylora": "(lora|locon)",
             "locon": "(lora|locon)"}
    kind = kinds.get(case.kind.removeprefix("dora_"),
                     case.kind.removeprefix("dora_"))
    no = rf"{dialect} cannot hold this {kind}: "
    if dialect == "kohya-oft":
        return no + "it has no name"
    if dialect == "diffusers-unet":
        return None if kind.startswith("(") and not case.has(".dora_scale") \
            else no + "it has no name"
    if case.kind == "ia3" and dialect.startswith("peft"):
        return None if not scales_outputs(case) or \
            re.search(r"[._]to_[qkv]$", case.target) \
            else no + "it scales outputs"
    holds = case.has(".lora_down.weight") and not case.has(".lora_mid.weight")
    if dialect.startswith("peft"):
        holds |= case.has(".hada_w1_a", ".lokr_w1", ".lokr_w1_a")
    if not holds:
        return no
    if case.has(".dora_scale"):
        if not case.has(".lora_down.weight"):
            return no + ".*DoRA of plain pairs"
        return None if case.case["params"]["options"]["wd_on_out"] \
            else no + ".*norms to outputs"
    return None


def run_delta(suite, case, path, what):
    """The program's change of a converted file is that of the origin."""
    out = suite.path("delta.safetensors")
    suite.run("delta", path, "-o", out, "--force", "--dtype", "f64",
              *(["--base", case.base] if case.base else []))
    got = {name.endswith(".bias"): t.array()
           for name, t in support.read_file(out)[0].items()}
    if case.kind == "ia3" and what.startswith("peft") and scales_outputs(case):
        got.pop(True, None)  # the layer has none, but the case's base may
    for part in ("weight", "bias"):
        want = case.change(part)
        if want is None:
            require(part == "bias" and True not in got, f"{what}: {part}")
            continue
        close(got[part == "bias"].reshape(want.shape), want, case.bound(part),
              f"{what}: {part}")


def renamed(suffix, dialect):
    if dialect in ("peft", "peft-raw", "diffusers"):
        suffix = PEFT_NAMES.get(suffix, suffix)
    if dialect == "diffusers-unet":
        suffix = suffix.replace(".lora_", ".lora.")
    if dialect == "peft-raw":
        suffix += ".weight" * (suffix == ".lora_magnitude_vector")
        name, weight = re.fullmatch(r"(.*?)(\.weight)?", suffix).groups()
        suffix = f"{name}.default{weight or ''}"
    return suffix


def dims(case, suffix, shape, dialect):
    """The dimensions that readers of the dialect want of a tensor."""
    # Two dimensions of a layer that is 3 x 3 elsewhere do not tell its kernel.
    linear = case.info["type"] == "lin" or \
        case.id == "kohya_lora_conv1_2d_factors"
    if suffix in (".lora_down.weight", ".lora_up.weight") and \
            math.prod(shape[2:]) == 1:
        return tuple(shape[:2]) if linear else (*shape[:2], 1, 1)
    if suffix == ".dora_scale" and dialect in ("peft", "peft-raw",
                                               "diffusers"):
        rows = math.prod(shape)
        return (rows,) if linear else (1, rows, 1, 1)
    return tuple(shape)


def check_tensors(case, got, dialect):
    """The bytes of each tensor, less what says the scale where that goes into
    metadata."""
    in_metadata = dialect in ("peft", "peft-raw", "diffusers",
                              "diffusers-unet")
    left = dict(got)
    for suffix, t in case.own.items():
        name = [n for n in left if n.endswith(renamed(suffix, dialect))]
        if suffix == ".scalar" or (suffix == ".alpha" and in_metadata):
            equal([n for n in name if suffix == ".scalar"], [], "gate")
            continue
        equal(len(name), 1, f"tensors for {suffix}")
        there = left.pop(name[0])
        if suffix == ".alpha":
            require(case.has(".scalar") or there.same(t), "alpha")
            continue
        require(there.same(t, shape=False), f"bytes of {name[0]}")
        equal(there.shape, dims(case, suffix, t.shape, dialect),
              f"shape of {name[0]}")
    require(all(n.endswith(".alpha") for n in left), f"further: {list(left)}")


def scales_outputs(case):
    return not case.case["params"]["options"].get("train_on_input")


def check_ia3(case, got):
    """l = 1 + w, [1, in] or [out, 1], in F32."""
    (name, there), = got.items()
    require(re.search(r"\.ia3_l(\.default)?$", name), name)
    w = case.own[".weight"].array()
    equal(there.dtype, "F32", "type")
    close(there.array(), (1 + w).reshape(there.shape),
          2.0**-24 * (1 + np.abs(w)).reshape(there.shape), "ia3_l")
    equal(there.shape, (1, w.size, 1, 1) if case.info["type"] != "lin" else
          (w.size, 1) if scales_outputs(case) else (1, w.size), "shape")


def test_held(suite, case, dialect):
    there, again, back = (suite.path(f"{step}.safetensors")
                          for step in ("there", "again", "back"))
    suite.run("convert", case.path, "-o", there, "--dialect", dialect,
              "--force")
    support.require_writer_rules(there)
    got, _ = support.read_file(there)
    moved = case.kind == "ia3" and dialect.startswith("peft")
    (check_ia3 if moved else check_tensors)(
        case, got, *([] if moved else [dialect]))
    run_delta(suite, case, there, dialect)
    suite.run("convert", there, "-o", again, "--force")
    require(again.read_bytes() == there.read_bytes(), "saved again")
    names = suite.json("info", case.path)["dialects"][0]
    suite.run("convert", there, "-o", back, "--dialect", names, "--force")
    run_delta(suite, case, back, "back")
    # Of whole tensors alpha says nothing, and is not kept in metadata.
    whole = case.has(".lokr_w2") and case.has(".lokr_w1")
    if moved:
        w = case.own[".weight"].array()
        home = {n[len(case.prefix):]: t
                for n, t in support.read_file(back)[0].items()}
        equal(set(home), {".weight", ".on_input"}, "back: names")
        equal(float(home[".on_input"].array()), float(not scales_outputs(case)),
              "back: on_input")
        close(home[".weight"].array(), w, 2.0**-24 * (1 + np.abs(w)), "back")
    elif not case.has(".scalar") and not (whole and dialect in OTHERS):
        home, _ = support.read_file(back)
        alpha = home.pop(case.prefix + ".alpha", None)
        if case.has(".alpha"):  # else it is the rank, said
            require(alpha.same(case.own[".alpha"]), "back: alpha")
        for name, t in home.items():
            old = case.tensors[name]
            wanted = dims(case, name[len(case.prefix):], old.shape, "kohya")
            require(t.same(old, shape=False) and t.shape == wanted,
                    f"back: {name}")
        equal(len(home), len(case.tensors) - case.has(".alpha"), "back")


def test_refused(suite, case, dialect, why):
    out = suite.path("refused.safetensors")
    run = suite.run("convert", case.path, "-o", out, "--dialect", dialect,
                    "--force", code=FAILED)
    require(not out.exists(), "a file was left")
    require(re.search(why, run.err), f"reason: {run.err}")
    require(case.prefix in run.err, f"module: {run.err}")


def test_case(suite, case):
    """One case in every dialect."""
    for dialect in LYCORIS + OTHERS:
        why = why_not(case, dialect)
        with suite.case(f"{case.id} in {dialect}"):
            if why is None:
                test_held(suite, case, dialect)
            else:
                test_refused(suite, case, dialect, why)


# Folders for PEFT ------------------------------------------------------------

def peft_split(side, factor):
    """As PEFT divides a side of LoKr: by the factor if that divides it, else by
    the divisor next below the factor and the root."""
    if factor > 0 and side % factor == 0:
        return factor, side // factor
    most = side if factor == -1 else factor
    m = max(d for d in range(1, math.isqrt(side) + 1)
            if side % d == 0 and d <= most)
    return m, side // m


def peft_pattern(patterns, path, default):
    return next((value for pattern, value in patterns.items()
                 if re.match(rf"(.*\.)?({pattern})$", path)), default)


def peft_layer(config, path, weight):
    """(names and shapes of a layer's tensors, alpha / r)"""
    rows, cols, *kernel = weight
    area = math.prod(kernel)
    core = config.get("use_effective_conv2d") and area > 1
    r = peft_pattern(config["rank_pattern"], path, config["r"])
    alpha = peft_pattern(config["alpha_pattern"], path, config["alpha"])
    if config["peft_type"] == "LOHA":
        a, b = ((r, rows), (r, cols)) if core else ((rows, r),
                                                    (r, cols * area))
        shapes = {f"hada_w{n}_{x}": s for n in (1, 2)
                  for x, s in (("a", a), ("b", b))}
        if core:
            shapes.update(hada_t1=(r, r, *kernel), hada_t2=(r, r, *kernel))
        return shapes, alpha / r
    (o1, o2), (i1, i2) = (peft_split(side, config["decompose_factor"])
                          for side in (rows, cols))
    shapes = {"lokr_w1": (o1, i1)}
    if config["decompose_both"] and r < max(o1, i1) / 2:
        shapes = {"lokr_w1_a": (o1, r), "lokr_w1_b": (r, i1)}
    if r >= max(o2, i2) / 2:
        shapes["lokr_w2"] = (o2, i2, *kernel)
    elif core:
        shapes.update(lokr_t2=(r, r, *kernel), lokr_w2_a=(r, o2),
                      lokr_w2_b=(r, i2))
    else:
        shapes.update(lokr_w2_a=(o2, r), lokr_w2_b=(r, i2 * area))
    return shapes, alpha / r


def peft_folder(suite, path):
    """(tensors by the path of their module, configuration)"""
    folder = suite.path("peft")
    suite.run("convert", path, "-o", f"{folder}/", "--dialect", "peft",
              "--force")
    tensors, _ = support.read_file(folder / "adapter_model.safetensors")
    config = json.loads((folder / "adapter_config.json").read_text("utf-8"))
    modules = {}
    for name, t in tensors.items():
        module, part = re.fullmatch(
            r"base_model\.model\.(.*?)\.(lora_[AB]\.weight|\w+)", name).groups()
        modules.setdefault(module, {})[part] = t
    equal(sorted(config["target_modules"]), sorted(modules), "targets")
    return modules, config


# Of LyCORIS' files these are divided as PEFT never does.
UNLIKE = {"lokr_lin_unbalanced", "lokr_lin_w1_factored_w2_full"}


def test_folder(suite, case):
    shape = case.info["shape"]
    if case.id in UNLIKE:
        run = suite.run("convert", case.path, "-o", f"{suite.path('peft')}/",
                        "--dialect", "peft", "--force", code=FAILED)
        require("decompose_factor" in run.err, f"reason: {run}")
        return
    ((path, tensors),), config = (lambda m, c: (m.items(), c))(
        *peft_folder(suite, case.path))
    equal(config["peft_type"], case.kind.upper(), "type")
    if case.kind == "ia3":
        equal(config["feedforward_modules"],
              [] if scales_outputs(case) else [path], "feedforward")
        return
    shapes, scale = peft_layer(config, path, shape)
    equal({name: t.shape for name, t in tensors.items()}, shapes, "layer")
    part = {name.split("_", 1)[1]: t.array() for name, t in tensors.items()}
    change = support.loha_delta if case.kind == "loha" else support.lokr_delta
    want = case.change("weight")
    close((scale * change(part)).reshape(want.shape), want,
          case.bound("weight"), "change")


def test_ranks(suite):
    """Modules of several ranks, some of them whole, in one folder: each gets
    its own, and the same alpha / r as before."""
    rng = np.random.default_rng(5)
    # path: (out, in, rank of w2 or None, alpha); all are divided by 4
    layers = {"down_blocks.0.attentions.0.proj_in": (32, 32, 2, 1.0),
              "down_blocks.0.attentions.0.proj_out": (32, 32, 3, 6.0),
              "mid_block.attentions.0.proj_in": (64, 32, None, 7.0),
              "mid_block.attentions.0.proj_out": (16, 64, None, 7.0)}
    tensors, deltas = {}, {}
    for path, (rows, cols, rank, alpha) in layers.items():
        part = {"w1": rng.standard_normal((4, 4))}
        if rank is None:
            part["w2"] = rng.standard_normal((rows // 4, cols // 4))
        else:
            part["w2_a"] = rng.standard_normal((rows // 4, rank))
            part["w2_b"] = rng.standard_normal((rank, cols // 4))
        name = "lora_unet_" + path.replace(".", "_")
        stored = {key: tensor(value) for key, value in part.items()}
        tensors[name + ".alpha"] = tensor(np.array(alpha))
        tensors.update({f"{name}.lokr_{k}": t for k, t in stored.items()})
        deltas[path] = (alpha / rank if rank else 1.0) * support.lokr_delta(
            {k: t.array() for k, t in stored.items()})
    path = suite.path("ranks.safetensors")
    support.write_file(path, tensors)
    modules, config = peft_folder(suite, path)
    for module, parts in modules.items():
        rows, cols = layers[module][:2]
        shapes, scale = peft_layer(config, module, (rows, cols))
        got = {name: flat(t.array()) for name, t in parts.items()}
        equal({n: a.shape for n, a in got.items()}, shapes, module)
        got = {name.split("_", 1)[1]: a for name, a in got.items()}
        # a sum of at most 3 products, and the scale, each rounded once
        close(scale * support.lokr_delta(got), deltas[module],
              8 * 2.0**-53 * np.abs(deltas[module]).max(), module)


def test_unlike(suite):
    """What no one folder of PEFT has."""
    rng = np.random.default_rng(6)

    def refused(layers, why):
        path = suite.path("unlike.safetensors")
        support.write_file(path, {
            f"base_model.model.{name}": tensor(rng.standard_normal(shape))
            for name, shape in layers.items()})
        run = suite.run("convert", path, "-o", f"{suite.path('no')}/",
                        "--dialect", "peft", code=FAILED)
        require(why in run.err, f"reason: {run}")
        require(not suite.path("no").exists(), "a folder was left")

    loha = {"hada_w1_a": (8, 2), "hada_w1_b": (2, 6), "hada_w2_a": (8, 2),
            "hada_w2_b": (2, 6)}
    refused({**{f"a.{k}": s for k, s in loha.items()},
             "b.lora_A.weight": (2, 6), "b.lora_B.weight": (8, 2)},
            "one type")
    refused({"a.lokr_w1": (2, 2), "a.lokr_w2": (8, 8),
             "b.lokr_w1": (4, 4), "b.lokr_w2": (8, 8)}, "decompose_factor")
    # w2 is cut at a rank at which PEFT would leave it whole
    refused({"a.lokr_w1": (4, 4), "a.lokr_w2_a": (4, 2),
             "a.lokr_w2_b": (2, 4)}, "at its rank")
    refused({"a.lokr_w1_a": (16, 2), "a.lokr_w1_b": (2, 16),
             "a.lokr_w2_a": (16, 2), "a.lokr_w2_b": (2, 16),
             "b.lokr_w1": (16, 16), "b.lokr_w2_a": (16, 2),
             "b.lokr_w2_b": (2, 16)}, "at its rank")
    cored = {"hada_w1_a": (2, 8), "hada_w1_b": (2, 6), "hada_w2_a": (2, 8),
             "hada_w2_b": (2, 6), "hada_t1": (2, 2, 3, 3),
             "hada_t2": (2, 2, 3, 3)}
    flat_conv = {**loha, "hada_w1_b": (2, 54), "hada_w2_b": (2, 54)}
    conv = "down_blocks.{}.resnets.0.conv1."
    refused({**{conv.format(0) + k: s for k, s in cored.items()},
             **{conv.format(1) + k: s for k, s in flat_conv.items()}},
            "others have a core")


def test_peft_itself(suite, case):
    try:
        import peft
        import torch
    except ImportError as error:
        skip(str(error))
    (path, _), = peft_folder(suite, case.path)[0].items()
    shape = case.info["shape"]
    base = None
    if case.base:
        base = support.read_file(case.base)[0][case.target + ".weight"].array()
    model = torch.nn.Module()
    *parents, last = path.split(".")
    place = model
    for name in parents:
        setattr(place, name, torch.nn.Module())
        place = getattr(place, name)
    layer = (torch.nn.Linear(shape[1], shape[0], bias=False)
             if len(shape) == 2 else
             torch.nn.Conv2d(shape[1], shape[0], shape[2:], bias=False))
    if base is not None:
        layer.weight.data = torch.from_numpy(base.reshape(shape))
    setattr(place, last, layer)
    model.double()
    before = layer.weight.detach().numpy().copy()
    merged = peft.PeftModel.from_pretrained(
        model, suite.path("peft")).merge_and_unload()
    after, = (p.detach().numpy() for p in merged.parameters())
    want = case.change("weight")
    # PEFT's alpha / r of LoHa is a float32: 2^-24 of the change
    close((after - before).reshape(want.shape), want,
          case.bound("weight") + 2.0**-23 * np.abs(want).max(), "change")


# OFT -------------------------------------------------------------------------

def test_oft(suite):
    """kohya's and LyCORIS' are the same with a constraint above 0 alone."""
    rng = np.random.default_rng(7)
    name = "down_blocks_0_attentions_0_proj_in"

    def convert(prefix, dialect, alpha, ndim=3, more=(), code=0):
        shape = (2, 4, 4) if ndim == 3 else (1, 2, 4, 4)
        tensors = {f"{prefix}{name}.oft_blocks":
                   tensor(rng.standard_normal(shape))}
        for part in more:
            tensors[f"{prefix}{name}.{part}"] = tensor(np.ones((8, 1)))
        if alpha is not None:
            tensors[f"{prefix}{name}.alpha"] = tensor(np.array(alpha))
        path, out = (suite.path(f"oft{i}.safetensors") for i in range(2))
        support.write_file(path, tensors)
        run = suite.run("convert", path, "-o", out, "--dialect", dialect,
                        "--force", code=code)
        if code:
            return run.err
        got, _ = support.read_file(out)
        equal(sorted(t.data for t in got.values()),
              sorted(t.data for t in tensors.values()), "tensors")
        return {n.rpartition(".")[0] for n in got}

    for a, b, to in (("lora_unet_", "oft_unet_", "kohya-oft"),
                     ("oft_unet_", "lycoris_", "lycoris-wrapper")):
        equal(convert(a, to, 0.25), {b + name}, f"{a} to {to}")
        for alpha in (0.0, None):
            err = convert(a, to, alpha, code=FAILED)
            require("constraint" in err and to in err, f"reason: {err}")
    for more in ({"ndim": 4}, {"more": ("rescale",)}):
        err = convert("lora_unet_", "kohya-oft", 0.25, code=FAILED, **more)
        require("kohya-oft cannot hold this" in err, f"reason: {err}")
    err = convert("lora_unet_", "peft", 0.25, code=FAILED)
    require("peft cannot hold this oft" in err, f"reason: {err}")


def turned_folder(suite, layers, fields):
    """The tensors of a folder written of one that PEFT wrote, and its fields;
    or why there is none. `layers`: shapes of oft_R or of boft_R by path."""
    rng = np.random.default_rng(8)
    folder, out = suite.path("turned"), suite.path("again")
    shutil.rmtree(out, ignore_errors=True)
    folder.mkdir(exist_ok=True)
    tensors = {}
    for path, shape in layers.items():
        name = f"base_model.model.{path}."
        tensors[name + ("oft_R.weight" if len(shape) == 2 else "boft_R")] = (
            tensor(rng.uniform(-0.1, 0.1, shape)))
        if len(shape) == 4:
            tensors[name + "boft_s"] = tensor(np.ones((5, 1)))
    support.write_file(folder / "adapter_model.safetensors", tensors)
    (folder / "adapter_config.json").write_text(json.dumps(fields))
    run = suite.run("convert", folder, "-o", f"{out}/",
                    code={support.OK, FAILED})
    if run.code == FAILED:
        require(not out.exists(), "a folder was left")
        return run.err
    got, _ = support.read_file(out / "adapter_model.safetensors")
    equal(set(got), set(tensors), "names")
    require(all(got[name].same(t) for name, t in tensors.items()), "tensors")
    return json.loads((out / "adapter_config.json").read_text())


def test_blocks(suite):
    """PEFT makes in / oft_block_size blocks of that side, or r of in / r, and
    for all layers that share one block just one."""
    oft = {"peft_type": "OFT", "peft_version": "0.19.1", "eps": 0.25,
           "num_cayley_neumann_terms": 7, "use_cayley_neumann": True,
           "coft": True, "block_share": False}
    config = turned_folder(suite, {"a": (2, 15), "b": (3, 15)}, oft)
    equal((config["r"], config["oft_block_size"]), (0, 6), "side")
    equal(config["peft_version"], "0.19.0", "version")
    equal({key: config[key] for key in oft if key != "peft_version"},
          {key: oft[key] for key in oft if key != "peft_version"}, "fields")
    equal(sorted(config["target_modules"]), ["a", "b"], "targets")
    config = turned_folder(suite, {"a": (2, 15), "b": (2, 28)}, oft)
    equal((config["r"], config["oft_block_size"]), (2, 0), "number")
    shared = {**oft, "block_share": True, "use_cayley_neumann": False}
    config = turned_folder(suite, {"a": (1, 15), "b": (1, 15)}, shared)
    equal((config["r"], config["oft_block_size"], config["block_share"],
           config["use_cayley_neumann"]), (0, 6, True, False), "shared")
    boft = {"peft_type": "BOFT"}
    config = turned_folder(suite, {"a": (2, 2, 4, 4), "b": (2, 4, 4, 4)}, boft)
    equal((config["boft_block_num"], config["boft_block_size"],
           config["boft_n_butterfly_factor"], config["peft_type"]),
          (0, 4, 2, "BOFT"), "butterfly")
    for layers, fields in (({"a": (2, 15), "b": (3, 28)}, oft),
                           ({"a": (1, 15), "b": (1, 28)}, shared),
                           ({"a": (1, 2, 4, 4), "b": (2, 2, 4, 4)}, boft)):
        err = turned_folder(suite, layers, fields)
        require("others have other blocks" in err and ".b" in err, err)


# Parts of fused weights ------------------------------------------------------

def test_split_dora(suite):
    """Rows of a magnitude go with the rows of a weight, in PEFT's shape."""
    rng = np.random.default_rng(8)
    name = "lora_unet_double_blocks_0_img_attn_qkv"
    whole = {".lora_down.weight": (2, 6), ".lora_up.weight": (12, 2),
             ".dora_scale": (12, 1)}
    tensors = {name + suffix: tensor(rng.standard_normal(shape))
               for suffix, shape in whole.items()}
    tensors[name + ".alpha"] = tensor(np.array(2.0))
    start, there, back = (suite.path(f"{x}.safetensors")
                          for x in ("qkv", "there", "back"))
    support.write_file(start, tensors)
    suite.run("convert", start, "-o", there, "--dialect", "diffusers",
              "--family", "flux1_dev", "--force")
    got, _ = support.read_file(there)
    want = tensors[name + ".dora_scale"].array().reshape(-1)
    for i, q in enumerate("qkv"):
        key = f"transformer.transformer_blocks.0.attn.to_{q}"
        vector = got[key + ".lora_magnitude_vector"]
        equal(vector.shape, (4,), f"shape of {q}")
        require(np.array_equal(vector.array(), want[4 * i:4 * i + 4]), q)
    suite.run("convert", there, "-o", back, "--dialect", "kohya", "--family",
              "flux1_dev", "--force")
    home, _ = support.read_file(back)
    require(home[name + ".dora_scale"].same(tensors[name + ".dora_scale"]),
            "back")


def main():
    suite = support.Suite(__doc__.splitlines()[0])
    folder, cases = suite.unpack("kinds")
    cases = cases["cases"] if isinstance(cases, dict) else cases
    cases = [Case(folder, case) for case in cases
             if case["kind"] in KINDS and len(case["params"]["modules"]) == 1
             and case["operation"] in ("delta", "patched_weight")
             and not case.get("params", {}).get("rank_prefix")
             and case["adapter"].removesuffix(".safetensors") == case["id"]]
    # Names of no known model have no others; T-LoRA of kernels has no numbers.
    cases = [case for case in cases
             if "temporal" not in case.prefix and case.id != "tlora_conv3"]
    for case in cases:
        test_case(suite, case)
    for case in cases:
        if case.kind in ("loha", "lokr") or (
                case.kind == "ia3" and why_not(case, "peft") is None):
            with suite.case(f"{case.id}: folder"):
                test_folder(suite, case)
        if (why_not(case, "peft") is None and case.id not in UNLIKE and
                case.id != "kohya_lora_conv1_2d_factors"):
            with suite.case(f"{case.id}: PEFT"):
                test_peft_itself(suite, case)
    for test in (test_ranks, test_unlike, test_oft, test_blocks,
                 test_split_dora):
        with suite.case(test.__name__):
            test(suite)
    return suite.finish()


if __name__ == "__main__":
    sys.exit(main())
