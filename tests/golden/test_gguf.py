"""GGUF: adapters as stable-diffusion.cpp and llama.cpp write them give the
weight changes of the formulas, in numpy float64; damaged ones are refused.

The writer here is independent of the library. Where the package gguf of
llama.cpp is there, its files and its numbers are compared too.

With --asan PROGRAM damaged files are tried with a sanitized build as well.
"""

import pathlib
import struct
import sys

import numpy as np

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import support  # noqa: E402
from support import MISMATCH, OK, UNREADABLE, equal, require  # noqa: E402

try:
    import gguf
except ImportError:
    gguf = None

UNIT = 2.0**-53

# name: (id, bytes of a block of 32 or of a number, what it is read as)
TYPES = {
    "F32": (0, 4, "F32"), "F16": (1, 2, "F16"), "BF16": (30, 2, "BF16"),
    "F64": (28, 8, "F64"), "Q8_0": (8, 34, "F32"), "Q4_0": (2, 18, "F32"),
    "Q4_1": (3, 20, "F32"), "Q5_0": (6, 22, "F32"), "Q5_1": (7, 24, "F32"),
}


# Files ----------------------------------------------------------------------

def text(value):
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def pair(key, value):
    """A string, a bool, a float (32 bits), or an integer (unsigned 32)."""
    if isinstance(value, str):
        return text(key) + struct.pack("<I", 8) + text(value)
    if isinstance(value, bool):
        return text(key) + struct.pack("<IB", 7, value)
    code, number = ("f", 6) if isinstance(value, float) else ("I", 4)
    return text(key) + struct.pack("<I" + code, number, value)


class Stored:
    """A tensor of one of TYPES: its bytes, and the numbers they mean."""

    def __init__(self, values, kind="F32", rng=None):
        """Plain numbers are rounded; blocks are random bits, whose numbers
        are around 1, as what quantises is not what is tested."""
        self.kind, self.shape = kind, tuple(np.shape(values))
        if kind[0] != "Q":
            rounded = support.tensor(values, kind)
            self.data, self.values = rounded.data, rounded.array()
            return
        require(self.shape[-1] % 32 == 0, "rows that are not whole blocks")
        count = int(np.prod(self.shape)) // 32
        raw = rng.integers(0, 256, (count, TYPES[kind][1]), dtype=np.uint8)
        halves = 2 if kind[-1] == "1" else 1
        scale = rng.uniform(0.001, 0.1, (count, halves)).astype("<f2")
        raw[:, :2 * halves] = scale.view(np.uint8)
        self.data = raw.tobytes()
        self.values = decode(raw, kind).reshape(self.shape)


def decode(raw, kind):
    """The numbers of blocks, [count, bytes] to [count, 32]."""
    def half(at):
        return np.ascontiguousarray(raw[:, at:at + 2]).view(
            "<f2").astype(np.float64)

    d = half(0)
    if kind == "Q8_0":
        return d * raw[:, 2:].astype(np.int8)
    low = raw[:, -16:]
    q = np.concatenate([low & 15, low >> 4], axis=1).astype(np.float64)
    if kind[1] == "5":
        high = np.ascontiguousarray(raw[:, -20:-16]).view("<u4")
        q += 16.0 * (high >> np.arange(32, dtype="u4") & 1)
    if kind[-1] == "0":
        return d * (q - (16 if kind[1] == "5" else 8))
    # Exact in float64; the library rounds the sum to F32, as ggml does.
    return (d * q + half(2)).astype(np.float32).astype(np.float64)


def write(path, tensors, pairs=(), ggml=False, version=3, pad_last=True):
    """tensors: name: Stored. ggml: without leading dimensions of 1, as its
    writer does it; at least one dimension stays."""
    infos, data = [], b""
    for name, t in tensors.items():
        shape = list(t.shape)
        while ggml and len(shape) > 1 and shape[0] == 1:
            shape.pop(0)
        infos.append(text(name) + struct.pack(
            f"<I{len(shape)}QIQ", len(shape), *shape[::-1], TYPES[t.kind][0],
            len(data)))
        data += t.data + bytes(-len(t.data) % 32)
        unpadded = len(data) - (-len(t.data) % 32)
    head = struct.pack("<4sIQQ", b"GGUF", version, len(tensors), len(pairs))
    head += b"".join(pair(*p) for p in pairs) + b"".join(infos)
    head += bytes(-len(head) % 32)
    path.write_bytes(head + (data if pad_last else data[:unpadded]))
    return path


