"""Undo files written from their layout (lib/op/undo_record.h), with nothing of
the library.
"""

import hashlib
import struct
import zlib

import numpy as np
import support

MAGIC = b"LORAUND1"
BEGIN, ADAPTER, FILE, TENSOR, DATA, DELTA, HASH, END = range(1, 9)
PACKED, PREDICTED = 1, 2
TYPES = {"F32": 18, "F16": 14, "BF16": 15}  # LORA_DTYPE_*
SIZES = {"F32": 4, "F16": 2, "BF16": 2}


def record(kind, flags, index, offset, size, payload=b""):
    head = struct.pack("<IIQQQI", kind, flags, index, offset, size,
                       len(payload))
    return head + struct.pack("<I", zlib.crc32(head + payload)) + payload


def xor(a, b):
    return bytes(x ^ y for x, y in zip(a, b))


def apart(before, predicted, size):
    """How far floats are from predicted ones, as the layout has it: their codes
    in the order of values, differences zigzag, byte by byte of all of them."""
    kind = {1: np.uint8, 2: np.uint16, 4: np.uint32}[size]
    top = 1 << (8 * size - 1)

    def order(data):
        codes = np.frombuffer(data, kind).astype(np.int64)
        return np.where(codes >= top, 2 * top - 1 - codes, codes + top)

    d = (order(before) - order(predicted) + top) % (2 * top) - top
    zigzag = np.where(d < 0, -2 * d - 1, 2 * d).astype(kind)
    return zigzag.view(np.uint8).reshape(-1, size).T.tobytes()


def deflate(data):
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()


def extents(path):
    """{name: (type, offset in the file, bytes)}, in the file's order, and what
    lies before the first."""
    header, start = support.read_header(path)
    whole = path.read_bytes()
    rows = sorted((e["data_offsets"][0], name, e["dtype"], e["data_offsets"])
                  for name, e in header.items() if name != "__metadata__")
    return whole, start, {name: (dtype, start + a, b - a)
                          for _, name, dtype, (a, b) in rows}


def write(path, bases, fuseds, folder=False, predicted=None, adapters=(),
          packed=True):
    """Of files before and after. `predicted` has a tensor's predicted bytes
    where these are what it is compared with; `adapters` what identifies
    them; `packed`: what is predicted is deflated."""
    predicted = predicted or {}
    mode = 1 if predicted else 0
    files = [(base.name, *extents(base), fused.read_bytes())
             for base, fused in zip(bases, fuseds)]
    tensors = [(f, name, *where) for f, (_, _, _, table, _) in enumerate(files)
               for name, where in table.items()]
    records = [record(BEGIN, 0, len(files), len(tensors), len(adapters),
                      struct.pack("<IIII", mode, int(folder), 0, 0))]
    records += [record(ADAPTER, 0, i, 0, 0, data)
                for i, data in enumerate(adapters)]
    records += [record(FILE, 0, f, 0, len(whole), name.encode())
                for f, (name, whole, *_) in enumerate(files)]
    records += [record(TENSOR, 0, t, offset, size,
                       struct.pack("<II", f, TYPES[dtype]) + name.encode())
                for t, (f, name, dtype, offset, size) in enumerate(tensors)]
    records += [record(DATA, 0, f, 0, start, whole[:start])
                for f, (_, whole, start, _, _) in enumerate(files)]
    for t, (f, name, dtype, offset, size) in reversed(list(enumerate(tensors))):
        before = files[f][1][offset:offset + size]
        after = files[f][4][offset:offset + size]
        records.append(record(HASH, 0, t, 0, 0, hashlib.sha256(before).digest()
                              + hashlib.sha256(after).digest()))
        if name in predicted:
            delta = apart(before, predicted[name], SIZES[dtype])
            records.append(
                record(DELTA, PACKED | PREDICTED, t, 0, size, deflate(delta))
                if packed else record(DELTA, PREDICTED, t, 0, size, delta))
        elif before != after:
            half = size // 2 + 1
            delta = xor(before, after)
            records += [record(DELTA, 0, t, half, size - half, delta[half:]),
                        record(DELTA, 0, t, 0, half, delta[:half])]
    records.append(record(END, 0, len(records), 0, 0))
    path.write_bytes(MAGIC + b"".join(records))
