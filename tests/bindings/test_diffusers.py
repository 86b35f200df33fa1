"""liblora.diffusers on real pipelines with small random weights, shaped as those
of Stable Diffusion 1.5 and XL; needs torch, diffusers, transformers and peft.

Adapters that diffusers can load are written by diffusers, and what it makes of
the weights, load_lora_weights() and fuse_lora(), is what is compared with. In
F32 both round each product of r terms and each sum, some 2^-24 of the sizes of
the terms, r of which are below 10 here: 1e-6 of a weight's largest number is
more than that. In F16 the reference is what diffusers makes of the same numbers
in F32, rounded: ours is rounded once too, and may fall on the other side of a
half, one unit away.

Kinds that it cannot load are made here, and their weights are those of the
formula, in numpy float64.
"""

import copy
import functools
import importlib
import itertools
import os
import sys
import warnings

import numpy as np

import bindinglib
import support
from bindinglib import raises
from support import close, equal, require, tensor

SKIP = 77
os.environ["HF_HUB_OFFLINE"] = "1"
warnings.simplefilter("ignore")

suite = support.Suite(__doc__.splitlines()[0])
try:
    torch, diffusers, peft, transformers = map(importlib.import_module, (
        "torch", "diffusers", "peft", "transformers"))
except ImportError as error:
    print(f"skipped: {error}")
    suite.folder.rmdir()
    sys.exit(SKIP)
liblora = bindinglib.load(suite)
diffusers.utils.logging.set_verbosity_error()
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

WIDTH = 32
WEIGHTS = (0.8, -0.5, 1.25)
TE_LAYER = "lora_te{}_text_model_encoder_layers_1_self_attn_q_proj"
UNET_LAYER = ("lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_"
              "attn1_to_q")
TO_Q = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"


# Pipelines -------------------------------------------------------------------

def text_encoder(kind="CLIPTextModel"):
    return getattr(transformers, kind)(transformers.CLIPTextConfig(
        hidden_size=WIDTH, intermediate_size=2 * WIDTH, num_hidden_layers=2,
        num_attention_heads=4, vocab_size=300, projection_dim=WIDTH,
        bos_token_id=1, eos_token_id=2))


def unet(context, **more):
    return diffusers.UNet2DConditionModel(
        sample_size=16, in_channels=4, out_channels=4, layers_per_block=1,
        block_out_channels=(32, 64), cross_attention_dim=context,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=8, norm_num_groups=8, **more)


def vae():
    return diffusers.AutoencoderKL(
        block_out_channels=[16], down_block_types=["DownEncoderBlock2D"],
        up_block_types=["UpDecoderBlock2D"], latent_channels=4,
        norm_num_groups=8)


def sd15(dtype=torch.float32):
    torch.manual_seed(0)
    return diffusers.StableDiffusionPipeline(
        vae=vae(), text_encoder=text_encoder(), tokenizer=None,
        unet=unet(WIDTH), scheduler=diffusers.DDIMScheduler(),
        safety_checker=None, feature_extractor=None,
        requires_safety_checker=False).to(dtype)


def sdxl(dtype=torch.float32):
    torch.manual_seed(0)
    return diffusers.StableDiffusionXLPipeline(
        vae=vae(), text_encoder=text_encoder(),
        text_encoder_2=text_encoder("CLIPTextModelWithProjection"),
        tokenizer=None, tokenizer_2=None, add_watermarker=False,
        unet=unet(2 * WIDTH, addition_embed_type="text_time",
                  addition_time_embed_dim=8, transformer_layers_per_block=2,
                  projection_class_embeddings_input_dim=WIDTH + 6 * 8,
                  use_linear_projection=True),
        scheduler=diffusers.EulerDiscreteScheduler()).to(dtype)


MAKERS = {"sd15": sd15, "sdxl": sdxl}


def parts_of(pipe):
    names = ("unet", "text_encoder", "text_encoder_2")
    return {name: getattr(pipe, name) for name in names
            if getattr(pipe, name, None) is not None}


