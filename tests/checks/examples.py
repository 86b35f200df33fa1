#!/usr/bin/env python3
"""The examples that are one C file, the engine, those in Python that write
weights, and the program of the README: each is built without a warning against
the library in the build folder, the engine with the amalgamation, and run on
adapters that `lora demo` makes, or on its own. What they write is compared with
what the program writes, with its input, or with numpy."""

import json
import math
import re
import shutil
import struct
import sys

import numpy as np

import checklib

EXAMPLES = checklib.ROOT / "examples"
PADDING = b"\xA5" * 1000

sys.dont_write_bytecode = True
sys.path.insert(0, str(checklib.ROOT / "tests"))
import models  # noqa: E402
import support  # noqa: E402


class Bench:
    """A folder with programs and adapters."""

    def __init__(self, arguments, checks):
        self.checks, self.lora, self.build = (checks, arguments.lora,
                                              arguments.build)
        self.folder = checklib.scratch(arguments.build, "examples")
        checks.run("lora demo", [self.lora, "demo", "--count", "3",
                                 self.folder / "in"])
        self.adapters = sorted((self.folder / "in").iterdir())

    def compile(self, source):
        """The program made from a C file; every compiler must take it."""
        program = self.folder / source.stem
        for compiler, _ in reversed(checklib.compilers()):
            self.checks.run(f"{source.name}: {compiler}",
                            [compiler, "-std=c11", *checklib.WARNINGS,
                             f"-I{checklib.ROOT / 'include'}", source,
                             f"-L{self.build}", "-llora", "-lm", "-pthread",
                             f"-Wl,-rpath,{self.build}", "-o", program])
        return program

    def run(self, what, command, code=0, **options):
        """A command that must exit with a code; its output."""
        result = checklib.run(command, **options)
        self.checks.check(result.returncode == code,
                          f"{what}: exit {result.returncode}, not {code}",
                          result.stdout)
        return result.stdout

    def same(self, what, one, other):
        self.checks.check(
            one.exists() and one.read_bytes() == other.read_bytes(), what)

    def resize(self, adapter, *rule):
        """What the program makes of an adapter, with the built-in code."""
        out = self.folder / "expected.safetensors"
        self.run("lora resize", [self.lora, "resize", adapter, "-o", out,
                                 "--force", "--quiet", "--backend", "builtin",
                                 *rule])
        return out


def try_inspect(bench, program):
    for adapter in bench.adapters:
        lines = bench.run("inspect", [program, adapter]).splitlines()
        factors, _ = support.read_file(adapter)
        names = support.module_names(factors)
        bench.checks.check(len(lines) == 1 + len(names),
                           f"inspect: {len(lines)} lines, {len(names)} modules")
    bench.run("inspect: a folder", [program, bench.folder], code=1)


def try_resize_file(bench, program):
    for adapter in bench.adapters:
        out = bench.folder / f"resized-{adapter.name}"
        text = bench.run("resize_file", [program, adapter, out, "2"])
        before, _ = support.read_file(adapter)
        after, _ = support.read_file(out)
        names = support.module_names(before)
        key = support.KOHYA["down"]
        ranks = {name: (before[name + key].shape[0], after[name + key].shape[0])
                 for name in names}
        bench.checks.check(all(b == min(a, 2) for a, b in ranks.values()),
                           f"resize_file: ranks of {adapter.name}", str(ranks))
        bench.checks.check(all(f"{name}: rank {a} -> {b}," in text
                               for name, (a, b) in ranks.items()),
                           "resize_file: what it says", text)
        bench.same("resize_file: as the program", out,
                   bench.resize(adapter, "--rank", "2"))
    bench.run("resize_file: refuses to replace", [program, bench.adapters[0],
                                                  out, "2"], code=1)
    bench.run("resize_file: no rank", [program, "a", "b", "0"], code=2)


