"""Damaged containers and unusable adapters: every verb refuses them with the
right exit code and one line that says where, and leaves nothing behind.

With --asan PROGRAM the same is done with a sanitized build; any report of a
sanitizer is a failure.
"""

import json
import os
import pathlib
import re
import sys
import zipfile

import numpy as np

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import support  # noqa: E402
from support import MISMATCH, OK, UNREADABLE, FAILED  # noqa: E402
from support import equal, require, tensor  # noqa: E402

# verb: (arguments after the file, writes a file, is an operation)
VERBS = {
    "info": ((), False, False),
    "info --modules": (("--modules",), False, False),
    "keys": ((), False, False),
    "hash": ((), False, False),
    "hash --all": (("--all",), False, False),
    "meta": ((), False, False),
    "check": ((), False, False),
    "convert": ((), True, False),
    "convert --dtype": (("--dtype", "bf16"), True, True),
    "convert --dialect": (("--dialect", "diffusers"), True, True),
    "delta": ((), True, True),
    "resize": (("--rank", "2"), True, True),
}

# Sound containers without an adapter.
NO_ADAPTER = ("ad_no_tensors", "ad_only_metadata", "ad_full_checkpoint")

# Their fault is in the values, which `info` does not read.
IN_VALUES = ("ad_nan_factor", "ad_inf_factor")

# Kinds the library does not compute with yet may answer "unsupported" first.
OTHER_KINDS = ("ad_loha", "ad_lokr", "ad_oft", "ad_dora")

# Words of the message where a place in the file would not say enough.
NAMED = {"st_empty": "empty", "st_git_lfs_pointer": "LFS",
         "st_html_page": "HTML", "bare_pickle": "pickle",
         "leg_getpid": "posix.getpid", "pt_global_getpid": "posix.getpid",
         "pt_nested_reduce": "builtins.getattr", "pt_big_endian": "big-endian",
         "pt_list_root": "without tensors", "pt_no_pickle": "data.pkl",
         "pt_torchscript": "TorchScript"}

WHERE = re.compile(r"(offset|byte) \d+|tensor|key|header|record|storage")

# What a run may take, with the start of a process: processor time, as the
# machine may be busy, and memory of the program's own. The files are of a few
# KiB; pickles made to be expensive are of 2 MiB at most, and may ask for as many
# names as any header. Sanitized programs are slow, and their memory is no
# measure.
SECONDS, MEMORY = 0.1, 16 << 20
HOSTILE_SECONDS, HOSTILE_MEMORY = 0.5, 128 << 20
SANITIZED_SLOWER = 20


class Checker:
    """Runs one verb on one file in an output folder that is watched."""

    def __init__(self, suite, program):
        self.suite, self.program = suite, program
        self.sanitized = b"__asan" in pathlib.Path(program).read_bytes()
        self.seconds, self.memory = SECONDS, MEMORY
        self.out = suite.path("out-asan" if program != suite.program else "out")
        self.out.mkdir()

    def run(self, verb, path, code, *more):
        args, writes, _ = VERBS[verb]
        command = [verb.split()[0], path, *args, *more]
        target = self.out / "out.safetensors"
        for old in self.out.iterdir():  # what a failed case left
            old.unlink()
        if writes:
            command += ["-o", target]
        run = self.suite.run(*command, code=code, program=self.program,
                             memory=None if self.sanitized else self.memory)
        most = self.seconds * (SANITIZED_SLOWER if self.sanitized else 1)
        require(run.seconds < most, f"took {run.seconds} s: {run}")
        left = sorted(os.listdir(self.out))
        if run.code != OK or not writes:
            equal(left, [], f"files left by {run}")
        else:
            equal(left, [target.name], f"files written by {run}")
            support.require_writer_rules(target)
            run.tensors = support.read_file(target)[0]
            target.unlink()
        return run

    def message(self, run, path):
        """The error: one line `lora VERB: subject: ...`, of the file."""
        lines = run.err.strip().splitlines()
        equal(len(lines), 1, f"lines on stderr of {run}")
        require(lines[0].startswith(f"lora {run.command[1]}: "), f"form: {run}")
        require(path.name in lines[0], f"file not named: {run}")
        return lines[0]

    def json(self, verb, path, code):
        """With --json stdout is one object, or empty after an error."""
        run = self.run(verb, path, code, "--json")
        return json.loads(run.out) if run.out.strip() else None


# Containers -----------------------------------------------------------------