def numbers(pipe):
    """All weights by name, copied."""
    return {f"{part}.{name}": parameter.detach().clone(
                memory_format=torch.contiguous_format)
            for part, model in parts_of(pipe).items()
            for name, parameter in model.named_parameters()}


def assert_same(pipe, before):
    after = numbers(pipe)
    equal(set(after), set(before), "names")
    for name, value in after.items():
        one, other = (x.reshape(-1).view(torch.uint8)
                      for x in (value, before[name]))
        require(torch.equal(one, other), f"{name}: other bytes")


def write_official(make, folder, index):
    """An adapter for all components, as diffusers writes it: the second one
    with its older names, which it does not read of convolutions."""
    pipe, old = make(), index == 1
    torch.manual_seed(10 + index)
    layers = {}
    for part, model in parts_of(pipe).items():
        targets = (["to_q", "to_k", "to_v", "to_out.0"] + ["conv1"] * (not old)
                   if part == "unet" else
                   ["q_proj", "out_proj"] + ["fc1"] * (not old))
        model.add_adapter(peft.LoraConfig(
            r=4 + index, lora_alpha=2 + index, target_modules=targets,
            init_lora_weights=False), adapter_name="a")
        tensors = peft.utils.get_peft_model_state_dict(model, adapter_name="a")
        layers[part + "_lora_layers"] = (
            diffusers.utils.convert_state_dict_to_diffusers(tensors) if old
            else tensors)
        layers[part + "_lora_adapter_metadata"] = model.peft_config[
            "a"].to_dict()
    name = f"a{index}.safetensors"
    type(pipe).save_lora_weights(folder, weight_name=name, **layers)
    return folder / name


@functools.lru_cache(maxsize=None)
def adapters_of(kind):
    folder = suite.path(f"adapters-{kind}")
    return [write_official(MAKERS[kind], folder, i) for i in range(3)]


@functools.lru_cache(maxsize=None)
def fused_by_diffusers(kind, count, half):
    """In F32, of weights that were rounded to F16 before where `half`."""
    pipe = MAKERS[kind]()
    if half:
        for model in parts_of(pipe).values():
            model.to(torch.float16).to(torch.float32)
    names = [f"a{i}" for i in range(count)]
    for name, path in zip(names, adapters_of(kind)):
        pipe.load_lora_weights(str(path.parent), weight_name=path.name,
                               adapter_name=name)
    pipe.set_adapters(names, list(WEIGHTS[:count]))
    pipe.fuse_lora(components=list(parts_of(pipe)), adapter_names=names)
    pipe.unload_lora_weights()
    return numbers(pipe)


def assert_close(got, want, base, what):
    """Rounding apart the same; and more than some weights are changed."""
    equal(set(got), set(want), "names")
    changed = {part: 0 for part in ("unet", "text")}
    for name, value in got.items():
        if value.dtype == torch.float32:
            bound = 1e-6 * float(want[name].abs().max())
            require(float((value - want[name]).abs().max()) <= bound,
                    f"{what}: {name}")
        else:
            ours, theirs = (x.to(torch.float16).numpy()
                            for x in (value, want[name]))
            unit = np.spacing(np.maximum(np.abs(ours), np.abs(theirs)))
            require((np.abs(ours.astype("f8") - theirs) <= unit).all(),
                    f"{what}: {name}")
        changed[name[:4]] += not torch.equal(value, base[name])
    require(all(changed.values()), f"{what}: {changed} are changed")


# Cases -----------------------------------------------------------------------

def try_like_diffusers(kind, count, dtype):
    pipe = MAKERS[kind](dtype)
    before = numbers(pipe)
    want = fused_by_diffusers(kind, count, dtype == torch.float16)
    held = [liblora.diffusers.load(pipe, path, weight)
            for path, weight in zip(adapters_of(kind)[:count], WEIGHTS)]
    for one in held:
        equal(one.binding.share, 1, "share")
    equal(liblora.diffusers.loaded(pipe), held, "loaded")
    assert_close(numbers(pipe), want, before, f"{kind}, {count}")
    for one in held[1:] + held[:1]:
        one.remove()
    assert_same(pipe, before)
    equal(liblora.diffusers.loaded(pipe), [], "loaded")


