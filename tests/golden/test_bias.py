"""Biases that PEFT trains beside LoRA (bias "all"): full values, which replace the
base's.

    b' = b + m (trained - b)    W' = W + m s B A

in numpy float64. In files they are "<module>.base_layer.bias", or without
".base_layer" from before it had that, and of layers that have no LoRA, which
then are modules of their own.
"""

import json
import pathlib
import sys

import numpy as np

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import support  # noqa: E402
from support import FAILED, MISMATCH, equal, require, tensor  # noqa: E402

NAME = "base_model.model.layer.0.q_proj"
KNOWN = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
KOHYA = "lora_unet_" + KNOWN[5:].replace(".", "_")


def arrays(path):
    return {name: t.array() for name, t in support.read_file(path)[0].items()}


class Files:
    def __init__(self, suite, name=NAME, suffix=".base_layer.bias", **changed):
        rng = np.random.default_rng(5)
        self.a, self.b = rng.standard_normal((2, 5)), rng.standard_normal((4, 2))
        self.bias, self.old = rng.standard_normal((2, 4))
        self.weight = rng.standard_normal((4, 5))
        for part in ("a", "b", "bias", "old", "weight"):
            setattr(self, part, changed.get(part, getattr(self, part))
                    .astype(np.float32))
        self.name, self.path = name, suite.path("bias.safetensors")
        self.tensors = {name + ".lora_A.weight": tensor(self.a, "F32"),
                        name + ".lora_B.weight": tensor(self.b, "F32"),
                        name + suffix: tensor(self.bias, "F32")}
        support.write_file(self.path, self.tensors)
        self.base = suite.path("base.safetensors")
        stem = name.removeprefix("base_model.model.")
        support.write_file(self.base, {
            stem + ".weight": tensor(self.weight, "F32"),
            stem + ".bias": tensor(self.old, "F32")})

    def change(self):
        return self.b.astype(np.float64) @ self.a


def run(suite, verb, path, *more, code=support.OK):
    out = suite.path("out.safetensors")
    out.unlink(missing_ok=True)
    done = suite.run(verb, path, "-o", out, *more, code=code)
    if code != support.OK:
        require(not out.exists(), "an output was left")
        equal(len(done.err.splitlines()), 1, "lines")
        return done.err
    return arrays(out)


def test_change(suite):
    for suffix in (".base_layer.bias", ".bias"):
        files = Files(suite, suffix=suffix)
        for strength in (1.0, 0.5, 0.0, -2.0):
            got = run(suite, "delta", files.path, "--base", files.base,
                      "--strength", strength)
            equal(set(got), {NAME, NAME + ".bias"}, "tensors")
            support.close(got[NAME], strength * files.change(), 1e-5, "weight")
            difference = files.bias.astype(np.float64) - files.old
            support.close(got[NAME + ".bias"], strength * difference, 1e-6,
                          f"bias at {strength}")
        got = run(suite, "delta", files.path, "--base", files.base, "--weights")
        support.close(got[NAME + ".bias"], files.bias, 1e-6, "new bias")


def test_kept(suite):
    """Names and ranks change nothing of it."""
    files = Files(suite)
    stored = NAME + ".base_layer.bias"
    for verb, more in (("convert", ()), ("resize", ("--rank", 1)),
                       ("convert", ("--as", "lora", "--base", files.base))):
        got = run(suite, verb, files.path, *more)
        equal(got[stored].tolist(), files.bias.tolist(), f"{verb} {more}")


def test_full(suite):
    """As a difference it can be said in other dialects."""
    files = Files(suite, "base_model.model." + KNOWN)
    got = run(suite, "convert", files.path, "--as", "full", "--base",
              files.base, "--dialect", "kohya")
    equal(set(got), {KOHYA + ".diff", KOHYA + ".diff_b"}, "tensors")
    support.close(got[KOHYA + ".diff"], files.change(), 1e-5, "weight")
    support.close(got[KOHYA + ".diff_b"],
                  files.bias.astype(np.float64) - files.old, 1e-6, "bias")


def test_dora(suite):
    """The pair that DoRA becomes has the bias' change, once."""
    files = Files(suite)
    magnitude = np.linspace(1, 2, 4).astype(np.float32)
    support.write_file(files.path, {
        **files.tensors, NAME + ".lora_magnitude_vector": tensor(magnitude)})
    got = run(suite, "convert", files.path, "--as", "lora", "--base",
              files.base)
    equal({n[len(NAME):] for n in got},
          {".lora_A.weight", ".lora_B.weight", ".lora_B.bias"}, "tensors")
    support.close(got[NAME + ".lora_B.bias"],
                  files.bias.astype(np.float64) - files.old, 1e-6, "bias")


# Layers that have a bias, and no LoRA: a linear one and a norm.
LINEAR, NORM = "ff.net.2", "norm1"