def check_container(checker, path):
    stem = path.stem
    for verb in VERBS:
        run = checker.run(verb, path, UNREADABLE)
        line = checker.message(run, path)
        if stem in NAMED:
            require(NAMED[stem] in line, f"sort of file not named: {run}")
        else:
            require(WHERE.search(line), f"no place in the message: {run}")
        equal(run.out.strip(), "", f"output besides the error of {run}")
        checker.json(verb, path, UNREADABLE)
    check_edit_refused(checker, path)


def check_edit_refused(checker, path):
    """`meta --set` writes within the file; of a damaged one it changes
    nothing."""
    copy = checker.suite.path("edit-" + path.name)
    whole = path.read_bytes()
    for more in ((), ("--rewrite",)):
        copy.write_bytes(whole)
        run = checker.suite.run("meta", copy, "--set", "a=b", "--force",
                                *more, code=UNREADABLE,
                                program=checker.program)
        checker.message(run, copy)
        equal(copy.read_bytes(), whole, "the file after a refused edit")
    copy.unlink()


def torch_zip(folder, name, pickle):
    """A checkpoint with this pickle and one storage of four numbers."""
    path = folder / name
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle)
        archive.writestr("archive/data/0", np.arange(4, dtype="<f4").tobytes())
    return path


def hostile_pickles():
    """name: a pickle that takes a naive reader much time or memory."""
    text = b"X\x04\0\0\0name"
    tensor_ = (b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storage"
               b"ctorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x04tQ"
               b"K\0K\x04\x85K\x01\x85\x89ccollections\nOrderedDict\n)RtR")
    laughs = b"\x80\x02" + tensor_ + b"q\0"
    for i in range(30):
        laughs += b"0(" + b"h" + bytes([i]) + b"h" + bytes([i]) + b"tq"
        laughs += bytes([i + 1])
    key = b"X" + (60000).to_bytes(4, "little") + b"k" * 60000
    return {
        "unterminated-name": b"\x80\x02c" + b"A" * 70000,
        "unterminated-name-16": b"\x80\x02c" + b"A" * (16 * 70000),
        "unterminated-second-name": b"\x80\x02ctorch\n" + b"\0" * 70000,
        "tensors-in-laughs": laughs + b".",
        "long-names": (b"\x80\x02}q\0(" + key + tensor_ + b"u0](" +
                       b"h\0" * 100000 + b"e."),
        "within-itself": b"\x80\x02}q\0" + text + b"h\0s.",
        "list-within-itself": b"\x80\x02]q\0(h\0h\0h\0h\0e.",
        "deep": b"\x80\x02" + b"]" * 50000 + b"a" * 49999 + b".",
        "marks": b"\x80\x02" + b"(" * 2000000 + b".",
        "memo-far": b"\x80\x02Nr\xff\xff\xff\xff.",
        "huge-string": b"\x80\x04\x8d" + b"\xff" * 7 + b"\x7f" + b"x" * 50,
        "huge-frame": b"\x80\x04\x95" + b"\xff" * 8 + b"N.",
        "doubled": b"\x80\x02](" + b"N" + b"2" * 900000 + b"e.",
    }


# Adapters -------------------------------------------------------------------

def check_no_adapter(checker, path, original=None):
    info = checker.json("info --modules", path, OK)
    equal(info["modules"], [], "modules")
    support.one(info["problems"], "code", "not_an_adapter")
    original = original or support.read_file(path)[0]
    for verb, (_, writes, operation) in VERBS.items():
        code = MISMATCH if operation or verb == "check" else OK
        run = checker.run(verb, path, code)
        if operation:
            checker.message(run, path)
        checker.json(verb, path, code)
        if writes and run.code == OK:
            equal(set(run.tensors), set(original), "tensors of the copy")
            require(all(run.tensors[n].same(original[n]) for n in original),
                    "the copy is another")


def check_adapter(checker, path):
    names = list(support.read_file(path)[0])
    modules = {n.split(".")[0] for n in names if n.startswith("lora_")}
    where = re.compile("|".join(map(re.escape, modules)))

    info = checker.json("info --modules", path, OK)
    if not path.stem.startswith(IN_VALUES):
        bad = [p for p in info["problems"] if p["severity"] == "error"]
        require(bad, f"info sees no error: {info['problems']}")
        require(any(where.search(p["subject"]) for p in bad),
                f"no tensor or module named: {bad}")
    found = checker.json("check", path, MISMATCH)
    require(any(where.search(p["subject"]) for p in found["problems"]
                if p["severity"] == "error"),
            f"check names no tensor or module: {found['problems']}")
    for verb, (_, _, operation) in VERBS.items():
        if verb == "check":
            continue
        code = {OK}
        if operation:
            code = {MISMATCH}
            if path.stem.startswith(OTHER_KINDS):
                code.add(FAILED)
        elif verb == "convert":  # a plain copy touches no value
            code = {OK, MISMATCH}
        run = checker.run(verb, path, code)
        checker.json(verb, path, code)
        if run.code != OK:
            line = checker.message(run, path)
            require(where.search(line), f"no tensor or module named: {run}")