# Comparing ------------------------------------------------------------------

def factors(tensors, module, suffixes):
    return [tensors[module + s].values if module + s in tensors else None
            for s in suffixes]


def check_delta(suite, path, module, part, scale, what):
    """`delta --dtype f64` against the formula. Every product of k terms is
    summed in f64: its error is at most (k + 2) units of the absolute values,
    of the reference as of the program; k <= rank, or rank^2 with a core."""
    down, up, mid = part
    want, size = support.lora_delta(down, up, mid, scale)
    rank = up.shape[1]
    bound = 2 * (rank * (rank if mid is not None else 1) + 4) * UNIT * size
    out = suite.path("delta.safetensors")
    suite.run("delta", path, "-o", out, "--force", "--dtype", "f64")
    got = support.read_file(out)[0][module].array()
    equal(got.size, want.size, f"{what}: elements")
    support.close(got.reshape(want.shape), want, bound, what)


KOHYA = (".lora_down.weight", ".lora_up.weight", ".lora_mid.weight")
LLAMA = (".weight.lora_a", ".weight.lora_b", "")
MODULE = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
TARGET = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"


def check_type(suite, kind, rng):
    """Each number type: values, weight change, what the verbs say."""
    tensors = {
        MODULE + KOHYA[0]: Stored(rng.standard_normal((32, 96)), kind, rng),
        MODULE + KOHYA[1]: Stored(rng.standard_normal((7, 32)), kind, rng),
        MODULE + ".alpha": Stored(np.array([12.0]))}
    path = write(suite.path(kind + ".gguf"), tensors)
    check_delta(suite, path, MODULE, factors(tensors, MODULE, KOHYA), 12 / 32,
                kind)
    out = suite.path(kind + ".safetensors")
    suite.run("convert", path, "-o", out)
    copy, metadata = support.read_file(out)
    equal(metadata, {}, "metadata")
    rows = {r["name"]: r for r in suite.json("keys", path)["tensors"]}
    equal(set(copy), set(tensors), "names")
    for name, t in tensors.items():
        equal((copy[name].dtype, copy[name].shape),
              (TYPES[t.kind][2], t.shape), name)
        equal(copy[name].array().tolist(), t.values.tolist(), name)
        equal((rows[name]["dtype"], tuple(rows[name]["shape"])),
              (TYPES[t.kind][2], t.shape), name)
        begin = rows[name]["offset"]
        equal(path.read_bytes()[begin:begin + len(t.data)], t.data,
              f"bytes at the offset of {name}")
    info = suite.json("info", path, "--modules")
    equal(info["container"], "gguf", "container")
    equal([m["target"] for m in info["modules"]], [TARGET], "target")
    notes = [p for p in info["problems"] if p["code"] == "quantised"]
    equal(len(notes), int(kind[0] == "Q"), "notes on quantised tensors")
    require(not notes or f"2 of 3 tensors are quantised, this one as {kind}: "
            in notes[0]["message"], f"note: {notes}")
    suite.run("check", path)
    return path, out


def check_verbs(suite, path, copy):
    """The verbs give for the file what they give for its copy."""
    for args in (("resize", "--rank", "2"), ("convert", "--dialect",
                 "diffusers"), ("convert", "--dtype", "f16")):
        results = []
        for source in (path, copy):
            out = suite.path("result.safetensors")
            suite.run(args[0], source, "-o", out, "--force", *args[1:])
            results.append(support.read_file(out)[0])
        equal(list(results[0]), list(results[1]), f"names of {args}")
        require(all(results[0][n].same(results[1][n]) for n in results[0]),
                f"{args} differ")
    hashes = [suite.json("hash", source)["hashes"] for source in (path, copy)]
    equal(hashes[0]["content_id"], hashes[1]["content_id"], "id of the content")


