"""The Python package against numpy float64 and against the program: numbers,
descriptions, operations, arrays of every sort in and out, errors.

The bound of a weight change is that of tests/differential/test_numbers.py:
n u / (1 - n u) |scale| |up| |down|, with n = r + 4 and u = 2^-24 in float32,
2^-52 in float64.
"""

import array
import collections
import io
import json
import mmap
import os
import pathlib
import pickle
import sys

import numpy as np

import bindinglib
import support
from bindinglib import CONVOLUTION, LINEAR, NARROW, PROJECTION, raises, same
from support import KOHYA, close, equal, require

ROUND = {"F32": 2.0**-24, "F64": 2.0**-52}
NUMPY = {"F32": np.float32, "F64": np.float64}

suite = support.Suite(__doc__.splitlines()[0])
liblora = bindinglib.load(suite)

from liblora import _errors, _ffi, _library  # noqa: E402


# Numbers --------------------------------------------------------------------

def bound(tensors, name, dtype):
    rank = tensors[name + KOHYA["down"]].shape[0]
    n = (rank + 4) * ROUND[dtype]
    return n / (1 - n) * support.module_delta(tensors, name)[1]


def try_delta(path, tensors):
    adapter = liblora.open(path)
    for name in support.module_names(tensors):
        expected = support.module_delta(tensors, name)[0]
        for dtype, kind in NUMPY.items():
            got = adapter.delta(name, dtype=dtype)
            equal(got.dtype, kind, "type of the change")
            close(got, expected, bound(tensors, name, dtype), name)
        half = adapter.delta(name, strength=-0.5)
        close(half, -0.5 * expected, bound(tensors, name, "F32"), name)
    by_target = adapter.delta(adapter.modules[0]["target"])
    require(np.array_equal(by_target, adapter.delta(
        adapter.modules[0]["name"])), "canonical names")


def try_out(path, tensors):
    """The array to write to, in what shapes and types it may come."""
    adapter = liblora.open(path)
    expected = adapter.delta(LINEAR)
    for out in (np.empty((48, 32), "f4"),
                memoryview(bytearray(48 * 32 * 4)).cast("f", (48, 32)),
                DLPackOnly(np.empty((48, 32), "f4"))):
        require(adapter.delta(LINEAR, out=out) is out, "out is returned")
        got = out.array if isinstance(out, DLPackOnly) else out
        require(np.array_equal(np.asarray(got), expected), "out is filled")
    wide = np.empty((48, 32))
    close(adapter.delta(LINEAR, out=wide), expected, 1e-5, "out in f64")
    raises(liblora.ShapeError, adapter.delta, LINEAR, out=np.empty((32, 48)))
    raises(liblora.DTypeError, adapter.delta, LINEAR, dtype="f32", out=wide)
    raises(liblora.DTypeError, adapter.delta, LINEAR,
           out=np.empty((48, 32), "f2"))
    for bad in (np.empty((48, 64), "f4")[:, ::2], bytes(48 * 32 * 4)):
        raises(liblora.ArgumentError, adapter.delta, LINEAR, out=bad)
    raises(liblora.ArgumentError, adapter.delta, LINEAR, part="norm")


def try_factors(path, tensors):
    adapter = liblora.open(path)
    for name in support.module_names(tensors):
        up, down, scale = adapter.factors(name, dtype="f64")
        rank = tensors[name + KOHYA["down"]].shape[0]
        equal(up.shape[1], rank, "rank")
        expected = support.flat(support.module_delta(tensors, name)[0])
        close(scale * up @ down, expected,
              support.flat(bound(tensors, name, "F64")), name)
        # Eckart and Young: the error of the best approximation is the root of
        # the sum of squares of what is left out. f32 factors add less than
        # 1e-5 of the norm.
        sigma = np.linalg.svd(expected, compute_uv=False)
        for k in (1, rank - 1, rank, rank + 3):
            up, down, scale = adapter.factors(name, rank=k, dtype="f64")
            equal(up.shape[1], min(k, rank), "lowered rank")
            error = np.linalg.norm(scale * up @ down - expected)
            least = np.linalg.norm(sigma[k:])
            close(error, least, 1e-5 * sigma[0] * rank, f"{name} rank {k}")


