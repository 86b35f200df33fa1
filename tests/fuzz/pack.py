"""The packs of inputs in corpus/, one for each fuzz target.

    pack.py make --shared DIR       the seeds, from golden files and from here
    pack.py add TARGET FILE...      inputs that found something
    pack.py keep TARGET FOLDER      instead of those kept so far: a small set
                                    of inputs that a fuzzer made
    pack.py unpack TARGET FOLDER

A pack is a zip archive of stored records: seed/NAME, found/HASH, kept/HASH. It
is written in order and without times: the same inputs give the same bytes.
`make` leaves what was found and kept alone. DIR is the folder that has
`golden/kinds` and `golden/ops`.
"""

import argparse
import hashlib
import io
import json
import pathlib
import pickle
import re
import struct
import sys
import zipfile
import zlib

HERE = pathlib.Path(__file__).resolve().parent
CORPUS = HERE / "corpus"

SMALL = 4096     # the largest seed
KEPT = 16 * 1024  # all that is kept of a target


# Packs ------------------------------------------------------------------------

def read_pack(target):
    path = CORPUS / f"{target}.zip"
    if not path.exists():
        return {}
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write_pack(target, records):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in sorted(records):
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            entry.create_system = 3
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, records[name])
    CORPUS.mkdir(exist_ok=True)
    (CORPUS / f"{target}.zip").write_bytes(buffer.getvalue())
    print(f"{target}.zip: {len(records)} inputs, {buffer.tell()} bytes")


def replace(target, kind, inputs):
    """Replace the records of one kind; the others stay."""
    records = {name: data for name, data in read_pack(target).items()
               if not name.startswith(kind + "/")}
    records.update((f"{kind}/{name}", data) for name, data in inputs.items())
    write_pack(target, records)


def by_hash(paths):
    contents = [path.read_bytes() for path in paths]
    return {hashlib.sha256(data).hexdigest()[:12]: data for data in contents}


# Seeds ------------------------------------------------------------------------

def split_safetensors(data):
    """As fuzz_safetensors() wants it: header, NUL, data."""
    size, = struct.unpack_from("<Q", data)
    return data[8:8 + size] + b"\0" + data[8 + size:]


def parse_keys(data):
    size, = struct.unpack_from("<Q", data)
    header = json.loads(data[8:8 + size])
    return [key for key in header if key != "__metadata__"]


def golden_files(folder):
    """name: bytes of the small adapters and configurations of a folder."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())
            if path.suffix in (".safetensors", ".pt", ".bin", ".ckpt", ".json")
            and not re.search(r"\.(base|expect)\.", path.name)
            and path.name not in ("cases.json", "bad.json")
            and path.stat().st_size <= SMALL}


def smallest_of_each_kind(files):
    """PEFT's kinds come second in the names of files."""
    groups = {}
    for name, data in files.items():
        if name.endswith(".safetensors"):
            parts = name.split(".")[0].split("_")
            kind = tuple(parts[:3 if parts[0] == "peft" else 2])
            groups.setdefault(kind, []).append((len(data), name))
    names = [min(group)[1] for group in groups.values()]
    return {name: files[name] for name in names}


JSON_TEXTS = [
    "null", "true", " [ ] ", "{}", "[1,-0,0.5,-1e-7,123456789012345678901]",
    "[18446744073709551615,18446744073709551616,00,1.,.5,+1,1e]",
    r'"\u00e9\ud83d\ude00\"\\\/\b\f\n\r\t"', r'["\ud800","\udc00\ud800"]',
    '{"a":[{"b":null},"c"],"a":{"":false}}', '{"a" 1}', "[1,]", '{"a":1,}',
    "[" * 64 + "]" * 64, "[" * 65 + "]" * 65, '"\t"', "\"\u00e9\u20ac\U0001f600\"",
    r'"\u1', r'"\u', '"\\', r'"\uabcdef\uABCDEF"', r'"\ud83d\u00', r'"\ud800x"',
    r'"\udc00\udc00"', r'"\udfff"', r'"\udbff\udfff\ud7ff\ue000"', r'"\udbff\ue000"', r'"\u00g0"',
    "1 2", "[1}", "nul", '"', '"\\', "{", "-", "tru",
]

CONFIGS = [
    {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "use_rslora": True,
     "alpha_pattern": {"to_q": 4, "^down_blocks.0.attentions.0.ff": 2.5},
     "rank_pattern": {"attentions.0.to_q": 2}},
    {"lora_alpha": None, "alpha_pattern": {r".*\.to_[qkv]$": 1}},
    {"unet.lora_alpha": 4, "unet.r": 4, "text_encoder.lora_alpha": 1,
     "unet.alpha_pattern": {"to_q": 3}},
    {"lora_alpha": 1e308, "alpha_pattern": []},
]

