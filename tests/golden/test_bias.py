"""Biases that PEFT trains beside LoRA (bias "all"): full values, which replace the
base's.

    b' = b + m (trained - b)    W' = W + m s B A

in numpy float64. In files they are "<module>.base_layer.bias", or without
".base_layer" from before it had that.
"""

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
    for test in (test_change, test_kept, test_full, test_dora, test_refused):
        with suite.case(test.__name__[5:]):
            test(suite)
    return suite.finish()


if __name__ == "__main__":
    sys.exit(main())