def try_tensors(path, tensors):
    adapter = liblora.open(path)
    equal(set(adapter.keys()), set(tensors), "names")
    equal(list(adapter.shapes), adapter.keys(), "in the order of the file")
    equal(adapter.shapes, {name: stored.shape for name, stored in
                           tensors.items()}, "shapes")
    equal(adapter.dtypes, {name: stored.dtype for name, stored in
                           tensors.items()}, "number types")
    equal(adapter.headers, [(name, tensors[name].dtype, tensors[name].shape)
                            for name in adapter.keys()], "headers")
    special = None
    try:
        import ml_dtypes
        special = ml_dtypes.bfloat16
    except ImportError:
        pass
    expected = {"F32": "float32", "F16": "float16",
                "BF16": "bfloat16" if special else "uint16"}
    for row in adapter.tensors:
        stored = tensors[row["name"]]
        got = adapter.tensor(row["name"])
        equal(got.dtype.name, expected[stored.dtype], row["name"])
        equal(got.shape, stored.shape, "shape")
        same(got.tobytes(), stored.data, row["name"])
        wide = adapter.tensor(row["name"], np.float64)
        require(np.array_equal(wide, stored.array()), "values in f64")
    raises(liblora.KeyMatchError, adapter.tensor, "none")
    raises(liblora.DTypeError, adapter.tensor, row["name"], "f33")
    every, wide = adapter.load(), adapter.load("f64")
    equal(list(every), adapter.keys(), "names in the order of the file")
    for name, stored in tensors.items():
        equal(every[name].dtype.name, expected[stored.dtype], name)
        equal(every[name].shape, stored.shape, "shape")
        same(every[name].tobytes(), stored.data, name)
        require(np.array_equal(wide[name], stored.array()), "values in f64")
        require(every[name].flags.writeable and every[name].flags.aligned,
                "arrays of one's own")
    raises(liblora.DTypeError, adapter.load, "f33")
    equal(liblora.Builder().finish().load(), {}, "nothing to load")
    equal(liblora.Builder().finish().tensors, [], "nothing to list")
    equal(liblora.Builder().finish().shapes, {}, "no shapes")
    equal(liblora.Builder().finish().headers, [], "no headers")
    adapter.close()
    raises(liblora.StateError, adapter.load)
    same(every[name].tobytes(), stored.data, "arrays outlive the adapter")


# Against the program --------------------------------------------------------

def try_descriptions(path, tensors):
    adapter = liblora.open(path)
    equal(adapter.info(), suite.json("info", path), "info")
    whole = suite.json("info", "--modules", "--hash", "all", path)
    mine = adapter.info(modules=True, hashes=True)
    whole.pop("hashes"), mine.pop("hashes")
    equal(mine, whole, "info --modules")
    equal(adapter.modules, whole["modules"], "modules")
    equal(adapter.metadata, bindinglib.METADATA, "metadata")
    equal(adapter.problems, [], "problems")
    keys = suite.json("keys", path)["tensors"]
    equal([{k: row[k] for k in keys[0]} for row in adapter.tensors], keys,
          "tensors")
    hashes = suite.json("hash", "--all", path)["hashes"]
    equal({k: v for k, v in liblora.hashes(path).items() if v},
          {k: v for k, v in hashes.items() if v}, "hashes")
    raises(FileNotFoundError, liblora.hashes, suite.path("none"))


RESIZES = [
    ({"rank": 3}, ["--rank", 3]),
    ({"energy": 0.9}, ["--energy", 0.9]),
    ({"ratio": 2}, ["--ratio", 2]),
    ({"threshold": 5.0}, ["--threshold", 5]),
    ({"cumulative": 0.7}, ["--cumulative", 0.7]),
    ({"effective": True}, ["--effective"]),
    ({"knee": True}, ["--knee"]),
    ({"size": 20000}, ["--size", 20000]),
    ({"size": 20000, "conv_rank": 1}, ["--size", 20000, "--conv-rank", 1]),
    ({"global_threshold": 5.0}, ["--global-threshold", 5]),
    ({"energy": 0.5, "count": "kohya"}, ["--energy", 0.5, "--kohya-count"]),
    ({"cumulative": 0.7, "count": "lycoris", "split": "up"},
     ["--cumulative", 0.7, "--lycoris-count", "--split", "up"]),
    ({"rank": 3, "conv_rank": 2}, ["--rank", 3, "--conv-rank", 2]),
    ({"conv_rank": 2}, ["--conv-rank", 2]),
    ({"energy": 0.99, "max_rank": 4, "min_rank": 2},
     ["--energy", 0.99, "--max-rank", 4, "--min-rank", 2]),
    ({"module_rank": {"*proj_in": 1, "*conv?": 2}},
     ["--module-rank", "*proj_in=1", "--module-rank", "*conv?=2"]),
    ({"rank": 7, "pad": True, "dtype": "bf16"},
     ["--rank", 7, "--pad", "--dtype", "bf16"]),
]