# llama.cpp ------------------------------------------------------------------

LLAMA_PAIRS = [("general.type", "adapter"), ("adapter.type", "lora"),
               ("general.architecture", "llama")]
LLAMA_MODULE = "blk.3.attn_q"


def llama_tensors(rng, rank=4):
    down, up, _ = LLAMA
    return {LLAMA_MODULE + down: Stored(rng.standard_normal((rank, 12))),
            LLAMA_MODULE + up: Stored(rng.standard_normal((9, rank))),
            "blk.3.attn_norm.weight": Stored(rng.standard_normal(12))}


def check_llama(suite, rng):
    """Alpha of all modules is in the metadata, and stays right."""
    tensors = llama_tensors(rng)
    part = factors(tensors, LLAMA_MODULE, LLAMA)
    for alpha in (None, 0.0, 4.0, 6.5, 16):
        pairs = LLAMA_PAIRS + ([] if alpha is None else
                               [("adapter.lora.alpha", alpha)])
        path = write(suite.path("llama.gguf"), tensors, pairs)
        scale = support.resolve_scale(alpha, 4)
        what = f"alpha {alpha}"
        check_delta(suite, path, LLAMA_MODULE, part, scale, what)
        info = suite.json("info", path, "--modules")
        equal(info["dialects"], ["llama.cpp"], "dialects")
        equal(info["modules"][0]["target"], LLAMA_MODULE, "target")
        metadata = suite.json("meta", path)["metadata"]
        equal(metadata["general.type"], "adapter", "metadata")

        copy = suite.path("llama.safetensors")
        suite.run("convert", path, "-o", copy, "--force")
        check_delta(suite, copy, LLAMA_MODULE, part, scale, what + ", copied")
        half = suite.path("half.safetensors")
        suite.run("convert", path, "-o", half, "--force", "--dtype", "f32")
        check_delta(suite, half, LLAMA_MODULE, part, scale, what + ", as f32")
        check_resized(suite, path, part, scale, what)


def check_llama_tokens(suite, rng):
    """The factors of the token embedding are those of PEFT's, A transposed:
    llama.cpp takes rows of A by the token, and multiplies them with B."""
    for rank, vocab, width in ((4, 11, 6), (1, 5, 3), (3, 3, 3)):
        what = f"rank {rank}, {vocab} tokens"
        a = Stored(rng.standard_normal((vocab, rank)))
        b = Stored(rng.standard_normal((width, rank)))
        tensors = llama_tensors(rng, rank)
        tensors.update({"token_embd" + LLAMA[0]: a, "token_embd" + LLAMA[1]: b})
        path = write(suite.path("tokens.gguf"), tensors,
                     LLAMA_PAIRS + [("adapter.lora.alpha", 6.0)])
        part = b.values.T, a.values, None
        check_delta(suite, path, "token_embd", part, 6 / rank, what)
        module = next(m for m in suite.json("info", path, "--modules")["modules"]
                      if m["name"] == "token_embd")
        equal((module["kind"], module["shape"], module["rank"]),
              ("embedding", [vocab, width], rank), what)
        out = suite.path("tokens.safetensors")
        for args in ([], ["--dtype", "f32"]):
            suite.run("convert", path, "-o", out, "--force", *args)
            check_delta(suite, out, "token_embd", part, 6 / rank, f"{args}")
    write(path, {"token_embd" + LLAMA[0]: a, "token_embd" + LLAMA[1]:
                 Stored(rng.standard_normal((4, 2)))}, LLAMA_PAIRS)
    run = suite.run("delta", path, "-o", suite.path("none.safetensors"),
                    code=MISMATCH)
    require("ranks of A and B" in run.err, run.err)