KEYS = [
    "unet:0:down\nunet:0:up\nunet:1:down\ntext_encoder:unet:0:up\n",
    "=ss_base_model_version=sdxl_base_v1-0\n"
    "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"
    ".lora_down.weight\nlora_te2_text_model_encoder_layers_0_mlp_fc1.alpha\n",
    "double_blocks.0.img_attn.qkv.lora_A.weight\n"
    "single_blocks.3.linear1.lora_B.weight\nsingle_blocks.3.norm.key_norm.scale\n",
    "transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight\n"
    "transformer.x_embedder.lora_B.default_0.weight\n",
    "w_a_000\nw_b_000\nw_a_001\n<s1>\nclip_l\n",
    "lora.0.a0.weight\nlora.0.b0.weight\n",
    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    ".hada_w1_a\nlycoris_mid_block_resnets_0_conv1.lokr_w1\n",
    "diffusion_model.joint_blocks.0.context_block.attn.qkv.lora_up.weight\n",
    "double_blocks.0.processor.proj_lora1.down.weight\n"
    "down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor"
    ".to_q_lora.down.weight\n",
    "unet.___.down_blocks.0.attentions.0.proj_in.___.layer.W_down\n",
]

CHANGES = [
    b"+title=x\n", b"-ss_*\n+a=1\n+b=2\n", b"+a=1\n-a\n+a=2\n", b"-?\n",
    b"+a=1\n+a=2\n", b"+\xff=1\n", b"+k=" + b"long " * 100 + b"\n",
]

# Whether a tensor is converted, and into what, or resized, and how: see
# operations.c.
ORDERS = [
    bytes([0, 0, 25, 2, 0, 0, 0, 0]), bytes([0, 1, 25, 0, 3, 0, 0, 0]),
    bytes([0, 4, 25, 1, 2, 0, 0, 0]), bytes([0, 8, 25, 3, 2, 0, 0, 0]),
    bytes([1, 1, 2, 0, 0, 0, 2, 0]), bytes([1, 2, 0, 70, 4, 0, 2, 1]),
    bytes([1, 3, 0, 200, 0, 2, 3, 2]), bytes([1, 5, 0, 60, 8, 0, 3, 3]),
]


def gguf_text(text):
    return struct.pack("<Q", len(text)) + text.encode()


def make_gguf(types=(0, 1), alignment=32):
    """What follows the magic: version, counts, values, tensors, data."""
    values = [("general.architecture", 8, gguf_text("stable-diffusion")),
              ("general.type", 8, gguf_text("adapter")),
              ("adapter.type", 8, gguf_text("lora")),
              ("adapter.lora.alpha", 6, struct.pack("<f", 4)),
              ("general.alignment", 4, struct.pack("<I", alignment)),
              ("a.list", 9, struct.pack("<IQ3I", 4, 3, 1, 2, 3))]
    names = ["lora_unet_mid_block_attentions_0_proj_in.lora_down.weight",
             "lora_unet_mid_block_attentions_0_proj_in.lora_up.weight"]
    out = struct.pack("<IQQ", 3, len(names), len(values))
    for key, kind, value in values:
        out += gguf_text(key) + struct.pack("<I", kind) + value
    at = 0
    for name, kind in zip(names, types):
        out += gguf_text(name) + struct.pack("<IQQIQ", 2, 4, 2, kind, at)
        at += 32
    return out + bytes(-(len(out) + 4) % alignment) + bytes(range(64))


def zip_variants():
    """Archives as other programs write them."""
    result = {}
    for name, kind in (("stored", zipfile.ZIP_STORED),
                       ("deflated", zipfile.ZIP_DEFLATED)):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", kind) as archive:
            for record in ("a/data.pkl", "a/version", "a/data/0"):
                entry = zipfile.ZipInfo(record, (1980, 1, 1, 0, 0, 0))
                entry.compress_type = kind
                with archive.open(entry, "w",
                                  force_zip64=record.endswith("0")) as file:
                    file.write(b"some text, some text " * 9)
        result[f"made.{name}"] = buffer.getvalue()
    return result


def pickles(checkpoints):
    result = {}
    for name, data in checkpoints.items():
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                for record in archive.namelist():
                    if record.endswith("data.pkl"):
                        result[name] = archive.read(record)
        except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError):
            if data[:1] == b"\x80":
                result[name] = data
    values = {"a": [1, -2, 2**40, 2**70], ("b", None): {"c": (True, 1.5)},
              "d": b"bytes", "\u00e9": [[], {}, ()]}
    for protocol in (2, 3, 4, 5):
        result[f"made.{protocol}"] = pickle.dumps(values, protocol)
    return result


