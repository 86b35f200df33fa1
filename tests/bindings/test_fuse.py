"""liblora.fuse() and unfuse() against numpy float64 and against the program:
numbers, every setting, errors, progress. fusing.py says what a number may be.
"""

import sys

import numpy as np

import bindinglib
import fusing
import models
import support
from bindinglib import raises, same
from fusing import Module, fused
from support import equal, require, tensor

suite = support.Suite(__doc__.splitlines()[0])
liblora = bindinglib.load(suite)

MODEL = models.Model(width=16, context=12, blocks=2, seed=3)
BASE = MODEL.write_single(suite.path(models.BASE), MODEL.base, "F16")
RANDOM = np.random.default_rng(5)
MODULES = [{name: Module(RANDOM, shape) for name, _, _, shape in MODEL.layers}
           for _ in range(2)]
PATHS = [fusing.write_adapter(suite.path(f"{i}.safetensors"), {
    models.kohya(part, ours): modules[name]
    for name, part, ours, _ in MODEL.layers})
    for i, modules in enumerate(MODULES)]
OUT = suite.path("out.safetensors")


def made(*adapters, **settings):
    """(bytes of the output, report)"""
    fusing.remove(OUT)
    report = liblora.fuse(BASE, adapters, OUT, **settings)
    return OUT.read_bytes(), report


def program(*arguments):
    path = suite.path("program.safetensors")
    suite.run("fuse", BASE, *arguments, "-o", path, "--force")
    return path.read_bytes()


def try_numbers():
    with liblora.open(PATHS[0]) as adapter:
        _, report = made((adapter, 0.5), (PATHS[1], -1.0, 2.0))
    got, _ = support.read_file(OUT)
    for name, part, _, _ in MODEL.layers:
        weight = tensor(MODEL.base[name], "F16").array()
        fusing.check(got[name + ".weight"], *fused(
            weight, (MODULES[0][name], 0.5),
            (MODULES[1][name], -1.0 if part == "unet" else 2.0)), name)
    told = report.to_dict()
    equal(told["changed"], len(MODEL.layers), "changed")
    equal([row["bound"] for row in told["adapters"]], 2 * [len(MODEL.layers)],
          "bound")
    equal(report.problems, [], "problems")


def try_settings():
    """Each gives the bytes that the program's option gives."""
    for adapters, settings, options in (
            ([PATHS[0]], {}, [PATHS[0]]),
            ([str(PATHS[0]), (PATHS[1], 0.25)], {},
             [PATHS[0], f"{PATHS[1]}:0.25"]),
            ([(PATHS[0], 1.0, 0.0)], {}, [f"{PATHS[0]}:1:0"]),
            ([PATHS[0]], {"stochastic": True}, [PATHS[0], "--stochastic"]),
            ([PATHS[0]], {"stochastic": True, "seed": 7},
             [PATHS[0], "--stochastic", "--seed", 7]),
            ([PATHS[0]], {"strict": True, "saturate": True},
             [PATHS[0], "--strict"])):
        same(made(*adapters, **settings)[0], program(*options), options)


def try_select():
    """What a selection leaves out is as before."""
    made(PATHS[0], select={"te": 0.0, "unet": 0.5})
    got, _ = support.read_file(OUT)
    for name, part, _, _ in MODEL.layers:
        weight = tensor(MODEL.base[name], "F16")
        if part != "unet":
            require(got[name + ".weight"].same(weight), f"{name} changed")
            continue
        fusing.check(got[name + ".weight"], *fused(
            weight.array(), (MODULES[0][name], 0.5)), name)


def try_model():
    """A model that is opened once, for several calls."""
    model = liblora.Model.open(BASE)
    for path in PATHS:
        fusing.remove(OUT)
        liblora.fuse(model, [path], OUT)
        same(OUT.read_bytes(), program(path), path.name)


def try_undo():
    undo, back = suite.path("undo"), suite.path("back.safetensors")
    with liblora.open(PATHS[0]) as adapter:
        for mode, more in (("raw", {}), ("predict",
                                         {"adapters": [(adapter, 0.5)]})):
            for path in (undo, back):
                fusing.remove(path)
            made((adapter, 0.5), undo=undo, undo_mode=mode)
            liblora.unfuse(OUT, undo, back, **more)
            same(back.read_bytes(), BASE.read_bytes(), mode)
    raises(liblora.KeyMatchError, liblora.unfuse, BASE, undo, back,
           overwrite=True)