class Alone(Files):
    """The same, with biases of two more layers."""

    def __init__(self, suite, stem="layer.0.", attention="q_proj"):
        super().__init__(suite, f"base_model.model.{stem}{attention}")
        rng = np.random.default_rng(6)
        base, _ = support.read_file(self.base)
        self.alone = {}
        for layer, rows in ((LINEAR, 6), (NORM, 5)):
            new, old = rng.standard_normal((2, rows)).astype(np.float32)
            self.alone[f"base_model.model.{stem}{layer}"] = new, old
            base[f"{stem}{layer}.bias"] = tensor(old)
            base[f"{stem}{layer}.weight"] = tensor(np.ones((rows, 2)[
                :2 - (layer == NORM)]))
            self.tensors[f"base_model.model.{stem}{layer}.bias"] = tensor(new)
        support.write_file(self.base, base)
        support.write_file(self.path, self.tensors)


def test_alone(suite):
    files = Alone(suite)
    rows = suite.json("info", files.path, "--modules")["modules"]
    equal({row["name"]: row["kind"] for row in rows},
          {NAME: "lora", **{name: "full" for name in files.alone}}, "modules")
    equal(suite.json("check", files.path)["problems"][0]["code"],
          "unknown_base", "problems")
    for strength in (1.0, 0.5, 0.0, -2.0):
        got = run(suite, "delta", files.path, "--base", files.base,
                  "--strength", strength)
        equal(set(got), {NAME, NAME + ".bias",
                         *(name + ".bias" for name in files.alone)}, "tensors")
        for name, (new, old) in files.alone.items():
            support.close(got[name + ".bias"],
                          strength * (new.astype(np.float64) - old), 1e-6,
                          f"{name} at {strength}")
    got = run(suite, "delta", files.path, "--base", files.base, "--weights")
    for name, (new, _) in files.alone.items():
        support.close(got[name + ".bias"], new, 1e-6, f"new {name}")


def test_base_unused(suite):
    """Of a pair the base changes nothing, which is said unless weights are asked
    for, or something else needs it."""
    files = Files(suite)
    pair = {n: t for n, t in files.tensors.items() if ".lora_" in n}
    for tensors, more, warns in ((pair, (), True),
                                 (pair, ("--dry-run",), True),
                                 (pair, ("--weights",), False),
                                 (pair, ("--quiet",), False),
                                 (files.tensors, (), False)):
        support.write_file(files.path, tensors)
        done = suite.run("delta", files.path, "-o", suite.path("out.st"),
                         "--force", "--base", files.base, *more)
        said = [line for line in done.err.splitlines()
                if line.startswith("warning: ")]
        equal(len(said), int(warns), f"warnings {more}")
        require(not warns or (str(files.base) in said[0]
                              and "not needed" in said[0]), f"{said}")


def test_alone_kept(suite):
    files = Alone(suite)
    copy = suite.path("copy.safetensors")
    suite.run("convert", files.path, "-o", copy, "--force")
    equal({n: t.data for n, t in support.read_file(copy)[0].items()},
          {n: t.data for n, t in files.tensors.items()}, "copied")
    for verb, more in (("resize", ("--rank", 1)),
                       ("convert", ("--as", "lora", "--base", files.base)),
                       ("convert", ("--dialect", "peft")),
                       ("convert", ("--dialect", "peft-raw"))):
        got = run(suite, verb, files.path, *more)
        for name, (new, _) in files.alone.items():
            equal(got[name + ".bias"].tolist(), new.tolist(), f"{verb} {more}")
    # A dump of PEFT's state has them under the same names.
    raw = {n.replace(".weight", ".default.weight"): t
           for n, t in files.tensors.items()}
    support.write_file(files.path, raw)
    info = suite.json("info", files.path, "--modules")
    equal((info["dialects"], len(info["modules"])), (["peft-raw"], 3), "raw")


def test_folder(suite):
    """PEFT looks for biases where its configuration says so, and makes adapters
    of what is among the targets."""
    for make, said in ((Files, "lora_only"), (Alone, "all")):
        files = make(suite)
        folder = suite.path(f"folder of {said}")
        suite.run("convert", files.path, "-o", f"{folder}/")
        config = json.loads((folder / "adapter_config.json").read_text("utf-8"))
        equal((config["bias"], config["target_modules"], config["lora_bias"]),
              (said, ["layer.0.q_proj"], False), "configuration")
        got, _ = support.read_file(folder / "adapter_model.safetensors")
        equal({n: t.data for n, t in got.items()},
              {n: t.data for n, t in files.tensors.items()}, "tensors")
        want = run(suite, "delta", files.path, "--base", files.base)
        got = run(suite, "delta", folder, "--base", files.base)
        equal({n: a.tolist() for n, a in got.items()},
              {n: a.tolist() for n, a in want.items()}, "changes")
    # Others of its adapters have no such field.
    files = Alone(suite)
    tensors = {n: t for n, t in files.tensors.items() if ".lora_" not in n
               and "base_layer" not in n}
    tensors[NAME + ".ia3_l"] = tensor(np.ones((4, 1)))
    support.write_file(files.path, tensors)
    folder = suite.path("none")
    done = suite.run("convert", files.path, "-o", f"{folder}/", code=FAILED)
    require("LoRA alone" in done.err and NAME in done.err, done.err)
    require(not folder.exists(), "a folder was left")


