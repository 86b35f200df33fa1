"""AdaLoRA as PEFT stores it: factors named as loralib's, a value for each
direction, and a scale by the rank that training began with.

    dW = alpha / (ranknum + 1e-5) B diag(E) A

in numpy float64, as PEFT's SVDLinear.get_delta_weight() has it; files keep no
ranknum, which is init_r then, whatever rank is left.
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


def arrays(path):
    return {name: t.array() for name, t in support.read_file(path)[0].items()}


def parts(rank=3, out=7, in_=5, seed=1):
    rng = np.random.default_rng(seed)
    return {"lora_A": rng.standard_normal((rank, in_)).astype(np.float32),
            "lora_B": rng.standard_normal((out, rank)).astype(np.float32),
            "lora_E": rng.standard_normal((rank, 1)).astype(np.float32)}


def folder_of(suite, tensors, config):
    folder = suite.path("adalora")
    folder.mkdir(exist_ok=True)
    support.write_file(folder / "adapter_model.safetensors", tensors)
    path = folder / "adapter_config.json"
    path.unlink(missing_ok=True)
    if config is not None:
        path.write_text(json.dumps(config), "utf-8")
    return folder


def named(values, name=NAME, raw=""):
    return {f"{name}.{part}{raw}": tensor(value, "F32")
            for part, value in values.items()}


def change(values, alpha, ranknum):
    a, b, e = (values[x].astype(np.float64)
               for x in ("lora_A", "lora_B", "lora_E"))
    return alpha / (ranknum + 1e-5) * (b @ (a * e))


def delta(suite, path, *more, code=support.OK):
    out = suite.path("delta.safetensors")
    run = suite.run("delta", path, "-o", out, "--force", *more, code=code)
    return arrays(out) if code == support.OK else run.err


CONFIG = {"peft_type": "ADALORA", "lora_alpha": 32, "init_r": 12, "r": 8,
          "target_r": 8,
          "rank_pattern": {"layer.0.q_proj.lora_E": [True, False, True, True]}}


def test_change(suite):
    values = parts()
    for config, alpha, ranknum in (
            (CONFIG, 32, 12), ({"lora_alpha": 5, "init_r": 3}, 5, 3),
            ({"lora_alpha": 5}, 5, 3), ({"lora_alpha": 0, "init_r": 12}, 3, 12),
            (None, 3, 3)):
        folder = folder_of(suite, named(values), config)
        (got,) = delta(suite, folder).values()
        want = change(values, alpha, ranknum)
        support.close(got, want, 2e-6 * np.abs(want).max(), str(config))
    (got,) = delta(suite, folder, "--dtype", "f64").values()
    support.close(got, want, 1e-14 * np.abs(want).max(), "f64")


def test_raw(suite):
    """A state dict with the adapter's name, and ranknum."""
    values = parts()
    tensors = named({**values, "ranknum": np.array([9.0])}, raw=".default")
    (got,) = delta(suite, folder_of(suite, tensors, CONFIG)).values()
    want = change(values, 32, 9)
    support.close(got, want, 2e-6 * np.abs(want).max(), "ranknum")


def test_transposed(suite):
    values = parts()
    folder = folder_of(suite, named(values), {**CONFIG, "fan_in_fan_out": True})
    want = change(values, 32, 12).T
    (got,) = delta(suite, folder).values()
    support.close(got, want, 2e-6 * np.abs(want).max(), "stored [in, out]")
    out = suite.path("out.safetensors")
    for verb in (("convert", "--as", "lora"), ("resize", "--rank", 2)):
        suite.run(verb[0], folder, "-o", out, "--force", *verb[1:])
        got = arrays(out)
        made = (got[NAME + ".lora_B.weight"].astype(np.float64) @
                got[NAME + ".lora_A.weight"])
        sigma = np.linalg.svd(want, compute_uv=False)
        rest = np.linalg.norm(sigma[2:]) if verb[0] == "resize" else 0.0
        support.close(np.linalg.norm(made - want.T), rest,
                      1e-6 * np.linalg.norm(want), verb[0])


def test_pairs(suite):
    """Plain LoRA of it: exact, or the best of a rank, under any name."""
    name = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    values = parts(4)
    folder = folder_of(suite, named(values, "base_model.model." + name), CONFIG)
    want = change(values, 32, 12)
    sigma = np.linalg.svd(want, compute_uv=False)
    out = suite.path("out.safetensors")
    for rank, more in ((4, ()), (2, ("--rank", 2))):
        suite.run("convert", folder, "-o", out, "--force", "--as", "lora",
                  "--dialect", "kohya", *more)
        tensors, _ = support.read_file(out)
        (module,) = support.module_names(tensors)
        got = support.module_delta(tensors, module)[0]
        require(module.startswith("lora_unet_"), module)
        error = np.linalg.norm(got - want)
        require(error <= np.linalg.norm(sigma[rank:]) * (1 + 1e-6) +
                1e-6 * np.linalg.norm(want), error)
    run = suite.run("resize", folder, "-o", out, "--force", "--rank", 2,
                    "--json")
    (row,) = json.loads(run.out)["modules"]
    support.close(row["sigma"], sigma[:4], 1e-5 * sigma[0], "sigma")


def test_kept(suite):
    """What stays AdaLoRA keeps its scale, in any type."""
    values = {part: (value * 4).round() / 4 for part, value in parts().items()}
    folder = folder_of(suite, named(values), CONFIG)
    want = change(values, 32, 12)
    out = suite.path("out.safetensors")
    for verb in (("convert",), ("convert", "--dtype", "f16"),
                 ("resize", "--rank", 8)):
        suite.run(verb[0], folder, "-o", out, "--force", *verb[1:])
        (got,) = delta(suite, out).values()
        support.close(got, want, 2e-6 * np.abs(want).max(), str(verb))


def test_refused(suite):
    values = parts()
    out = suite.path("out.safetensors")
    folder = folder_of(suite, named(values), CONFIG)
    for more in (("--dialect", "kohya"), ("--bake-alpha",)):
        run = suite.run("convert", folder, "-o", out, "--force", *more,
                        code=None)
        require(run.code in (FAILED, MISMATCH), f"{more}: {run.code}")
    run = suite.run("convert", f"{folder}:0.5", "-o", out, "--force",
                    code=FAILED)
    require(NAME in run.err, run.err)
    for what, bad in (("lora_E", np.ones((2, 1))), ("lora_E", np.ones((3, 2))),
                      ("lora_A", np.ones((2, 5))), ("lora_B", np.ones((7, 2))),
                      ("ranknum", np.zeros(1)), ("ranknum", np.ones(2)),
                      ("ranknum", np.array([np.nan]))):
        folder = folder_of(suite, named({**values, what: bad}), CONFIG)
        said = delta(suite, folder, code=MISMATCH)
        require(NAME in said, f"{what}: {said}")
    folder = folder_of(suite, named(values), {**CONFIG, "init_r": -3})
    require(NAME in delta(suite, folder, code=MISMATCH), "init_r")
    del values["lora_A"]
    folder = folder_of(suite, named(values), CONFIG)
    require(NAME in delta(suite, folder, code=MISMATCH), "half a pair")


def main():
    suite = support.Suite(__doc__.splitlines()[0])
    for test in (test_change, test_raw, test_transposed, test_pairs, test_kept,
                 test_refused):
        with suite.case(test.__name__[5:]):
            test(suite)
    return suite.finish()


if __name__ == "__main__":
    sys.exit(main())
