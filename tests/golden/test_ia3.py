"""(IA)^3 between LyCORIS and PEFT, in numpy float64.

    LyCORIS  W' = (1 + w) o W, b' = b           w [out], or of inputs [in]
    PEFT     W' = l o W,       b' = l o b       l [out, 1], or [1, in] and b' = b

Of outputs they are the same change where the layer has no bias, l = 1 + w: that
is known of the layers of known models alone.
"""

import json
import pathlib
import sys

import numpy as np

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import support  # noqa: E402
from support import FAILED, equal, require, tensor  # noqa: E402

# Paths of diffusers, and the kohya names of them.
BLOCK = "down_blocks.0.attentions.0.transformer_blocks.0."
MMDIT = "transformer_blocks.0."


def kohya(path):
    return "lora_unet_" + path.replace(".", "_")


def peft(path):
    return "base_model.model." + path


def write(suite, tensors):
    path = suite.path("ia3.safetensors")
    support.write_file(path, tensors)
    return path


def convert(suite, path, dialect, *more, code=support.OK):
    out = suite.path("out.safetensors")
    out.unlink(missing_ok=True)
    run = suite.run("convert", path, "-o", out, "--dialect", dialect, *more,
                    code=code)
    if code != support.OK:
        require(not out.exists(), "an output was left")
        equal(len(run.err.splitlines()), 1, "lines")
        return run.err
    return out, {n: t.array() for n, t in support.read_file(out)[0].items()}


def weights(suite, path, base, *more):
    out = suite.path("delta.safetensors")
    suite.run("delta", path, "-o", out, "--base", base, "--weights", "--force",
              *more)
    return {n: t.array() for n, t in support.read_file(out)[0].items()}


def vectors(rng, paths, rows=6, cols=4):
    """Of LyCORIS: w for the outputs of all but the last, for its inputs."""
    made = {path: rng.standard_normal(rows).astype(np.float32)
            for path in paths[:-1]}
    made[paths[-1]] = rng.standard_normal(cols).astype(np.float32)
    return made


ATTENTION = [BLOCK + name for name in
             ("attn1.to_q", "attn2.to_k", "attn2.to_v", "ff.net.2")]


def as_lycoris(made, inputs):
    tensors = {}
    for path, w in made.items():
        tensors[kohya(path) + ".weight"] = tensor(w, "F32")
        tensors[kohya(path) + ".on_input"] = tensor(
            np.array(path == inputs, np.int64), "I64")
    return tensors


def as_peft(made, inputs):
    return {peft(path) + ".ia3_l": tensor(
                (1 + w.astype(np.float64)).reshape(
                    (1, -1) if path == inputs else (-1, 1)), "F32")
            for path, w in made.items()}


def test_to_peft(suite):
    rng = np.random.default_rng(31)
    made = vectors(rng, ATTENTION)
    path = write(suite, as_lycoris(made, ATTENTION[-1]))
    out, got = convert(suite, path, "peft")
    equal(set(got), {peft(p) + ".ia3_l" for p in made}, "names")
    for p, w in made.items():
        there = got[peft(p) + ".ia3_l"]
        equal(there.shape, (1, 4) if p == ATTENTION[-1] else (6, 1), p)
        support.close(there.reshape(-1), 1 + w.astype(np.float64),
                      2.0**-24 * (1 + np.abs(w)), p)
    # PEFT is told which layer has its inputs scaled.
    folder = f"{suite.path('folder')}/"
    suite.run("convert", path, "-o", folder, "--dialect", "peft")
    config = json.loads((pathlib.Path(folder) / "adapter_config.json")
                        .read_text("utf-8"))
    equal(config["feedforward_modules"], [ATTENTION[-1]], "feedforward")


def test_to_lycoris(suite):
    rng = np.random.default_rng(32)
    made = vectors(rng, ATTENTION)
    tensors = as_peft(made, ATTENTION[-1])
    _, got = convert(suite, write(suite, tensors), "lycoris-kohya")
    equal(set(got), {kohya(p) + s for p in made
                     for s in (".weight", ".on_input")}, "names")
    for p, w in made.items():
        there = got[kohya(p) + ".weight"]
        equal(there.shape, w.shape, p)
        equal(got[kohya(p) + ".on_input"].tolist(), int(p == ATTENTION[-1]), p)
        l = tensors[peft(p) + ".ia3_l"].array().reshape(-1)
        support.close(there, l.astype(np.float64) - 1,
                      2.0**-24 * (1 + np.abs(l)), p)


