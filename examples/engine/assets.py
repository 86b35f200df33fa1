"""Make an archive for the engine: the weights of a small network, and two
styles for it. See pack.h for the form.

    python3 assets.py OUT

Names are those of diffusers; the styles spell them as kohya and PEFT do.
"oil" has a module that the network lacks. Numbers are multiples of
1/64 below 1, made by chance from a fixed seed.
"""
import json
import random
import struct
import sys

BLOCK = "down_blocks.0.attentions.0.transformer_blocks.0"
LAYERS = {f"{BLOCK}.attn1.to_q": ("F16", 64, 64),
          f"{BLOCK}.attn1.to_out.0": ("F32", 64, 64),
          f"{BLOCK}.ff.net.2": ("F16", 64, 256),
          "conv_in": ("F16", 64, 4, 3, 3)}
SIZES = {"F16": (2, "e"), "F32": (4, "f")}


def numbers(source, dtype, *shape):
    """A tensor of a safetensors file: type, shape, bytes."""
    count = 1
    for size in shape:
        count *= size
    values = [source.randrange(-63, 64) / 64 for _ in range(count)]
    return dtype, shape, struct.pack(f"<{count}{SIZES[dtype][1]}", *values)


def safetensors(tensors):
    header, data = {}, b""
    for name, (dtype, shape, blob) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape,
                        "data_offsets": [len(data), len(data) + len(blob)]}
        data += blob
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def weights(source):
    return {f"{layer}.weight": numbers(source, *row)
            for layer, row in LAYERS.items()}


def kohya(source, rank):
    tensors = {}
    for layer, (_, out, into, *kernel) in LAYERS.items():
        name = "lora_unet_" + layer.replace(".", "_")
        ones = [1] * len(kernel)
        tensors[f"{name}.lora_down.weight"] = numbers(source, "F32", rank,
                                                      into, *kernel)
        tensors[f"{name}.lora_up.weight"] = numbers(source, "F32", out, rank,
                                                    *ones)
        tensors[f"{name}.alpha"] = ("F32", (), struct.pack("<f", rank / 2))
    return tensors


def peft(source, rank):
    tensors = {}
    for layer in (f"{BLOCK}.attn1.to_q", f"{BLOCK}.attn3.to_q"):
        name = f"unet.{layer}"
        tensors[f"{name}.lora_A.weight"] = numbers(source, "F16", rank, 64)
        tensors[f"{name}.lora_B.weight"] = numbers(source, "F16", 64, rank)
    return tensors


def main():
    source = random.Random(1)
    files = {name: safetensors(tensors) for name, tensors in
             (("weights", weights(source)), ("ink", kohya(source, 4)),
              ("oil", peft(source, 8)))}
    head = b"PACK" + struct.pack("<I", len(files))
    offset = len(head) + 64 * len(files)
    for name, blob in files.items():
        head += struct.pack("<48sQQ", name.encode(), offset, len(blob))
        offset += len(blob)
    with open(sys.argv[1], "wb") as out:
        out.write(head + b"".join(files.values()))


main()
