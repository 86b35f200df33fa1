"""Checkpoints for the tests: the layers of a small Stable Diffusion 1.5, and
fine-tunes of it, written in the layout of the model's authors (one file) or as
diffusers keeps it (a folder with one for each component).
"""

import json

import numpy as np

import support

# (the authors' block, diffusers' block) of the attention blocks and resnets.
ATTENTIONS = [(f"input_blocks.{i}.1", f"down_blocks.{i // 3}.attentions."
               f"{(i - 1) % 3}") for i in (1, 2, 4, 5, 7, 8)] + [
    ("middle_block.1", "mid_block.attentions.0")]
RESNETS = [("input_blocks.1.0", "down_blocks.0.resnets.0"),
           ("input_blocks.4.0", "down_blocks.1.resnets.0")]
MODEL = "model.diffusion_model."
ENCODER = "cond_stage_model.transformer."
BASE, TUNED = "base.safetensors", "tuned.safetensors"


def attention_layers(width, context):
    """{name less .weight: shape} of one attention block."""
    inner = "transformer_blocks.0."
    layers = {"proj_in": (width, width, 1, 1), "proj_out": (width, width, 1, 1)}
    for name, inputs in (("attn1", width), ("attn2", context)):
        layers[f"{inner}{name}.to_q"] = (width, width)
        layers[f"{inner}{name}.to_k"] = (width, inputs)
        layers[f"{inner}{name}.to_v"] = (width, inputs)
        layers[f"{inner}{name}.to_out.0"] = (width, width)
    layers[inner + "ff.net.2"] = (width, 4 * width)
    return layers


def layers(width, context, blocks=7):
    """(the authors' name, component, diffusers' name, shape), less .weight."""
    rows = []
    for theirs, ours in ATTENTIONS[:blocks]:
        rows += [(f"{MODEL}{theirs}.{name}", "unet", f"{ours}.{name}", shape)
                 for name, shape in attention_layers(width, context).items()]
    for theirs, ours in RESNETS:
        for one, other in (("in_layers.2", "conv1"), ("out_layers.3", "conv2")):
            rows.append((f"{MODEL}{theirs}.{one}", "unet", f"{ours}.{other}",
                         (width // 4, width // 4, 3, 3)))
    for name in ("q_proj", "v_proj"):
        name = f"text_model.encoder.layers.0.self_attn.{name}"
        rows.append((ENCODER + name, "text_encoder", name, (context, context)))
    return rows


def kohya(component, name):
    """The name of a layer in kohya's adapters, from diffusers'."""
    prefix = "lora_unet_" if component == "unet" else "lora_te_"
    return prefix + name.replace(".", "_")


class Model:
    """A base and its fine-tune: per layer arrays of float32."""

    def __init__(self, width=64, context=48, blocks=7, rank=4, seed=0):
        random = np.random.default_rng(seed)
        self.layers = layers(width, context, blocks)
        self.base, self.tuned = {}, {}
        for name, _, _, shape in self.layers:
            rows, cols = shape[0], int(np.prod(shape[1:]))
            base = random.standard_normal((rows, cols)).astype("f4") * 0.05
            change = (random.standard_normal((rows, rank)) * 0.02 @
                      random.standard_normal((rank, cols)))
            change += random.standard_normal((rows, cols)) * 1e-3
            self.base[name] = base.reshape(shape)
            self.tuned[name] = (base + change.astype("f4")).reshape(shape)

    def target(self, name):
        """diffusers' name of a layer, as adapters have it."""
        return next(f"{component}.{ours}" for theirs, component, ours, _
                    in self.layers if theirs == name)

    def write_single(self, path, arrays, dtype="F32", **more):
        """One file in the authors' layout; `more`: tensors as they are."""
        support.write_file(path, {
            **{f"{name}.weight": support.tensor(a, dtype)
               for name, a in arrays.items()}, **more})
        return path

    def write_folder(self, path, arrays, dtype="F32", shards=1):
        """A folder of diffusers'; the unet in several files, if wanted."""
        for part, stem in (("unet", "diffusion_pytorch_model"),
                           ("text_encoder", "model")):
            (path / part).mkdir(parents=True)
            tensors = {f"{ours}.weight": support.tensor(arrays[name], dtype)
                       for name, component, ours, _ in self.layers
                       if component == part}
            write_shards(path / part, stem, tensors,
                         shards if part == "unet" else 1)
        (path / "model_index.json").write_text("{}")
        return path


def write_shards(folder, stem, tensors, count):
    if count == 1:
        support.write_file(folder / f"{stem}.safetensors", tensors)
        return
    names, where = list(tensors), {}
    for i in range(count):
        file = f"{stem}-{i + 1:05}-of-{count:05}.safetensors"
        mine = names[i::count]
        support.write_file(folder / file, {n: tensors[n] for n in mine})
        where.update(dict.fromkeys(mine, file))
    (folder / f"{stem}.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": where}))