def try_resize(path, tensors):
    adapter = liblora.open(path)
    once = liblora.open(path)
    spectra = once.spectra()
    once.close()
    for ours, options in RESIZES:
        out = suite.path("resized.safetensors")
        report = suite.json("resize", path, "-o", out, "--force", "--quiet",
                            "--backend", "builtin", *options)
        small = adapter.resize(**ours)
        same(small.to_bytes(), out.read_bytes(), f"resize {ours}")
        same(spectra.resize(**ours).to_bytes(), out.read_bytes(),
             f"resize {ours} from spectra")
        equal([(m["name"], m["rank_in"], m["rank_out"])
               for m in small.report.modules],
              [(m["name"], m["rank_in"], m["rank_out"])
               for m in report["modules"]], f"report of {ours}")
        require(all(abs(got - want) <= 1e-11 * want
                    for ours_, theirs in zip(small.report.modules,
                                             report["modules"])
                    for got, want in zip(ours_["sigma"], theirs["sigma"],
                                         strict=True)), f"spectra of {ours}")
        equal(small.report.to_dict()["modules"], report["modules"], "json")
    require(adapter.report is None, "no report of an opened file")
    raises(liblora.ArgumentError, adapter.resize)
    raises(liblora.ArgumentError, adapter.resize, rank=3, energy=0.5)
    raises(liblora.ArgumentError, adapter.resize, rank=3, count="mine")
    raises(liblora.RangeError, adapter.resize, size=1000)
    raises(liblora.ArgumentError, adapter.resize, global_threshold=1.0,
           conv_rank=2)
    raises(liblora.RangeError, adapter.resize, rank=0)
    raises(liblora.RangeError, adapter.resize, rank=2, conv_rank=0)
    core = suite.path("core.safetensors")
    support.write_file(core, {
        "lora_unet_a.lora_up.weight": support.tensor(np.eye(3, 2)),
        "lora_unet_a.lora_mid.weight": support.tensor(np.ones((2, 2, 1, 3))),
        "lora_unet_a.lora_down.weight": support.tensor(np.eye(2, 4))})
    for keep in (False, True):
        small = liblora.open(core).resize(rank=1, keep_core=keep)
        equal(small.modules[0]["tucker"], keep, "core")
    raises(TypeError, adapter.resize, nothing=3)
    raises(TypeError, spectra.resize, nothing=3)
    raises(liblora.RangeError, spectra.resize, rank=0)
    equal(spectra.resize(rank=1).report.modules[0]["rank_out"], 1, "rank")


def try_convert_and_save(path, tensors):
    adapter = liblora.open(path)
    for dialect, dtype, more in (("diffusers", "f16", []), (None, "bf16", []),
                                 ("peft", None, []),
                                 ("keep", "f32", ["--bake-alpha"])):
        out, mine = suite.path("program.safetensors"), suite.path("mine")
        suite.run("convert", path, "-o", out, "--force", "--quiet",
                  *(["--dialect", dialect] if dialect else []),
                  *(["--dtype", dtype] if dtype else []), *more)
        other = adapter.convert(dialect=dialect, dtype=dtype,
                                bake_alpha=bool(more))
        same(other.to_bytes(), out.read_bytes(), f"{dialect} {dtype}")
        other.save(mine, overwrite=True)
        same(mine.read_bytes(), out.read_bytes(), "save to a path")
        if not more:
            adapter.save(str(mine), dialect=dialect, dtype=dtype,
                         overwrite=True)
            same(mine.read_bytes(), out.read_bytes(), "save and convert")
        stream = io.BytesIO()
        other.save(stream)
        same(stream.getvalue(), out.read_bytes(), "save to a file object")
    suite.run("convert", path, "-o", out, "--force", "--quiet", "--as", "lokr",
              "--rank", 2, "--factor", 4)
    lokr = adapter.to_lokr(factor=4, rank=2)
    same(lokr.to_bytes(), out.read_bytes(), "LoKr")
    require(all(0 <= row["energy"] <= 1 for row in lokr.report.modules),
            "report")
    error = raises(FileExistsError, adapter.save, mine)
    equal(error.filename, str(mine), "what exists")
    raises(liblora.ArgumentError, adapter.convert, dialect="latin")
    raises(liblora.KeyMatchError, liblora.open(plain_file()).resize, rank=1)


def plain_file():
    path = suite.path("plain.safetensors")
    support.write_file(path, {"x": support.tensor(np.zeros(3))})
    return path


def try_save_delta(path, tensors):
    adapter = liblora.open(path)
    for ours, options in (({}, []), ({"strength": 0.5, "dtype": "f64"},
                                     ["--strength", 0.5, "--dtype", "f64"]),
                          ({"canonical": True}, ["--names", "canonical"])):
        out, mine = suite.path("delta.safetensors"), suite.path("mine.delta")
        suite.run("delta", path, "-o", out, "--force", "--quiet", *options)
        adapter.save_delta(mine, overwrite=True, **ours)
        same(mine.read_bytes(), out.read_bytes(), f"delta {ours}")
    raises(FileExistsError, adapter.save_delta, mine)