def try_extract_file(bench, program):
    model = models.Model(width=24, context=16, blocks=1)
    base = model.write_single(bench.folder / "base.safetensors", model.base)
    tuned = model.write_single(bench.folder / "tuned.safetensors", model.tuned)
    out, expected = bench.folder / "extracted", bench.folder / "by-program"
    command = [program, base, tuned, out, "4"]
    text = bench.run("extract_file", command)
    bench.checks.check(text == f"{len(model.layers)} layers, 0 problems\n",
                       "extract_file: what it says", text)
    bench.run("lora extract", [bench.lora, "extract", base, tuned, "-o",
                               expected, "--rank", "4", "--quiet"])
    bench.same("extract_file: as the program", out, expected)
    bench.run("extract_file: refuses to replace", command, code=1)
    journal = bench.folder / "extracted.journal"
    bench.checks.check(journal.exists(), "extract_file: keeps what is done")
    out.unlink()
    bench.run("extract_file: goes on", command)
    bench.same("extract_file: to the same", out, expected)
    bench.checks.check(not journal.exists(), "extract_file: no journal left")
    bench.run("extract_file: no rank", [program, "a", "b", "c", "0"], code=2)


def try_progress_cancel(bench, program):
    whole = bench.folder / "whole.safetensors"
    text = bench.run("progress_cancel", [program, bench.adapters[0], whole])
    bench.checks.check("save 100 %" in text, "progress_cancel: to the end",
                       text)
    tensors, _ = support.read_file(whole)
    types = {t.dtype for name, t in tensors.items() if name.endswith(".weight")}
    bench.checks.check(types == {"BF16"}, f"progress_cancel: {types}")
    for percent in (1, 50, 100):
        out = bench.folder / "stopped.safetensors"
        bench.run("progress_cancel: stops", [program, bench.adapters[0], out,
                                             str(percent)], code=130)
        left = list(bench.folder.glob("*stopped*"))
        bench.checks.check(not left, f"progress_cancel: left {left}")


def try_custom_io(bench, program):
    for adapter in bench.adapters:
        data = adapter.read_bytes()
        archive = bench.folder / "archive"
        archive.write_bytes(PADDING + data + PADDING)
        out = bench.folder / f"unpacked-{adapter.name}"
        command = [program, archive, str(len(PADDING)), str(len(data)), out]
        bench.run("custom_io", command)
        bench.same("custom_io: the same bytes", out, adapter)
        bench.run("custom_io: refuses to replace", command, code=1)
        bench.same("custom_io: and leaves it alone", out, adapter)
        out = bench.folder / "nothing"
        for offset, size in ((0, len(data)), (len(PADDING), len(data) - 1),
                             (len(PADDING) + len(data), len(data))):
            bench.run("custom_io: a wrong range",
                      [program, archive, str(offset), str(size), out], code=1)
            bench.checks.check(not out.exists(), "custom_io: leaves nothing")


def try_arena(bench, program):
    for adapter in bench.adapters:
        text = bench.run("arena", [program, adapter])
        bench.checks.check(text.startswith("done, "), "arena: done", text)
        peak = int(text.split()[1])
        codes = set()
        for kib in [2**i for i in range(17)]:
            result = checklib.run([program, adapter, str(kib)])
            codes.add(result.returncode)
            said = "done" if result.returncode == 0 else "no memory"
            bench.checks.check(result.returncode in (0, 1) and
                               result.stdout.startswith(said) and
                               (result.returncode == 1 or kib * 1024 >= peak),
                               f"arena: {kib} KiB", result.stdout)
        bench.checks.check(codes == {0, 1}, "arena: too small and enough")


def try_job_system(bench, program):
    for adapter in bench.adapters:
        expected = bench.resize(adapter, "--energy", "0.9")
        for threads in (1, 2, 7, 64):
            out = bench.folder / f"threads-{threads}-{adapter.name}"
            bench.run("job_system", [program, adapter, out, str(threads)])
            bench.same(f"job_system: {threads} threads", out, expected)
    bench.run("job_system: no threads", [program, "a", "b", "0"], code=2)


class Numbers:
    """The generator of train_lora.c and ggml_host.c."""

    def __init__(self):
        self.state = 1

    def fill(self, size, *shape):
        out = []
        for _ in range(math.prod(shape)):
            self.state = (self.state * 1664525 + 1013904223) % 2**32
            out.append(((self.state >> 8) / 2**23 - 1) * size)
        return np.array(out, np.float32).astype(np.float64).reshape(shape)


