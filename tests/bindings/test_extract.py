"""liblora.extract() against numpy float64 and against the program: numbers,
every setting, journals, errors.

Bound of a weight change of rank k: 1.01 times the least error, which is that of
numpy's SVD, and 4 u of the norm for factors and a difference in float32.
"""

import sys

import numpy as np

import bindinglib
import models
import support
from bindinglib import raises, same
from support import equal, require

suite = support.Suite(__doc__.splitlines()[0])
liblora = bindinglib.load(suite)

MODEL = models.Model(width=24, context=16, blocks=2, seed=3)
BASE = MODEL.write_single(suite.path(models.BASE), MODEL.base)
TUNED = MODEL.write_single(suite.path(models.TUNED), MODEL.tuned)
FIRST = next(iter(MODEL.base))
ROUND = 2.0**-24


def delta(name):
    return MODEL.tuned[name].astype(np.float64) - MODEL.base[name]


def spectrum(name):
    return np.linalg.svd(support.flat(delta(name)), compute_uv=False)


def check_error(adapter, name, rank):
    got = adapter.delta(MODEL.target(name), dtype="f64")
    error = np.linalg.norm(got - delta(name))
    least = np.linalg.norm(spectrum(name)[rank:])
    require(error <= 1.01 * least + 4 * ROUND * np.linalg.norm(delta(name)),
            f"{name}: {error:g}, least {least:g}")


def saved(adapter):
    path = suite.path("saved.safetensors")
    path.unlink(missing_ok=True)
    adapter.save(path)
    return path.read_bytes()


def program(*arguments):
    path = suite.path("program.safetensors")
    suite.run("extract", BASE, TUNED, "-o", path, "--force", *arguments)
    return path.read_bytes()


def try_numbers():
    adapter = liblora.extract(BASE, TUNED, rank=4, dtype="f32")
    equal({m["target"] for m in adapter.modules},
          {MODEL.target(name) for name in MODEL.base}, "modules")
    rows = {row["name"]: row for row in adapter.report.modules}
    for name in MODEL.base:
        check_error(adapter, name, 4)
        row = rows[name]
        equal(row["rank_out"], 4, name)
        support.close(row["sigma"][:4], spectrum(name)[:4],
                      1e-5 * spectrum(name)[0], f"sigma of {name}")
    equal(adapter.report.problems, [], "problems")
    require(adapter.report.to_dict()["totals"]["modules"] == len(MODEL.base),
            "totals")


def try_settings():
    """Each gives the bytes that the program's option gives."""
    for settings, options in (
            ({"rank": 4}, ["--rank", 4]),
            ({"rank": "auto"}, ["--rank", "auto"]),
            ({"energy": 0.9}, ["--energy", 0.9]),
            ({"ratio": 3.0}, ["--ratio", 3]),
            ({"threshold": 0.02}, ["--threshold", 0.02]),
            ({"cumulative": 0.8}, ["--cumulative", 0.8]),
            ({"effective": True}, ["--effective"]),
            ({"knee": True, "max_rank": 5}, ["--knee", "--max-rank", 5]),
            ({"size": 30000}, ["--size", 30000]),
            ({"global_threshold": 0.02}, ["--global-threshold", 0.02]),
            ({"energy": 0.5, "min_rank": 3}, ["--energy", 0.5,
                                              "--min-rank", 3]),
            ({"rank": 4, "conv_rank": 2}, ["--rank", 4, "--conv-rank", 2]),
            ({"rank": 4, "module_rank": {"*attn1*": 2}},
             ["--rank", 4, "--module-rank", "*attn1*=2"]),
            ({"rank": 4, "kind": "lora"}, ["--rank", 4, "--kind", "lora"]),
            ({"kind": "full", "dialect": "kohya"},
             ["--kind", "full", "--dialect", "kohya"]),
            ({"rank": 4, "include": ["*attn1*", "*attn2*"],
              "exclude": ["*to_q"]},
             ["--rank", 4, "--include", "*attn1*", "--include", "*attn2*",
              "--exclude", "*to_q"]),
            ({"rank": 4, "dialect": "kohya"}, ["--rank", 4, "--dialect",
                                               "kohya"]),
            ({"rank": 4, "dtype": "bf16"}, ["--rank", 4, "--dtype", "bf16"]),
            ({"rank": 1, "seed": 7}, ["--rank", 1, "--seed", 7]),
            ({"rank": 4, "clamp": 0.9}, ["--rank", 4, "--clamp", 0.9]),
            ({"rank": 4, "exact": True}, ["--rank", 4, "--exact"]),
            ({"energy": 0.9, "count": "kohya", "split": "up"},
             ["--energy", 0.9, "--kohya-count", "--split", "up"])):
        adapter = liblora.extract(str(BASE), TUNED, **settings)
        same(saved(adapter), program(*options), settings)