def try_check(path, tensors):
    bad = dict(tensors)
    bad[LINEAR + KOHYA["up"]] = support.tensor(np.full((48, 8), np.nan))
    del bad[NARROW + KOHYA["down"]]
    broken = suite.path("broken.safetensors")
    support.write_file(broken, bad)
    for file, code, good in ((path, 0, True), (broken, 4, False)):
        report = liblora.open(file).check()
        expected = suite.json("check", file, code=code)["problems"]
        equal([{k: p[k] for k in ("code", "severity", "subject", "message")}
               for p in report.problems], expected, "problems")
        equal(report.good, good, "good")
    adapter = liblora.open(broken)
    require(len(adapter.problems) == 1, f"problems: {adapter.problems}")
    raises(liblora.KeyMatchError, adapter.delta, NARROW)
    up = LINEAR + KOHYA["up"]
    support.write_file(broken, {**tensors, up: bad[up]})
    raises(liblora.NonFiniteError, liblora.open(broken).convert, dtype="f16")
    raises(liblora.ArgumentError, adapter.check, family="none")


def try_strength(path, tensors):
    """The same as the program, which has its own tests."""
    out = suite.path("weaker.safetensors")
    adapter = liblora.open(path)
    for ours, weight, drops in (
            ({"strength": 0.7}, ":0.7", []),
            ({"strength": -0.5, "te_strength": 2.0}, ":-0.5:2", []),
            ({"drop": ["*attn1*"]}, "", ["*attn1*"]),
            ({"drop": ["*attn2*"], "strength": 2}, ":2",
             ["*attn2*"])):
        suite.run("convert", f"{path}{weight}", "-o", out, "--force",
                  *(o for d in drops for o in ("--drop", d)))
        same(adapter.convert(**ours).to_bytes(), out.read_bytes(), f"{ours}")
    raises(liblora.KeyMatchError, adapter.convert, drop=["nobody"])
    raises(liblora.KeyMatchError, adapter.convert, strength=0)


def try_embeddings(path, tensors):
    """The same as the program, which has its own tests; and the numbers."""
    cat = support.tensor(np.arange(1536.0).reshape(2, 768) / 1024)
    alone, out = suite.path("cat.safetensors"), suite.path("with.safetensors")
    support.write_file(alone, {"<cat>": cat, "<dog>": support.tensor(np.ones(768))})
    file, adapter = liblora.open(alone), liblora.open(path)
    equal(file.embeddings,
          suite.json("embed", "list", alone)["embeddings"], "the list")
    for dtype, kind in NUMPY.items():
        got = file.embedding("<cat>", "clip_l", dtype=dtype)
        require(got.dtype == kind and np.array_equal(got, cat.array()),
                f"vectors in {dtype}")
    equal(file.embedding("<dog>").shape, (1, 768), "one vector")
    raises(liblora.KeyMatchError, file.embedding, "<cat>", "t5")
    for ours, args in (({}, []), ({"form": "emb_params"},
                                  ["--form", "emb_params"]),
                       ({"token": "sks"}, ["--token", "sks"])):
        suite.run("embed", "extract", alone, "<cat>", "-o", out, "--force",
                  *args)
        same(file.extract_embeddings("<cat>", **ours).to_bytes(),
             out.read_bytes(), f"{ours}")
    half = file.extract_embeddings("<cat>", dtype="f16")
    equal(half.embeddings[0]["dtype"], "F16", "dtype")
    suite.run("embed", "extract", alone, "<cat>", "-o", out, "--force")
    suite.run("embed", "insert", path, out, "-o", suite.path("both"),
              "--family", "sd15", "--force")
    held = liblora.open(bytearray(out.read_bytes()))
    both = adapter.insert_embeddings(held, family="sd15")
    del held  # the result keeps the memory it reads from
    same(both.to_bytes(), suite.path("both").read_bytes(), "insert")
    raises(liblora.DuplicateError, both.insert_embeddings, file)
    equal(len(both.insert_embeddings(file, replace=True).embeddings), 2,
          "replaced")
    raises(liblora.ShapeError, adapter.insert_embeddings, file, family="sd21")
    same(both.remove_embeddings("<cat>").to_bytes(), adapter.to_bytes(),
         "removed")
    raises(liblora.KeyMatchError, adapter.remove_embeddings)


def try_fix(path, tensors):
    """The same as the program, which has its own tests."""
    bad = {"module." + n if n.startswith("unet.") else n: t
           for n, t in tensors.items()}
    bad[LINEAR + KOHYA["alpha"]] = support.tensor(-1.5)
    del bad[NARROW + KOHYA["down"]]
    broken, out = suite.path("broken.safetensors"), suite.path("fixed")
    support.write_file(broken, bad, {"ss_network_dim": "77"})
    for skip, code in ((False, 4), (True, 0)):
        fixed = liblora.open(broken).fix(skip_bad=skip)
        expected = suite.json("check", "--fix", broken, "-o", out, "--force",
                              *["--skip-bad"] * skip, code=code)
        same(fixed.to_bytes(), out.read_bytes(), f"skip_bad={skip}")
        equal(fixed.report.fixes, expected["fixes"], "fixes")
        equal([p["message"] for p in fixed.report.problems],
              [p["message"] for p in expected["problems"]], "problems")
        equal(fixed.report.good, skip, "good")
        require(len(fixed.report.fixes) >= 2, f"{fixed.report.fixes}")
    raises(liblora.ArgumentError, fixed.fix, family="none")