def train(steps):
    """What train_lora.c does, in numpy float64: (losses, factors in order)"""
    numbers = Numbers()
    frozen, taught, factors = [], [], []
    for out, into in ((32, 16), (8, 32)):
        frozen.append(numbers.fill(into**-0.5, out, into))
        factors += [numbers.fill(into**-0.5, 4, into), np.zeros((out, 4))]
        up, down = numbers.fill(1.0, out, 2), numbers.fill(into**-0.5, 2, into)
        taught.append(frozen[-1] + up @ down)
    m, v = ([np.zeros(f.shape) for f in factors] for _ in range(2))
    losses = []
    for step in range(1, steps + 1):
        x = numbers.fill(1.0, 64, 16)
        wanted = np.maximum(x @ taught[0].T, 0) @ taught[1].T
        one, two = (w + factors[2 * i + 1] @ factors[2 * i]
                    for i, w in enumerate(frozen))
        hidden = np.maximum(x @ one.T, 0)
        missing = hidden @ two.T - wanted
        losses.append(np.mean(missing**2))
        g_y = 2 * missing / missing.size
        g_hidden = (g_y @ two) * (hidden > 0)
        g_one, g_two = g_hidden.T @ x, g_y.T @ hidden
        for i, g in enumerate((factors[1].T @ g_one, g_one @ factors[0].T,
                               factors[3].T @ g_two, g_two @ factors[2].T)):
            m[i] = 0.9 * m[i] + 0.1 * g
            v[i] = 0.999 * v[i] + 0.001 * g * g
            factors[i] = factors[i] - 0.01 * (m[i] / (1 - 0.9**step)) / (
                np.sqrt(v[i] / (1 - 0.999**step)) + 1e-8)
    return losses, factors


def try_train_lora(bench, program):
    """The loss falls as in numpy, to where the teacher is reached, and what is
    saved is what was trained. f32 has an error of some 2^-24 a step, which Adam
    carries along: 1e-4 of the loss is far above it, and far below what any
    wrong gradient would do."""
    out = bench.folder / "trained.safetensors"
    rows = [line.split() for line in
            bench.run("train_lora", [program, out, "200"]).splitlines()]
    losses, factors = train(200)
    bench.checks.check([int(row[0]) for row in rows] == list(range(1, 201)),
                       "train_lora: steps")
    got = np.array([float(row[1]) for row in rows])
    bench.checks.check(np.allclose(got, losses, rtol=1e-4, atol=0),
                       "train_lora: losses as in numpy",
                       str(np.max(np.abs(got / losses - 1))))
    bench.checks.check(got[-1] < got[0] / 500, "train_lora: the loss falls",
                       str(got[[0, -1]]))
    tensors, _ = support.read_file(out)
    for name, want in zip((f"lora_unet_{layer}.lora_{which}.weight"
                           for layer in ("first", "second")
                           for which in ("down", "up")), factors):
        bench.checks.check(np.allclose(tensors[name].array(), want, atol=1e-4),
                           f"train_lora: {name}")
    bench.run("train_lora: no steps", [program, "a", "0"], code=2)
    bench.run("train_lora: no folder",
              [program, bench.folder / "no" / "where", "1"], code=1)


def try_light_sizes(bench, program):
    """The sizes in KB of rank 4: 128 layers with 797,184 parameters as LoRA;
    600 a layer as Light-LoRA, 5,000 as one matrix; frozen ones besides. Names
    take up to 170 bytes a tensor."""
    want = {"LoRA": (3114, 256), "down + up": (300, 256),
            "down + up + frozen": (58650, 512), "down_up": (2500, 128),
            "down_up + frozen": (60850, 384)}
    text = bench.run("light_sizes", [program])
    got = {line[:24].strip(): int(line[24:].split()[0])
           for line in text.splitlines()}
    bench.checks.check(
        got.keys() == want.keys() and all(
            payload <= got[name] <= payload + 170 * tensors / 1024 + 1
            for name, (payload, tensors) in want.items()),
        "light_sizes: payload and names", text)


