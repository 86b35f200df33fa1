"""`lora extract` on inputs that do not fit, or fit in another layout: what is
refused and how it is said, what is left out on demand, and how much memory it
takes.
"""

import pathlib
import re
import shutil
import sys

import numpy as np

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import models  # noqa: E402
import support  # noqa: E402
from support import (FAILED, MEMORY, MISMATCH, UNREADABLE, USAGE,  # noqa: E402
                     equal, require)

Q = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q"
K = Q[:-1] + "k"
SHAPED = [Q, K, "model.diffusion_model.input_blocks.1.0.in_layers.2",
          "cond_stage_model.transformer.text_model.encoder.layers.0.self_attn."
          "q_proj"]


class Inputs:
    """A small model, its fine-tune, and variants of both."""

    def __init__(self, suite):
        self.suite, self.folder = suite, suite.folder
        self.model = models.Model(width=16, context=12, blocks=3)
        self.base = self.single(models.BASE, self.model.base)
        self.tuned = self.single(models.TUNED, self.model.tuned)
        self.out = self.folder / "out.safetensors"

    def single(self, name, arrays, **more):
        return self.model.write_single(self.folder / name, arrays, **more)

    def run(self, base, tuned, *more, rule=("--rank", 4), **how):
        self.out.unlink(missing_ok=True)
        self.out.with_name(self.out.name + ".journal").unlink(missing_ok=True)
        run = self.suite.run("extract", base, tuned, "-o", self.out, *rule,
                             *more, **how)
        if how.get("code", 0) != 0:
            require(not self.out.exists(), "there is an output")
            equal(run.out, "", "what goes to stdout")
        return run

    def extract(self, base, tuned, *more, **how):
        """(report, tensors)"""
        run = self.run(base, tuned, "--json", *more, **how)
        return run.json(), support.read_file(self.out)[0]

    def refuse(self, base, tuned, code, *words, more=()):
        """Refused, in one line; there may be remarks before and after."""
        run = self.run(base, tuned, *more, code=code)
        line, = (text for text in run.err.splitlines()
                 if text.startswith("lora extract: "))
        for word in words:
            require(str(word) in line, f"no \"{word}\" in: {run.err}")
        return run


def changed(arrays, **changes):
    """A copy in which some layers are what a function makes of them."""
    return {name: changes[name](a.copy()) if name in changes else a
            for name, a in arrays.items()}


def modules(tensors):
    return {name.rpartition(".lora_")[0] for name in tensors}


# Values ---------------------------------------------------------------------

def check_nonfinite(inputs):
    """The tensor, the element, how many, and in which file."""
    def spoil(value, *places):
        def change(a):
            a.reshape(-1)[list(places)] = value
            return a
        return change

    model = inputs.model
    for value in (np.nan, np.inf, -np.inf):
        bad = spoil(value, 37, 200)
        broken_base = inputs.single("broken_base.safetensors",
                                    changed(model.base, **{Q: bad}))
        broken_tuned = inputs.single("broken_tuned.safetensors",
                                     changed(model.tuned, **{Q: bad}))
        for base, tuned, file in ((broken_base, inputs.tuned, broken_base),
                                  (inputs.base, broken_tuned, broken_tuned)):
            inputs.refuse(base, tuned, MISMATCH, f"{Q}.weight", file.name,
                          "2 of 256 values", "element 37")
            report, tensors = inputs.extract(base, tuned, "--skip-bad")
            equal(modules(tensors), {model.target(name) for name in model.base
                                     if name != Q}, "modules")
            problem, = report["problems"]
            equal((problem["code"], problem["subject"]),
                  ("nonfinite", model.target(Q)), "problem")


def check_nonfinite_far(inputs):
    """Where the element is of the tensor, not of the piece that was read."""
    wide = np.zeros((600, 1000), "f4")
    bad = wide.copy()
    bad[599, 998] = bad[598, 1] = np.nan
    base = inputs.single("wide.safetensors", {Q: wide})
    tuned = inputs.single("wide_bad.safetensors", {Q: bad})
    inputs.refuse(base, tuned, MISMATCH, "2 of 600000 values",
                  "element 598001")


