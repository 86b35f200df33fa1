"""`lora fuse` on inputs that do not fit, and outputs that are there: what is
refused and how it is said, with which exit code, and that nothing is written
then; what is told of adapters that fit in part.
"""

import os
import pathlib
import stat
import sys

import numpy as np

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import fusing  # noqa: E402
import models  # noqa: E402
import support  # noqa: E402
from fusing import Module  # noqa: E402
from support import (FAILED, MEMORY, MISMATCH, OK, UNREADABLE,  # noqa: E402
                     USAGE, equal, require, tensor)


class Inputs:
    """A small model in one file, and adapters for it."""

    def __init__(self, suite):
        self.suite = suite
        self.folder = suite.path("inputs")
        self.folder.mkdir()
        self.model = models.Model(width=16, context=12, blocks=2)
        self.base = self.model.write_single(self.folder / models.BASE,
                                            self.model.base, "F16")
        rng = np.random.default_rng(1)
        self.modules = {models.kohya(part, ours): Module(rng, shape)
                        for _, part, ours, shape in self.model.layers}
        self.adapter = self.write("adapter", self.modules)
        self.out = self.folder / "out.safetensors"
        self.before = self.listing()

    def write(self, name, modules, **more):
        return fusing.write_adapter(self.folder / f"{name}.safetensors",
                                    modules, **more)

    def listing(self):
        """All files, with their bytes."""
        return {path: path.read_bytes() for path in self.folder.rglob("*")
                if path.is_file()}

    def run(self, base, adapters, *more, **how):
        fusing.remove(self.out)
        return self.suite.run("fuse", base, *adapters, "-o", self.out, *more,
                              **how)

    def refuse(self, base, adapters, code, *words, more=()):
        """Refused, in one line, and no file is another than before."""
        fusing.remove(self.out)
        before = self.listing()
        run = self.run(base, adapters, *more, code=code)
        equal(self.listing() == before, True, "files")
        equal(run.out, "", "what goes to stdout")
        line, = (text for text in run.err.splitlines()
                 if text.startswith("lora fuse: "))
        for word in words:
            require(str(word) in run.err, f"no \"{word}\" in: {run.err}")
        return line


def some(inputs, count):
    return dict(list(inputs.modules.items())[:count])


# Keys and shapes ------------------------------------------------------------

def check_nothing(inputs):
    """Not one module has a weight in the model: always refused."""
    rng = np.random.default_rng(2)
    foreign = inputs.write("foreign", {
        "lora_unet_nothing_like_it": Module(rng, (8, 8))})
    for more in ((), ("--strict",), ("--quiet",)):
        inputs.refuse(inputs.base, [foreign], MISMATCH, foreign.name,
                      more=more)
    # One that fits does not hide one that does not.
    inputs.refuse(inputs.base, [inputs.adapter, foreign], MISMATCH,
                  foreign.name)


def check_other_base(inputs):
    """An adapter for another family: it is said which."""
    rng = np.random.default_rng(3)
    flux = inputs.write("flux", {
        f"lora_unet_double_blocks_{i}_img_attn_qkv": Module(rng, (24, 8))
        for i in range(3)})
    inputs.refuse(inputs.base, [flux], MISMATCH, "flux1_dev", "sd15")


def check_half(inputs):
    """What fits is fused, and each module that does not is named; refused when
    strict."""
    rng = np.random.default_rng(4)
    strange = {f"lora_unet_strange_{i}": Module(rng, (8, 8)) for i in range(3)}
    name, module = next(iter(inputs.modules.items()))
    wrong = Module(rng, (module.shape[0] + 1, *module.shape[1:]))
    half = inputs.write("half", {**inputs.modules, **strange, name: wrong})
    run = inputs.run(inputs.base, [half])
    for each in (*strange, name):
        require(each in run.err, f"no {each} in: {run.err}")
    for other in list(inputs.modules)[1:]:
        require(other not in run.err, f"{other} in: {run.err}")
    got = fusing.numbers(inputs.out)
    for theirs, part, ours, _ in inputs.model.layers:
        module = inputs.modules[models.kohya(part, ours)]
        old = tensor(inputs.model.base[theirs], "F16").array()
        same = np.array_equal(got[theirs + ".weight"], old)
        equal(same, models.kohya(part, ours) == name, f"{ours} is as before")
    inputs.refuse(inputs.base, [half], MISMATCH, more=["--strict"])
    # The words go to stderr, so that data stays readable.
    run = inputs.run(inputs.base, [half], "--json")
    run.json()


