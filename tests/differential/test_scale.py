#!/usr/bin/env python3
"""What is done to a file keeps its effect: the scale survives chains of
conversions, number types, gates and configurations; what would lose part of
an effect is refused."""

import itertools
import json
import pathlib
import sys

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import support  # noqa: E402
from support import equal, require, tensor  # noqa: E402

LAYERS = {
    "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q": (8, 6),
    "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k": (8, 7),
    "text_encoder.text_model.encoder.layers.0.self_attn.q_proj": (5, 5),
}
RANK = 4
KOHYA = {name: ("lora_unet_" if name.startswith("unet") else "lora_te_") +
         name.split(".", 1)[1].replace(".", "_") for name in LAYERS}


def factors(rng, rank=RANK):
    """name: (down, up), of numbers that every float type of a file holds."""
    def eighths(*shape):
        return (rng.integers(-8, 9, shape) / 8).astype("<f4")

    return {name: (eighths(rank, cols), eighths(rows, rank))
            for name, (rows, cols) in LAYERS.items()}


def kohya_file(suite, made, extra=lambda name: {}, metadata=None):
    tensors = {}
    for name, (down, up) in made.items():
        tensors[KOHYA[name] + ".lora_down.weight"] = tensor(down)
        tensors[KOHYA[name] + ".lora_up.weight"] = tensor(up)
        for suffix, value in extra(name).items():
            tensors[KOHYA[name] + suffix] = value
    path = suite.path("kohya.safetensors")
    support.write_file(path, tensors, metadata)
    return path


def diffusers_file(suite, made, metadata):
    tensors = {}
    for name, (down, up) in made.items():
        tensors[name + ".lora_A.weight"] = tensor(down)
        tensors[name + ".lora_B.weight"] = tensor(up)
    path = suite.path("diffusers.safetensors")
    support.write_file(path, tensors, metadata)
    return path


def check_effect(suite, path, made, scales, bound=1e-6):
    """The dense changes of a file are scale * up @ down."""
    out = suite.path("delta.safetensors")
    suite.run("delta", path, "-o", out, "--names", "canonical", "--force",
              "--dtype", "f64")
    got, _ = support.read_file(out)
    for name, (down, up) in made.items():
        want = scales[name] * up.astype(float) @ down.astype(float)
        support.close(got[name].array(), want,
                      bound * max(np.abs(want).max(), 1e-30), name)


def chain(suite, path, steps):
    """Run verbs one after another; the last file."""
    for number, step in enumerate(steps):
        out = suite.path(f"step{number}.safetensors")
        suite.run(step[0], path, *step[1:], "-o", out, "--force")
        path = out
    return path


STEPS = {
    "f32": ("convert", "--dtype", "f32"),
    "f16": ("convert", "--dtype", "f16"),
    "kohya": ("convert", "--dialect", "kohya"),
    "diffusers": ("convert", "--dialect", "diffusers"),
    "unet": ("convert", "--dialect", "diffusers-unet"),
    "peft": ("convert", "--dialect", "peft"),
    "bake": ("convert", "--bake-alpha"),
    "resize": ("resize", "--rank", 4),
    "pad": ("resize", "--rank", 6, "--pad"),
    "energy": ("resize", "--energy", 1),
}


def check_chains(suite, rng, start):
    """Every chain of three steps keeps every layer's effect."""
    made = factors(rng)
    alphas = dict(zip(LAYERS, (1.0, 1.0, -2.5)))
    scales = {name: alpha / RANK for name, alpha in alphas.items()}
    if start == "kohya":
        path = kohya_file(suite, made,
                          lambda n: {".alpha": tensor(np.float64(alphas[n]))})
    else:
        path = diffusers_file(suite, made, {"lora_adapter_metadata": json.dumps(
            {"unet.r": RANK, "unet.lora_alpha": 1.0, "text_encoder.r": RANK,
             "text_encoder.lora_alpha": -2.5})})
    for names in itertools.product(STEPS, repeat=2):
        for last in ("kohya", "diffusers"):
            steps = [STEPS[name] for name in (*names, last)]
            # New factors have no short numbers: f16 rounds them.
            rounds = "f16" in names and {"resize", "pad", "energy"} & {*names}
            try:
                check_effect(suite, chain(suite, path, steps), made, scales,
                             5e-3 if rounds else 1e-6)
            except AssertionError as error:
                raise AssertionError(f"{' -> '.join((*names, last))}: {error}")


def check_gates(suite, rng):
    """.scalar and .scale are part of the effect, whatever the names."""
    made = factors(rng)
    gates = {".alpha": tensor(np.float64(2)), ".scalar": tensor(np.float64(.3))}
    path = kohya_file(suite, made, lambda n: gates)
    scales = dict.fromkeys(LAYERS, 2 / RANK * float(np.float32(.3)))
    for names in (("unet",), ("diffusers", "kohya"), ("f16",), ("resize",),
                  ("bake", "diffusers")):
        check_effect(suite, chain(suite, path, [STEPS[n] for n in names]),
                     made, scales)
    path = kohya_file(suite, made,
                      lambda n: {".scale": tensor(np.float64(0.15))})
    out = suite.path("half.safetensors")
    suite.run("convert", path, "-o", out, "--dtype", "f16", "--force")
    for module in suite.json("info", "--modules", out)["modules"]:
        equal(module["scale"], float(np.float32(0.15)), "scale beside f16")