def try_edit_metadata(path, tensors):
    copy = suite.path("edited.safetensors")
    copy.write_bytes(path.read_bytes())
    done = liblora.edit_metadata(
        copy, {"new": "1", "note": None, "ss_*": None}, dry_run=True)
    equal((done["added"], done["removed"]), (1, 2), "a dry run")
    same(copy.read_bytes(), path.read_bytes(), "is dry")
    liblora.edit_metadata(copy, {"new": "ü"}, room=1000)
    done = liblora.edit_metadata(copy, {"new": "u"})
    equal((done["replaced"], done["in_place"]), (1, True), "in place")
    require(done["room_bytes"] >= 1000, "room")
    after, metadata = support.read_file(copy)
    equal(metadata, {**bindinglib.METADATA, "new": "u"}, "metadata")
    require(all(after[n].same(t) for n, t in tensors.items()), "tensors")
    raises(FileExistsError, liblora.edit_metadata, path, {"a": "b"},
           output=copy)


# Opening --------------------------------------------------------------------

class Pipe(io.RawIOBase):
    """Readable, not seekable."""

    def __init__(self, data):
        super().__init__()
        self.data = io.BytesIO(data)

    def readable(self):
        return True

    def read(self, count=-1):
        return self.data.read(count)

    seek = property()


def sources(path, data):
    """What can be opened."""
    yield str(path)
    yield path
    yield data
    yield bytearray(data)
    yield memoryview(data)
    yield np.frombuffer(data, "u1")
    yield array.array("B", data)
    yield io.BytesIO(data)
    yield Pipe(data)
    with open(path, "rb") as file:
        yield file
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            yield mapped


def try_sources(path, tensors):
    expected = liblora.open(path).delta(CONVOLUTION)
    data = path.read_bytes()
    for source in sources(path, data):
        with liblora.open(source) as adapter:
            what = f"from {type(source).__name__}"
            require(np.array_equal(adapter.delta(CONVOLUTION), expected), what)
            same(adapter.to_bytes(), data, what)
        raises(liblora.StateError, adapter.delta, CONVOLUTION)
        require("closed" in repr(adapter), repr(adapter))
        del adapter, source
    empty = suite.path("empty")
    empty.mkdir()
    raises(liblora.FileError, liblora.open, empty)
    raises(liblora.ArgumentError, liblora.open, "a\0b")
    raises(TypeError, liblora.open, 3)
    raises(TypeError, liblora.open, io.StringIO("text" * 9))


def try_views(path, tensors):
    key = LINEAR + KOHYA["up"]
    stored = tensors[key]
    for source, more in ((path, {"map": True}), (path.read_bytes(), {})):
        adapter = liblora.open(source, **more)
        view = adapter.tensor(key, copy=False)
        same(view.tobytes(), stored.data, "view")
        require(not view.flags.writeable, "views are read-only")
        raises(liblora.ArgumentError, adapter.tensor, key, "f16", copy=False)
        for name, view in adapter.load(copy=False).items():
            same(view.tobytes(), tensors[name].data, name)
        view = adapter.load(copy=False)[key]
        adapter.close()
        del adapter, source
        same(view.tobytes(), stored.data, "a view outlives its adapter")
    adapter = liblora.open(io.BytesIO(path.read_bytes()))
    raises(liblora.StateError, adapter.tensor, key, copy=False)


def try_peft_folder(path, tensors):
    """alpha is in the configuration beside the tensors."""
    folder = suite.path("peft")
    folder.mkdir()
    rng = np.random.default_rng(7)
    layer = "base_model.model.down_blocks.0.attentions.0.proj_in.lora_"
    up, down = rng.standard_normal((8, 2)), rng.standard_normal((2, 8))
    support.write_file(folder / "adapter_model.safetensors",
                       {layer + "A.weight": support.tensor(down),
                        layer + "B.weight": support.tensor(up)})
    product = (up.astype("f4").astype("f8") @ down.astype("f4"))
    (folder / "adapter_config.json").write_text(
        json.dumps({"r": 2, "lora_alpha": 6}), "utf-8")
    other = suite.path("other.json")
    other.write_text(json.dumps({"r": 2, "lora_alpha": 1}), "utf-8")
    for config, scale in ((None, 3), (other, 0.5),
                          ({"r": 2, "lora_alpha": 8}, 4)):
        adapter = liblora.open(folder, config=config)
        name = adapter.modules[0]["name"]
        close(adapter.delta(name, dtype="f64"), scale * product, 1e-12, name)
    raises(FileNotFoundError, liblora.open, folder, config="none.json")