def try_shards():
    folder = suite.path("folder")
    liblora.fuse(BASE, [PATHS[0]], folder, shard_size=5000)
    index, = folder.glob("*.index.json")
    program(PATHS[0])
    want, _ = support.read_file(suite.path("program.safetensors"))
    got = {}
    for path in folder.glob("*.safetensors"):
        got.update(support.read_file(path)[0])
    equal({n: t.data for n, t in got.items()},
          {n: t.data for n, t in want.items()}, "tensors")
    require(index.exists() and len(list(folder.iterdir())) > 2, "files")


def try_resume():
    fusing.remove(OUT)
    journal = OUT.with_name(OUT.name + ".journal")
    journal.write_bytes(b"LORAJRN1" + bytes(32))
    raises(liblora.StateError, liblora.fuse, BASE, [PATHS[0]], OUT,
           resume=True)
    journal.unlink()
    liblora.fuse(BASE, [PATHS[0]], OUT, resume=True)
    require(not journal.exists(), "the journal is still there")
    program(PATHS[0])
    same(OUT.read_bytes(), suite.path("program.safetensors").read_bytes(),
         "resumed")


def try_refusals():
    fusing.remove(OUT)
    for kind, settings in (
            (liblora.ArgumentError, {"undo_mode": "x"}),
            (liblora.ArgumentError, {"select": {"a\0b": 1.0}}),
            (liblora.OptionError, {"strength_rule": "x"}),
            (liblora.OptionError, {"dora": "x"})):
        raises(kind, liblora.fuse, BASE, [PATHS[0]], OUT, **settings)
    raises(liblora.ArgumentError, liblora.fuse, BASE, [], OUT)
    raises(liblora.RangeError, liblora.fuse, BASE, [(PATHS[0], np.nan)], OUT)
    raises(liblora.MissingFileError, liblora.fuse, suite.path("none"),
           [PATHS[0]], OUT)
    raises(liblora.MissingFileError, liblora.fuse, BASE, [suite.path("none")],
           OUT)
    foreign = fusing.write_adapter(suite.path("foreign.safetensors"), {
        "lora_unet_nothing": Module(RANDOM, (4, 4))})
    raises(liblora.KeyMatchError, liblora.fuse, BASE, [foreign], OUT)
    require(not OUT.exists(), "an output was left")
    OUT.write_bytes(b"old")
    raises(liblora.ExistingFileError, liblora.fuse, BASE, [PATHS[0]], OUT)
    liblora.fuse(BASE, [PATHS[0]], OUT, dry_run=True, overwrite=True)
    equal(OUT.read_bytes(), b"old", "what was there")
    liblora.fuse(BASE, [PATHS[0]], OUT, overwrite=True)
    same(OUT.read_bytes(), program(PATHS[0]), "replaced")


def try_half():
    """What does not fit is in the report, or raised when strict."""
    half = fusing.write_adapter(suite.path("half.safetensors"), {
        "lora_unet_strange": Module(RANDOM, (4, 4)),
        **{models.kohya(part, ours): MODULES[0][name]
           for name, part, ours, _ in MODEL.layers}})
    data, report = made(half)
    same(data, program(PATHS[0]), "what fits")
    problem, = report.problems
    equal(problem["subject"], "lora_unet_strange", "subject")
    fusing.remove(OUT)
    error = raises(liblora.KeyMatchError, liblora.fuse, BASE, [half], OUT,
                   strict=True)
    equal(error.subject, "lora_unet_strange", "subject")


def try_progress():
    seen = []
    made(PATHS[0], progress=lambda *what: seen.append(what))
    equal(seen[-1], ("fuse", len(MODEL.layers), len(MODEL.layers)), "progress")

    def stop(stage, done, total):
        if done == 3:
            raise EOFError

    fusing.remove(OUT)
    raises(EOFError, liblora.fuse, BASE, [PATHS[0]], OUT,
           context=liblora.Context(progress=stop, threads=1))
    require(not OUT.exists(), "an output was left")


def main():
    for attempt in (try_numbers, try_settings, try_select, try_model, try_undo,
                    try_shards, try_resume, try_refusals, try_half, try_progress):
        with suite.case(attempt.__name__):
            attempt()
    sys.exit(suite.finish())


main()
