"""What files `lora fuse` makes of what files: all that no adapter changes is
kept byte for byte; shards, folders, GGUF files and pickles.

Numbers are judged as fusing.py says; files by the readers of support.py and of
this one, and by the packages safetensors and gguf where these are installed.
"""

import json
import pathlib
import pickle
import re
import struct
import sys
import types
import zipfile
from collections import OrderedDict

import numpy as np

sys.dont_write_bytecode = True
HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
sys.path.insert(0, str(HERE))
import fusing  # noqa: E402
import models  # noqa: E402
import support  # noqa: E402
import test_gguf  # noqa: E402
from fusing import Module, fuse, fused, stored  # noqa: E402
from support import USAGE, equal, require, tensor  # noqa: E402
from test_base import KOHYA, TARGET  # noqa: E402

NAME = TARGET + ".weight"


def adapter_for(suite, rng, shape):
    module = Module(rng, shape)
    return module, fusing.write_adapter(suite.path("adapter.safetensors"),
                                        {KOHYA: module})


def check_one(out, weight, module, what="fused"):
    got = support.read_file(out)[0][NAME]
    equal(got.dtype, weight.dtype, "type")
    fusing.check(got, *fused(weight.array(), (module, 1.0)), what)


# One file -------------------------------------------------------------------

def write_header(path, entries, tensors, pad=b""):
    """A file with a header as it is given: (key, value) in their order, the
    data in the order of `tensors`."""
    text = "{" + ",".join(f"{json.dumps(k, ensure_ascii=False)}: {v}"
                          for k, v in entries) + "}"
    raw = text.encode("utf-8") + pad
    raw += b" " * (-len(raw) % 8)
    path.write_bytes(struct.pack("<Q", len(raw)) + raw +
                     b"".join(t.data for t in tensors))


def head_of(path):
    """The length, the header and what pads it."""
    raw = path.read_bytes()
    return raw[:8 + struct.unpack("<Q", raw[:8])[0]]


def test_hashes(suite):
    """Hashes of the tensors that metadata have are not those of the new ones;
    all else in them stays, and the header its size."""
    rng = np.random.default_rng(2)
    weight = stored(rng.standard_normal((6, 5)), "F16")
    kept = {"modelspec.title": "a", "format": "pt"}
    base = support.write_file(
        suite.path("base.safetensors"), {NAME: weight, "b": weight},
        {**kept, "modelspec.hash_sha256": "0x1", "sshs_model_hash": "2",
         "sshs_legacy_hash": "3"}) or suite.path("base.safetensors")
    module, adapter = adapter_for(suite, rng, (6, 5))
    out = fuse(suite, base, [adapter])
    check_one(out, weight, module)
    equal(support.read_file(out)[1], kept, "metadata")
    equal(len(head_of(out)), len(head_of(base)), "bytes of the header")
    same = fuse(suite, base, [f"{adapter}:0"])
    equal(same.read_bytes() == base.read_bytes(), True, "nothing was changed")


def test_header(suite):
    """The header has its bytes: its order, spaces, and what other writers put
    into it."""
    rng = np.random.default_rng(1)
    weight = stored(rng.standard_normal((6, 5)), "F16")
    others = {"z last": tensor(np.arange(3), "I64"),
              "\u00e4.\u65e5\u672c": stored(np.ones((2, 2)), "BF16"),
              "flags": support.Tensor("BOOL", (3,), b"\1\0\1"),
              "none": tensor(np.zeros((0, 4)), "F32")}
    tensors = [others["flags"], weight, *(t for n, t in others.items()
                                          if n != "flags")]
    spans, at = {}, 0
    for t in tensors:
        spans[id(t)] = (at, at + len(t.data))
        at += len(t.data)

    def entry(t):
        begin, end = spans[id(t)]
        return (f'{{"shape": {list(t.shape)}, "data_offsets":[{begin}, {end}] ,'
                f' "dtype":"{t.dtype}"}}')

    base = suite.path("base.safetensors")
    entries = [("z last", entry(others["z last"])), (NAME, entry(weight)),
               ("__metadata__", '{"b": "2\\u00e9", "a":"1"}'),
               *((n, entry(t)) for n, t in others.items() if n != "z last")]
    module, adapter = adapter_for(suite, rng, (6, 5))
    for pad in (b"", b" " * 100):
        write_header(base, entries, tensors, pad)
        support.read_file(base)
        out = fuse(suite, base, [adapter])
        equal(head_of(out), head_of(base), "header")
        fusing.require_same(out, base, {NAME}, "others")
        check_one(out, weight, module)


