"""Learned tokens: every spelling is listed, taken out and put in with the bytes
it had, under names that the rules of the reading programs find; what is damaged
is refused by the token's name.

Files are made here, byte by byte, in the spellings of formats.md 10, with the
widths of real text encoders; those of torch are the golden ones.
"""

import pathlib
import sys

import numpy as np

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import support  # noqa: E402
from support import (FAILED, MISMATCH, UNREADABLE, USAGE,  # noqa: E402
                     Tensor, equal, require, tensor)

MARK = "<embed>"


def vectors(seed, count, width, dtype="F32"):
    """count None: a vector, which has one dimension."""
    rng = np.random.default_rng(seed)
    shape = (width,) if count is None else (count, width)
    return tensor(rng.standard_normal(shape), dtype)


# file: (tensors, metadata, {(token, encoder): tensor}); "FILE" stands for what
# the file is called.
L, L2, G2 = vectors(1, None, 768), vectors(2, 2, 768), vectors(3, 2, 1280)
H, T = vectors(4, 3, 1024), vectors(5, 2, 4096, "BF16")
SPELLINGS = {
    "brackets": ({"<cat>": L}, None, {("<cat>", "clip_l"): L}),
    "half": ({"<cat>": vectors(6, 3, 768, "F16")}, None,
             {("<cat>", "clip_l"): vectors(6, 3, 768, "F16")}),
    "bare": ({"cat-toy": L}, None, {("cat-toy", "clip_l"): L}),
    "several": ({"<a>": L, "<b>": vectors(7, None, 768)}, None,
                {("<a>", "clip_l"): L,
                 ("<b>", "clip_l"): vectors(7, None, 768)}),
    "marked": ({"any.name": vectors(8, None, 20)}, {"any.name": MARK},
               {("any.name", ""): vectors(8, None, 20)}),
    "params": ({"emb_params": H}, None, {("FILE", "clip_h"): H}),
    "a1111": ({"string_to_param.*": L2}, None, {("FILE", "clip_l"): L2}),
    "sdxl": ({"clip_l": L2, "clip_g": G2}, None,
             {("FILE", "clip_l"): L2, ("FILE", "clip_g"): G2}),
    "flux": ({"clip_l": L2, "t5": T}, None,
             {("FILE", "clip_l"): L2, ("FILE", "t5"): T}),
    "counted": ({"text_encoders_0": L2, "text_encoders_1": G2}, None,
                {("FILE", "clip_l"): L2, ("FILE", "clip_g"): G2}),
    "bundle": ({"bundle_emb.cat.string_to_param.*": L2,
                "bundle_emb.dot.ted.clip_l": L2,
                "bundle_emb.dot.ted.clip_g": G2,
                "bundle_emb.<dog>.clip_l": L2,
                "bundle_emb.<dog>.clip_l_out": L2,
                "bundle_emb.fox.emb_params": L2,
                "bundle_emb.owl.<owl>": L},
               None,
               {("cat", "clip_l"): L2, ("dot.ted", "clip_l"): L2,
                ("dot.ted", "clip_g"): G2, ("<dog>", "clip_l"): L2,
                ("<dog>", "clip_l_out"): L2, ("fox", "clip_l"): L2,
                ("owl", "clip_l"): L}),
}


def put(suite, name, tensors, metadata=None):
    path = suite.path(f"{name}.safetensors")
    support.write_file(path, tensors, metadata)
    return path


def listed(suite, path, code=0):
    """{(token, encoder): row}"""
    rows = suite.json("embed", "list", path, code=code)["embeddings"]
    found = {(row["token"], row["encoder"]): row for row in rows}
    equal(len(found), len(rows), f"different rows of {path}")
    return found


def flat(value):
    """Whatever the file has, the bytes are those of a list of vectors."""
    shape = value.shape if len(value.shape) == 2 else (1, *value.shape)
    return value.dtype, shape, value.data


def spelling(suite, name):
    tensors, metadata, expected = SPELLINGS[name]
    return put(suite, name, tensors, metadata), {
        (name if token == "FILE" else token, encoder): value
        for (token, encoder), value in expected.items()}