def check_shapes(inputs):
    """All of other shapes: nothing is bound."""
    rng = np.random.default_rng(5)
    wrong = {name: Module(rng, (m.shape[0] * 2, *m.shape[1:]))
             for name, m in some(inputs, 3).items()}
    inputs.refuse(inputs.base, [inputs.write("wrong", wrong)], MISMATCH,
                  next(iter(wrong)))


def check_partner(inputs):
    """Half of a pair is named, whether or not it is refused."""
    name = next(iter(inputs.modules))
    path = inputs.folder / "torn.safetensors"
    tensors = {n: t for other, m in inputs.modules.items()
               for n, t in m.tensors(other).items()
               if n != name + ".lora_up.weight"}
    support.write_file(path, tensors)
    run = inputs.run(inputs.base, [path])
    require(name in run.err, run.err)
    inputs.refuse(inputs.base, [path], MISMATCH, name, more=["--strict"])


def check_nonfinite(inputs):
    """NaN in an adapter does not reach the output in silence."""
    name, module = next(iter(inputs.modules.items()))
    bad = module.like(module.shape, module.down.copy(), module.up)
    bad.down[0, 0] = np.nan
    path = inputs.write("nan", {**inputs.modules, name: bad})
    run = inputs.run(inputs.base, [path], code=None)
    require(name in run.err, f"exit {run.code} without a word: {run.err}")
    require(run.code in (OK, MISMATCH), str(run))


# Files ----------------------------------------------------------------------

def check_inputs(inputs):
    """What cannot be read, or is of another sort."""
    folder = inputs.folder
    (folder / "page.safetensors").write_text("<!DOCTYPE html><html></html>")
    (folder / "empty.safetensors").write_bytes(b"")
    cut = folder / "cut.safetensors"
    cut.write_bytes(inputs.base.read_bytes()[:-1])
    for name in ("page.safetensors", "empty.safetensors", "cut.safetensors",
                 "none.safetensors"):
        inputs.refuse(folder / name, [inputs.adapter], UNREADABLE, name)
        inputs.refuse(inputs.base, [folder / name], UNREADABLE, name)
    # A model is no adapter.
    inputs.refuse(inputs.base, [inputs.base], MISMATCH, inputs.base.name)


def check_usage(inputs):
    fusing.remove(inputs.out)
    for arguments in ([], [inputs.base], [inputs.base, "-o", inputs.out],
                      [inputs.base, inputs.adapter],
                      [inputs.base, inputs.adapter, "-o", inputs.out,
                       "--undo-mode", "x", "--undo", inputs.folder / "u"],
                      [inputs.base, inputs.adapter, "-o", inputs.out,
                       "--select", "no factor"],
                      [inputs.base, inputs.adapter, "-o", inputs.out,
                       "--select", "*=x"],
                      [inputs.base, inputs.adapter, "-o", inputs.out,
                       "--strength-rule", "x"],
                      [inputs.base, inputs.adapter, "-o", inputs.out,
                       "--dora", "x"]):
        inputs.suite.run("fuse", *arguments, code=USAGE)
        require(not inputs.out.exists(), f"{arguments}: an output")


def check_dry_run(inputs):
    fusing.remove(inputs.out)
    before = inputs.listing()
    inputs.run(inputs.base, [inputs.adapter], "--dry-run", "--undo",
               inputs.folder / "undo")
    equal(inputs.listing() == before, True, "files")
    inputs.suite.run("fuse", inputs.base, inputs.adapter, "--dry-run")


def check_exists(inputs):
    """An output is replaced only when told so, and keeps its permissions."""
    inputs.run(inputs.base, [inputs.adapter])
    want = inputs.out.read_bytes()
    inputs.out.write_bytes(b"old")
    inputs.out.chmod(0o640)
    run = inputs.suite.run("fuse", inputs.base, inputs.adapter, "-o",
                           inputs.out, code={FAILED, USAGE})
    require("--force" in run.err and inputs.out.name in run.err, run.err)
    equal(inputs.out.read_bytes(), b"old", "what was there")
    inputs.suite.run("fuse", inputs.base, inputs.adapter, "-o", inputs.out,
                     "--force")
    equal(inputs.out.read_bytes() == want, True, "replaced")
    equal(stat.S_IMODE(inputs.out.stat().st_mode), 0o640, "permissions")