def check_configuration(suite, rng):
    """Configurations that say too little, too much, or nonsense."""
    made = factors(rng)
    for fields, scale in (({"unet.use_rslora": True}, 1.0),
                          ({"unet.lora_alpha": 0, "unet.use_rslora": True},
                           1.0),
                          ({"unet.lora_alpha": 6, "unet.use_rslora": True},
                           3.0)):
        path = diffusers_file(suite, made, {
            "lora_adapter_metadata": json.dumps(fields)})
        check_effect(suite, path, made, {
            n: scale if n.startswith("unet") else 1.0 for n in LAYERS})
    path = diffusers_file(suite, made, {
        "lora_adapter_metadata": '{"unet.lora_alpha": 1e999}'})
    suite.run("check", path, code=4)
    suite.run("resize", path, "--rank", 2, "-o", suite.path("no"), code=4)
    many = {f"c{i}.lora_alpha": 1 for i in range(50000)}
    path = diffusers_file(suite, made, {
        "lora_adapter_metadata": json.dumps(many)})
    report = suite.json("info", path)
    equal([p["code"] for p in report["problems"]], ["metadata_invalid"],
          "problems of 50,000 components")


def check_kept_alphas(suite, rng):
    """A module that is not lowered beside one that is keeps its scale, and
    says it in a way that no loader takes for another."""
    made = factors(rng)
    first = next(iter(made))
    down, up = (rng.standard_normal(shape).astype("<f4")
                for shape in ((6, LAYERS[first][1]), (LAYERS[first][0], 6)))
    made[first] = (down, up)
    for alpha in (None, 0.0, -3.0, 1.0):
        extra = {} if alpha is None else {".alpha": tensor(np.float64(alpha))}
        path = kohya_file(suite, made, lambda n: {} if n == first else extra)
        scales = {n: 1.0 if n == first or not alpha else alpha / RANK
                  for n in made}
        out = suite.path("lower.safetensors")
        suite.run("resize", path, "--rank", 5, "-o", out, "--force")
        tensors, _ = support.read_file(out)
        for name in made:
            key = KOHYA[name]
            require(float(tensors[key + ".alpha"].array()) > 0,
                    f"{name}: an alpha that everyone reads alike")
            if name != first:
                scale = (float(tensors[key + ".alpha"].array()) / RANK)
                got = (scale * tensors[key + ".lora_up.weight"].array() @
                       tensors[key + ".lora_down.weight"].array())
                support.close(got, scales[name] * made[name][1].astype(float) @
                              made[name][0], 1e-6, name)


def check_no_alpha_tensors(suite, rng):
    """diffusers passes over .alpha beside names of its own: it is in the
    metadata there, and comes back."""
    made = factors(rng)
    path = kohya_file(suite, made, lambda n: {".alpha": tensor(np.float64(1))})
    for dialect in ("diffusers-unet", "diffusers-te", "diffusers"):
        out = suite.path("other.safetensors")
        back = suite.path("back.safetensors")
        suite.run("convert", path, "-o", out, "--dialect", dialect, "--force")
        tensors, metadata = support.read_file(out)
        require(not any(n.endswith(".alpha") for n in tensors), dialect)
        require("lora_adapter_metadata" in metadata, dialect)
        suite.run("convert", out, "-o", back, "--dialect", "kohya", "--force")
        equal(back.read_bytes(), path.read_bytes(), f"{dialect} and back")


def check_patterns(suite, rng):
    """alpha_pattern as PEFT reads it: a layer's whole path or the end of one,
    at a dot; what is a regular expression is said to be unread."""
    made = factors(rng)
    unet = [n for n in made if n.startswith("unet.")]
    path_of = {n: n.split(".", 1)[1] for n in made}
    for pattern, hits in ((path_of[unet[0]], [unet[0]]),
                          ("attn1.to_q", [unet[0]]),
                          ("ttn1.to_q", []),
                          ("to_q", [unet[0]]),
                          ("^" + path_of[unet[0]], [unet[0]]),
                          ("^attn1.to_q", []),
                          ("te.down_blocks.0.attn1.to_q", [])):
        path = diffusers_file(suite, made, {"lora_adapter_metadata": json.dumps(
            {"unet.r": RANK, "unet.lora_alpha": 4,
             "unet.alpha_pattern": {pattern: 8}})})
        check_effect(suite, path, made,
                     {n: 2.0 if n in hits else 1.0 for n in made})
    path = diffusers_file(suite, made, {"lora_adapter_metadata": json.dumps(
        {"unet.alpha_pattern": {r".*attn[12]\.to_q": 8}})})
    codes = [p["code"] for p in suite.json("info", path)["problems"]]
    require("pattern_unread" in codes, f"a regular expression: {codes}")