def check_listed(suite, path, expected):
    rows = listed(suite, path)
    equal(sorted(rows), sorted(expected), "tokens")
    stored, _ = support.read_file(path)
    for key, value in expected.items():
        row, (dtype, shape, data) = rows[key], flat(value)
        equal((row["vectors"], row["width"]), shape, f"shape of {key}")
        equal((row["dtype"], row["bytes"], row["usable"]),
              (dtype, len(data), True), f"description of {key}")
        require(stored[row["tensor"]].data == data, f"tensor of {key}")


# What programs find, by their rules -----------------------------------------

def read_comfy(tensors, encoder):
    """The vectors that ComfyUI would take for a text encoder."""
    if encoder in tensors:
        return tensors[encoder]
    for end in (".string_to_param.*", f".{encoder}"):
        for name, value in tensors.items():
            if name.startswith("bundle_emb.") and name.endswith(end):
                return value
    return next(iter(tensors.values()))


def read_a1111(tensors):
    """{token: what it has in a file of an adapter}: the name ends at the first
    dot behind the prefix."""
    found = {}
    for name, value in tensors.items():
        prefix, _, rest = name.partition(".")
        if prefix == "bundle_emb":
            token, part = rest.split(".", 1)
            found.setdefault(token, {})[part] = value
    return found


def read_cloneofsimo(tensors, metadata):
    return {name: tensors[name] for name, mark in metadata.items()
            if mark == MARK}


# Cases ----------------------------------------------------------------------

# base: (metadata, module, columns of its weight), of which the program must be
# certain; None: one that it does not know.
BASES = {
    "sd15": ("sd_v1", "down_blocks_0_attentions_0_transformer_blocks_0_"
             "attn2_to_k", 768),
    "sd21": ("sd_v2", "down_blocks_0_attentions_0_transformer_blocks_0_"
             "attn2_to_k", 1024),
    "sdxl": ("sdxl_base_v1-0", "input_blocks_4_1_transformer_blocks_0_"
             "attn2_to_k", 2048),
    "flux1_dev": ("flux1", "double_blocks_0_img_attn_proj", 3072),
    None: ("unknown", "layer", 6),
}


def adapter(suite, base="sd15"):
    """(its path, its tensors): one pair."""
    version, module, columns = BASES[base]
    rng = np.random.default_rng(9)
    tensors = {f"lora_unet_{module}.lora_{side}.weight":
               tensor(rng.standard_normal(shape))
               for side, shape in (("down", (2, columns)), ("up", (320, 2)))}
    path = put(suite, f"adapter-{base}", tensors,
               {"ss_base_model_version": version, "other": "kept"})
    return path, tensors


def check_extract(suite, name):
    """Token by token, read back; all have their bytes."""
    path, expected = spelling(suite, name)
    check_listed(suite, path, expected)
    for token in sorted({token for token, _ in expected}):
        mine = {key: value for key, value in expected.items()
                if key[0] == token}
        folder = suite.path(f"{name}-out")
        folder.mkdir(exist_ok=True)
        out = folder / f"{token.strip('<>')}.safetensors"
        suite.run("embed", "extract", path, token, "-o", out, "--force")
        support.require_writer_rules(out)
        tensors, metadata = support.read_file(out)
        alone = len(mine) == 1
        equal(sorted(tensors), [token] if alone else
              sorted(encoder for _, encoder in mine), f"names of {token}")
        called = token if alone else out.stem
        check_listed(suite, out, {(called, encoder): value for
                                  (_, encoder), value in mine.items()})
        if alone:  # diffusers takes the only tensor, A1111 too
            equal(list(read_cloneofsimo(tensors, metadata)), [token], "marks")
            (value,) = mine.values()
            equal(len(tensors[token].shape), 1 if flat(value)[1][0] == 1
                  else 2, "dimensions")