def test_alone_full(suite):
    files = Alone(suite, KNOWN[5:].removesuffix("attn1.to_q"), "attn1.to_q")
    said = run(suite, "convert", files.path, "--dialect", "kohya", "--drop",
               files.name, code=FAILED)
    require("--as full" in said and ".bias" not in said, said)
    said = run(suite, "convert", files.path, "--as", "full", "--dialect",
               "kohya", code=FAILED)
    require("--base" in said, said)
    got = run(suite, "convert", files.path, "--as", "full", "--base",
              files.base, "--dialect", "kohya")
    want = {"lora_unet_" + name.removeprefix("base_model.model.")
            .replace(".", "_") + ".diff_b": new.astype(np.float64) - old
            for name, (new, old) in files.alone.items()}
    equal(set(got), {KOHYA + ".diff", KOHYA + ".diff_b", *want}, "tensors")
    for name, difference in want.items():
        support.close(got[name], difference, 1e-6, name)


def test_alone_refused(suite):
    """Biases that do not fit, those of what is no adapter, and those beside a
    weight: PEFT then has the layer whole, which is no change of its bias."""
    files = Alone(suite)
    name = next(iter(files.alone))
    for bad, code in ((np.ones(7), MISMATCH), (np.ones((6, 1)), MISMATCH),
                      (np.ones(0), MISMATCH)):
        support.write_file(files.path, {**files.tensors,
                                        name + ".bias": tensor(bad)})
        said = run(suite, "delta", files.path, "--base", files.base, code=code)
        require(name in said, said)
    support.write_file(files.path, {
        **files.tensors, name + ".bias": tensor(np.ones(6, np.int32), "I32")})
    said = run(suite, "delta", files.path, "--base", files.base, code=MISMATCH)
    require(name in said and "I32" in said, said)
    support.write_file(files.path, files.tensors)
    said = run(suite, "convert", f"{files.path}:0.5", code=FAILED)
    require("base_model.model" in said, said)
    for kept, count in (((".bias",), 0), (("lora_A.weight", "lora_B.weight"), 1)):
        support.write_file(files.path, {
            n: t for n, t in files.tensors.items() if n.endswith(kept)
            and "base_layer" not in n})
        info = suite.json("info", files.path, "--modules", code=None)
        equal(len(info.get("modules", [])), count, f"of {kept} alone")
    support.write_file(files.path, {
        **files.tensors, name + ".weight": tensor(np.ones((6, 2)))})
    rows = suite.json("info", files.path, "--modules")["modules"]
    require(name not in {row["name"] for row in rows}, "half a layer is read")
    # In no other dialect is a bias of that name an adapter's.
    support.write_file(files.path, {
        KOHYA + ".lora_down.weight": tensor(files.a),
        KOHYA + ".lora_up.weight": tensor(files.b),
        "lora_unet_conv_in.bias": tensor(np.ones(4)),
        "unet.conv_out.bias": tensor(np.ones(4))})
    rows = suite.json("info", files.path, "--modules")["modules"]
    equal([row["name"] for row in rows], [KOHYA], "modules")


def test_refused(suite):
    files = Files(suite)
    said = run(suite, "delta", files.path, code=FAILED)
    require("bias" in said and "--base" in said and NAME in said, said)
    said = run(suite, "convert", f"{files.path}:0.5", code=FAILED)
    require(NAME in said, said)
    support.write_file(files.base, {
        "layer.0.q_proj.weight": tensor(files.weight, "F32")})
    said = run(suite, "delta", files.path, "--base", files.base, code=MISMATCH)
    require("bias" in said and NAME in said, said)
    files = Files(suite, "base_model.model." + KNOWN)
    said = run(suite, "convert", files.path, "--dialect", "kohya", code=FAILED)
    require("--as full" in said, said)
    for bad in (np.ones(3), np.ones((4, 1))):
        files = Files(suite, bias=bad)
        said = run(suite, "delta", files.path, "--base", files.base,
                   code=MISMATCH)
        require(NAME in said, said)
    files = Files(suite)
    support.write_file(files.path, {
        **files.tensors, NAME + ".lora_B.bias": tensor(np.ones(4))})
    said = run(suite, "delta", files.path, "--base", files.base, code=FAILED)
    require(NAME in said and "bias" in said, said)
    # In kohya's dialect a tensor of that name is something else.
    support.write_file(files.path, {
        KOHYA + ".lora_down.weight": tensor(files.a, "F32"),
        KOHYA + ".lora_up.weight": tensor(files.b, "F32"),
        KOHYA + ".bias": tensor(files.bias, "F32")})
    said = run(suite, "delta", files.path, "--base", files.base, code=FAILED)
    require(KOHYA in said and "bias" in said, said)


def main():
    suite = support.Suite(__doc__.splitlines()[0])
    for test in (test_change, test_kept, test_full, test_dora, test_refused,
                 test_base_unused, test_alone, test_alone_kept, test_folder, test_alone_full,
                 test_alone_refused):
        with suite.case(test.__name__[5:]):
            test(suite)
    return suite.finish()


if __name__ == "__main__":
    sys.exit(main())