def test_official(suite):
    """The package of the format reads the same numbers."""
    try:
        import safetensors.numpy
    except ImportError:
        support.skip("no package safetensors")
    rng = np.random.default_rng(2)
    weight = stored(rng.standard_normal((8, 4)), "F16")
    base = suite.path("base.safetensors")
    support.write_file(base, {NAME: weight, "b": tensor(np.ones(2))},
                       {"k": "v"})
    module, adapter = adapter_for(suite, rng, (8, 4))
    out = fuse(suite, base, [adapter])
    got = safetensors.numpy.load_file(out)
    equal(sorted(got), sorted((NAME, "b")), "tensors")
    want = fusing.numbers(out)
    for name in got:
        equal(got[name].astype(np.float64).tolist(), want[name].tolist(), name)


def test_scaled(suite):
    """A scale beside a weight in F8, as checkpoints have it: the number that
    its values are times stays, and what is fused is what they mean."""
    rng = np.random.default_rng(3)
    weight = stored(rng.standard_normal((16, 12)) * 50, "F8_E4M3")
    scale = 0.01
    base = suite.path("base.safetensors")
    support.write_file(base, {NAME: weight, TARGET + ".scale_weight":
                              tensor(np.float32(scale)),
                              "scaled_fp8": support.Tensor(
                                  "F8_E4M3", (0,), b"")})
    module, adapter = adapter_for(suite, rng, (16, 12))
    out = fuse(suite, base, [adapter])
    fusing.require_same(out, base, {NAME}, "scaled")
    scale = float(np.float32(scale))
    want, error = fused(scale * weight.array(), (module, 1.0))
    got = support.read_file(out)[0][NAME]
    # A rounding for the product before, and one for the quotient after.
    fusing.check(got, want / scale, (error + 2 * fusing.UNIT * np.abs(want)) /
                 scale, "times the scale")


# Several files --------------------------------------------------------------

class Shards:
    """A small model in several files with an index, in a folder."""

    def __init__(self, suite, dtype="F16", count=3):
        self.model = models.Model(width=16, context=12, blocks=3)
        self.folder = suite.path("shards")
        fusing.remove(self.folder)
        self.folder.mkdir()
        self.tensors = {f"unet.{ours}.weight":
                        tensor(self.model.base[theirs], dtype)
                        for theirs, part, ours, _ in self.model.layers
                        if part == "unet"}
        models.write_shards(self.folder, "model", self.tensors, count)
        self.index = self.folder / "model.safetensors.index.json"
        rng = np.random.default_rng(4)
        self.modules = {f"unet.{ours}": Module(rng, shape) for _, part, ours,
                        shape in self.model.layers
                        if part == "unet" and "proj_in" not in ours}
        self.adapter = fusing.write_adapter(
            suite.path("adapter.safetensors"), self.modules, "peft")

    def check(self, tensors, what):
        equal(set(tensors), set(self.tensors), f"{what}: tensors")
        for name, old in self.tensors.items():
            module = self.modules.get(name.removesuffix(".weight"))
            if module is None:
                require(tensors[name].same(old), f"{what}: {name} changed")
            else:
                fusing.check(tensors[name], *fused(old.array(), (module, 1.0)),
                             f"{what}: {name}")


def read_index(folder, stem="model"):
    """(all tensors by the index of a folder, which of its files has which)"""
    index, = folder.glob("*.index.json")
    where = json.loads(index.read_text("utf-8"))["weight_map"]
    files = {file: support.read_file(folder / file)[0]
             for file in set(where.values())}
    equal({name: file for file, all_ in files.items() for name in all_}, where,
          "the index")
    equal({path.name for path in folder.iterdir()}, {index.name, *files},
          "files of the folder")
    return {name: files[file][name] for name, file in where.items()}, where


def test_shards(suite):
    shards = Shards(suite)
    _, where = read_index(shards.folder)
    for path in (shards.index, shards.folder):
        outs = []
        for threads in (1, 2):
            out = fuse(suite, path, [shards.adapter], "--threads", threads,
                       out="out")
            tensors, placed = read_index(out)
            shards.check(tensors, str(path.name))
            equal(placed, where, "which file has which tensor")
            for file in set(where.values()):
                fusing.require_same(out / file, shards.folder / file,
                                    tensors, file)
                equal(head_of(out / file), head_of(shards.folder / file), file)
            equal(json.loads((out / shards.index.name).read_text()),
                  json.loads(shards.index.read_text()), "index")
            outs.append({p.name: p.read_bytes() for p in out.iterdir()})
        equal(outs[0] == outs[1], True, "the same with other threads")