def check_insert(suite, name, base, keys):
    """Into an adapter and back out of it: `keys` are the new tensors."""
    path, expected = spelling(suite, name)
    target, before = adapter(suite, base=base)
    out = suite.path("with.safetensors")
    suite.run("embed", "insert", target, path, "-o", out, "--force")
    support.require_writer_rules(out)
    after, metadata = support.read_file(out)
    equal(sorted(set(after) - set(before)), sorted(keys), "new tensors")
    for key, value in before.items():
        require(after[key].same(value), f"{key} is not as it was")
    equal(metadata["other"], "kept", "metadata")
    check_listed(suite, out, expected)
    for key in keys:
        equal(len(after[key].shape), 2, f"dimensions of {key}")
    found = read_a1111(after)
    equal(sorted(found), sorted({token for token, _ in expected}), "A1111")
    for (token, encoder), value in expected.items():
        require(any(part.data == value.data for part in
                    found[token].values()), f"A1111: {token}")
        if len({token for token, _ in expected}) == 1:
            require(read_comfy(after, encoder).data == value.data,
                    f"ComfyUI: {encoder}")
    back = suite.path("without.safetensors")
    suite.run("embed", "remove", out, "-o", back, "--force")
    require(back.read_bytes() == rewritten(suite, target), "removed again")


def rewritten(suite, path):
    """The file as the program writes it without a change."""
    out = suite.path("plain.safetensors")
    suite.run("convert", path, "-o", out, "--force")
    return out.read_bytes()


def check_positional(suite):
    """cloneofsimo's files get tokens and marks, and no bundles."""
    old = vectors(10, None, 768)
    tensors = {"unet:0:down": vectors(11, 2, 320),
               "unet:0:up": tensor(np.ones((320, 2))), "<s1>": old}
    metadata = {"unet": '["CrossAttention"]', "unet:0:rank": "2", "<s1>": MARK}
    target = put(suite, "positional", tensors, metadata)
    bare, _ = spelling(suite, "bare")
    out = suite.path("two.safetensors")
    suite.run("embed", "insert", target, bare, "-o", out, "--force")
    after, marks = support.read_file(out)
    equal(read_cloneofsimo(after, marks), {"<s1>": after["<s1>"],
                                           "cat-toy": after["cat-toy"]}, "tokens")
    require(after["cat-toy"].same(L) and after["<s1>"].same(old), "vectors")
    suite.run("embed", "remove", out, "<s1>", "-o", out, "--force")
    after, marks = support.read_file(out)
    equal(list(read_cloneofsimo(after, marks)), ["cat-toy"], "one is left")
    require("<s1>" not in after, "the tensor is still there")
    wide, _ = spelling(suite, "half")
    run = suite.run("embed", "insert", target, wide, "-o", out, "--force",
                    code=MISMATCH)
    require("<cat>" in run.err and "3 vectors" in run.err, run.err)


def check_names(suite):
    """--token, --form, --family and --replace."""
    params, _ = spelling(suite, "params")
    out = suite.path("named.safetensors")
    suite.run("embed", "extract", params, "-o", out, "--token", "sks",
              "--force")
    equal(list(support.read_file(out)[0]), ["sks"], "--token")
    suite.run("embed", "extract", out, "-o", out, "--form", "emb_params",
              "--force")
    equal(list(support.read_file(out)[0]), ["emb_params"], "--form")
    suite.run("embed", "extract", params, "-o", out, "--form", "encoder",
              "--force")
    equal(list(support.read_file(out)[0]), ["clip_h"], "--form encoder")
    both, _ = spelling(suite, "bundle")
    suite.run("embed", "extract", both, "cat", "fox", "-o", out, "--force")
    equal(sorted(support.read_file(out)[0]), ["cat", "fox"], "two tokens")
    suite.run("embed", "extract", both, "<dog>", "cat", "-o", out, "--force")
    equal(sorted(support.read_file(out)[0]),
          ["bundle_emb.<dog>.clip_l", "bundle_emb.<dog>.clip_l_out",
           "bundle_emb.cat.string_to_param.*"], "two encoders beside one")
    target, _ = adapter(suite)
    bracket, _ = spelling(suite, "brackets")
    suite.run("embed", "insert", target, bracket, "-o", out, "--force",
              "--token", "x", "--family", "sdxl")
    equal(list(read_a1111(support.read_file(out)[0])["x"]), ["clip_l"],
          "--family")
    run = suite.run("embed", "insert", out, bracket, "--token", "x", "-o",
                    suite.path("again.safetensors"), code=FAILED)
    require("(x)" in run.err, f"a token twice: {run.err}")
    suite.run("embed", "insert", out, bracket, "--token", "x", "-o", out,
              "--force", "--replace", "--form", "token")
    tensors, metadata = support.read_file(out)
    equal(read_a1111(tensors), {}, "the old one is gone")
    require(tensors["x"].same(L) and metadata["x"] == MARK, "--replace")