def check_resized(suite, path, part, scale, what):
    """At another rank alpha is another: the old one must be gone. Factors are
    stored in F32, so entries of U S and V are off by 2^-24 of themselves; with
    sums of at most 4 terms that is below 2^-20 of the largest singular value.
    """
    want = support.lora_delta(*part, scale)[0]
    u, s, v = np.linalg.svd(want)
    small, out = suite.path("small.safetensors"), suite.path("d.safetensors")
    for rank in (4, 2):
        suite.run("resize", path, "-o", small, "--force", "--rank", rank)
        suite.run("delta", small, "-o", out, "--force", "--dtype", "f64")
        got = support.read_file(out)[0][LLAMA_MODULE].array()
        support.close(got, u[:, :rank] * s[:rank] @ v[:rank], 2.0**-20 * s[0],
                      f"{what}, rank {rank}")
        require("adapter.lora.alpha" not in support.read_file(small)[1],
                f"{what}, rank {rank}: the old alpha is still there")


def check_bad_alpha(suite, rng):
    path = suite.path("bad.gguf")
    for value in (float("nan"), float("inf"), "much"):
        write(path, llama_tensors(rng),
              LLAMA_PAIRS + [("adapter.lora.alpha", value)])
        suite.run("info", path)
        run = suite.run("delta", path, "-o", suite.path("none.safetensors"),
                        code=MISMATCH)
        require("alpha is not finite" in run.err, f"alpha not named: {run}")


# Dimensions of 1 ------------------------------------------------------------

SHAPES = {  # down, up, mid: as trained
    "linear, rank 1": ((1, 6), (5, 1)),
    "linear, one row": ((3, 6), (1, 3)),
    "linear, one column": ((3, 1), (5, 3)),
    "linear, one weight": ((1, 1), (1, 1)),
    "1x1, rank 1": ((1, 6, 1, 1), (5, 1, 1, 1)),
    "1x1, one row": ((3, 6, 1, 1), (1, 3, 1, 1)),
    "3x3": ((3, 6, 3, 3), (5, 3, 1, 1)),
    "3x3, rank 1": ((1, 6, 3, 3), (5, 1, 1, 1)),
    "3x3 of one channel": ((1, 1, 3, 3), (5, 1, 1, 1)),
    "3x3, one row": ((3, 6, 3, 3), (1, 3, 1, 1)),
    "3x3 onto a linear up": ((3, 6, 3, 3), (5, 3)),
    "1-D": ((1, 6, 3), (5, 1, 1)),
    "core": ((2, 6, 1, 1), (5, 2, 1, 1), (2, 2, 3, 3)),
    "core, rank 1": ((1, 6, 1, 1), (5, 1, 1, 1), (1, 1, 3, 3)),
}


def check_shape(suite, name, rng):
    """As ggml writes it, without its leading ones: they come back."""
    module = "lora_unet_a"
    tensors = {module + suffix: Stored(rng.standard_normal(shape))
               for suffix, shape in zip(KOHYA, SHAPES[name])}
    tensors[module + ".alpha"] = Stored(np.array([0.75]))
    path = write(suite.path("ones.gguf"), tensors, ggml=True)
    part = factors(tensors, module, KOHYA)
    check_delta(suite, path, module, part, 0.75 / part[1].shape[1], name)
    out = suite.path("ones.safetensors")
    suite.run("convert", path, "-o", out, "--force")
    equal({n: t.shape for n, t in support.read_file(out)[0].items()},
          {n: t.shape for n, t in tensors.items()}, f"{name}: shapes")


def check_squeezed(suite, rng):
    """Both factors of rank 1 as vectors."""
    down, up = rng.standard_normal(6), rng.standard_normal(5)
    tensors = {LLAMA_MODULE + LLAMA[0]: Stored(down),
               LLAMA_MODULE + LLAMA[1]: Stored(up)}
    path = write(suite.path("vectors.gguf"), tensors, LLAMA_PAIRS)
    part = factors(tensors, LLAMA_MODULE, LLAMA)
    check_delta(suite, path, LLAMA_MODULE,
                (part[0].reshape(1, 6), part[1].reshape(5, 1), None), 1.0,
                "vectors")