def try_folders(path, tensors):
    """Several files with an index, in a folder with a model card; the same
    numbers as from one file."""
    folder = suite.path("shards")
    folder.mkdir()
    names = sorted(tensors)
    files = [f"x-{i}-of-2.safetensors" for i in (1, 2)]
    for i, file in enumerate(files):
        support.write_file(folder / file,
                           {name: tensors[name] for name in names[i::2]})
    raises(liblora.DuplicateError, liblora.open, folder)
    index = folder / "x.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {
        name: files[names.index(name) % 2] for name in names}}), "utf-8")
    (folder / "README.md").write_text("---\nbase_model: org/name\n---\n",
                                      "utf-8")
    whole = liblora.open(path)
    for source in (folder, str(folder), index):
        adapter = liblora.open(source, map=True)
        equal(sorted(adapter.keys()), names, "names")
        for name in names:
            same(adapter.tensor(name, copy=False).tobytes(),
                 tensors[name].data, name)
        for module in whole.modules:
            same(adapter.delta(module["name"]), whole.delta(module["name"]),
                 module["name"])
        equal(adapter.info()["summary"]["card"]["base_model"], "org/name",
              "card")
    index.write_text(json.dumps({"weight_map": {"x": "../x.safetensors"}}),
                     "utf-8")
    raises(liblora.FormatError, liblora.open, folder)


def try_save_folder(path, tensors):
    """What PEFT loads: the same changes, and the same file from its names."""
    whole = liblora.open(path).convert(dialect="peft")
    there = suite.path("there")
    there.mkdir()
    for target in (str(suite.path("peft-out")) + "/", there):
        whole.save(target)
        folder = pathlib.Path(target)
        equal(sorted(os.listdir(folder)),
              ["adapter_config.json", "adapter_model.safetensors"], "files")
        same((folder / "adapter_model.safetensors").read_bytes(),
             bytes(whole.to_bytes()), "the tensors' file")
        adapter = liblora.open(folder)
        for module in whole.modules:
            same(adapter.delta(module["name"]), whole.delta(module["name"]),
                 module["name"])
        raises(liblora.FileError, whole.save, target)
        whole.save(target, overwrite=True)
    raises(liblora.LoraError, liblora.open(path).save, there, overwrite=True)


# Building -------------------------------------------------------------------

class DLPackOnly:
    """An array that has DLPack and nothing else, as torch's tensors."""

    def __init__(self, array_, device=1):
        self.array, self.device = array_, device

    def __dlpack__(self, stream=None):
        return self.array.__dlpack__()

    def __dlpack_device__(self):
        return self.device, 0


def builder_inputs():
    """(what is added, options, expected type, bytes and shape)"""
    ramp = np.arange(6).reshape(2, 3)
    for name, kind in (("F32", "f4"), ("F64", "f8"), ("F16", "f2"),
                       ("I64", "i8"), ("U64", "u8"), ("I32", "i4"),
                       ("U32", "u4"), ("I16", "i2"), ("U16", "u2"),
                       ("I8", "i1"), ("U8", "u1"), ("BOOL", "?")):
        values = ramp.astype(kind)
        yield values, {}, name, values
        if kind != "?":  # numpy 1 exports no bool
            yield DLPackOnly(values), {}, name, values
    floats = ramp.astype("f4")
    yield floats.T, {}, "F32", np.ascontiguousarray(floats.T)
    yield floats[:, ::2], {}, "F32", np.ascontiguousarray(floats[:, ::2])
    yield np.zeros((0, 3), "f4"), {}, "F32", np.zeros((0, 3), "f4")
    yield np.float32(2.5), {}, "F32", np.float32(2.5)
    yield 4.0, {}, "F32", np.float32(4)
    yield 8, {}, "F32", np.float32(8)
    yield array.array("d", [1, 2]), {}, "F64", np.array([1.0, 2.0])
    yield memoryview(floats), {}, "F32", floats
    read_only = floats.copy()
    read_only.flags.writeable = False
    yield read_only, {}, "F32", floats
    bits = support.round_bf16(floats)
    yield (bits.tobytes(), {"dtype": "BF16", "shape": (2, 3)}, "BF16",
           bits.reshape(2, 3))
    yield (bits.reshape(2, 3), {"dtype": "bfloat16"}, "BF16",
           bits.reshape(2, 3))