# name: (tensors, token, what is said)
BAD = {
    "wrong width": ({"clip_l": vectors(1, 2, 1280)}, "bad", "width"),
    "no vectors": ({"<x>": vectors(1, 0, 768)}, "<x>", "no values"),
    "no width": ({"<x>": vectors(1, 3, 0)}, "<x>", "no values"),
    "NaN": ({"<x>": tensor([1.0, np.nan, 2.0])}, "<x>", "1 of its 3 values"),
    "infinity": ({"bundle_emb.x.clip_l": tensor([[np.inf, 1.0]])}, "x",
                 "NaN or infinite"),
    "a scalar": ({"<x>": tensor(1.0)}, "<x>", "vector"),
    "three dimensions": ({"<x>": tensor(np.ones((1, 2, 3)))}, "<x>", "vector"),
    "whole numbers": ({"<x>": Tensor("I64", (2,), bytes(16))}, "<x>", "type"),
    "twice": ({"bundle_emb.x.clip_l": L2,
               "bundle_emb.x.string_to_param.*": L2}, "x", "twice"),
    "unequal": ({"bundle_emb.x.clip_l": L2,
                 "bundle_emb.x.clip_g": vectors(1, 3, 1280)}, "x",
                "not as many"),
}


def check_bad(suite, name):
    """Listed as unusable (its values are not read for that), refused by both
    operations, with its token, and left out all the same."""
    tensors, token, said = BAD[name]
    path = put(suite, "bad", tensors)
    out = suite.path("bad-out.safetensors")
    first = UNREADABLE if name == "twice" else MISMATCH
    if name not in ("NaN", "infinity"):
        run = suite.run("embed", "list", path, code=first)
        require(said in run.out and token in run.out, f"list: {run.out}")
        require(any(not row["usable"] for row in
                    suite.json("embed", "list", path,
                               code=first)["embeddings"]), "all usable")
    target, _ = adapter(suite, base=None)
    second = FAILED if name == "twice" else MISMATCH
    for code, args in ((first, ["extract", path]),
                       (second, ["insert", target, path])):
        run = suite.run("embed", *args, "-o", out, code=code)
        require(f"({token}" in run.err and said in run.err, f"said: {run}")
        require(not out.exists(), "something was written")
    suite.run("embed", "remove", path, "-o", out)
    equal(support.read_file(out)[0], {}, "left out")
    out.unlink()