def try_program(kind):
    """The saved pipeline, fused by the program."""
    folder, out = suite.path(f"pipe-{kind}"), suite.path(f"fused-{kind}")
    pipe = MAKERS[kind]()
    base = numbers(pipe)
    pipe.save_pretrained(folder)
    suite.run("fuse", folder, *(f"{path}:{weight}" for path, weight in
                                zip(adapters_of(kind), WEIGHTS)), "-o", out)
    fused = {}
    for part, model in parts_of(pipe).items():
        path, = (out / part).glob("*.safetensors")
        tensors, _ = support.read_file(path)
        for name, value in tensors.items():
            fused[f"{part}.{name}"] = torch.from_numpy(value.array().copy())
    assert_close({name: fused[name] for name in base},
                 fused_by_diffusers(kind, 3, False), base, kind)


def product(up, down):
    return up.astype(np.float64) @ down.astype(np.float64)


def drawn(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


def loha(rng, w):
    a, b, c, d = (drawn(rng, *shape) for shape in
                  ((64, 3), (3, 64), (64, 3), (3, 64)))
    return ({".hada_w1_a": a, ".hada_w1_b": b, ".hada_w2_a": c,
             ".hada_w2_b": d, ".alpha": np.float32(1.5)},
            w + 0.5 * product(a, b) * product(c, d))


def lokr(rng, w):
    a, b = drawn(rng, 4, 8), drawn(rng, 16, 8)
    return {".lokr_w1": a, ".lokr_w2": b}, w + np.kron(a.astype("f8"), b)


def ia3(rng, w):
    v = drawn(rng, 64)
    return ({".weight": v, ".on_input": np.int64(0)},
            w * (1 + v.astype("f8"))[:, None])


def dora(rng, w):
    up, down = drawn(rng, 64, 4), drawn(rng, 4, 64)
    m = np.abs(drawn(rng, 1, 64)) + 1
    v = w + 0.5 * product(up, down)
    return ({".lora_up.weight": up, ".lora_down.weight": down,
             ".alpha": np.float32(2), ".dora_scale": m},
            v * m / np.sqrt((v * v).sum(0, keepdims=True)))


def oft(rng, w):
    blocks = drawn(rng, 16, 4, 4) / 4
    q = blocks.astype("f8") - blocks.astype("f8").swapaxes(1, 2)
    r = (np.eye(4) + q) @ np.linalg.inv(np.eye(4) - q)
    return ({".oft_blocks": blocks, ".alpha": np.float32(0)},
            np.einsum("knm,knp->kmp", r, w.reshape(16, 4, 64)).reshape(64, 64))


def try_kind(make):
    pipe = sd15()
    before = numbers(pipe)
    weight = pipe.unet.get_submodule(TO_Q).weight
    tensors, want = make(np.random.default_rng(1),
                         weight.detach().numpy().astype("f8"))
    path = suite.path(make.__name__ + ".safetensors")
    support.write_file(path, {
        UNET_LAYER + name: tensor(value, "I64" if name == ".on_input" else
                                  "F32") for name, value in tensors.items()})
    with liblora.diffusers.load(pipe, path, strict=True) as adapter:
        kind = make.__name__
        equal(liblora.open(path).modules[0]["kind"],
              {"dora": "lora"}.get(kind, kind), "kind")
        equal(adapter.name, kind, "name")
        # Norms, inverses and products of F32 numbers: some 2^-20 of them.
        close(weight.detach().numpy().astype("f8"), want,
              2.0**-18 * np.abs(want).max(), kind)
        after = numbers(pipe)
        equal([name for name in after
               if not torch.equal(after[name], before[name])],
              [f"unet.{TO_Q}.weight"], "changed")
    assert_same(pipe, before)
    raises(liblora.StateError, adapter.remove)


def kohya_pairs(te=""):
    """A layer of the UNet and one of a text encoder, in kohya's names."""
    rng = np.random.default_rng(2)
    return {name: (drawn(rng, size, 2), drawn(rng, 2, size))
            for name, size in ((UNET_LAYER, 64),
                               (TE_LAYER.format(te), WIDTH))}


def write_pairs(name, pairs, suffixes=(".lora_up.weight",
                                       ".lora_down.weight")):
    path = suite.path(name)
    support.write_file(path, {key + suffix: tensor(value, "F32")
                              for key, pair in pairs.items()
                              for suffix, value in zip(suffixes, pair)})
    return path


def te_weight(model):
    name, = (name for name, _ in model.named_modules()
             if name.endswith("encoder.layers.1.self_attn.q_proj"))
    return model.get_submodule(name).weight


def assert_added(weight, base, pair, strength, what):
    want = base.numpy().astype("f8") + strength * product(*pair)
    close(weight.detach().numpy().astype("f8"), want,
          2.0**-20 * np.abs(want).max(), what)


def try_strengths(kind, encoder, te):
    """Of the model and of text encoders, in kohya's names; set again."""
    pipe = MAKERS[kind]()
    before = numbers(pipe)
    pairs = kohya_pairs(te)
    path = write_pairs(f"kohya-{encoder}.safetensors", pairs)
    weights = (pipe.unet.get_submodule(TO_Q).weight,
               te_weight(getattr(pipe, encoder)))
    bases = [weight.detach().clone() for weight in weights]
    adapter = liblora.diffusers.load(pipe, path, 0.5, te_strength=2.0)
    for strengths in ((0.5, 2.0), (-1.0, 0.25), (0.75, None)):
        adapter.set_strength(*strengths)
        both = (strengths[0], strengths[0 if strengths[1] is None else 1])
        for weight, base, pair, strength in zip(weights, bases, pairs.values(),
                                                both):
            assert_added(weight, base, pair, strength, encoder)
    adapter.set_strength(0.0)
    assert_same(pipe, before)
    adapter.remove()
    with liblora.diffusers.load(pipe, path, select={"te": 0.0}, name="half"):
        assert_added(weights[0], bases[0], pairs[UNET_LAYER], 1, "selected")
        require(torch.equal(weights[1], bases[1]), "te is selected")
    assert_same(pipe, before)


def try_wrapped():
    """Layers that PEFT wrapped, whose own adapters stay what they are; names
    of PEFT; tensors in a dict."""
    pipe = sd15()
    pair = kohya_pairs()[UNET_LAYER]
    path = write_pairs("peft.safetensors",
                       {"base_model.model." + TO_Q: pair},
                       (".lora_B.weight", ".lora_A.weight"))
    base = pipe.unet.get_submodule(TO_Q).weight.detach().clone()
    pipe.unet.add_adapter(peft.LoraConfig(r=2, target_modules=["to_q"]))
    layer = pipe.unet.get_submodule(TO_Q)
    require(hasattr(layer, "base_layer"), "not wrapped")
    adapter = liblora.diffusers.load(pipe, path, 0.5, strict=True)
    assert_added(layer.base_layer.weight, base, pair, 0.5, "wrapped")
    more = liblora.diffusers.load(pipe, {
        f"unet.{TO_Q}.lora_B.weight": torch.from_numpy(pair[0]),
        f"unet.{TO_Q}.lora_A.weight": torch.from_numpy(pair[1])}, 0.25)
    assert_added(layer.base_layer.weight, base, pair, 0.75, "two")
    adapter.remove()
    pipe.unet.delete_adapters("default")  # the layer is itself again
    more.remove()
    require(torch.equal(pipe.unet.get_submodule(TO_Q).weight, base), "bytes")


def try_places():
    """Weights that are not contiguous, and that move and come back."""
    pipe = sd15(torch.bfloat16)
    pipe.unet.to(memory_format=torch.channels_last)
    before = numbers(pipe)
    path = adapters_of("sd15")[0]
    adapter = liblora.diffusers.load(pipe, path, 0.5)
    conv = pipe.unet.down_blocks[0].resnets[0].conv1.weight
    require(not conv.is_contiguous(), "contiguous")
    require(not torch.equal(
        conv, before["unet.down_blocks.0.resnets.0.conv1.weight"]), "conv")
    plain = sd15(torch.bfloat16)
    liblora.diffusers.load(plain, path, 0.5)
    assert_same(pipe, numbers(plain))
    for model in parts_of(pipe).values():  # other memory, as of .to(device)
        for parameter in model.parameters():
            parameter.data = parameter.data.clone()
    again = copy.deepcopy(pipe.unet)
    equal(again._liblora_weights, None, "the plan of a copy")
    adapter.set_strength(-1.0)
    adapter.remove()
    assert_same(pipe, before)


def try_shared():
    """Two pipelines of the same components have one plan."""
    pipe = sd15()
    other = diffusers.StableDiffusionImg2ImgPipeline(
        **pipe.components, requires_safety_checker=False)
    before = numbers(pipe)
    first, second = adapters_of("sd15")[:2]
    one = liblora.diffusers.load(pipe, first)
    two = liblora.diffusers.load(other, second)
    equal(liblora.diffusers.loaded(pipe), [one, two], "loaded")
    one.remove()
    two.remove()
    assert_same(other, before)
    one = liblora.diffusers.load(pipe, first)
    other.unet = sd15().unet
    raises(liblora.StateError, liblora.diffusers.load, other, second)
    one.remove()
    liblora.diffusers.load(other, second)


def try_refused():
    pipe = sd15()
    before = numbers(pipe)
    rng = np.random.default_rng(3)
    layer = "lora_unet_double_blocks_0_img_attn_proj"
    path = write_pairs("flux.safetensors", {
        layer: (drawn(rng, 3072, 1), drawn(rng, 1, 3072))})
    error = raises(liblora.KeyMatchError, liblora.diffusers.load, pipe, path)
    require("flux" in str(error), str(error))
    require("sd15" in str(error) or "sdxl" in str(error), str(error))
    half = write_pairs("half.safetensors", {
        **kohya_pairs(), layer: (drawn(rng, 8, 1), drawn(rng, 1, 8))})
    raises(liblora.LoraError, liblora.diffusers.load, pipe, half, strict=True)
    raises(liblora.RangeError, liblora.diffusers.load, pipe, half,
           float("nan"))
    raises(liblora.ArgumentError, liblora.diffusers.load, object(), path)
    raises(FileNotFoundError, liblora.diffusers.load, pipe, "nowhere")
    assert_same(pipe, before)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        adapter = liblora.diffusers.load(pipe, half)
    require(any("2 of 3 modules" in str(one.message) and
                one.filename == __file__ for one in told),
            str([str(one.message) for one in told]))
    equal(adapter.binding.counts["nowhere"], 1, "nowhere")
    adapter.remove()
    pipe.unet.to("meta")
    raises(liblora.UnsupportedError, liblora.diffusers.load, pipe, half)


def main():
    for kind, count, dtype in itertools.product(
            MAKERS, (1, 3), (torch.float32, torch.float16)):
        with suite.case(f"{kind}, {count}, {dtype}"):
            try_like_diffusers(kind, count, dtype)
    for kind in MAKERS:
        with suite.case(f"program, {kind}"):
            try_program(kind)
    for make in (loha, lokr, ia3, dora, oft):
        with suite.case(make.__name__):
            try_kind(make)
    for kind, encoder, te in (("sd15", "text_encoder", ""),
                              ("sdxl", "text_encoder", "1"),
                              ("sdxl", "text_encoder_2", "2")):
        with suite.case(f"strengths, {kind}, {encoder}"):
            try_strengths(kind, encoder, te)
    for attempt in (try_wrapped, try_places, try_shared, try_refused):
        with suite.case(attempt.__name__):
            attempt()
    return suite.finish()


if __name__ == "__main__":
    sys.exit(main())