def test_change(suite):
    """The weights are those of the origin, before and after."""
    rng = np.random.default_rng(33)
    made = vectors(rng, ATTENTION[1:])
    base = suite.path("base.safetensors")
    old = {p: rng.standard_normal((6, 4)).astype(np.float32) for p in made}
    support.write_file(base, {p + ".weight": tensor(w, "F32")
                              for p, w in old.items()})
    for strength in (1.0, 0.5):
        for tensors, dialect in ((as_peft(made, ATTENTION[-1]), "lycoris-kohya"),
                                 (as_lycoris(made, ATTENTION[-1]), "peft")):
            path = write(suite, tensors)
            out, _ = convert(suite, path, dialect)
            for file in (path, out):
                got = weights(suite, file, base, "--strength", strength,
                              "--names", "canonical")
                for p, w in made.items():
                    factor = 1 + strength * w.astype(np.float64)
                    want = old[p] * (factor if p == ATTENTION[-1]
                                     else factor[:, None])
                    (key,) = [n for n in got if p in n]
                    support.close(got[key], want, 1e-6 * np.abs(want).max(),
                                  f"{p} at {strength} in {dialect}")


# (path, its name for kohya's): layers that have a bias, or may have one.
BIASED = [
    [BLOCK + "attn1.to_out.0"], [BLOCK + "ff.net.2"],
    ["down_blocks.0.resnets.0.time_emb_proj"],
]


def test_biased(suite):
    """With a bias they differ by (l - 1) b, and neither can say the other."""
    rng = np.random.default_rng(34)
    for (path,) in BIASED:
        w = rng.standard_normal(6).astype(np.float32)
        for tensors, dialect, name in (
                ({kohya(path) + ".weight": tensor(w, "F32"),
                  kohya(path) + ".on_input": tensor(np.array(0), "I64")},
                 "peft", kohya(path)),
                ({peft(path) + ".ia3_l": tensor(w.reshape(-1, 1), "F32")},
                 "lycoris-kohya", peft(path))):
            said = convert(suite, write(suite, tensors), dialect, code=FAILED)
            require("bias" in said and name in said and "--as full" in said,
                    said)
    # What is promised: the change of the bias as a difference.
    path = BIASED[0][0]
    weight = rng.standard_normal((6, 4)).astype(np.float32)
    bias, l = rng.standard_normal((2, 6)).astype(np.float32)
    base = suite.path("base.safetensors")
    support.write_file(base, {path + ".weight": tensor(weight, "F32"),
                              path + ".bias": tensor(bias, "F32")})
    file = write(suite, {peft(path) + ".ia3_l": tensor(l.reshape(-1, 1),
                                                       "F32")})
    _, got = convert(suite, file, "kohya", "--as", "full", "--base", base)
    gain = l.astype(np.float64) - 1
    support.close(got[kohya(path) + ".diff"], gain[:, None] * weight, 1e-6,
                  "weight")
    support.close(got[kohya(path) + ".diff_b"], gain * bias, 1e-6, "bias")


def test_unsure(suite):
    """Layers of no known model; those that one model has a bias for and another
    has not, which the file may be of either; a side that is not told."""
    rng = np.random.default_rng(35)
    w = rng.standard_normal((6, 1)).astype(np.float32)
    for path in ("h.0.attn.c_attn", "single_transformer_blocks.0.attn.to_q"):
        said = convert(suite, write(
            suite, {peft(path) + ".ia3_l": tensor(w, "F32")}),
            "lycoris-kohya", code=FAILED)
        require("bias" in said and peft(path) in said, said)
    path = BLOCK + "attn1.to_q"
    said = convert(suite, write(suite, {
        peft(path) + ".ia3_l": tensor(np.ones((1, 1)), "F32")}),
        "lycoris-kohya", code=FAILED)
    require("not told" in said, said)


def main():
    suite = support.Suite(__doc__.splitlines()[0])
    for test in (test_to_peft, test_to_lycoris, test_change, test_biased,
                 test_unsure):
        with suite.case(test.__name__[5:]):
            test(suite)
    return suite.finish()


if __name__ == "__main__":
    sys.exit(main())