def check_refused(suite):
    """What fits nowhere."""
    out = suite.path("refused.safetensors")
    sd, _ = adapter(suite)
    sdxl, _ = adapter(suite, "sdxl")
    two, _ = spelling(suite, "sdxl")
    one, _ = spelling(suite, "brackets")
    params, _ = spelling(suite, "params")
    dotted = put(suite, "dotted", {"a.b": L}, {"a.b": MARK})
    reserved = put(suite, "reserved", {"clip_l": L})
    for code, args, said in (
            (MISMATCH, ["insert", sd, two], "1280"),
            (MISMATCH, ["insert", sdxl, params], "1024"),
            (FAILED, ["insert", sd, one, one], "two of the files"),
            (MISMATCH, ["insert", sd, sdxl], "no embedding"),
            (USAGE, ["insert", sd, dotted], "first dot"),
            (USAGE, ["insert", sd, one, "--form", "encoder"], "no place"),
            (USAGE, ["insert", sd, one, "--family", "nonsense"], "no such"),
            (FAILED, ["extract", two, "--form", "token"], "several text"),
            (MISMATCH, ["extract", one, "nobody"], "no such token"),
            (USAGE, ["extract", reserved, "--token", "clip_g"], "else"),
            (MISMATCH, ["extract", sd], "no embedding"),
            (MISMATCH, ["remove", one, "nobody"], "no such token")):
        run = suite.run("embed", *args, "-o", out, code=code)
        require(said in run.err, f"{said!r} is not said: {run}")
        require(not out.exists(), "something was written")
    for args in (["insert", sd, "-o", out], ["turn", sd, "-o", out],
                 ["list", sd, "-o", out], ["extract", one]):
        suite.run("embed", *args, code=USAGE)


def check_sizes(suite):
    """A table of the sizes of trained tokens, in KB: one vector of SD 1 in F32,
    8 of them, and 8 for each of the 16 layers with cross-attention (XTI), for
    which it says about 400."""
    for kilobytes, count, bound in ((4, 1, 1), (25, 8, 0.5), (400, 128, 10)):
        path = put(suite, f"xti{count}", {"<x>": vectors(12, count, 768)})
        out = suite.path("size.safetensors")
        suite.run("embed", "extract", path, "-o", out, "--force")
        size = out.stat().st_size / 1000
        require(abs(size - kilobytes) <= bound, f"{count}: {size} KB")
        equal(listed(suite, out)["<x>", "clip_l"]["bytes"], count * 768 * 4,
              "bytes")


def check_torch(suite, folder, case):
    """Golden files: into an adapter, with the bytes torch found."""
    target, before = adapter(suite, base=None)
    out = suite.path("torch.safetensors")
    suite.run("embed", "insert", target, folder / case["adapter"], "-o", out,
              "--force", "--token", "t")
    after, _ = support.read_file(out)
    expected, _ = support.read_file(folder / case["expect"])
    got = sorted(after[name].data for name in set(after) - set(before))
    equal(got, sorted(value.data for value in expected.values()
                      if value.dtype != "I64"), "bytes")


INSERTS = [
    ("brackets", "sd15", ["bundle_emb.<cat>.string_to_param.*"]),
    ("half", "sd15", ["bundle_emb.<cat>.string_to_param.*"]),
    ("several", "sd15", ["bundle_emb.<a>.string_to_param.*",
                          "bundle_emb.<b>.string_to_param.*"]),
    ("params", "sd21", ["bundle_emb.params.string_to_param.*"]),
    ("sdxl", "sdxl", ["bundle_emb.sdxl.clip_l",
                                "bundle_emb.sdxl.clip_g"]),
    ("counted", "sdxl", ["bundle_emb.counted.clip_l",
                                   "bundle_emb.counted.clip_g"]),
    ("flux", "flux1_dev", ["bundle_emb.flux.clip_l", "bundle_emb.flux.t5"]),
    ("brackets", "sdxl", ["bundle_emb.<cat>.clip_l"]),
]


def main():
    suite = support.Suite(__doc__.splitlines()[0])
    for name in SPELLINGS:
        with suite.case(f"{name}, out"):
            check_extract(suite, name)
    for name, base, keys in INSERTS:
        with suite.case(f"{name}, into {base}"):
            check_insert(suite, name, base, keys)
    for name in BAD:
        with suite.case(name):
            check_bad(suite, name)
    for name, check in (("positional", check_positional),
                        ("names", check_names), ("refused", check_refused),
                        ("sizes", check_sizes)):
        with suite.case(name):
            check(suite)
    folder, cases = suite.unpack("load")
    for case in cases:
        if case["id"].startswith("load_ti_"):
            with suite.case(case["id"]):
                check_torch(suite, folder, case)
    return suite.finish()


if __name__ == "__main__":
    sys.exit(main())