def check_mismatch(suite, rng):
    """What does not fit is not made to fit."""
    module = "lora_unet_a"
    for down, up in (((3, 6), (5, 2)), ((3, 6), (5, 1)), ((6,), (5, 2)),
                     ((2, 6, 3, 3), (5, 3, 1, 1))):
        tensors = {module + KOHYA[0]: Stored(rng.standard_normal(down)),
                   module + KOHYA[1]: Stored(rng.standard_normal(up))}
        path = write(suite.path("mismatch.gguf"), tensors)
        suite.run("check", path, code=MISMATCH)
        suite.run("delta", path, "-o", suite.path("none.safetensors"),
                  code=MISMATCH)


def check_other_kinds(suite, rng):
    """Rank 1 of kinds that are not computed: their shapes come back."""
    module = "lora_unet_a"
    shapes = {".hada_w1_a": (5, 1), ".hada_w1_b": (1, 6),
              ".hada_w2_a": (5, 1), ".hada_w2_b": (1, 6)}
    tensors = {module + s: Stored(rng.standard_normal(shape))
               for s, shape in shapes.items()}
    path = write(suite.path("loha.gguf"), tensors, ggml=True)
    info = suite.json("info", path, "--modules")
    equal([(m["kind"], m["rank"], m["shape"]) for m in info["modules"]],
          [("loha", 1, [5, 6])], "modules")


def check_base(suite, rng):
    """The width of a row of rank 1 tells the base, as in safetensors."""
    module = ("lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_"
              "attn2_to_k")
    for width, family in ((768, "sd15"), (1024, "sd21")):
        tensors = {module + KOHYA[0]: Stored(rng.standard_normal((1, width))),
                   module + KOHYA[1]: Stored(rng.standard_normal((320, 1)))}
        path = write(suite.path("base.gguf"), tensors, ggml=True)
        copy = suite.path("base.safetensors")
        suite.run("convert", path, "-o", copy, "--force")
        bases = [suite.json("info", p)["base"] for p in (path, copy)]
        equal(bases[0], bases[1], "base")
        equal(bases[0]["family"], family, f"base of width {width}")


# Metadata and the file ------------------------------------------------------

def check_metadata(suite, rng):
    pairs = [("name", "caf\u00e9 \U0001f600"), ("yes", True), ("no", False),
             ("count", 4000000000), ("part", 0.15625), ("empty", "")]
    path = write(suite.path("meta.gguf"), llama_tensors(rng), pairs, version=2,
                 pad_last=False)
    want = {"name": "caf\u00e9 \U0001f600", "yes": "true", "no": "false",
            "count": "4000000000", "part": "0.15625", "empty": ""}
    equal(suite.json("meta", path)["metadata"], want, "metadata")
    out = suite.path("meta.safetensors")
    suite.run("convert", path, "-o", out)
    support.require_writer_rules(out)
    equal(support.read_file(out)[1], want, "metadata of the copy")
    before = path.read_bytes()
    run = suite.run("meta", path, "--set", "name=other", "--force", code=None)
    require(run.code != OK and "safetensors" in run.err, f"edited: {run}")
    equal(path.read_bytes(), before, "the file")


def check_refused(suite, rng):
    path = write(suite.path("refused.gguf"), llama_tensors(rng))
    good = path.read_bytes()
    at = good.index(b"lora_a") + 6 + 4 + 16  # the type of the first tensor
    for what, offset, value in (("big-endian", 4, b"\0\0\0\3"),
                                ("version 1", 4, b"\1\0\0\0"),
                                ("Q6_K", at, b"\x0e\0\0\0"),
                                ("type 99", at, b"\x63\0\0\0")):
        path.write_bytes(good[:offset] + value + good[offset + len(value):])
        for verb in ("info", "keys", "check"):
            run = suite.run(verb, path, code=UNREADABLE)
            require(what in run.err and len(run.err.splitlines()) == 1,
                    f"{what} is not named: {run}")


