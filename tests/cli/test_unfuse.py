#!/usr/bin/env python3
"""lora unfuse, with models fused by numpy and undo files written by hand: the
bytes of before come back; what does not fit ends with 4, what is damaged with
3, and neither leaves a file.
"""

import hashlib
import json
import pathlib
import struct
import sys

import numpy as np

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import support  # noqa: E402
import undos  # noqa: E402
from support import FAILED, USAGE, equal, require, tensor  # noqa: E402

INPUT, MISMATCH = 3, 4
ROWS, COLUMNS, RANK = 12, 20, 2
MODULES = ("blocks.0.a", "blocks.0.b")


def make_adapter(suite, name, seed):
    """(path, dW): small whole numbers, whose products and sums are exact in any
    order, and powers of two make them small."""
    rng = np.random.default_rng(seed)
    tensors, changes = {}, {}
    for module in MODULES:
        down = rng.integers(-3, 4, (RANK, COLUMNS)) / 64
        up = rng.integers(-3, 4, (ROWS, RANK)) / 64
        tensors[f"{module}.lora_A.weight"] = tensor(down)
        tensors[f"{module}.lora_B.weight"] = tensor(up)
        changes[module] = (up @ down).astype("f4")
    path = suite.path(name)
    support.write_file(path, tensors)
    return path, changes


def half(array):
    return tensor(array, "F16")


def make_models(suite, strength=1.0):
    """Paths of the model and the fused one, and what subtracting dW in f32 and
    rounding to f16 gives."""
    rng = np.random.default_rng(3)
    adapter, changes = make_adapter(suite, "style.safetensors", 1)
    before = {"x": tensor(rng.standard_normal(5))}
    after = dict(before)
    predicted = {}
    for module in MODULES:
        weight = (rng.standard_normal((ROWS, COLUMNS)) / 50).astype("f2")
        change = changes[module] * np.float32(strength)
        fused = (weight.astype("f4") + change).astype("f2")
        before[module + ".weight"] = half(weight)
        after[module + ".weight"] = half(fused)
        back = (fused.astype("f4") - change).astype("f2")
        predicted[module + ".weight"] = back.tobytes()
        require((back != weight).any(), "prediction that is never wrong")
    base, fused = suite.path("base.safetensors"), suite.path("f.safetensors")
    support.write_file(base, before, {"format": "pt"})
    support.write_file(fused, after, {"format": "pt"})
    return base, fused, adapter, predicted


def identity(adapter, strength):
    """What undo files have of an adapter: its content id, and the strengths of
    its modules."""
    tensors, _ = support.read_file(adapter)
    digest = hashlib.sha256()
    for name in sorted(tensors):
        t = tensors[name]
        shape = ",".join(map(str, t.shape))
        digest.update(f"{name}\0{t.dtype}\0{shape}\0".encode() + t.data)
    strengths = struct.pack("<d", strength) * len(MODULES)
    return (digest.hexdigest().encode() + hashlib.sha256(strengths).digest())


def try_raw(suite):
    base, fused, _, _ = make_models(suite)
    undo, out = suite.path("raw.undo"), suite.path("back.safetensors")
    undos.write(undo, [base], [fused])
    run = suite.json("unfuse", fused, "--undo", undo, "-o", out)
    equal(out.read_bytes(), base.read_bytes(), "the file of before")
    equal(run["written"], True, "written")
    equal(run["report"], {"mode": "raw", "files": 1,
                          "bytes": base.stat().st_size, "tensors": 3,
                          "restored": 2}, "report")
    suite.run("unfuse", fused, "--undo", undo, "-o", out, code=FAILED)
    suite.run("unfuse", fused, "--undo", undo, "-o", out, "--force")
    suite.run("unfuse", fused, "-o", out, "--force", code=USAGE)
    suite.run("unfuse", fused, "--undo", undo, code=USAGE)
    # Over the fused model.
    copy = suite.path("copy.safetensors")
    copy.write_bytes(fused.read_bytes())
    suite.run("unfuse", copy, "--undo", undo, "-o", copy, "--force")
    equal(copy.read_bytes(), base.read_bytes(), "in place")