def check_overflow(inputs):
    """Both are finite; their difference is not, in F32."""
    def huge(sign):
        def change(a):
            a[0, 0] = sign * 3e38
            return a
        return change

    base = inputs.single("low.safetensors",
                         changed(inputs.model.base, **{Q: huge(-1)}))
    tuned = inputs.single("high.safetensors",
                          changed(inputs.model.tuned, **{Q: huge(1)}))
    inputs.refuse(base, tuned, MISMATCH, "difference", Q, "element 0")
    report, tensors = inputs.extract(base, tuned, "--skip-bad")
    require(inputs.model.target(Q) not in modules(tensors), "it is there")
    equal(report["problems"][0]["code"], "nonfinite", "problem")


# Shapes ---------------------------------------------------------------------

def check_shapes(inputs):
    """All that differ are named; --skip-shapes leaves them out."""
    model = inputs.model

    def other(a):
        return np.concatenate([a, a[:1]])

    tuned = inputs.single("shapes.safetensors",
                          changed(model.tuned, **dict.fromkeys(SHAPED, other)))
    run = inputs.refuse(inputs.base, tuned, MISMATCH, tuned.name)
    require(re.search(rf"\b{len(SHAPED)} (layers|tensors)\b",
                      run.err), run.err)
    for name in SHAPED:
        target = model.target(name)
        line = [text for text in run.err.splitlines() if target in text
                and "x".join(map(str, model.base[name].shape)) in text
                and "x".join(map(str, other(model.base[name]).shape)) in text]
        require(line, f"{target} is not told of: {run.err}")
    report, tensors = inputs.extract(inputs.base, tuned, "--skip-shapes")
    equal(modules(tensors), {model.target(name) for name in model.base
                             if name not in SHAPED}, "modules")
    equal({(p["code"], p["subject"]) for p in report["problems"]},
          {("shapes_differ", model.target(name)) for name in SHAPED},
          "problems")
    for problem in report["problems"]:
        name, = (n for n in SHAPED if model.target(n) == problem["subject"])
        require("x".join(map(str, model.base[name].shape))
                in problem["message"], problem["message"])
    inputs.extract(inputs.base, tuned,  # left out, they do not matter
                   *(part for name in SHAPED
                     for part in ("--exclude", model.target(name))))


def check_flat_shapes(inputs):
    """A linear layer and a convolution of 1 x 1 are the same."""
    name = next(n for n in inputs.model.base if n.endswith("proj_in"))
    tuned = inputs.single("flat.safetensors", changed(
        inputs.model.tuned, **{name: lambda a: a.reshape(a.shape[:2])}))
    report, _ = inputs.extract(inputs.base, tuned)
    equal(report["problems"], [], "problems")


# Inputs ---------------------------------------------------------------------

def check_same(inputs):
    run = inputs.refuse(inputs.base, inputs.base, MISMATCH, "differs")
    require("--resume" not in run.err, run.err)
    again = inputs.single("again.safetensors", inputs.model.base)
    inputs.refuse(inputs.base, again, MISMATCH, "differs")
    negative = changed(inputs.model.base, **{Q: lambda a: 0 * a})
    minus = changed(inputs.model.base, **{Q: lambda a: 0 * a * -1})
    inputs.refuse(inputs.single("plus.safetensors", negative),
                  inputs.single("minus.safetensors", minus), MISMATCH,
                  "differs")


def check_nothing_common(inputs):
    other = inputs.folder / "other.safetensors"
    support.write_file(other, {"something.weight": support.tensor(np.eye(4)),
                               "numbers": support.tensor(np.arange(4), "I32")})
    inputs.refuse(inputs.base, other, MISMATCH, other.name, "none of its")
    inputs.refuse(other, inputs.base, MISMATCH, models.BASE, "none of its")
    inputs.refuse(inputs.base, inputs.tuned, MISMATCH, "none of its",
                  more=("--include", "nothing*"))
    none = inputs.folder / "none.safetensors"
    support.write_file(none, {})
    inputs.refuse(none, inputs.tuned, MISMATCH, "none of its")