def small_file(suite, rng):
    """A little of everything."""
    tensors = {"a" + KOHYA[0]: Stored(rng.standard_normal((1, 32)), "Q8_0",
                                      rng),
               "a" + KOHYA[1]: Stored(rng.standard_normal((3, 1)), "F16")}
    return write(suite.path("small.gguf"), tensors,
                 [("adapter.lora.alpha", 1.0), ("b", True)], ggml=True,
                 pad_last=False)


def check_damage(suite, program, rng):
    """Cut at every length, and every byte changed: an answer, no crash."""
    path = small_file(suite, rng)
    whole = path.read_bytes()
    out = suite.path("damage.safetensors")
    codes = {OK, MISMATCH, UNREADABLE}

    def run(code):
        done = suite.run("delta", path, "-o", out, "--force", code=code,
                         program=program)
        require("Sanitizer" not in done.err and "runtime error" not in done.err,
                f"sanitizer: {done.err[:2000]}")

    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        run(UNREADABLE)
    for at in range(len(whole)):
        path.write_bytes(whole[:at] +
                         bytes([whole[at] ^ int(rng.integers(1, 256))]) +
                         whole[at + 1:])
        run(codes)
    path.write_bytes(whole)
    run(OK)


# The package of llama.cpp ---------------------------------------------------

def check_official(suite, rng):
    """Files that gguf writes, with numbers that it quantised and decoded."""
    if gguf is None:
        support.skip("no package gguf")
    for kind in TYPES:
        if kind == "F64":
            continue
        path = suite.path("official.gguf")
        writer = gguf.GGUFWriter(path, "llama")
        writer.add_type(gguf.GGUFType.ADAPTER)
        writer.add_string("adapter.type", "lora")
        writer.add_float32("adapter.lora.alpha", 20.0)
        writer.add_array("general.tags", ["lora", "test"])
        code = gguf.GGMLQuantizationType[kind]
        part = []
        for suffix, shape in zip(LLAMA, ((32, 64), (8, 32))):
            values = rng.standard_normal(shape).astype(np.float32)
            raw = gguf.quants.quantize(values, code)
            writer.add_tensor(LLAMA_MODULE + suffix, raw, raw_dtype=code)
            part.append(gguf.quants.dequantize(raw, code).astype(np.float64))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        check_delta(suite, path, LLAMA_MODULE, (*part, None), 20 / 32,
                    f"{kind} of gguf")
        equal(suite.json("meta", path)["metadata"]["general.tags"],
              '["lora", "test"]', "tags")


def check_read_by_official(suite, rng):
    """The writer here writes what gguf reads, with the same numbers."""
    if gguf is None:
        support.skip("no package gguf")
    for kind, (code, _, _) in TYPES.items():
        if kind == "F64":
            continue
        t = Stored(rng.standard_normal((3, 64)), kind, rng)
        path = write(suite.path("read.gguf"), {"t": t}, LLAMA_PAIRS)
        read = gguf.GGUFReader(path).tensors[0]
        values = gguf.quants.dequantize(
            read.data, gguf.GGMLQuantizationType(code)).astype(np.float64)
        equal(values.reshape(t.shape).tolist(), t.values.tolist(), kind)


def main():
    suite = support.Suite(__doc__.splitlines()[0], lambda parser:
                          parser.add_argument("--asan", help="sanitized build"))
    rng = np.random.default_rng(20240821)
    for kind in TYPES:
        with suite.case(f"type {kind}"):
            path, copy = check_type(suite, kind, rng)
            check_verbs(suite, path, copy)
    for name in SHAPES:
        with suite.case(f"shape {name}"):
            check_shape(suite, name, rng)
    for check in (check_llama, check_llama_tokens, check_bad_alpha,
                  check_squeezed, check_mismatch, check_other_kinds,
                  check_base, check_metadata, check_refused, check_official,
                  check_read_by_official):
        with suite.case(check.__name__):
            check(suite, rng)
    for program in filter(None, (suite.program, suite.args.asan)):
        with suite.case(f"damage, {program}"):
            check_damage(suite, str(pathlib.Path(program).resolve()), rng)
    return suite.finish()


if __name__ == "__main__":
    sys.exit(main())
