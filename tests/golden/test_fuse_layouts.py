"""Fusing across layouts: an adapter in kohya's, diffusers' or the authors'
names gives the same weights in a checkpoint as its authors lay it out, in one
file, and as diffusers does, in a folder: for every family of the packed
catalogues, with q, k and v in one weight or in three, halves that change
places, and weights that one of the two stores transposed.

Layers have the names and parts of the real ones, and a few rows and columns.
Numbers are judged as fusing.py says, each where its layout has it.
"""

import csv
import io
import math
import pathlib
import sys

import numpy as np

sys.dont_write_bytecode = True
HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import fusing  # noqa: E402
import support  # noqa: E402
from fusing import Module, fuse, fused  # noqa: E402
from support import equal, require, tensor  # noqa: E402

PREFIX = "model.diffusion_model."
COLUMNS = 6
UNIT_ROWS = 2

# the catalogues' component: (diffusers' folder, the file in it)
FOLDERS = {"unet": ("unet", "diffusion_pytorch_model"),
           "transformer": ("transformer", "diffusion_pytorch_model"),
           "prior": ("prior", "diffusion_pytorch_model"),
           "te1": ("text_encoder", "model"),
           "te2": ("text_encoder_2", "model"),
           "te3": ("text_encoder_3", "model")}


def slices_of(part):
    """([(first row, end)], rows of the whole) of a row of the catalogue."""
    spans, _, whole = part.partition("/")
    return ([tuple(map(int, span.split(":"))) for span in spans.split(",")],
            int(whole))


class Original:
    """A weight as the authors have it, with a pair for all of it."""

    def __init__(self, rng, rows):
        self.rows = rows
        parts = [row["part"] for row in rows]
        self.turned = parts == ["T"]
        shape = [int(n) for n in rows[0]["shape"].split("x")]
        if self.turned or parts == ["-"]:
            self.unit, count = 1, 4
        else:
            ends = [n for part in parts for n in (
                slices_of(part)[1], *sum(slices_of(part)[0], ()))]
            self.unit = math.gcd(*ends)
            count = UNIT_ROWS * (ends[0] // self.unit)
        self.shape = (count, COLUMNS, *shape[2:])
        self.weight = rng.standard_normal(self.shape).astype("f4")
        self.module = Module(rng, self.shape, rank=2)

    def order(self, row):
        """The rows that a target has, in its order."""
        if row["part"] == "-":
            return np.arange(self.shape[0])
        scale = UNIT_ROWS / self.unit
        return np.concatenate([
            np.arange(round(a * scale), round(b * scale))
            for a, b in slices_of(row["part"])[0]])

    def target(self, row):
        """(weight, module) of a layer of diffusers."""
        if not self.turned:
            order = self.order(row)
            return self.weight[order], self.module.part(order)
        return self.weight.T.copy(), self.module.transposed()


class Family:
    def __init__(self, text, seed):
        rng = np.random.default_rng(seed)
        self.rows = [row for row in csv.DictReader(io.StringIO(text),
                                                   delimiter="\t")
                     if row["original"] != "-"]
        groups = {}
        for row in self.rows:
            groups.setdefault(row["original"], []).append(row)
        self.originals = {name: Original(rng, rows)
                          for name, rows in groups.items()}
        self.targets = {
            (row["component"], row["diffusers"]):
            self.originals[row["original"]].target(row) for row in self.rows}
        self.main = self.rows[0]["component"]

    def is_main(self, original):
        return self.originals[original].rows[0]["component"] == self.main

    # Checkpoints: (path, {(file, tensor): (weight, module)})

    def write_original(self, suite, bare):
        """All in one file; bare: the model alone, without a prefix."""
        path = suite.path("bare.safetensors" if bare else "one.safetensors")
        tensors = {name.removeprefix(PREFIX) if bare else name: o
                   for name, o in self.originals.items()
                   if not bare or self.is_main(name)}
        support.write_file(path, {name: tensor(o.weight)
                                  for name, o in tensors.items()})
        return path, {("", name): (o.weight, o.module)
                      for name, o in tensors.items()}

    def write_folder(self, suite):
        path, expected, files = suite.path("pipeline"), {}, {}
        for row in self.rows:
            folder, stem = FOLDERS[row["component"]]
            file = f"{folder}/{stem}.safetensors"
            name = row["diffusers"]
            name += "" if row["kind"] == "param" else ".weight"
            expected[file, name] = self.targets[row["component"],
                                                row["diffusers"]]
            files.setdefault(file, {})[name] = tensor(expected[file, name][0])
        for file, tensors in files.items():
            (path / file).parent.mkdir(parents=True)
            support.write_file(path / file, tensors)
        return path, expected

    # Adapters: {module: Module}, style

    def in_diffusers(self):
        return {f"{FOLDERS[row['component']][0]}.{row['diffusers']}":
                self.targets[row["component"], row["diffusers"]][1]
                for row in self.rows if row["kind"] != "param"}, "peft"

    def in_kohya(self):
        """Names are of the authors' weights, or of diffusers' layers, which are
        the same in text encoders and where no trainer knows the former."""
        modules = {}
        for row in self.rows:
            if row["kind"] == "param":
                continue
            original = self.originals[row["original"]]
            flat = row["diffusers"].replace(".", "_")
            modules[row["kohya"]] = original.module if not row[
                "kohya"].endswith(flat) else self.targets[
                    row["component"], row["diffusers"]][1]
        return modules, "kohya"

    def in_original(self):
        """The model's own names, behind diffusion_model."""
        return {"diffusion_model." + name.removeprefix(PREFIX)
                .removesuffix(".weight"): o.module
                for name, o in self.originals.items()
                if self.is_main(name) and name.endswith(".weight")}, "peft"


def read(out, file):
    return support.read_file(out / file if file else out)[0]


def check(suite, checkpoint, names):
    path, expected = checkpoint
    modules, style = names
    there = {id(module.origin) for _, module in expected.values()}
    modules = {n: m for n, m in modules.items() if id(m.origin) in there}
    adapter = fusing.write_adapter(suite.path("adapter.safetensors"), modules,
                                   style)
    out = fuse(suite, path, [f"{adapter}:0.75"], "--strict",
               out="out" if path.is_dir() else "fused.safetensors")
    files = {file: read(out, file) for file, _ in expected}
    used = {id(m.origin) for m in modules.values()}
    for (file, name), (weight, module) in expected.items():
        if id(module.origin) not in used:
            require(files[file][name].same(tensor(weight)), f"{name} changed")
            continue
        fusing.check(files[file][name], *fused(
            weight.astype(np.float64), (module, 0.75)), f"{file} {name}")
    equal(sum(len(f) for f in files.values()), len(expected), "tensors")


def main():
    suite = support.Suite(__doc__.splitlines()[0])
    folder, names = suite.unpack("targets")
    for seed, name in enumerate(names):
        family = Family((folder / f"{name}.tsv").read_text("utf-8"), seed)
        checkpoints = {
            "one file": family.write_original(suite, False),
            "the model alone": family.write_original(suite, True),
            "diffusers": family.write_folder(suite)}
        for what, adapter in (("kohya", family.in_kohya()),
                              ("diffusers", family.in_diffusers()),
                              ("the authors", family.in_original())):
            for layout, checkpoint in checkpoints.items():
                with suite.case(f"{name}: names of {what}, {layout}"):
                    check(suite, checkpoint, adapter)
        for path, _ in checkpoints.values():
            fusing.remove(path)
    return suite.finish()


if __name__ == "__main__":
    sys.exit(main())