# Two models each, a tensor a line; see checkpoint.c.
CHECKPOINTS = [
    """model.diffusion_model.input_blocks.1.1.proj_in.weight 4x4x1x1
model.diffusion_model.input_blocks.1.1.proj_in.bias 4
model.diffusion_model.output_blocks.2.1.conv.weight 4x4x3x3 1
first_stage_model.encoder.conv_in.weight 4x3x3x3
model_ema.decay
cond_stage_model.transformer.text_model.embeddings.position_ids 1x8 6
alphas_cumprod 16

unet.down_blocks.0.attentions.0.proj_in.weight 4x4
unet.down_blocks.0.attentions.0.proj_in.bias 4
unet.up_blocks.0.upsamplers.0.conv.weight 4x4x3x3 2""",
    """conditioner.embedders.1.model.transformer.resblocks.0.attn.in_proj_weight 6x2
conditioner.embedders.1.model.transformer.resblocks.0.attn.in_proj_bias 6
conditioner.embedders.1.model.text_projection 2x3
conditioner.embedders.1.model.positional_embedding 8x2
conditioner.embedders.1.model.logit_scale

text_encoder_2.text_model.encoder.layers.0.self_attn.q_proj.weight 2x2
text_encoder_2.text_model.encoder.layers.0.self_attn.k_proj.weight 2x2
text_encoder_2.text_model.encoder.layers.0.self_attn.v_proj.bias 2
text_encoder_2.text_projection.weight 3x2
text_encoder_2.text_model.embeddings.position_embedding.weight 8x2""",
    """double_blocks.0.img_attn.qkv.weight 6x2 4
double_blocks.0.img_attn.qkv.scale_weight
double_blocks.0.img_attn.qkv.scale_input
double_blocks.0.img_attn.norm.query_norm.scale 4
single_blocks.0.linear1.weight 14x2
final_layer.adaLN_modulation.1.weight 4x2
scaled_fp8 2 4

model.diffusion_model.double_blocks.0.img_attn.qkv.weight 6x2
transformer.transformer_blocks.0.attn.norm_q.weight 4
transformer.single_transformer_blocks.0.proj_mlp.weight 8x2
transformer.single_transformer_blocks.0.attn.to_q.weight 2x2
transformer.norm_out.linear.weight 4x2""",
    """mixins.adaln_layer.adaLN_modulations.0.1.weight 12x2
transformer.layers.0.attention.query_key_value.weight 7x2
own.weight 2x2
own.int.weight 2x2 5

transformer_blocks.0.norm1.linear.weight 6x2
transformer_blocks.0.norm2.linear.weight 6x2
own.weight 2x3
own.int.weight 2x2 7""",
    """unet.conv_in.weight 2x2
model.diffusion_model.input_blocks.0.0.weight 2x2

unet.conv_in.weight 2x2""",
    "a\n\na",
    "\n",
]


def undo_record(kind, flags, index, offset, size, payload=b""):
    head = struct.pack("<IIQQQI", kind, flags, index, offset, size,
                       len(payload))
    return head + struct.pack("<I", zlib.crc32(head + payload)) + payload


def make_undo(mode, layout, files):
    """An undo file without its magic number, of files that are a header of 20
    bytes and a tensor of 60, of which 40 changed in two pieces."""
    modes = struct.pack("<IIII", mode, layout, 0, 0)
    records = [undo_record(1, 0, len(files), len(files), mode, modes)]
    records += [undo_record(2, 0, i, 0, 0, b"0123456789abcdef" * 6)
                for i in range(mode)]
    records += [undo_record(3, 0, i, 0, 80, name)
                for i, name in enumerate(files)]
    records += [undo_record(4, 0, i, 20, 60, struct.pack("<II", i, 2) + name)
                for i, name in enumerate(files)]
    records += [undo_record(5, 0, i, 0, 20, bytes(range(20)))
                for i in range(len(files))]
    for i in range(len(files)):
        packer = zlib.compressobj(1, zlib.DEFLATED, -15)
        packed = packer.compress(bytes(30)) + packer.flush()
        records += [undo_record(6, 1 + 2 * mode, i, 20, 30, packed),
                    undo_record(7, 0, i, 0, 0, bytes(64)),
                    undo_record(6, 0, i, 4, 10, b"0123456789")]
    records.append(undo_record(8, 0, len(records), 0, 0))
    return b"".join(records)