def try_refused(suite):
    base, fused, _, _ = make_models(suite)
    undo, out = suite.path("raw.undo"), suite.path("no.safetensors")
    undos.write(undo, [base], [fused])
    run = suite.run("unfuse", base, "--undo", undo, "-o", out, code=MISMATCH)
    require("blocks.0." in run.err and "fusing left" in run.err, run.err)
    suite.run("unfuse", base, "--undo", undo, "--dry-run", code=MISMATCH)
    suite.run("unfuse", fused, "--undo", undo, "--dry-run")
    data = bytearray(undo.read_bytes())
    data[len(data) // 2] ^= 1
    broken = suite.path("broken.undo")
    broken.write_bytes(data)
    suite.run("unfuse", fused, "--undo", broken, "-o", out, code=INPUT)
    broken.write_bytes(data[:-1])
    suite.run("unfuse", fused, "--undo", broken, "-o", out, code=INPUT)
    suite.run("unfuse", fused, "--undo", base, "-o", out, code=INPUT)
    suite.run("unfuse", fused, "--undo", suite.path("none"), "-o", out,
              code=INPUT)
    suite.run("unfuse", fused, "--undo", undo, "-o", out, largest=512,
              code=FAILED)
    require(not out.exists(), "a file was left")
    require(not list(suite.folder.glob("*.tmp")), "a temporary was left")


def try_predict(suite):
    strength = 0.5
    base, fused, adapter, predicted = make_models(suite, strength)
    other, _ = make_adapter(suite, "other.safetensors", 2)
    undo, out = suite.path("small.undo"), suite.path("predict.safetensors")
    undos.write(undo, [base], [fused], predicted=predicted,
                adapters=[identity(adapter, strength)],
                packed=suite.json("version")["features"]["zlib"])
    run = suite.json("unfuse", fused, f"{adapter}:0.5", "--undo", undo, "-o",
                     out)
    equal(out.read_bytes(), base.read_bytes(), "the file of before")
    equal(run["report"]["mode"], "predict", "mode")
    out.unlink()
    for adapters in ([], [f"{adapter}:0.25"], [f"{other}:0.5"],
                     [f"{adapter}:0.5", f"{other}:0.5"]):
        suite.run("unfuse", fused, *adapters, "--undo", undo, "-o", out,
                  code=MISMATCH)
        require(not out.exists(), "a file was left")


def try_folder(suite):
    """Shards: to a folder, with the index as it was, however it is written."""
    base, fused, _, _ = make_models(suite)
    folders = {}
    for name, path in (("before", base), ("after", fused)):
        folder = folders[name] = suite.path(name)
        folder.mkdir()
        tensors, _ = support.read_file(path)
        parts = [{n: t for n, t in tensors.items() if (n == "x") == one}
                 for one in (False, True)]
        files = ["m-1.safetensors", "m-2.safetensors"]
        for file, part in zip(files, parts):
            support.write_file(folder / file, part)
        (folder / "m.safetensors.index.json").write_text(json.dumps({
            "metadata": {}, "weight_map": {
                n: f for f, part in zip(files, parts) for n in part}}))
    undo, out = suite.path("folder.undo"), suite.path("out")
    undos.write(undo, [folders["before"] / f for f in files],
                [folders["after"] / f for f in files], folder=True)
    suite.run("unfuse", folders["after"], "--undo", undo, "-o", out)
    for file in files:
        equal((out / file).read_bytes(),
              (folders["before"] / file).read_bytes(), file)
    suite.run("unfuse", folders["after"], "--undo", undo, "-o", out,
              code=FAILED)
    fresh = suite.path("fresh")
    suite.run("unfuse", folders["before"], "--undo", undo, "-o", fresh,
              code=MISMATCH)
    require(not fresh.exists(), "a folder was left")


def main():
    suite = support.Suite(__doc__.splitlines()[0])
    for attempt in (try_raw, try_refused, try_predict, try_folder):
        with suite.case(attempt.__name__):
            attempt(suite)
    return suite.finish()


if __name__ == "__main__":
    sys.exit(main())