def test_pipeline(suite):
    """A folder of diffusers', a component of it in several files."""
    model = models.Model(width=16, context=12, blocks=3)
    base = model.write_folder(suite.path("pipeline"), model.base, "BF16", 2)
    rng = np.random.default_rng(5)
    modules = {name: Module(rng, shape) for name, _, _, shape in model.layers}
    adapter = fusing.write_adapter(suite.path("adapter.safetensors"), {
        models.kohya(part, ours): modules[name]
        for name, part, ours, _ in model.layers})
    out = fuse(suite, base, [f"{adapter}:1:0.5"], out="out")
    unet, where = read_index(out / "unet")
    equal(where, read_index(base / "unet")[1], "files")
    encoder, _ = support.read_file(out / "text_encoder/model.safetensors")
    for name, part, ours, _ in model.layers:
        got = (unet if part == "unet" else encoder)[ours + ".weight"]
        weight = tensor(model.base[name], "BF16").array()
        fusing.check(got, *fused(weight, (modules[name], 1.0 if part == "unet"
                                          else 0.5)), name)


def test_cut(suite):
    """One file into several beside each other, of at most so many bytes of
    data, and their index; a tensor that is larger has a file of its own."""
    model = models.Model(width=16, context=12, blocks=3)
    tensors = {f"{name}.weight": tensor(a, "F16")
               for name, a in model.base.items()}
    base = suite.path("base.safetensors")
    support.write_file(base, tensors, {"kept": "1"})
    name, _, ours, shape = model.layers[0]
    module = Module(np.random.default_rng(6), shape)
    adapter = fusing.write_adapter(suite.path("adapter.safetensors"), {
        models.kohya("unet", ours): module})
    whole = support.read_file(fuse(suite, base, [adapter]))[0]
    out = suite.path("model")
    for size in (1000, 5000, 20000, "1G"):
        fusing.remove(out)
        out.mkdir()
        suite.run("fuse", base, adapter, "-o", out / "model.safetensors",
                  "--shard-size", size)
        got, where = read_index(out)
        equal({re.sub(r"\d{5}", "N", file) for file in where.values()},
              {"model-N-of-N.safetensors"}, "names of files")
        equal({n: t.data for n, t in got.items()},
              {n: t.data for n, t in whole.items()}, "tensors")
        if size == "1G":
            equal(len(set(where.values())), 1, "files")
            continue
        for file in set(where.values()):
            mine, _ = support.read_file(out / file)
            total = sum(len(t.data) for t in mine.values())
            require(total <= size or len(mine) == 1, f"{file}: {total}")
        index, = out.glob("*.index.json")
        total = json.loads(index.read_text())["metadata"]["total_size"]
        equal(total, sum(len(t.data) for t in got.values()), "total size")
        least = -(-total // size)
        require(least <= len(set(where.values())) <= 2 * least + 2,
                f"{len(set(where.values()))} files, {least} would do")
    into = fuse(suite, base, [adapter], "--shard-size", 5000, out="folder")
    equal({n: t.data for n, t in read_index(into)[0].items()},
          {n: t.data for n, t in whole.items()}, "in a folder")
    fuse(suite, base, [adapter], "--shard-size", "0x", code=USAGE)


# Other containers -----------------------------------------------------------

def check_q8_0(data, want, what):
    """Blocks of 32: d in F16, the largest / 127 before it was rounded, by which
    the numbers were divided, and these to the nearest whole."""
    blocks = np.frombuffer(data, np.uint8).reshape(-1, 34)
    d = blocks[:, :2].copy().view(np.float16).astype(float)
    q = blocks[:, 2:].view(np.int8).astype(float)
    want = want.reshape(-1, 32)
    exact = np.abs(want).max(1, keepdims=True) / 127
    require(np.abs(d / exact - 1).max() <= 2.0 ** -11 + 1e-6, f"{what}: d")
    require(np.abs(q - want / exact).max() <= 0.5 + 1e-3, f"{what}: numbers")


def test_gguf_file(suite):
    """Numbers are changed in place, Q8_0 is quantised once; what has fewer bits
    stays, and is told of."""
    rng = np.random.default_rng(7)
    layers = {kind: f"{TARGET.replace('.0.attn1', f'.{i}.attn1')}"
              for i, kind in enumerate(("F32", "F16", "BF16", "Q8_0", "Q4_0"))}
    tensors = {f"{name}.weight": test_gguf.Stored(
        rng.standard_normal((6, 64)), kind, rng)
        for kind, name in layers.items()}
    tensors["other"] = test_gguf.Stored(rng.standard_normal((2, 32)), "Q8_0",
                                        rng)
    base = test_gguf.write(suite.path("base.gguf"), tensors,
                           [("general.architecture", "sd1"), ("n", 3),
                            ("general.name", "a name")])
    modules = {name: Module(rng, (6, 64)) for name in layers.values()}
    adapter = fusing.write_adapter(suite.path("adapter.safetensors"), modules,
                                   "peft")
    out = fuse(suite, base, [adapter], out="fused.gguf")
    old, new = base.read_bytes(), out.read_bytes()
    equal(len(new), len(old), "bytes")
    begin = len(old) - sum(len(t.data) + -len(t.data) % 32
                           for t in tensors.values())
    equal(new[:begin], old[:begin], "all before the data")
    at = begin
    for name, t in tensors.items():
        data = new[at:at + len(t.data)]
        kind = t.kind
        module = modules.get(name.removesuffix(".weight"))
        if kind in ("F32", "F16", "BF16"):
            got = support.Tensor(kind, t.shape, data)
            fusing.check(got, *fused(t.values, (module, 1.0)), name)
        elif kind == "Q8_0" and module is not None:
            check_q8_0(data, fused(t.values, (module, 1.0))[0], name)
        else:
            equal(data == t.data, True, f"{name} is as before")
        at += len(t.data)
        equal(new[at:at + -len(t.data) % 32], bytes(-len(t.data) % 32), "pad")
        at += -len(t.data) % 32
    undo, back = suite.path("gguf.undo"), suite.path("back.gguf")
    for mode, adapters in (("raw", []), ("predict", [adapter])):
        suite.run("fuse", base, adapter, "-o", out, "--force", "--undo", undo,
                  "--undo-mode", mode)
        suite.run("unfuse", out, *adapters, "--undo", undo, "-o", back,
                  "--force")
        equal(back.read_bytes() == old, True, f"{mode}: undone")
    run = suite.run("fuse", base, adapter, "-o", out, "--force")
    require(layers["Q4_0"] in run.err, f"no word of Q4_0: {run.err}")
    fuse(suite, base, [adapter], "--strict", code=support.MISMATCH)


class Storage:
    def __init__(self, key, kind, count):
        self.key, self.kind, self.count = key, kind, count


class Pickled:
    def __init__(self, storage, shape):
        self.storage, self.shape = storage, shape

    def __reduce_ex__(self, _):
        strides = [int(np.prod(self.shape[i + 1:]))
                   for i in range(len(self.shape))]
        return (sys.modules["torch._utils"]._rebuild_tensor_v2,
                (self.storage, 0, self.shape, tuple(strides), False,
                 OrderedDict()))


class Pickler(pickle.Pickler):
    def persistent_id(self, item):
        if not isinstance(item, Storage):
            return None
        return ("storage", item.kind, item.key, "cpu", item.count)


def write_torch(path, tensors):
    """As torch.save({"state_dict": ...}); the names that the pickle has are
    those of modules made up here."""
    fakes = {"torch": types.ModuleType("torch"),
             "torch._utils": types.ModuleType("torch._utils")}
    kinds = {"F32": "FloatStorage", "F16": "HalfStorage", "I64": "LongStorage"}

    def _rebuild_tensor_v2():
        pass

    _rebuild_tensor_v2.__module__ = "torch._utils"
    _rebuild_tensor_v2.__qualname__ = "_rebuild_tensor_v2"
    fakes["torch._utils"]._rebuild_tensor_v2 = _rebuild_tensor_v2
    for kind in kinds.values():
        setattr(fakes["torch"], kind, type(kind, (), {"__module__": "torch"}))
    real = {name: sys.modules.get(name) for name in fakes}
    sys.modules.update(fakes)
    try:
        with zipfile.ZipFile(path, "w") as archive:
            state = {}
            for i, (name, t) in enumerate(tensors.items()):
                storage = Storage(str(i), getattr(fakes["torch"],
                                                  kinds[t.dtype]),
                                  int(np.prod(t.shape)))
                state[name] = Pickled(storage, tuple(t.shape))
                archive.writestr(f"archive/data/{i}", t.data)
            with archive.open("archive/data.pkl", "w") as file:
                Pickler(file, 2).dump({"state_dict": state})
    finally:
        for name, module in real.items():
            del sys.modules[name]
            if module is not None:
                sys.modules[name] = module
    return path


def test_torch(suite):
    """A pickle becomes a safetensors file of the same names and types."""
    rng = np.random.default_rng(8)
    weight = stored(rng.standard_normal((5, 7)), "F16")
    tensors = {NAME: weight, "a.count": tensor(np.arange(4), "I64"),
               "b": stored(rng.standard_normal((2, 3)), "F32")}
    base = write_torch(suite.path("base.ckpt"), tensors)
    module, adapter = adapter_for(suite, rng, (5, 7))
    out = fuse(suite, base, [adapter])
    got, _ = support.read_file(out)
    equal(set(got), set(tensors), "tensors")
    for name in ("a.count", "b"):
        require(got[name].same(tensors[name]), f"{name} changed")
    check_one(out, weight, module)


def main():
    suite = support.Suite(__doc__.splitlines()[0])
    for test in (test_hashes, test_header, test_official, test_scaled, test_shards,
                 test_pipeline, test_cut, test_gguf_file, test_torch):
        with suite.case(test.__name__[5:]):
            test(suite)
    return suite.finish()


if __name__ == "__main__":
    sys.exit(main())