MODULE = "lora_unet_{}_blocks_1_attentions_0_transformer_blocks_0_attn2_{}"


def good_module(name, rng):
    return {name + ".lora_down.weight": tensor(rng.standard_normal((2, 6))),
            name + ".lora_up.weight": tensor(rng.standard_normal((5, 2))),
            name + ".alpha": tensor(np.float64(1))}


def bad_modules(rng):
    """what: tensors of a module that cannot be used."""
    name = MODULE.format("down", "to_k")
    good = good_module(name, rng)
    down, up, alpha = good

    def without(key):
        return {k: t for k, t in good.items() if k != key}

    def with_(key, value, dtype="F32"):
        return {**good, key: tensor(value, dtype)}

    nan = rng.standard_normal((5, 2))
    nan[4, 1] = np.nan
    return name, {
        "no up": without(up), "no down": without(down),
        "alpha only": {alpha: good[alpha]},
        "ranks differ": with_(up, rng.standard_normal((5, 3))),
        "rank 0": {**with_(up, np.zeros((5, 0))),
                   down: tensor(np.zeros((0, 6)))},
        "down of one dimension": with_(down, rng.standard_normal(12)),
        "down of no dimension": with_(down, np.float64(1)),
        "nan": with_(up, nan), "inf": with_(down, np.full((2, 6), np.inf)),
        "alpha nan": with_(alpha, np.float64(np.nan)),
        "alpha inf": with_(alpha, np.float64(-np.inf)),
        "alpha vector": with_(alpha, np.ones(2)),
        "alpha empty": with_(alpha, np.ones(0)),
        "integers": with_(up, np.ones((5, 2)), "I32"),
        "bool": with_(down, np.ones((2, 6)), "BOOL"),
        "core on a linear layer": with_(name + ".lora_mid.weight",
                                        np.ones((2, 3, 3, 3))),
    }


def check_skip_bad(checker, what, bad, rng):
    """Beside a good module: refused, or left out with --skip-bad."""
    name, tensors = bad
    good = MODULE.format("up", "to_v")
    path = checker.suite.path(f"{checker.out.name}-{what.replace(' ', '-')}"
                              ".safetensors")
    support.write_file(path, {**good_module(good, rng), **tensors})
    checker.json("info", path, OK)
    checker.json("check", path, MISMATCH)
    for verb in ("delta", "resize", "convert --dtype"):
        line = checker.message(checker.run(verb, path, MISMATCH), path)
        require(name in line, f"module not named: {line}")
        run = checker.run(verb, path, OK, "--skip-bad")
        modules = {key.split(".")[0] for key in run.tensors}
        equal(modules, {good}, f"modules left by {verb} --skip-bad")


# Cut files ------------------------------------------------------------------

def small_files(suite, rng):
    """Valid files of the main shapes: name: (tensors, metadata, old)."""
    lora = good_module("lora_unet_mid_block_attentions_0_proj_in", rng)
    half = {n: tensor(t.array(), "F16") for n, t in lora.items()}
    norm = {"lora_unet_down_blocks_0_resnets_0_norm1.w_norm":
            tensor(np.ones(3), "BF16")}
    files = {"lora": (lora, {"ss_network_dim": "2"}, False),
             "old": (half, None, True), "norm": (norm, None, False),
             "empty": ({"x": tensor(np.zeros((0, 3)))}, None, False)}
    for name, (tensors, metadata, old) in files.items():
        path = suite.path(name + ".safetensors")
        support.write_file(path, tensors, metadata, old)
        yield path