def try_builder(path, tensors):
    for thing, options, dtype, expected in builder_inputs():
        builder = liblora.Builder()
        builder.add("x", thing, **options)
        adapter = builder.finish()
        row, = adapter.tensors
        what = f"{type(thing).__name__} as {dtype}"
        equal((row["dtype"], tuple(row["shape"])),
              (dtype, np.shape(expected)), what)
        data = adapter.tensor("x")
        same(data.tobytes(), expected.tobytes(), what)
    builder = liblora.Builder()
    builder.add("x", 1.0)
    raises(liblora.DuplicateError, builder.add, "x", 1.0)
    raises(liblora.KeyMatchError, builder.remove, "y")
    raises(liblora.ShapeError, builder.add, "y", 1.0, shape=(2,))
    raises(liblora.ShapeError, builder.add, "y", np.zeros((1,) * 9))
    raises(liblora.DTypeError, builder.add, "y", np.zeros(2, ">f4"))
    raises(liblora.DTypeError, builder.add, "y", np.zeros(2, "c16"))
    raises(liblora.ArgumentError, builder.add, "y", "text")
    raises(liblora.ArgumentError, builder.add, "y", object())
    raises(liblora.ArgumentError, builder.add, "a\0b", 1.0)
    raises(liblora.UnsupportedError, builder.add, "y",
           DLPackOnly(np.zeros(2), device=2))
    raises(liblora.ShapeError, builder.add, "y",
           DLPackOnly(np.zeros((2, 4))[:, ::2]))


def try_special_types(path, tensors):
    """What ml_dtypes adds to numpy goes in and comes out."""
    try:
        import ml_dtypes
    except ImportError:
        support.skip("needs ml_dtypes")
    for name in ("bfloat16", "float8_e4m3fn", "float8_e5m2"):
        values = np.arange(4).astype(getattr(ml_dtypes, name))
        builder = liblora.Builder()
        builder.add("x", values)
        got = builder.finish().tensor("x")
        equal((got.dtype, got.tobytes()), (values.dtype, values.tobytes()),
              name)


def try_editing(path, tensors):
    adapter = liblora.open(path)
    builder = liblora.Builder(adapter)
    for role in KOHYA.values():
        if LINEAR + role in tensors:
            builder.remove(LINEAR + role)
    builder.add("extra", 1.0)
    builder.set_metadata("note", None)
    builder.set_metadata("more", "x")
    edited = builder.finish()
    equal(len(edited.modules), len(adapter.modules) - 1, "modules")
    equal(edited.metadata, {"ss_base_model_version": "sd_v1-5", "more": "x"},
          "metadata")
    require(np.array_equal(edited.delta(PROJECTION),
                           adapter.delta(PROJECTION)), "the rest is the same")
    renamed = adapter.with_metadata({"note": "n",
                                     "ss_base_model_version": None})
    equal(renamed.metadata, {"note": "n"}, "with_metadata")
    builder = liblora.Builder(adapter)
    builder.clear_metadata()
    equal(builder.finish().metadata, {}, "clear_metadata")


# Errors ---------------------------------------------------------------------

def try_every_status():
    """Each status has an exception of its own, that pickles."""
    codes = [value for name, value in vars(_ffi).items()
             if name.startswith("LORA_ERROR_")]
    require(len(codes) > 15, "statuses")
    equal(set(_errors.BY_STATUS), set(codes), "statuses that are mapped")
    kinds = collections.Counter(_errors.BY_STATUS.values())
    equal(max(kinds.values()), 1, "statuses that share an exception")
    for code in (*codes, -7777):
        record = _ffi.lora_error(
            status=code, os_error=2, offset=17, subject=b"subj\xc3",
            message=b"what")
        for error in (_errors.from_record(code, record),
                      pickle.loads(pickle.dumps(
                          _errors.from_record(code, record)))):
            require(isinstance(error, _errors.BY_STATUS.get(
                code, liblora.LoraError)), f"{code}: {type(error)}")
            equal((error.status, error.subject, error.offset, error.message),
                  (code, "subj\ufffd", 17, "what"), "attributes")
            require("what" in str(error) and "17" in str(error), str(error))
        record.offset = _ffi.LORA_NO_OFFSET
        equal(_errors.from_record(code, record).offset, None, "no offset")
        public = type(_errors.make(code, "x")).__name__
        require(hasattr(liblora, public), f"{public} is public")
    error = _errors.make(_ffi.LORA_ERROR_IO, "x", "file", os_error=2)
    require(isinstance(error, FileNotFoundError) and error.errno == 2 and
            error.filename == "file", repr(error))