def check_in_place(inputs):
    """The input is the output, by its name or by another."""
    inputs.run(inputs.base, [inputs.adapter])
    want = inputs.out.read_bytes()
    old = inputs.base.read_bytes()
    place = inputs.folder / "place.safetensors"
    for name in (place, inputs.folder / ".." / "inputs" / place.name):
        place.write_bytes(old)
        inputs.suite.run("fuse", place, inputs.adapter, "-o", name,
                         code={FAILED, USAGE})
        equal(place.read_bytes() == old, True, "unforced")
        inputs.suite.run("fuse", place, inputs.adapter, "-o", name, "--force")
        equal(place.read_bytes() == want, True, "fused in place")
    folder = inputs.model.write_folder(inputs.folder / "pipe",
                                       inputs.model.base, "F16", 2)
    out = inputs.folder / "pipe-out"
    inputs.suite.run("fuse", folder, inputs.adapter, "-o", out)
    inputs.suite.run("fuse", folder, inputs.adapter, "-o", folder,
                     code={FAILED, USAGE})
    inputs.suite.run("fuse", folder, inputs.adapter, "-o", folder, "--force")
    for path in out.rglob("*.safetensors"):
        equal((folder / path.relative_to(out)).read_bytes() ==
              path.read_bytes(), True, str(path))
    require((folder / "model_index.json").exists(), "a file is gone")
    fusing.remove(folder)
    fusing.remove(out)
    place.unlink()


def check_links(inputs):
    """An output that is a link: the link is replaced, not what it leads to."""
    fusing.remove(inputs.out)
    target = inputs.folder / "target"
    target.write_bytes(b"shared")
    inputs.out.symlink_to(target)
    inputs.suite.run("fuse", inputs.base, inputs.adapter, "-o", inputs.out,
                     "--force")
    equal(target.read_bytes(), b"shared", "what the link led to")
    require(not inputs.out.is_symlink(), "still a link")


def check_places(inputs):
    """Outputs that cannot be: said before any work."""
    blocked = inputs.folder / "file"
    blocked.write_bytes(b"x")
    for out in (inputs.folder / "none" / "x.safetensors", blocked / "x",
                inputs.folder):
        before = inputs.listing()
        run = inputs.suite.run("fuse", inputs.base, inputs.adapter, "-o", out,
                               code={FAILED, USAGE})
        require(out.name in run.err or str(out) in run.err, run.err)
        equal(inputs.listing() == before, True, "files")
    # The undo file is looked at before, too.
    fusing.remove(inputs.out)
    for undo in (inputs.folder / "none" / "undo", inputs.adapter, inputs.base,
                 inputs.out):
        before = inputs.listing()
        inputs.suite.run("fuse", inputs.base, inputs.adapter, "-o", inputs.out,
                         "--undo", undo, code={FAILED, USAGE})
        equal(inputs.listing() == before, True, f"files, undo to {undo.name}")


def check_memory(inputs):
    """Too little is said; what is enough for one tensor is enough."""
    inputs.refuse(inputs.base, [inputs.adapter], MEMORY, more=["--memory",
                                                               "10k"])
    rng = np.random.default_rng(6)
    base = inputs.folder / "large.safetensors"
    names = [f"unet.down_blocks.0.attentions.0.transformer_blocks.{i}.attn1."
             "to_q" for i in range(24)]
    weight = tensor(rng.standard_normal((512, 512)), "F16")
    support.write_file(base, {f"{n}.weight": weight for n in names})
    adapter = inputs.write("large-a", {n: Module(rng, (512, 512), 8)
                                       for n in names}, style="peft")
    # 24 of half a megabyte, and as much again of factors.
    inputs.run(base, [adapter], "--memory", "6M", "--threads", 2)
    base.unlink()


def check_report(inputs):
    """What is told of the fused tensors adds up."""
    run = inputs.run(inputs.base, [inputs.adapter], "--json")
    run.json()
    run = inputs.run(inputs.base, [inputs.adapter], "--quiet")
    equal(run.err, "", "what --quiet says")


def main():
    suite = support.Suite(__doc__.splitlines()[0])
    inputs = Inputs(suite)
    for check in (check_nothing, check_other_base, check_half, check_shapes,
                  check_partner, check_nonfinite, check_inputs, check_usage,
                  check_dry_run, check_exists, check_in_place, check_links,
                  check_places, check_memory, check_report):
        with suite.case(check.__name__):
            check(inputs)
    return suite.finish()


if __name__ == "__main__":
    os.umask(0o022)
    sys.exit(main())