def check_cut(checker, path, step):
    """Cut at every length: unreadable, never a crash."""
    whole = path.read_bytes()
    cut = checker.suite.path("cut.safetensors")
    for size in range(0, len(whole), step):
        cut.write_bytes(whole[:size])
        checker.message(checker.run("info", cut, UNREADABLE), cut)
    for size in (0, 7, 8, len(whole) // 2, len(whole) - 1):
        cut.write_bytes(whole[:size])
        for verb in VERBS:
            checker.run(verb, cut, UNREADABLE)
    cut.write_bytes(whole)
    checker.run("info", cut, OK)


# Other sorts of file --------------------------------------------------------

def check_missing(checker):
    path = checker.suite.path("no-such-file.safetensors")
    for verb in VERBS:
        line = checker.message(checker.run(verb, path, UNREADABLE), path)
        require(re.search("[Nn]o such file|not found|not exist", line), line)


def check_directory(checker):
    path = checker.suite.path(checker.out.name + "-folder.safetensors")
    path.mkdir()
    for verb in VERBS:
        line = checker.message(checker.run(verb, path, UNREADABLE), path)
        require("directory" in line or "folder" in line, line)


def check_existing_output(checker, rng):
    """An output that is there is kept without --force, replaced with it; a
    failing run with --force keeps it too."""
    path = checker.suite.path("input.safetensors")
    support.write_file(path, good_module("lora_unet_a", rng))
    out = checker.suite.path("existing.safetensors")
    for verb in ("convert", "delta", "resize"):
        args = VERBS[verb][0]
        out.write_bytes(b"old")
        run = checker.suite.run(verb, path, "-o", out, *args, code=None,
                                program=checker.program)
        require(run.code != OK and "--force" in run.err, f"no refusal: {run}")
        equal(out.read_bytes(), b"old", "output without --force")
        checker.suite.run(verb, checker.suite.path("nowhere"), "-o", out,
                          "--force", *args, code=UNREADABLE,
                          program=checker.program)
        equal(out.read_bytes(), b"old", "output after a failure")
        checker.suite.run(verb, path, "-o", out, "--force", *args,
                          program=checker.program)
        support.read_file(out)


def check_full_disk(checker, rng):
    """A write that fails half-way: nothing is left, an old output is kept."""
    suite, program = checker.suite, checker.program
    path = suite.path("input.safetensors")
    name = "lora_unet_a.lora_"
    support.write_file(path, {
        name + "down.weight": tensor(rng.standard_normal((8, 3000))),
        name + "up.weight": tensor(rng.standard_normal((50, 8)))})
    for verb in ("convert", "delta", "resize"):
        out = checker.out / "out.safetensors"
        for old in (None, b"old"):
            if old:
                out.write_bytes(old)
            run = suite.run(verb, path, "-o", out, "--force", *VERBS[verb][0],
                            code=FAILED, program=program, largest=8192)
            checker.message(run, out)
            equal(sorted(os.listdir(checker.out)), [out.name] if old else [],
                  f"files left by {run}")
        equal(out.read_bytes(), b"old", "output after a failure")
        out.unlink()


def run_all(suite, program, bad, cases, sanitized):
    prefix = "asan: " if sanitized else ""
    checker = Checker(suite, program)
    rng = np.random.default_rng(20)
    for case in cases:
        path = bad / case["file"]
        with suite.case(f"{prefix}{path.stem}: {case['why']}"):
            if path.stem == "st_zip_inside":  # read as what it is
                check_no_adapter(checker, path, {
                    "a": tensor(np.arange(1, 5).reshape(2, 2))})
            elif path.stem.startswith(("st_", "pt_", "leg_", "bare_")):
                check_container(checker, path)
            elif path.stem in NO_ADAPTER:
                check_no_adapter(checker, path)
            else:
                check_adapter(checker, path)
    for what, pickle in hostile_pickles().items():
        # What holds torch for 15 s is refused as fast as any other file.
        if not what.startswith("unterminated"):
            checker.seconds, checker.memory = HOSTILE_SECONDS, HOSTILE_MEMORY
        with suite.case(f"{prefix}pickle: {what}"):
            check_container(checker, torch_zip(suite.folder, what + ".pt",
                                               pickle))
    name, modules = bad_modules(rng)
    for what, tensors in modules.items():
        with suite.case(f"{prefix}--skip-bad: {what}"):
            check_skip_bad(checker, what, (name, tensors), rng)
    for path in small_files(suite, rng):
        with suite.case(f"{prefix}{path.stem} cut at every length"):
            # Sanitized processes start slowly: a prime step meets all sorts.
            check_cut(checker, path, 7 if sanitized else 1)
    with suite.case(prefix + "missing file"):
        check_missing(checker)
    with suite.case(prefix + "directory"):
        check_directory(checker)
    with suite.case(prefix + "existing output"):
        check_existing_output(checker, rng)
    with suite.case(prefix + "full disk"):
        check_full_disk(checker, rng)


def main():
    suite = support.Suite(__doc__.splitlines()[0], lambda parser:
                          parser.add_argument("--asan", help="sanitized build"))
    bad, cases = suite.unpack("bad")
    run_all(suite, suite.program, bad, cases, False)
    if suite.args.asan:
        program = str(pathlib.Path(suite.args.asan).resolve())
        run_all(suite, program, bad, cases, True)
    return suite.finish()


if __name__ == "__main__":
    sys.exit(main())