def try_progress():
    seen = []
    liblora.extract(BASE, TUNED, rank=2,
                    progress=lambda *what: seen.append(what))
    equal(seen[-1], ("extract", len(MODEL.base), len(MODEL.base)), "progress")
    raises(liblora.ArgumentError, liblora.extract, BASE, TUNED, rank=2,
           context=liblora.Context(), progress=print)


def try_journal():
    journal = suite.path("journal")
    calls = []

    def stop(stage, done, total):
        calls.append(total)
        if done == 3:
            raise EOFError

    raises(EOFError, liblora.extract, BASE, TUNED, rank=4,
           journal=journal, context=liblora.Context(progress=stop, threads=1))
    require(journal.exists() and len(calls) == 3, f"{calls}")
    raises(liblora.StateError, liblora.extract, BASE, TUNED, rank=5,
           journal=journal, resume=True)
    left = []
    adapter = liblora.extract(
        BASE, TUNED, rank=4, journal=journal, resume=True,
        progress=lambda stage, done, total: left.append(total))
    equal(left[0], len(MODEL.base) - 3, "what was left")
    same(saved(adapter), program("--rank", 4), "resumed")
    journal.unlink()
    raises(liblora.ArgumentError, liblora.extract, BASE, TUNED, rank=4,
           resume=True)


def try_refusals():
    for settings in ({}, {"rank": 4, "energy": 0.9},
                     {"global_threshold": 1.0, "conv_rank": 3},
                     {"rank": "auto", "knee": True}, {"rank": 4, "kind": "x"},
                     {"rank": 4, "count": "x"}, {"rank": 4, "split": "x"},
                     {"rank": 4, "dialect": "x"},
                     {"rank": 4, "include": ["a\0b"]}):
        raises(liblora.ArgumentError, liblora.extract, BASE, TUNED, **settings)
    raises(liblora.RangeError, liblora.extract, BASE, TUNED, rank=0)
    raises(liblora.RangeError, liblora.extract, BASE, TUNED, rank=4, clamp=0.3)
    raises(liblora.DTypeError, liblora.extract, BASE, TUNED, rank=4,
           dtype="i32")
    raises(liblora.MissingFileError, liblora.extract, BASE,
           suite.path("none.safetensors"), rank=4)
    raises(liblora.KeyMatchError, liblora.extract, BASE, BASE, rank=4)


def try_bad_layers():
    tuned = {name: a.copy() for name, a in MODEL.tuned.items()}
    tuned[FIRST].reshape(-1)[5] = np.nan
    bad = MODEL.write_single(suite.path("bad.safetensors"), tuned)
    error = raises(liblora.NonFiniteError, liblora.extract, BASE, bad, rank=4)
    equal(error.subject, FIRST + ".weight", "subject")
    adapter = liblora.extract(BASE, bad, rank=4, skip_bad=True)
    problem, = adapter.report.problems
    equal((problem["code"], problem["subject"]),
          ("nonfinite", MODEL.target(FIRST)), "problem")
    tuned[FIRST] = tuned[FIRST][:-1]
    other = MODEL.write_single(suite.path("other.safetensors"), tuned)
    error = raises(liblora.ShapeError, liblora.extract, BASE, other, rank=4)
    equal(error.subject, MODEL.target(FIRST), "subject")
    adapter = liblora.extract(BASE, other, rank=4, skip_shapes=True)
    equal(adapter.report.problems[0]["code"], "shapes_differ", "problem")


def main():
    for attempt in (try_numbers, try_settings, try_progress, try_journal,
                    try_refusals, try_bad_layers):
        with suite.case(attempt.__name__):
            attempt()
    sys.exit(suite.finish())


main()