def pick_keys(files):
    """A few keys of each file, from all over it."""
    result = {}
    for name, data in files.items():
        try:
            keys = parse_keys(data)
        except (ValueError, struct.error):
            continue
        step = max(1, len(keys) // 12)
        result[name] = "\n".join(keys[::step][:16]).encode()
    return result


def numbered(texts):
    return {f"{i:02}": text.encode() if isinstance(text, str) else text
            for i, text in enumerate(texts)}


def make_seeds(shared):
    """target: {name: bytes}"""
    kinds = golden_files(shared / "golden/kinds")
    bad = golden_files(shared / "golden/ops/bad")
    hashes = {name: data for name, data in
              golden_files(shared / "golden/ops").items()
              if name.startswith("hash_") and name.endswith(".safetensors")}
    adapters = {**smallest_of_each_kind(kinds), **hashes}
    checkpoints = {name: data for name, data in {**kinds, **bad}.items()
                   if name.endswith((".pt", ".bin", ".ckpt"))}
    with_header = {name: data for name, data in {**bad, **adapters}.items()
                   if name.endswith(".safetensors") and len(data) > 16
                   and data[8:9] == b"{"}
    least = smallest_of_each_kind(kinds)
    all_names = {path.name: path.read_bytes() for path in
                 sorted((shared / "golden/kinds").glob("*.safetensors"))
                 if not re.search(r"\.(base|expect)\.", path.name)}
    picked = pick_keys(all_names)
    distinct = {keys: name for name, keys in reversed(picked.items())}
    configs = {name: data for name, data in kinds.items()
               if name.endswith("config.json")}
    headers = {name: split_safetensors(data).split(b"\0")[0]
               for name, data in sorted(with_header.items())[::4]}
    return {
        "adapter": {**bad, **checkpoints, **numbered([
            b"GGUF" + make_gguf(), struct.pack("<Q", 90_000_000) + b"{}"])},
        "safetensors": {name: split_safetensors(data)
                        for name, data in with_header.items()},
        "json": {**headers, **numbered(JSON_TEXTS)},
        "zip": {**zip_variants(), **checkpoints},
        "pickle": pickles(checkpoints),
        "gguf": numbered([make_gguf(), make_gguf((30, 8)),
                          make_gguf((2, 14), 8), make_gguf()[:60]]),
        "names": {**{name: keys for keys, name in distinct.items()},
                  **numbered(KEYS)},
        "checkpoint": numbered(CHECKPOINTS),
        "undo": numbered([
            make_undo(0, 0, [b"model.safetensors"]),
            make_undo(1, 0, [b"model.safetensors"]),
            make_undo(0, 1, [b"m-1.safetensors", b"m-2.safetensors"]),
            make_undo(1, 1, [b"unet/m.safetensors"]),
            make_undo(0, 1, [b"../m.safetensors"]),
            make_undo(0, 0, [b"model.safetensors"])[:-40]]),
        "config": {**configs, **numbered(map(json.dumps, CONFIGS))},
        "metadata": {f"{i:02}.{name}": change + split_safetensors(data)
                     for i, change in enumerate(CHANGES)
                     for name, data in list(hashes.items())[i % 3::3]},
        "operations": {f"{n % 8}.{name}": ORDERS[n % 8] +
                       split_safetensors(data)
                       for n, (name, data) in enumerate(least.items())},
    }


# Commands ---------------------------------------------------------------------

def unpack(target, folder):
    """Write the inputs to files; how many."""
    folder.mkdir(parents=True, exist_ok=True)
    records = read_pack(target)
    for name, data in records.items():
        (folder / name.replace("/", "-")).write_bytes(data)
    return len(records)


def keep(target, folder):
    """The smallest inputs of a folder that the pack lacks."""
    have = {data for name, data in read_pack(target).items()
            if not name.startswith("kept/")}
    inputs, room = {}, KEPT
    for path in sorted(folder.iterdir(), key=lambda p: (p.stat().st_size, p)):
        room -= path.stat().st_size
        if room >= 0 and path.read_bytes() not in have:
            inputs.update(by_hash([path]))
    replace(target, "kept", inputs)


def main():
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        sys.exit(__doc__)
    command, rest = sys.argv[1], sys.argv[2:]
    if command == "make":
        parser = argparse.ArgumentParser()
        parser.add_argument("--shared", type=pathlib.Path, required=True)
        shared = parser.parse_args(rest).shared
        for target, seeds in make_seeds(shared).items():
            replace(target, "seed", seeds)
    elif command == "add" and len(rest) > 1:
        records = read_pack(rest[0])
        found = by_hash(map(pathlib.Path, rest[1:]))
        records.update((f"found/{name}", data) for name, data in found.items())
        write_pack(rest[0], records)
    elif command == "keep" and len(rest) == 2:
        keep(rest[0], pathlib.Path(rest[1]))
    elif command == "unpack" and len(rest) == 2:
        print(unpack(rest[0], pathlib.Path(rest[1])), "inputs")
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
