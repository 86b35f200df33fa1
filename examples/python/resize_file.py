"""Lower the rank of an adapter file, and say what it cost, as ../resize_file.c
does.

    python3 resize_file.py big.safetensors small.safetensors 8

The rank is an upper limit: layers that have less keep their bytes.
"""
import sys

import liblora


def main():
    if len(sys.argv) != 4 or not sys.argv[3].isdecimal():
        print("usage: resize_file IN OUT RANK", file=sys.stderr)
        return 2
    source, target, rank = sys.argv[1:]
    try:
        with liblora.open(source) as big:
            small = big.resize(rank=int(rank))
            small.save(target)
    except liblora.LoraError as error:
        print(error, file=sys.stderr)
        return 1
    for layer in small.report.modules:
        print(f"{layer['name']}: rank {layer['rank_in']} -> "
              f"{layer['rank_out']}, {100 * layer['energy']:.2f} % of the "
              "energy")
    return 0


sys.exit(main())
