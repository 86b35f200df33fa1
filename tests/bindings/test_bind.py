"""liblora.bind() and liblora.Model: what is bound, strict and selected, against
names and rows written by hand.
"""

import sys

import numpy as np

import bindinglib
import models
import support
from bindinglib import raises
from support import equal, require

suite = support.Suite(__doc__.splitlines()[0])
liblora = bindinglib.load(suite)

SMALL = models.Model(width=24, context=16, blocks=2, seed=3)
BASE = SMALL.write_single(suite.path(models.BASE), SMALL.base)
TUNED = SMALL.write_single(suite.path(models.TUNED), SMALL.tuned)
FUSED = "transformer.transformer_blocks.0.attn."


def try_checkpoint():
    adapter = liblora.extract(BASE, TUNED, rank=2)
    binding = liblora.bind(adapter, BASE, strict=True)
    equal((binding.modules, binding.bound, binding.share, binding.verdict),
          (len(SMALL.layers), len(SMALL.layers), 1, "right"), "binding")
    equal({item["target"]: item["changes"][0]["tensor"]
           for item in binding.items},
          {f"{component}.{ours}": f"{theirs}.weight"
           for theirs, component, ours, _ in SMALL.layers}, "tensors")
    require(binding.report.good and not binding.report.problems, "report")
    require("of" in repr(binding) and "to_q" in binding._repr_html_(), "repr")
    equal(liblora.Model.open(str(BASE)).info["family"], "sd15", "family")


def fused_adapter():
    builder = liblora.Builder()
    for part, rows in (("to_k", 2), ("to_v", 2), ("to_w", 2)):
        builder.add(f"{FUSED}{part}.lora_A.weight", np.ones((1, 4), "f4"))
        builder.add(f"{FUSED}{part}.lora_B.weight", np.ones((rows, 1), "f4"))
    return builder.finish()


def try_host():
    model = liblora.Model()
    model.add("qkv.weight", (4, 6), order="ggml", component="transformer",
              parts=[("transformer_blocks.0.attn.to_q", 0, 2),
                     (FUSED + "to_k", 2, 4), (FUSED + "to_v", 4, 6)])
    adapter = fused_adapter()
    binding = liblora.bind(adapter, model, select={"*to_v": 0.0})
    states = {item["name"]: (item["state"], [c["rows"] for c in
                                             item["changes"]])
              for item in binding.items}
    equal(states, {FUSED + "to_k": ("bound", [[2, 4]]),
                   FUSED + "to_v": ("left_out", [[4, 6]]),
                   FUSED + "to_w": ("nowhere", [])}, "states")
    equal(binding.counts["left_out"], 1, "counts")
    equal(binding.suggest(FUSED + "to_w"), "qkv.weight", "nearest")
    equal(model.tensors, [{"name": "qkv.weight", "target": "transformer.qkv",
                           "component": "transformer", "shape": (6, 4)}],
          "tensors")
    raises(liblora.StateError, model.add, "more.weight", (2, 2))
    error = raises(liblora.KeyMatchError, liblora.bind, adapter, model,
                   strict=True)
    equal(error.subject, FUSED + "to_w", "subject")
    del model, adapter
    equal(binding.bound, 1, "bound")


def try_family():
    adapter = liblora.extract(BASE, TUNED, rank=2)
    equal(liblora.bind(adapter, "flux1_dev").verdict, "wrong", "verdict")
    model = liblora.Model.family("sd15")
    require(len(model.tensors) > 600 and "sd15" in repr(model), "family")
    raises(liblora.ArgumentError, liblora.Model.family, "sd16")
    raises(FileNotFoundError, liblora.bind, adapter, "nowhere.safetensors")
    raises(liblora.OptionError, liblora.bind, adapter, model,
           select={"1,2": 1.0})


for case in (try_checkpoint, try_host, try_family):
    with suite.case(case.__name__[4:]):
        case()

sys.exit(suite.finish())
