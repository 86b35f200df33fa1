"""Conversions between dialects: the same weight change in every one, the same
bytes back again, and a reason where there is no other way.

What is expected is made here in numpy float64. A row of a catalogue is a layer
of diffusers with the names that other programs have for it, and which rows of
the original weight it is; from these columns a file of each dialect is written
and what the program made of it is read, layer by layer. The rules of the
library come from elsewhere.

Bounds. The factors are normal numbers of 11 bits at most and ranks are small,
so that a product is exact in float64 and a sum of n of them is off by less than
n 2^-53 of the sum of their magnitudes, here and there: 2 n 2^-53, with n the
larger rank. Scales are powers of two, which change no bit, unless a case is
about others.
"""

import json
import math
import pathlib
import re
import sys

import numpy as np

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import support  # noqa: E402
from support import FAILED, MISMATCH, close, equal, require, tensor  # noqa: E402

# What trainers write of a base, so that its names can be told from others'.
ARCHITECTURES = {
    "sd15": "stable-diffusion-v1", "sd21": "stable-diffusion-v2-768-v",
    "sdxl": "stable-diffusion-xl-v1-base", "flux1_dev": "flux-1-dev",
    "sd3_medium": "stable-diffusion-3-medium",
    "sd35_medium": "stable-diffusion-3-5-medium",
    "sd35_large": "stable-diffusion-3-5-large", "lumina2": "lumina-2",
    "wan21_t2v_14b": "wan2.1", "wan21_i2v_14b": "wan2.1",
    "hunyuan_video": "hunyuan-video", "ltx_video": "ltx-video",
    "stable_cascade_prior": "stable-cascade-v1-prior",
    "pixart_sigma": "pixart-sigma", "hunyuan_dit": "hunyuan-dit",
    "cogvideox_5b": "cogvideox", "qwen_image": "qwen-image",
}

BACKBONES = ("unet", "transformer", "prior")
COMPONENTS = {"unet": "unet", "transformer": "transformer", "prior": "prior",
              "te1": "text_encoder", "te2": "text_encoder_2",
              "te3": "text_encoder_3"}
PROCESSOR = re.compile(r"\.(to_q|to_k|to_v|to_out)(\.0)?$")


# Layers and their names ------------------------------------------------------