def check_double_keys(suite, rng):
    """What is written has no key twice, whatever the order of layers."""
    made = dict(reversed(factors(rng).items()))
    order = {n: made[n] for n in (list(LAYERS)[0], list(LAYERS)[2],
                                  list(LAYERS)[1])}
    alphas = dict(zip(LAYERS, (1.0, 2.0, 3.0)))
    path = kohya_file(suite, order,
                      lambda n: {".alpha": tensor(np.float64(alphas[n]))})
    out = suite.path("unique.safetensors")
    suite.run("convert", path, "-o", out, "--dialect", "diffusers")
    _, metadata = support.read_file(out)

    def unique(pairs):
        keys = [key for key, _ in pairs]
        equal(len(set(keys)), len(keys), f"keys {keys}")
        return dict(pairs)

    for key in ("lora_adapter_metadata",):
        json.loads(metadata[key], object_pairs_hook=unique)


def check_odd_names(suite, rng):
    """A name with a quote is data, in metadata too."""
    down = rng.standard_normal((2, 5)).astype("<f4")
    up = rng.standard_normal((3, 2)).astype("<f4")
    name = 'we"ird.lora_alpha": 9, "x'
    path = suite.path("odd.safetensors")
    support.write_file(path, {
        f"unet.{name}.lora_A.weight": tensor(down),
        f"unet.{name}.lora_B.weight": tensor(up)},
        {"lora_adapter_metadata": '{"unet.lora_alpha": 1}'})
    out = suite.path("odd2.safetensors")
    suite.run("convert", path, "-o", out, "--dtype", "f16", "--force")
    _, metadata = support.read_file(out)
    config = json.loads(metadata["lora_adapter_metadata"])
    require(all("lora_alpha\": 9" not in key for key in config), "no injection")
    for one in (path, out):
        module, = suite.json("info", "--modules", one)["modules"]
        equal(module["scale"], 0.5, f"scale of {one.name}")


def check_leftovers(suite, rng):
    """Tensors that cannot be taken along make a module unusable."""
    made = factors(rng)
    size = {n: rows for n, (rows, _) in LAYERS.items()}
    wrong = {
        "a norm beside a pair": lambda n: {
            ".w_norm": tensor(np.ones(size[n]))},
        "a bias of another length": lambda n: {
            ".lora_up.bias": tensor(np.ones(size[n] + 1))},
        "a bias of 4-bit numbers": lambda n: {
            ".diff_b": support.Tensor("F4", (size[n] * 2,), bytes(size[n]))},
    }
    for what, extra in wrong.items():
        path = kohya_file(suite, made, extra)
        run = suite.run("check", path, code=4)
        require(run.out or run.err, what)
        suite.run("delta", path, "-o", suite.path("no"), code={1, 4})
        suite.run("resize", path, "--rank", 2, "-o", suite.path("no"),
                  code={1, 4})
        require(not suite.path("no").exists(), f"{what}: nothing is written")
        report = suite.json("info", path)
        require(report["problems"], what)


def check_flat_layers(suite, rng):
    """A layer whose rank is far above its size takes no more memory than it
    is worth, and its reported error is right."""
    rank = 3000
    name = next(iter(LAYERS))
    down = rng.standard_normal((rank, 2)).astype("<f4")
    up = rng.standard_normal((1, rank)).astype("<f4")
    path = suite.path("flat.safetensors")
    support.write_file(path, {KOHYA[name] + ".lora_down.weight": tensor(down),
                              KOHYA[name] + ".lora_up.weight": tensor(up)})
    report = suite.json("resize", path, "--rank", 2, "--memory", "2M", "-o",
                        suite.path("flat2.safetensors"))
    row, = report["modules"]
    equal(row["rank_out"], 1, "rank of a 1 x 2 layer")
    require(row["error"] <= 1e-6 * row["sigma"][0], "error")


def main():
    suite = support.Suite(__doc__.splitlines()[0])
    rng = np.random.default_rng(5)
    for start in ("kohya", "diffusers"):
        with suite.case(f"chains from {start}"):
            check_chains(suite, rng, start)
    for what, check in (("gates", check_gates),
                        ("configurations", check_configuration),
                        ("alphas that are kept", check_kept_alphas),
                        ("no alpha tensors", check_no_alpha_tensors),
                        ("patterns", check_patterns),
                        ("no key twice", check_double_keys),
                        ("odd names", check_odd_names),
                        ("leftovers", check_leftovers),
                        ("flat layers", check_flat_layers)):
        with suite.case(what):
            check(suite, rng)
    return suite.finish()


if __name__ == "__main__":
    sys.exit(main())