def try_merge_in_memory(bench, program):
    """All rows of all modules are kept while the adapter is in, none after."""
    for adapter in bench.adapters:
        tensors, _ = support.read_file(adapter)
        size = 2 * sum(support.module_change(tensors, name).size
                       for name in support.module_names(tensors))
        for strength in ("1", "0"):
            text = bench.run("merge_in_memory", [program, adapter, strength])
            said = re.findall(r"(\w+): (\d+) changed, (\d+) bytes kept", text)
            kept = size if strength == "1" else 0
            bench.checks.check(
                [(word, int(count)) for word, _, count in said] ==
                [("in", kept), ("half", kept), ("out", 0)],
                f"merge_in_memory: {kept} bytes kept", text)
            bench.checks.check(
                [int(count) > 0 for _, count, _ in said] ==
                2 * [kept > 0] + [False], "merge_in_memory: changes", text)
    bench.run("merge_in_memory: a folder", [program, bench.folder, "1"],
              code=1)


def to_q8(x):
    """f32 as Q8_0 of ggml has it, read again: blocks of 32 numbers."""
    x = x.astype(np.float32).reshape(-1, 32)
    largest = np.abs(x).max(axis=1, keepdims=True)
    whole = np.round(x.astype(np.float64) / largest * 127)
    return whole * (largest / np.float32(127)).astype(np.float16)


def try_ggml_host(bench, program):
    """What is said to have changed is what numpy makes of the same numbers. f32
    and f64 may round another way where both are as near: one step of some
    hundred, 1/250 of the number, in one of some thousand numbers, is less than
    1e-3 of the norm."""
    numbers = Numbers()
    shapes = ((48, 64), (64, 288), (64, 64))
    kinds = (to_q8, lambda x: x.astype(np.float16).astype(np.float64), to_q8)
    before = [kind(numbers.fill(0.25, *shape)).reshape(shape)
              for kind, shape in zip(kinds, shapes)]
    sums = [weight.copy() for weight in before]
    for tensor, rank, factor in ((0, 4, 0.75 * 2 / 4), (1, 3, 0.75),
                                 (2, 2, 0.5 / 2), (0, 2, -0.5)):
        rows, columns = shapes[tensor]
        down = numbers.fill(0.25, rank, columns)
        sums[tensor] += factor * numbers.fill(0.25, rows, rank) @ down
    text = bench.run("ggml_host", [program])
    got = re.findall(r"changed by (\S+), (\d+) of (\d+) rows", text)
    for i, kind in enumerate(kinds):
        want = np.linalg.norm(kind(sums[i]).reshape(shapes[i]) - before[i])
        bench.checks.check(len(got) == 3 and
                           abs(float(got[i][0]) / want - 1) < 1e-3,
                           f"ggml_host: tensor {i} is {want}", text)
    bench.checks.check([row[1] for row in got] == ["48", "0", "64"],
                       "ggml_host: rows are encoded once", text)
    bench.checks.check(re.findall(r"rank (\d+)", text) == ["6", "3", "2"],
                       "ggml_host: ranks", text)
    bench.checks.check(text.endswith("right, and as before\n"),
                       "ggml_host: all is right", text)


def read_pack(path):
    """The files of the engine's archive: tensors in the order of their data."""
    data, files = path.read_bytes(), {}
    for i in range(struct.unpack_from("<I", data, 4)[0]):
        name, offset, _ = struct.unpack_from("<48sQQ", data, 8 + 64 * i)
        size, = struct.unpack_from("<Q", data, offset)
        start = offset + 8 + size
        tensors = {}
        for key, row in json.loads(data[offset + 8:start]).items():
            first, last = (start + o for o in row["data_offsets"])
            kind = {"F16": "<f2", "F32": "<f4"}[row["dtype"]]
            tensors[key] = np.frombuffer(data[first:last], kind).reshape(
                row["shape"])
        files[name.rstrip(b"\0").decode()] = tensors
    return files