def check_not_checkpoints(inputs):
    """The file that is wrong is the one that is named, whichever it is."""
    folder, good = inputs.folder, inputs.base.read_bytes()
    (folder / "empty_folder").mkdir()
    (folder / "no_weights" / "unet").mkdir(parents=True)
    (folder / "no_weights" / "unet" / "config.json").write_text("{}")
    files = {"empty.safetensors": (b"", UNREADABLE),
             "words.safetensors": (b"not a checkpoint, sorry\n", UNREADABLE),
             "page.safetensors": (b"<!DOCTYPE html>\n<html></html>\n",
                                  UNREADABLE),
             "cut.safetensors": (good[:-1], UNREADABLE),
             "head.safetensors": (good[:40], UNREADABLE)}
    for name, (data, _) in files.items():
        (folder / name).write_bytes(data)
    wrong = {**{name: code for name, (_, code) in files.items()},
             "missing.safetensors": UNREADABLE, "missing/too": UNREADABLE,
             "empty_folder": UNREADABLE, "no_weights": UNREADABLE}
    for name, code in wrong.items():
        path = folder / name
        for base, tuned in ((path, inputs.tuned), (inputs.base, path)):
            run = inputs.refuse(base, tuned, code, f"extract: {path}")
            require("--resume" not in run.err, run.err)


def check_usage(inputs):
    for more in (("--rank", 0), ("--rank", "few"), ("--rank", "auto",
                 "--energy", 0.9), (), ("--rank", 4, "--ratio", 2),
                 ("--rank", 4, "--clamp", 0.2), ("--rank", 4, "--kind", "x"),
                 ("--rank", 4, "--max-rank", 2, "--min-rank", 3),
                 ("--rank", 4, "--module-rank", "x"),
                 ("--rank", 4, "--factor", 0)):
        inputs.run(inputs.base, inputs.tuned, *more, rule=(), code=USAGE)
    inputs.run(inputs.base, inputs.tuned, "--dialect", "none", code=USAGE)
    inputs.run(inputs.base, code=USAGE, tuned="--json")


def check_outputs(inputs):
    """Over its own inputs, into folders, dry."""
    base, tuned = inputs.base, inputs.tuned
    inputs.run(base, tuned)
    want = inputs.out.read_bytes()
    for name in (models.BASE, models.TUNED):
        shutil.copy(inputs.folder / name, inputs.out)
        pair = [inputs.out if p.name == name else p for p in (base, tuned)]
        inputs.suite.run("extract", *pair, "-o", inputs.out, "--rank", 4,
                         code=FAILED)
        equal(inputs.out.read_bytes(), (inputs.folder / name).read_bytes(),
              "the input")
        inputs.suite.run("extract", *pair, "-o", inputs.out, "--rank", 4,
                         "--force")
        require(inputs.out.read_bytes() == want, "over its own input")
    inputs.out.unlink()
    inputs.suite.run("extract", base, tuned, "-o", inputs.out, "--rank", 4,
                     "--dry-run")
    require(not inputs.out.exists(), "written by a dry run")
    for ending in ("", "/"):
        folder = inputs.folder / "peft"
        if not ending:
            folder.mkdir()
        inputs.suite.run("extract", base, tuned, "-o", f"{folder}{ending}",
                         "--rank", 4, "--dialect", "peft")
        equal({p.name for p in folder.iterdir()},
              {"adapter_config.json", "adapter_model.safetensors"}, "files")
        require(not list(inputs.folder.glob("peft*journal")), "a journal")
        shutil.rmtree(folder)


# Layouts --------------------------------------------------------------------

def check_layouts(inputs):
    """One file or many, the authors' names or diffusers': the same adapter."""
    model, folder = inputs.model, inputs.folder
    pipelines = {}
    for shards in (1, 3):
        for name, arrays in (("base", model.base), ("tuned", model.tuned)):
            pipelines[name, shards] = model.write_folder(
                folder / f"{name}_{shards}", arrays, shards=shards)
    _, want = inputs.extract(inputs.base, inputs.tuned)
    equal(modules(want), {model.target(n) for n in model.base}, "modules")
    for base in (inputs.base, pipelines["base", 1], pipelines["base", 3]):
        for tuned in (inputs.tuned, pipelines["tuned", 1],
                      pipelines["tuned", 3]):
            report, got = inputs.extract(base, tuned)
            equal(sorted(got), sorted(want), "names")
            require(all(got[n].same(want[n]) for n in want), "bytes")
            equal(report["problems"], [], "problems")
    index = (pipelines["tuned", 3] / "unet" /
             "diffusion_pytorch_model.safetensors.index.json")
    _, got = inputs.extract(pipelines["base", 1] / "unet", index)
    equal(modules(got), {name for name in modules(want)
                         if name.startswith("unet.")}, "the unet alone")