def try_provoked(path, tensors):
    """Errors that come out of C, and what Python calls them."""
    data = path.read_bytes()
    error = raises(liblora.TruncatedError, liblora.open, data[:-1])
    require(error.offset is not None, "offset of truncation")
    require(isinstance(error, (ValueError, liblora.FormatError)), "kin")
    raises(liblora.FormatError, liblora.open, b"\x04" + bytes(7) + b"text")
    raises(FileNotFoundError, liblora.open, suite.path("none"))
    raises(KeyError, liblora.open(path).delta, "none")
    raises(MemoryError, liblora.open, path, context=liblora.Context(memory=99))
    raises(liblora.LimitError, liblora.open, path,
           context=liblora.Context(limits={"tensor_count": 2}))
    raises(TypeError, liblora.Context, limits={"tensors": 2})
    raises(liblora.ArgumentError, liblora.Context, backend="gpu")
    raises(liblora.ArgumentError, liblora.Context, disable_cpu=["fpu"])
    raises(liblora.ArgumentError, liblora.open, path, progress=True,
           context=liblora.Context())


# The rest -------------------------------------------------------------------

def try_library(path, tensors):
    """Which library is loaded, and which is refused."""
    equal(liblora.library_version(), liblora.__version__, "version")
    require(liblora.library_version() in liblora.build_info(), "build info")
    equal((liblora.supports("threads"), liblora.supports("none")),
          (True, False), "supports")
    for theirs, ours, good in (
            (1000, 1000, True), (1007, 1000, True), (1000, 1007, True),
            (2000, 1000, False), (1001000, 1000, False),
            (1002000, 1001003, True), (1001000, 1001003, True),
            (1000000, 1001003, False), (2001003, 1001003, False)):
        equal(_library.fits(theirs, ours), good, f"{theirs} for {ours}")
    text = ("import sys\ntry:\n    import liblora\n"
            "except ImportError as error:\n    print(error)\n"
            "else:\n    sys.exit(1)\n")
    for wrong, said in (("/none/liblora.so", "LORA_LIBRARY"),
                        ("libm.so.6", "lora_version_number")):
        out = bindinglib.run_python(
            suite, text, env={**os.environ, "LORA_LIBRARY": wrong})
        require(said in out, out)


def try_showing(path, tensors):
    adapter = liblora.open(path)
    for thing in (adapter, adapter.check(), adapter.resize(rank=2).report,
                  liblora.Context()):
        require(repr(thing).startswith("<liblora."), repr(thing))
    require("adapter.safetensors" in adapter._repr_html_(), "file")
    builder = liblora.Builder()
    builder.add("<b>.lora_down.weight", np.zeros((1, 2), "f4"))
    html = builder.finish().check()._repr_html_()
    require("&lt;b&gt;" in html and "<b>" not in html, html)


def try_readme(path, tensors):
    """The example of the README runs."""
    text = (bindinglib.PACKAGE / "README.md").read_text("utf-8")
    code = text.split("```python\n")[1].split("```")[0]
    folder = suite.path("readme")
    folder.mkdir()
    (folder / "style.safetensors").write_bytes(path.read_bytes())
    bindinglib.run_python(suite, code, cwd=folder)
    after, _ = support.read_file(folder / "small.safetensors")
    equal({t.dtype for t in after.values()}, {"F16"}, "what it saved")


def try_examples(path, tensors):
    """They say what their originals in C say."""
    folder = support.ROOT / "examples"
    build = pathlib.Path(suite.args.build)
    compiler = bindinglib.have("cc")
    outs = {}
    for name, arguments in (("inspect", [path]),
                            ("resize_file", [path, "OUT", "3"])):
        program = suite.path(name)
        suite.run(f"-I{support.ROOT / 'include'}", folder / f"{name}.c",
                  f"-L{build.resolve()}", "-llora",
                  f"-Wl,-rpath,{build.resolve()}", "-o", program,
                  program=compiler)
        script = folder / "python" / (
            "inspect_file.py" if name == "inspect" else f"{name}.py")
        for which, command in (("c", [program]),
                               ("python", [sys.executable, "-B", script])):
            out = suite.path(f"{name}-{which}")
            full = [*command, *(out if a == "OUT" else a for a in arguments)]
            outs[name, which] = suite.run(*full[1:], program=full[0]).out
        equal(outs[name, "python"], outs[name, "c"], name)
        if out.exists():
            same(out.read_bytes(), suite.path(f"{name}-c").read_bytes(), name)
        suite.run("-B", script, code=2, program=sys.executable)
        bad = ["none", "none2", "3"][:len(arguments)]
        suite.run("-B", script, *bad, code=1, program=sys.executable)


def main():
    path, tensors = bindinglib.write_adapter(suite)
    with suite.case("try_every_status"):
        try_every_status()
    for attempt in (try_delta, try_out, try_factors, try_tensors,
                    try_descriptions, try_resize, try_convert_and_save,
                    try_save_delta, try_check, try_embeddings, try_fix, try_strength,
                    try_edit_metadata, try_sources, try_views,
                    try_peft_folder, try_folders, try_save_folder,
                    try_builder, try_special_types,
                    try_editing, try_provoked, try_library, try_showing,
                    try_readme, try_examples):
        with suite.case(attempt.__name__):
            attempt(path, tensors)
    sys.exit(suite.finish())


main()