class Layer:
    """A row of a catalogue, with few rows to each share of a weight."""

    def __init__(self, row):
        self.component, self.kind = row["component"], row["kind"]
        self.name, self.kohya = row["diffusers"], row["kohya"]
        self.original = None if row["original"] == "-" else re.sub(
            r"[._]weight$", "", row["original"])
        shape = [int(n) for n in row["shape"].split("x")]
        self.slices, self.total, self.rows = None, None, 6
        self.transposed = row["part"] == "T"
        if ":" in row["part"]:
            text, total = row["part"].split("/")
            slices = [tuple(map(int, s.split(":"))) for s in text.split(",")]
            share = math.gcd(int(total), *(n for s in slices for n in s))
            self.slices = [(2 * a // share, 2 * b // share)
                           for a, b in slices]
            self.total = 2 * int(total) // share
            self.rows = sum(b - a for a, b in self.slices)
        # The width of attention tells the base where all else is alike.
        self.inner = (shape[1] if re.search(r"attn[12]?\.to_[qkv]$", self.name)
                      else 4) if len(shape) > 1 else 1
        self.kernel = shape[2:]
        self.target = (self.component, self.name)

    def is_backbone(self):
        return self.component in BACKBONES


def flatten(name):
    return name.replace(".", "_")


class Dialect:
    """Names of a dialect. name(layer) is None where it has none; fused(layer)
    tells whether that is the name of the original weight."""

    def __init__(self, id, name, fused, down, up, alpha):
        self.id, self.name, self.fused = id, name, fused
        self.down, self.up, self.alpha = down, up, alpha


def only(condition, name):
    return lambda layer: name(layer) if condition(layer) else None


def bare(layer):
    return re.sub(r"^model\.diffusion_model\.", "", layer.original)


def native(layer):
    return layer.original and "diffusion_model." + bare(layer)


def is_original(layer):
    return (layer.is_backbone() and layer.original and
            bare(layer) != layer.name)


def kohya_fuses(layer):
    return not layer.kohya.endswith(flatten(layer.name))


def dialects(family, layers):
    """Those that hold a base of that sort, by a short name."""
    sort = {layer.component for layer in layers if layer.is_backbone()}.pop()
    backbone = Layer.is_backbone
    yes, no = (lambda layer: True), (lambda layer: False)
    kohya = (".lora_down.weight", ".lora_up.weight", ".alpha")
    peft = (".lora_A.weight", ".lora_B.weight", None)
    unet = (".lora.down.weight", ".lora.up.weight", None)
    dotted = (lambda layer: COMPONENTS[layer.component] + "." + layer.name)
    result = {
        "kohya": Dialect("kohya-SDXL" if family == "sdxl" else "kohya",
                         lambda layer: layer.kohya, kohya_fuses, *kohya),
        "diffusers": Dialect("diffusers", dotted, no, *peft),
        "peft": Dialect("peft", only(backbone, lambda layer:
                                     "base_model.model." + layer.name),
                        no, *peft),
        "native": Dialect("comfy/native", only(backbone, native), yes, *kohya),
    }
    if sort == "transformer":
        result["onetrainer"] = Dialect(
            "OneTrainer DiT", only(backbone, lambda layer: "lora_transformer_"
                                   + flatten(layer.name)), no, *kohya)
    # A bare name that diffusers has as well is taken for one of diffusers.
    if sort == "transformer" and any(map(is_original, layers)):
        result["bfl"] = Dialect("bfl-control", only(is_original, bare), yes,
                                *peft)
    if sort == "unet":
        result["unet"] = Dialect("diffusers-unet", only(backbone, dotted), no,
                                 *unet)
        result["old"] = Dialect("diffusers-old", only(
            lambda layer: backbone(layer) and ".attn" in layer.name
            and PROCESSOR.search(layer.name), lambda layer: PROCESSOR.sub(
                r".processor.\1", dotted(layer))), no,
            "_lora.down.weight", "_lora.up.weight", None)
    return result


# Files -----------------------------------------------------------------------

DTYPES = ("F16", "F32", "BF16")


def factor(rng, shape, dtype):
    """Numbers of 8 bits, not near the ends of any type's range, none zero."""
    values = rng.integers(65, 128, shape) * rng.choice([-1.0, 1.0], shape)
    return tensor(values / 128, dtype)


def put_module(tensors, dialect, name, rng, shape, dtype, rank, alpha,
               down=None, zero=(), blocks=None):
    """A pair; rows in `zero` of up are zeros, `blocks` are (rows, terms) that
    are not."""
    rows, inner, kernel = shape
    ones = [1] * len(kernel)
    up = factor(rng, [rows, rank, *ones], dtype).array()
    for a, b in zero:
        up[a:b] = 0
    if blocks:
        mask = np.zeros((rows, rank), bool)
        for (a, b), (c, d) in blocks:
            mask[a:b, c:d] = True
        up[~mask] = 0
    tensors[name + dialect.up] = tensor(up, dtype)
    tensors[name + dialect.down] = down or factor(rng, [rank, inner, *kernel],
                                                  dtype)
    if dialect.alpha:
        tensors[name + dialect.alpha] = tensor(np.array(float(alpha)), dtype)


def modules(dialect, layers):
    """{name: (its layers, whether it is the original weight)}"""
    result = {}
    for layer in layers:
        entry = result.setdefault(dialect.name(layer), ([], dialect.fused(layer)))
        entry[0].append(layer)
    return result


def write_fused(tensors, dialect, name, parts, rng, turn):
    """An original weight of several layers, in one of four manners."""
    dtype = DTYPES[turn % 3]
    total = parts[0].total
    shape = (total, parts[0].inner, parts[0].kernel)
    manner = turn % 4 if len(parts) > 1 else 0
    rank, zero, blocks = 3, (), None
    if manner == 1:    # one layer is not adapted
        zero = parts[turn // 4 % len(parts)].slices
    elif manner == 2:  # joined from adapters of one rank
        rank = 2 * len(parts)
        blocks = [(s, (2 * i, 2 * i + 2)) for i, part in enumerate(parts)
                  for s in part.slices]
    elif manner == 3:  # and of several, one of them zeros
        rank = 5 + len(parts)
        blocks = [(s, (0, 5) if i == 0 else (4 + i, 5 + i))
                  for i, part in enumerate(parts[:-1]) for s in part.slices]
    put_module(tensors, dialect, name, rng, shape, dtype, rank, rank / 2,
               zero=zero, blocks=blocks)


def write_split(tensors, dialect, parts, rng, turn):
    """Layers of one original weight, each for itself, in one of five manners.
    1 where they come back as they were."""
    manner = turn % 5
    dtype = DTYPES[turn % 3]
    shared, exact = None, 1
    for i, part in enumerate(parts):
        rank, scale, zero = 3, 2, ()
        if manner == 1 and len(parts) > 1 and i == turn // 5 % len(parts):
            continue                 # one is not adapted
        if manner == 2:              # cut from one weight
            shared = shared or factor(rng, [3, part.inner], dtype)
        elif manner == 3:            # ranks differ
            rank = 2 + i
        elif manner == 4 and i == 0: # not trained yet
            zero = [(0, part.rows)]
        elif turn % 7 == 5 and dialect.alpha and len(parts) > 1:
            scale, exact = 2.0**i, 0
        put_module(tensors, dialect, dialect.name(part), rng,
                   (part.rows, part.inner, part.kernel), dtype, rank,
                   rank * scale, down=shared, zero=zero)
    return exact


def write(dialect, layers, seed):
    """(tensors, whether all of them can come back as they were)"""
    rng = np.random.default_rng(seed)
    tensors, exact = {}, 1
    by_weight = {}
    for layer in layers:
        by_weight.setdefault((layer.component, layer.original or layer.name),
                             []).append(layer)
    for turn, parts in enumerate(by_weight.values(), seed):
        parts.sort(key=lambda part: part.slices or [])
        inner = max(part.inner for part in parts)
        for part in parts:
            part.inner = inner
        if not parts[0].slices:
            part, = parts
            shape = [part.rows, part.inner, part.kernel]
            put_module(tensors, dialect, dialect.name(part), rng, shape,
                       DTYPES[turn % 3], 2 + turn % 3, 1 << turn % 4)
            rank = 2 + turn % 3
            if dialect.alpha:        # a scale that is a power of two
                tensors[dialect.name(part) + dialect.alpha] = tensor(
                    np.array(rank * 2.0**(turn % 4 - 2)), DTYPES[turn % 3])
        elif dialect.fused(parts[0]):
            write_fused(tensors, dialect, dialect.name(parts[0]), parts, rng,
                        turn)
        else:
            exact &= write_split(tensors, dialect, parts, rng, turn)
    return tensors, exact


def alpha_of(tensors, metadata, dialect, layer, name, rank):
    """Of a tensor, of what diffusers keeps beside, or the rank."""
    if dialect.alpha and name + dialect.alpha in tensors:
        return float(tensors[name + dialect.alpha].array())
    config = json.loads(metadata.get("lora_adapter_metadata", "{}"))
    head = COMPONENTS[layer.component] + "."
    patterns = config.get(head + "alpha_pattern", {})
    for pattern, alpha in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", layer.name):  # as PEFT does it
            return alpha
    return config.get(head + "lora_alpha", rank)


def read(tensors, metadata, dialect, layers):
    """{target: (dW, the same of magnitudes, rank)} of the layers that the file
    has; every tensor must belong to one."""
    result, left = {}, set(tensors)
    for name, (parts, fused) in modules(dialect, layers).items():
        if name + dialect.down not in tensors:
            continue
        down = tensors[name + dialect.down].array()
        up = tensors[name + dialect.up].array()
        linear = parts[0].kind == "linear"
        equal((down.ndim == 2, up.ndim == 2), (linear, linear),
              f"{name}: dimensions")
        rank = down.shape[0]
        scale = alpha_of(tensors, metadata, dialect, parts[0], name,
                         rank) / rank
        delta, size = support.lora_delta(down, up, None, scale)
        left -= {name + s for s in (dialect.down, dialect.up, dialect.alpha)
                 if s}
        for part in parts:
            dw, bound = delta, size
            if fused and part.slices:
                equal(delta.shape[0], part.total, f"{name}: rows")
                dw, bound = (np.concatenate([a[b:e] for b, e in part.slices])
                             for a in (delta, size))
            if fused and part.transposed:
                dw, bound = dw.T, bound.T
            result[part.target] = (dw, bound, rank)
    equal(left, set(), "tensors of no layer")
    return result


def compare(got, expected, what):
    """The same change; a layer that is missing has none."""
    for target in sorted({*got, *expected}):
        a = got.get(target)
        b = expected.get(target)
        if a is None or b is None:
            require(not (b or a)[0].any(), f"{what}: {target} is there once")
            continue
        n = max(a[2], b[2])
        close(a[0], b[0], 2 * n * 2.0**-53 * np.maximum(a[1], b[1]),
              f"{what}: {target}")


def same_tensors(path, tensors, what):
    got = support.read_file(path)[0]
    equal(set(got), set(tensors), f"{what}: names")
    for name, t in tensors.items():
        require(got[name].same(t), f"{what}: {name} is not as it was")


# Every base, every pair ------------------------------------------------------

def test_pair(suite, family, source, target, layers, seed):
    """One file, there and back."""
    tensors, exact = write(source, layers, seed)
    metadata = {"modelspec.architecture": ARCHITECTURES.get(family, family)}
    start, there, back = (suite.path(f"{step}.safetensors")
                          for step in ("start", "there", "back"))
    support.write_file(start, tensors, metadata)
    base = ("--family", family, "--force")
    suite.run("convert", start, "-o", there, "--dialect", target.id, *base)
    support.require_writer_rules(there)
    expected = read(tensors, metadata, source, layers)
    got = read(*support.read_file(there), target, layers)
    compare(got, expected, "there")
    suite.run("convert", there, "-o", back, "--dialect", source.id, *base)
    compare(read(*support.read_file(back), source, layers), expected, "back")
    keeps = target.alpha or target.id in ("diffusers", "peft")
    if exact and keeps:
        same_tensors(back, tensors, "back")
        if source.alpha and not target.alpha:
            require(back.read_bytes() == start.read_bytes(), "back: the file")
    return exact


def test_family(suite, family, layers):
    known = dialects(family, layers)
    for i, (a, source) in enumerate(known.items()):
        for b, target in known.items():
            if a == b:
                continue
            held = [layer for layer in layers
                    if source.name(layer) and target.name(layer)]
            with suite.case(f"{family}: {a} to {b}"):
                require(held, "no layers")
                test_pair(suite, family, source, target, held, i)


# The files of other programs -------------------------------------------------

def golden_name(case):
    return case["id"].removeprefix("names_flux_")


def golden_read(tensors, entry):
    """The change that a file has for one layer, by the map of its dialect."""
    if "prefix" in entry:
        name = entry["prefix"]
        down = tensors.get(name + ".lora_down.weight")
        up = tensors.get(name + ".lora_up.weight")
        alpha = tensors.get(name + ".alpha")
    else:
        down, up = tensors.get(entry["down"]), tensors.get(entry["up"])
        alpha = tensors.get(re.sub(r"\.lora_(A|down)\.weight$", ".alpha",
                                   entry["down"]))
    if down is None or up is None:
        return None
    scale = support.resolve_scale(alpha and float(alpha.array()),
                                  down.shape[0])
    delta = support.lora_delta(down.array(), up.array(), None, scale)[0]
    return delta[slice(*entry["rows"])] if "rows" in entry else delta


def test_golden(suite, folder, case, other):
    """A file of one program in the names of another's."""
    id = {"diffusers_peft": "diffusers", "onetrainer": "OneTrainer DiT",
          "native_updown": "comfy/native", "bfl": "bfl-control"}.get(
              golden_name(other), golden_name(other))
    out = suite.path("golden.safetensors")
    # Both of ComfyUI's spellings are one dialect, so names are kept.
    if golden_name(case) == "native" and id == "comfy/native":
        other = case
    layers, names = case["params"]["map"], other["params"]["map"]
    if set(layers) - set(names) and id == "bfl-control":
        run = suite.run("convert", folder / case["adapter"], "-o", out,
                        "--dialect", id, "--force", code=FAILED)
        require("text_encoder" in run.err, run)  # it has none
        return
    suite.run("convert", folder / case["adapter"], "-o", out, "--dialect", id,
              "--force")
    tensors, metadata = support.read_file(out)
    require("alpha_pattern\": {}" in metadata.get("lora_adapter_metadata",
                                                  "alpha_pattern\": {}"),
            "scales of which this test knows nothing")
    config = json.loads(metadata.get("lora_adapter_metadata", "{}"))
    expect = support.read_file(folder / case["expect"])[0]
    for target, entry in names.items():
        got = golden_read(tensors, entry)
        if target not in layers:
            require(got is None or not got.any(), f"{target}: not in the file")
            continue
        head = target.split(".")[0]
        if config:
            got = got * (config[f"{head}.lora_alpha"] / config[f"{head}.r"])
        expected = expect[target + ".delta"].array().reshape(got.shape)
        close(got, expected, case["atol"] + case["rtol"] * np.abs(expected),
              target)


def test_xlabs(suite, folder, id):
    """XLabs has q, k and v of a single block in one weight, others the MLP
    too: its rows are zeros there, and nothing on the way back."""
    tensors = dict(support.read_file(folder / "names_flux_xlabs.safetensors")[0])
    rng = np.random.default_rng(1)
    for part, rows in (("qkv", 6), ("proj", 4)):
        name = f"single_blocks.3.processor.{part}_lora."
        tensors[name + "up.weight"] = factor(rng, [rows, 3], "F16")
        tensors[name + "down.weight"] = factor(rng, [3, 5], "F16")
    start = suite.path("start.safetensors")
    support.write_file(start, tensors)
    there, back = suite.path("there.safetensors"), suite.path("back.safetensors")
    base = ("--family", "flux1_dev", "--force")
    suite.run("convert", start, "-o", there, "--dialect", id, *base)
    suite.run("convert", there, "-o", back, "--dialect", "xlabs", *base)
    same_tensors(back, tensors, id)
    if id == "kohya":
        up = support.read_file(there)[0][
            "lora_unet_single_blocks_3_linear1.lora_up.weight"].array()
        equal(up.shape, (14, 3), "rows of q, k, v and the MLP")
        require(not up[6:].any(), "those of the MLP are zeros")


def main():
    suite = support.Suite(__doc__.splitlines()[0])
    folder, families = suite.unpack("targets")
    for family in families:
        lines = (folder / f"{family}.tsv").read_text("utf-8").splitlines()
        head, *rows = (line.split("\t") for line in lines)
        test_family(suite, family, [Layer(dict(zip(head, row)))
                                    for row in rows])
    folder, cases = suite.unpack("names")
    cases = [case for case in cases if case["id"].startswith("names_flux_")]
    for id in ("kohya", "diffusers", "peft", "comfy/native", "OneTrainer DiT",
               "bfl-control"):
        with suite.case(f"xlabs to {id} and back"):
            test_xlabs(suite, folder, id)
    for case in cases:
        for other in cases:
            if golden_name(other) not in ("xlabs", "native"):
                with suite.case(f"{case['id']} as {golden_name(other)}"):
                    test_golden(suite, folder, case, other)
    sys.exit(suite.finish())


if __name__ == "__main__":
    main()