def check_dtypes(inputs):
    """Types may differ; names are the same, values as near as the types are."""
    model = inputs.model
    _, want = inputs.extract(inputs.base, inputs.tuned, "--dtype", "f32")
    for base_type in ("F32", "F16", "BF16"):
        for tuned_type in ("F32", "F16", "BF16", "F64"):
            base = inputs.single("t1.safetensors", model.base, dtype=base_type)
            tuned = inputs.single("t2.safetensors", model.tuned,
                                  dtype=tuned_type)
            _, got = inputs.extract(base, tuned, "--dtype", "f32")
            equal(modules(got), modules(want), f"{base_type}, {tuned_type}")


def check_f8(inputs):
    """F8 on one side and on both: names, and where it comes from."""
    model = inputs.model
    random = np.random.default_rng(5)
    codes = {name: support.Tensor("F8_E4M3", a.shape, random.integers(
        0, 0x7E, a.size, "u1").tobytes()) for name, a in model.base.items()}
    base = inputs.folder / "f8.safetensors"
    support.write_file(base, {f"{n}.weight": t for n, t in codes.items()})
    values = {name: t.array().astype("f4") for name, t in codes.items()}
    rank_one = {name: np.outer(np.ones(a.shape[0]), np.ones(a[0].size))
                .reshape(a.shape).astype("f4") * 64 for name, a in
                values.items()}
    tuned = inputs.single("of_f8.safetensors", {
        name: values[name] + rank_one[name] for name in values})
    _, got = inputs.extract(base, tuned, "--dtype", "f32", rule=("--rank", 1))
    equal(modules(got), {model.target(n) for n in values}, "modules")
    for name in values:
        up, down = (got[model.target(name) + end].array() for end in
                    (".lora_B.weight", ".lora_A.weight"))
        delta = support.flat(up) @ support.flat(down)
        # Exact in F32 but for the factors' two roundings, and those of
        # tuned - base, both of whose terms are below 512.
        support.close(delta, support.flat(rank_one[name]), 1e-4 * 64, name)


# Memory ---------------------------------------------------------------------

def peak(run):
    number, unit = re.search(r"at most ([\d.]+) (\w+)", run.err).groups()
    return float(number) * {"bytes": 1, "KiB": 2**10, "MiB": 2**20}[unit]


def check_memory(inputs):
    """A few of the largest tensor, however many there are: the difference, a
    piece of the base of 1 MiB, sketches of 26 columns a few times."""
    suite, out = inputs.suite, inputs.out
    model = models.Model(width=192, context=64)
    base = model.write_single(inputs.folder / "large1.safetensors", model.base)
    tuned = model.write_single(inputs.folder / "large2.safetensors",
                               model.tuned)
    largest = max(a.nbytes for a in model.base.values())
    for threads in (1, 2):
        out.unlink(missing_ok=True)
        run = suite.run("extract", base, tuned, "-o", out, "--rank", 8, "-v",
                        "--threads", threads)
        most = threads * (3 * largest + 2**20) + 2**20
        require(peak(run) < most < base.stat().st_size,
                f"{peak(run):g} of {most:g}, {threads} threads")
    want = out.read_bytes()

    limit = int(1.2 * (3 * largest + 2**20))  # one at a time only
    out.unlink()
    run = suite.run("extract", base, tuned, "-o", out, "--rank", 8, "-v",
                    "--threads", 2, "--memory", limit)
    require(peak(run) <= limit, f"{peak(run):g} of {limit}")
    require(out.read_bytes() == want, "another result within a limit")
    out.unlink()
    run = suite.run("extract", base, tuned, "-o", out, "--rank", 8,
                    "--memory", largest, code=MEMORY)
    require("memory" in run.err and not out.exists(), run.err)
    suite.run("extract", base, tuned, "-o", out, "--rank", 8, "--resume")
    require(out.read_bytes() == want, "another result after the limit")


def main():
    suite = support.Suite(__doc__.splitlines()[0])
    inputs = Inputs(suite)
    for check in (check_nonfinite, check_nonfinite_far, check_overflow,
                  check_shapes, check_flat_shapes, check_same,
                  check_nothing_common, check_not_checkpoints, check_usage,
                  check_outputs, check_layouts, check_dtypes, check_f8,
                  check_memory):
        with suite.case(check.__name__):
            check(inputs)
    return suite.finish()


if __name__ == "__main__":
    sys.exit(main())
