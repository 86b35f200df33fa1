"""Put an adapter into a checkpoint, and take it out again.

    python3 fuse_file.py base.safetensors adapter.safetensors 0.8 \\
        fused.safetensors back.safetensors

The last file has what the first had, bit for bit.
"""
import sys

import liblora


def main():
    if len(sys.argv) != 6:
        print("usage: fuse_file BASE ADAPTER STRENGTH FUSED BACK",
              file=sys.stderr)
        return 2
    base, adapter, strength, fused, back = sys.argv[1:]
    try:
        with liblora.open(adapter) as style:
            binding = liblora.bind(style, base)
            print(f"{binding.bound} of {binding.modules} modules are bound")
            liblora.fuse(base, [(style, float(strength))], fused,
                         undo=f"{fused}.undo")
        liblora.unfuse(fused, f"{fused}.undo", back)
    except liblora.LoraError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


sys.exit(main())