def engine_hash(files, ink, oil):
    """FNV-1a of the weights with two styles in them. All is exact in f64: the
    factors are multiples of 1/64 below 1."""
    value = 14695981039346656037
    for name, weight in files["weights"].items():
        total = weight.astype(np.float64)
        layer = name.removesuffix(".weight")
        for style, strength, prefix, down, up in (
                ("ink", ink / 2, "lora_unet_" + layer.replace(".", "_"),
                 "lora_down", "lora_up"),
                ("oil", oil, f"unet.{layer}", "lora_A", "lora_B")):
            if f"{prefix}.{down}.weight" in files[style]:
                low, high = (files[style][f"{prefix}.{which}.weight"].astype(
                    np.float64) for which in (down, up))
                rank = len(low)
                total = total + strength * (
                    high.reshape(-1, rank) @ low.reshape(rank, -1)).reshape(
                        total.shape)
        for byte in total.astype(weight.dtype).tobytes():
            value = (value ^ byte) * 1099511628211 % 2**64
    return f"{value:016x}"


def try_engine(bench):
    """Weights after each step are those of numpy, bit for bit, and there is no
    size of its memory with which something is lost."""
    folder = bench.folder / "tree/examples/engine"
    shutil.copytree(EXAMPLES / "engine", folder,
                    ignore=shutil.ignore_patterns("build"))
    for name in ("lib", "include"):
        (bench.folder / "tree" / name).symlink_to(checklib.ROOT / name)
    if not shutil.which("make"):
        bench.checks.skip("make is not installed")
        return
    warnings = " ".join(["-std=c11", *checklib.WARNINGS])
    if bench.checks.run("engine: make",
                        ["make", "-C", folder, "CFLAGS=-O1",
                         f"WARNINGS={warnings}"]) is None:
        return
    program, archive = folder / "build/engine", folder / "build/assets.pack"
    text = bench.run("engine", [program, archive])
    files = read_pack(archive)
    steps = {"as loaded": (0, 0), "ink": (1, 0), "oil instead": (0, 1),
             "and half of ink": (0.5, 1), "neither": (0, 0)}
    got = dict(re.findall(r"^(.*): \d+ jobs, weights (\w+)$", text, re.M))
    want = {what: engine_hash(files, *styles) for what, styles in
            steps.items()}
    bench.checks.check(got == want, "engine: weights", f"{want}\n{text}")
    bench.checks.check("ink: 4 of 4 modules" in text and
                       "oil: 1 of 2 modules" in text and
                       "    the model has no such weight\n" in text,
                       "engine: what is bound", text)
    codes = []
    for kib in (1, 8, 64, 150, 200, 250, 300, 400, 500, 600, 1000):
        result = checklib.run([program, archive, str(kib)])
        codes.append(result.returncode)
        said = "as before" if result.returncode == 0 else "MEMORY"
        bench.checks.check(result.returncode in (0, 1) and
                           said in result.stdout and
                           ", 0 now" in result.stdout,
                           f"engine: {kib} KiB", result.stdout)
    bench.checks.check(codes == sorted(codes, reverse=True) and
                       set(codes) == {0, 1}, f"engine: too small {codes}")
    whole = archive.read_bytes()
    for size in (0, 7, 100, len(whole) // 2, len(whole) - 1):
        archive.write_bytes(whole[:size])
        bench.run(f"engine: {size} bytes", [program, archive], code=1)
    archive.write_bytes(whole.replace(b"oil\0", b"tar\0", 1))
    text = bench.run("engine: no oil", [program, archive], code=1)
    bench.checks.check("KEY: oil not in the archive" in text,
                       "engine: what it says", text)
    bench.run("engine: no archive", [program], code=2)


def try_python(bench):
    """plan_arrays.py and fuse_file.py; those that are in C too are tried by
    tests/bindings. Six digits are printed, of sums in f32: 1e-5 is above both.
    Weights are below 1, so that rank 24, which is all there is, gives the
    fine-tune but for a few roundings of 2^-24."""
    environment = checklib.environment(
        PYTHONPATH=checklib.ROOT / "bindings/python/src",
        LORA_LIBRARY=bench.build / "liblora.so")

    def script(name, *arguments, code=0):
        return bench.run(name, [sys.executable, "-B", EXAMPLES / "python" /
                                f"{name}.py", *arguments], code,
                         env=environment)

    for adapter in bench.adapters:
        factors, _ = support.read_file(adapter)
        names = support.module_names(factors)
        rows = re.findall(r"changed by (\S+)", text := script(
            "plan_arrays", adapter, "0.5"))
        want = [np.linalg.norm(support.module_delta(factors, name)[0]) / 2
                for name in names]
        bench.checks.check(len(rows) == len(want) and np.allclose(
            np.array(rows, np.float64), want, rtol=1e-5, atol=0),
                           "plan_arrays: norms as in numpy", f"{want}\n{text}")
        bench.checks.check(text.endswith("\n0 numbers differ\n"),
                           "plan_arrays: as before", text)
    script("plan_arrays", bench.folder / "absent", "1", code=1)
    script("plan_arrays", code=2)

    model = models.Model(width=24, context=16, blocks=1)
    base = model.write_single(bench.folder / "py-base.safetensors", model.base)
    tuned = model.write_single(bench.folder / "py-tuned.safetensors",
                               model.tuned)
    adapter, fused, back = (bench.folder / f"py-{name}.safetensors"
                            for name in ("adapter", "fused", "back"))
    bench.run("lora extract", [bench.lora, "extract", base, tuned, "-o",
                               adapter, "--rank", "24", "--dtype", "f32",
                               "--quiet"])
    text = script("fuse_file", base, adapter, "1", fused, back)
    count = len(model.layers)
    bench.checks.check(text == f"{count} of {count} modules are bound\n",
                       "fuse_file: what it says", text)
    bench.same("fuse_file: back bit for bit", back, base)
    weights, _ = support.read_file(fused)
    bench.checks.check(all(np.allclose(weights[f"{name}.weight"].array(),
                                       array, rtol=0, atol=1e-6)
                           for name, array in model.tuned.items()),
                       "fuse_file: base and difference are the fine-tune")
    script("fuse_file", base, adapter, "1", fused, back, code=1)
    script("fuse_file", code=2)


def try_readme(bench):
    """The first C block of README.md is a program: it must say what its
    comment promises."""
    text = (checklib.ROOT / "README.md").read_text("utf-8")
    source = bench.folder / "readme.c"
    source.write_text(re.search(r"^```c\n(.*?)^```", text, re.M | re.S)[1],
                      "utf-8")
    program = bench.compile(source)
    for adapter in bench.adapters:
        lines = bench.run("README", [program, adapter]).splitlines()
        factors, _ = support.read_file(adapter)
        bench.checks.check(len(lines) == len(support.module_names(factors)),
                           "README: a line a module", "\n".join(lines[:5]))
    bench.run("README: no file", [program, bench.folder / "absent"], code=1)


def main():
    checks = checklib.Checks()
    bench = Bench(checklib.arguments(), checks)
    tried = {"inspect": try_inspect, "resize_file": try_resize_file,
             "extract_file": try_extract_file,
             "progress_cancel": try_progress_cancel,
             "custom_io": try_custom_io, "arena": try_arena,
             "job_system": try_job_system, "train_lora": try_train_lora,
             "light_sizes": try_light_sizes,
             "merge_in_memory": try_merge_in_memory,
             "ggml_host": try_ggml_host}
    there = {path.stem for path in EXAMPLES.glob("*.c")}
    checks.check(there == set(tried), f"examples: {there ^ set(tried)}")
    table = (EXAMPLES / "README.md").read_text("utf-8")
    for name, attempt in tried.items():
        checks.check(f"`{name}.c`" in table, f"examples/README.md: {name}.c")
        attempt(bench, bench.compile(EXAMPLES / f"{name}.c"))
    for script in (EXAMPLES / "python").glob("*.py"):
        checks.check(f"`python/{script.name}`" in table,
                     f"examples/README.md: {script.name}")
    try_engine(bench)
    try_python(bench)
    try_readme(bench)
    checks.finish()


main()
