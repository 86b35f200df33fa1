#!/usr/bin/env python3
"""The program: what it prints, how it exits, what it leaves behind.

Scripts: tests/cli/NAME.cmd is run by /bin/sh in a folder with the example
files, `lora` being the program; its output must be that of NAME.stdout, in
which a line of `*` stands for any lines and `*` within a line for any text.
A line `# exit N` in the script says how it ends. `--accept` writes the .stdout
files anew (by hand put the `*` back where the text may vary).

The rest goes through terminals, exit codes, messages, interruption and closed
pipes. What the library computes is not tested here.
"""

import fnmatch
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np

from program import (ADAPTER, BASE, HERE, OTHER, OUT, Cli, environment,
                     help_options, support)
from support import (FAILED, MEMORY, MISMATCH, OK, UNREADABLE, USAGE, equal,
                     require)

INTERRUPTED = 130


# Scripts --------------------------------------------------------------------

def matches(got, want):
    """Line by line; a want of `*` alone takes any number of lines."""
    if not want:
        return not got
    if want[0] == "*":
        return any(matches(got[i:], want[1:]) for i in range(len(got) + 1))
    pattern = want[0].replace("[", "[[]").replace("?", "[?]")
    return (bool(got) and fnmatch.fnmatchcase(got[0], pattern)
            and matches(got[1:], want[1:]))


def run_script(cli, path, accept):
    text = path.read_text("utf-8")
    code = int((re.search(r"^# exit (\d+)$", text, re.M) or [0, 0])[1])
    folder = cli.suite.path("script-" + path.stem)
    shutil.copytree(cli.folder, folder)
    done = subprocess.run(["/bin/sh", "-c", text], cwd=folder,
                          env=environment(cli),
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, timeout=support.TIMEOUT)
    output = done.stdout.decode("utf-8")
    expected = path.with_suffix(".stdout")
    if accept:
        expected.write_text(output, "utf-8")
    equal(done.returncode, code, f"exit code, with output {output[-400:]!r}")
    got, want = output.splitlines(), expected.read_text("utf-8").splitlines()
    if not matches(got, want):
        line = next((i for i, (one, other) in enumerate(zip(got, want))
                     if not matches([one], [other])), min(len(got), len(want)))
        raise AssertionError(f"line {line + 1}: got {got[line:line + 1]}, "
                             f"expected {want[line:line + 1]}")


# Terminals ------------------------------------------------------------------

def check_color(cli):
    _, colored = cli.terminal("info", ADAPTER)
    require("\x1b[" in colored, "no colour on a terminal")
    _, plain = cli.terminal("info", ADAPTER, "--no-color")
    require("\x1b[" not in plain, "colour in spite of --no-color")
    for verb in ("info", "check", "help", "keys"):
        run = cli.run(*BASE[verb])
        require("\x1b" not in run.out + run.err, f"{verb}: colour in a pipe")


def long_file(path, size):
    """A sound container of `size` bytes of zeros, which take no room."""
    header = json.dumps({"zeros": {"dtype": "U8", "shape": [size],
                                   "data_offsets": [0, size]}}).encode()
    header += b" " * (-len(header) % 8)
    with open(path, "wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + size)


def check_progress(cli):
    """What is long to hash shows a bar, after a moment, on a terminal, and how
    long it may take; it is gone before the result is printed."""
    path, size = cli.folder / "long.safetensors", 1 << 29
    try:
        output = ""
        while " left" not in output:
            require(size <= 1 << 35, "no progress bar")
            long_file(path, size)
            _, output = cli.terminal("hash", path)
            size *= 4
        bar, result = output.rsplit("\r\x1b[K", 1)
        for line in re.findall(r"\r([^\r\x1b]+)\x1b", bar):
            require(re.fullmatch(
                r"hash     \[#*\.*\] +\d+ %"
                r"(  [\d.]+ \w+ of [\d.]+ \w+|  [\d.]+ \w+/s  \d+:\d\d left)+",
                line)
                and len(line) < 80, f"a line of it: {line!r}")
        require(" %" in bar and "sha256" in result and " %" not in result,
                f"the bar stays: {output[-200:]!r}")
        long_file(path, 1 << 29)
        _, quiet = cli.terminal("hash", path, "--no-progress")
        require("sha256" in quiet and " %" not in quiet,
                "a bar in spite of --no-progress")
        equal(cli.run("hash", path).err, "", "progress in a pipe")
    finally:
        path.unlink(missing_ok=True)


# Exit codes and messages ----------------------------------------------------

def error_line(run):
    lines = run.err.splitlines()
    equal(len(lines), 1, f"lines on stderr of {run}")
    require(lines[0].startswith(f"lora {run.command[1]}: "), f"form: {run}")
    return lines[0]


READING = {
    "missing.safetensors": "no such file",
    "folder": "folder",
    "empty.safetensors": "empty",
    "page.safetensors": "HTML",
    "pointer.safetensors": "LFS",
    "words.safetensors": "",
    "cut.safetensors": "",
}


def check_unreadable(cli):
    before = cli.names()
    for name, word in READING.items():
        for verb in ("info", "keys", "check", "convert", "resize", "delta"):
            line = error_line(cli.run(verb, name, *BASE[verb][2:],
                                      code=UNREADABLE))
            require(name in line and word in line,
                    f"{name} is not called {word!r}: {line}")
            equal(cli.names(), before, "files")


USAGE_ERRORS = {
    ("nonsense",): "no such verb",
    ("rezise",): "resize",
    ("info",): "FILE",
    ("info", ADAPTER, "--nonsense"): "no such option",
    ("info", ADAPTER, "--moduls"): "--modules",
    ("info", ADAPTER, "-z"): "-z",
    ("info", ADAPTER, "--hash", "md5"): "sha256",
    ("info", ADAPTER, "--json=1"): "takes no value",
    ("info", ADAPTER, "--threads", "0"): "whole number",
    ("info", ADAPTER, "--threads", "two"): "whole number",
    ("info", ADAPTER, "--threads"): "needs a value",
    ("info", ADAPTER, "--threads", "99999999999999999999"): "whole number",
    ("info", ADAPTER, "--memory", "12X"): "size",
    ("info", ADAPTER, "--memory", "-1"): "size",
    ("info", ADAPTER, "--log-level", "loud"): "warning",
    ("convert", ADAPTER): "-o",
    ("convert", ADAPTER, "-o", ""): "empty",
    ("convert", ADAPTER, "-o", "-"): "files",
    ("convert", ADAPTER, "x", "-o", "y"): "operands",
    ("convert", ADAPTER, "-o", "y", "--metadata", "novalue"): "KEY=VALUE",
    ("convert", ADAPTER, "-o", "y", "--metadata", "=x"): "KEY=VALUE",
    ("convert", ADAPTER, "-o", "y", "--dialect", "klingon"): "klingon",
    ("convert", ADAPTER, "-o", "y", "--dtype", "f12"): "bf16",
    ("resize", ADAPTER, "-o", "y"): "--rank",
    ("resize", ADAPTER, "-o", "y", "--rank", "1", "--energy", ".5"): "one of",
    ("resize", ADAPTER, "-o", "y", "--rank", "1.5"): "whole number",
    ("resize", ADAPTER, "-o", "y", "--energy", "nan"): "number",
    ("resize", ADAPTER, "-o", "y", "--energy", "0x1"): "number",
    ("resize", ADAPTER, "-o", "y", "--energy", " 0.5"): "number",
    ("resize", ADAPTER, "-o", "y", "--energy", "0,5"): "number",
    ("resize", ADAPTER, "-o", "y", "--pad", "--energy", "1"): "--rank",
    ("resize", ADAPTER, "-o", "y", "--rank", "2", "--module-rank", "x"): "=K",
    ("resize", ADAPTER, "-o", "y", "--rank", "2", "--min-rank", "4",
     "--max-rank", "3"): "--max-rank",
    ("delta", ADAPTER, "-o", "y", "--strength", "1e999"): "number",
    ("help", "nonsense"): "no such verb",
    ("version", "x"): "operands",
    ("completion", "tcsh"): "bash",
}


def check_usage(cli):
    before = cli.names()
    for args, word in USAGE_ERRORS.items():
        run = cli.run(*args, code=USAGE)
        equal(run.out, "", f"stdout of {run}")
        equal(len(run.err.splitlines()), 1, f"lines on stderr of {run}")
        require(word in run.err, f"{word!r} is not in {run}")
        equal(cli.names(), before, f"files after {run}")


def check_mismatch(cli):
    before = cli.names()
    error_line(cli.run("resize", "model.safetensors", "--rank", "2", *OUT,
                       code=MISMATCH))
    error_line(cli.run("delta", "model.safetensors", *OUT, code=MISMATCH))
    error_line(cli.run("delta", "half.safetensors", *OUT, code=MISMATCH))
    error_line(cli.run("delta", "model.safetensors", "--dry-run",
                       code=MISMATCH))
    error_line(cli.run("delta", "half.safetensors", "--dry-run",
                       code=MISMATCH))
    for name in ("model.safetensors", "half.safetensors"):
        run = cli.run("check", name, code=MISMATCH)
        require("error" in run.out, f"no finding: {run}")
        cli.run("info", name)
    equal(cli.names(), before, "files")


def check_output(cli):
    """Where the result cannot go: told at once, nothing changed."""
    (cli.folder / "kept.safetensors").write_bytes(b"old")
    before = cli.names()
    for target, word in (("kept.safetensors", "--force"), ("folder", "folder"),
                         ("nowhere/x", "nowhere"), ("/dev/null", "regular"),
                         (ADAPTER, "--force"), ("kept.safetensors/x",
                                                "kept.safetensors")):
        for verb in ("convert", "resize", "delta"):
            args = [arg for arg in BASE[verb] if arg not in OUT]
            run = cli.run(*args, "-o", target, code=FAILED)
            require(word in error_line(run), f"{word!r} is not in {run}")
            equal(run.out, "", f"stdout of {run}")
            equal(cli.names(), before, f"files after {run}")
    equal((cli.folder / "kept.safetensors").read_bytes(), b"old", "old file")
    (cli.folder / "kept.safetensors").unlink()


def check_replace(cli):
    """The input may be the output, with --force."""
    path = cli.folder / "own.safetensors"
    shutil.copy(cli.folder / ADAPTER, path)
    size = path.stat().st_size
    cli.run("resize", path, "-o", path, "--rank", "2", code=FAILED)
    equal(path.stat().st_size, size, "size after a refusal")
    cli.run("resize", path, "-o", path, "--rank", "2", "--force")
    require(path.stat().st_size < size / 2, "not replaced")
    tensors, _ = support.read_file(path)
    require(tensors, "nothing in it")
    path.unlink()


def check_dry_run(cli):
    before = cli.names()
    for verb in ("convert", "resize", "delta"):
        args = [arg for arg in BASE[verb] if arg not in OUT]
        run = cli.run(*args, "--dry-run")
        require("dry run" in run.err and run.out, f"{run}")
        cli.run(*BASE[verb], "--dry-run")
        equal(cli.names(), before, "files")


def check_memory(cli):
    before = cli.names()
    for verb in ("info", "resize", "convert"):
        run = cli.run(*BASE[verb], "--memory", "8K", code=MEMORY)
        require("--memory" in error_line(run), f"no hint: {run}")
    equal(cli.names(), before, "files")
    cli.run(*BASE["resize"], "--memory", "1.5GiB", "--dry-run")


def check_several(cli):
    """A bad file does not stop the others; the worst code wins."""
    for verb in ("info", "keys", "check", "hash"):
        run = cli.run(verb, ADAPTER, "missing.safetensors", OTHER,
                      code=UNREADABLE)
        require(ADAPTER in run.out or verb == "keys", f"first: {run}")
        error_line(run)
        rows = cli.run(verb, ADAPTER, "missing.safetensors", OTHER, "--json",
                       code=UNREADABLE).json()
        equal([row.get("file") for row in rows],
              [ADAPTER, "missing.safetensors", OTHER], f"{verb}: files")
        equal([row.get("error", {}).get("status") for row in rows],
              [None, "IO", None], f"{verb}: statuses")
        one = cli.run(verb, ADAPTER, "--json").json()
        equal(one["file"], ADAPTER, f"{verb}: one file")
    run = cli.run("check", "half.safetensors", ADAPTER, code=MISMATCH)
    cli.run("check", "half.safetensors", "missing.safetensors", code=MISMATCH)


def check_json(cli):
    for verb in BASE:
        if "json" not in help_options(cli, verb):
            continue
        args = BASE[verb] + ([] if verb == "demo" else ["--json"])
        run = cli.run(*args)
        require(isinstance(run.json(), dict), f"{verb}: not an object")
        shutil.rmtree(cli.folder / "fresh", ignore_errors=True)
        (cli.folder / "result.safetensors").unlink(missing_ok=True)
    error = cli.run("info", "cut.safetensors", "--json", code=UNREADABLE)
    equal(set(error.json()), {"file", "error"}, "members of a failure")
    info = cli.run("info", ADAPTER, "--json", "--hash", "sha256").json()
    equal(list(info["hashes"]), ["sha256"], "hashes asked for")
    info = cli.run("info", ADAPTER, "--json", "--hash", "all").json()
    hashes = cli.run("hash", ADAPTER, "--json").json()["hashes"]
    for name, value in hashes.items():
        equal(info["hashes"][name], value, f"{name} of info and hash")
    version = cli.run("version", "--json").json()
    equal(set(version), {"version", "build", "features"}, "version")


def check_control_characters(cli):
    for verb in ("info", "keys", "check"):
        run = cli.run(verb, "escape.safetensors", "--verbose", code=None)
        require("\x1b" not in run.out + run.err, f"{verb}: raw escape")
    run = cli.run("keys", "escape.safetensors")
    require("\\x1b[31mred" in run.out, "the name is not shown")
    names = [row["name"] for row in
             cli.run("keys", "escape.safetensors", "--json").json()["tensors"]]
    require(any("\x1b[31m" in name for name in names), "JSON keeps the name")


def check_kindless(cli):
    """A module whose tensors form no kind has a name for that."""
    path = cli.suite.path("kindless.safetensors")
    support.write_file(path, {"lora_unet_a.alpha": support.Tensor(
        "F32", (), bytes(4))}, {})
    run = cli.run("info", path)
    equal(run.out.splitlines()[1].split()[:2], ["unknown", "for"], "headline")


# Signals and pipes ----------------------------------------------------------

def interrupted(cli, args, watch, number):
    """Start, wait until something stands in the folder, interrupt."""
    process = subprocess.Popen([cli.suite.program, *args], cwd=cli.folder,
                               stdout=subprocess.DEVNULL,
                               stderr=subprocess.PIPE)
    end = time.monotonic() + 60
    while time.monotonic() < end and not watch():
        time.sleep(0.01)
    process.send_signal(number)
    err = process.communicate(timeout=60)[1].decode()
    return process.returncode, err


def check_interrupt(cli):
    fresh = cli.folder / "fresh"
    for number, code in ((signal.SIGINT, INTERRUPTED),
                         (signal.SIGTERM, 128 + signal.SIGTERM)):
        got, err = interrupted(
            cli, ["demo", "--count", "1000000", "fresh"],
            lambda: fresh.is_dir() and len(os.listdir(fresh)) > 2, number)
        equal(got, code, f"exit code, with {err!r}")
        equal(len(err.splitlines()), 1, f"lines of {err!r}")
        left = sorted(os.listdir(fresh))
        require(all(re.fullmatch(r"demo-\d+\.safetensors", name)
                    for name in left), f"left behind: {left[-3:]}")
        for name in left[-2:]:
            support.read_file(fresh / name)
        shutil.rmtree(fresh)


def check_interrupt_resize(cli):
    """A second of work, stopped after some: no output, no temporary file."""
    rng = np.random.default_rng(4)
    path = cli.folder / "big.safetensors"
    sides = {f"lora_{side}.weight": support.tensor(
        rng.standard_normal(shape), "F16")
        for side, shape in (("down", (384, 5120)), ("up", (5120, 384)))}
    support.write_file(path, {f"lora_unet_{i}.{side}": values
                              for i in range(16)
                              for side, values in sides.items()})
    begun, before = time.monotonic(), cli.names()
    code, err = interrupted(
        cli, ["resize", path.name, "--rank", "8", "--threads", "1", *OUT],
        lambda: time.monotonic() > begun + 0.1, signal.SIGINT)
    equal(code, INTERRUPTED, f"exit code, with {err!r}")
    require("interrupted" in err and len(err.splitlines()) == 1, err)
    equal(cli.names(), before, "files")
    path.unlink()


def check_closed_pipe(cli):
    for command in ("lora keys portrait.safetensors", "lora help resize",
                    "lora keys --json portrait.safetensors"):
        script = command.replace("lora ", f"'{cli.suite.program}' ", 1)
        done = subprocess.run(
            ["bash", "-c", f"({script}; echo $? >&2) | head -c 1 >/dev/null"],
            cwd=cli.folder, capture_output=True)
        equal(done.stderr.decode(), "0\n", f"{command} into a closed pipe")


def check_full_disk(cli):
    if not os.path.exists("/dev/full"):
        support.skip("no /dev/full")
    with open("/dev/full", "wb") as full:
        done = subprocess.run([cli.suite.program, "keys", ADAPTER],
                              cwd=cli.folder, stdout=full,
                              stderr=subprocess.PIPE)
    equal(done.returncode, FAILED, "exit code")
    require(b"standard output" in done.stderr, f"message {done.stderr}")


# PEFT folders ---------------------------------------------------------------

def check_peft(cli):
    """alpha comes from the folder's configuration, or the one that is named;
    scale = alpha / r."""
    for args, scale in ((["peft"], 3), (["peft/adapter_model.safetensors"], 3),
                        (["peft", "--config", "config.json"], 5)):
        report = cli.run("info", *args, "--modules", "--json").json()
        equal([m["scale"] for m in report["modules"]], [scale],
              f"scale of {args}")
    error_line(cli.run("info", "peft", "--config", "page.safetensors",
                       code=UNREADABLE))


# Folders --------------------------------------------------------------------

def check_folders(cli):
    """A folder of diffusers, several files with an index, and a model card;
    which of several files is for the user to say."""
    folder = cli.folder / "hub"
    folder.mkdir()
    rng = np.random.default_rng(3)
    layer = "unet.down_blocks.0.attentions.0.proj_in.lora_"
    parts = {layer + "A.weight": support.tensor(rng.standard_normal((2, 4))),
             layer + "B.weight": support.tensor(rng.standard_normal((4, 2)))}
    for i, name in enumerate(parts):
        support.write_file(folder / f"x-{i}.safetensors", {name: parts[name]})
    error_line(cli.run("info", "hub", code=UNREADABLE))
    index = folder / "x.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {
        name: f"x-{i}.safetensors" for i, name in enumerate(parts)}}))
    (folder / "README.md").write_text(
        "---\nbase_model: org/name\ninstance_prompt: sks dog\nlicense: mit\n"
        "---\n# Dog\n")
    for path in ("hub", "hub/" + index.name):
        report = cli.run("info", path, "--json").json()
        equal(report["container"], "safetensors shards", "container")
        equal(report["file"], "hub/" + index.name, "file")
        equal(report["summary"]["base_model"], "org/name", "base model")
        cli.run("convert", path, "-o", "joined.safetensors", "--force")
        got, _ = support.read_file(cli.folder / "joined.safetensors")
        equal(sorted(got), sorted(parts), "names")
        for name, tensor in parts.items():
            require(got[name].same(tensor), name)
    text = cli.run("info", "hub").out
    for line in ("trained on  org/name (README.md)",
                 "triggers    sks dog (README.md)", "license     mit"):
        require(line in text, f"no {line!r} in {text}")
    support.write_file(folder / "pytorch_lora_weights.safetensors", parts)
    equal(cli.run("info", "hub", "--json").json()["file"],
          "hub/pytorch_lora_weights.safetensors", "what diffusers reads")
    for name in ("hub", "joined.safetensors"):
        path = cli.folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()


# The demo -------------------------------------------------------------------

def check_demo(cli):
    target = cli.suite.path("demo")
    begun = time.monotonic()
    run = cli.run("demo", target)
    seconds = time.monotonic() - begun
    for verb in ("info", "convert", "resize", "check", "bind", "fuse",
                 "unfuse"):
        require(f"$ lora {verb}" in run.out, f"{verb} is not shown")
    require("4 of 4 modules bound" in run.out, "the base is not the adapter's")
    base, fused, unfused = ((target / f"{name}.safetensors").read_bytes()
                            for name in ("base", "fused", "unfused"))
    require(base != fused, "nothing was fused")
    require(base == unfused, "the old model did not come back")
    require("Try next" in run.out, "no hint what to do next")
    size = sum(path.stat().st_size for path in target.iterdir())
    require(size < 20e6, f"{size} bytes")
    require(seconds < 30, f"{seconds:.1f} s")
    again = cli.suite.path("demo2")
    cli.run("demo", again)
    for path in target.iterdir():
        if path.suffix != ".undo":  # its pieces are in the order of threads
            equal((again / path.name).read_bytes(), path.read_bytes(),
                  path.name)
    there = {**os.environ, "TMPDIR": str(cli.suite.folder)}
    done = subprocess.run([cli.suite.program, "demo"], env=there,
                          capture_output=True)
    equal(done.returncode, OK, "exit code without a folder")
    require(list(cli.suite.folder.glob("lora-demo-*")), "a fresh folder")
    cli.run("demo", cli.folder / ADAPTER, code=FAILED)
    cli.run("demo", cli.folder / "no" / "such", code=FAILED)


CASES = {
    "color": check_color,
    "progress": check_progress,
    "unreadable": check_unreadable,
    "usage": check_usage,
    "mismatch": check_mismatch,
    "output": check_output,
    "replace": check_replace,
    "dry run": check_dry_run,
    "memory": check_memory,
    "several files": check_several,
    "json": check_json,
    "control characters": check_control_characters,
    "kindless": check_kindless,
    "interrupt": check_interrupt,
    "interrupt of resize": check_interrupt_resize,
    "closed pipe": check_closed_pipe,
    "full disk": check_full_disk,
    "PEFT folders": check_peft,
    "folders": check_folders,
    "demo": check_demo,
}


def main():
    suite = support.Suite(__doc__.splitlines()[0], lambda parser:
                          parser.add_argument("--accept", action="store_true"))
    cli = Cli(suite)
    for path in sorted(HERE.glob("*.cmd")):
        with suite.case(path.stem):
            run_script(cli, path, suite.args.accept)
    for name, check in CASES.items():
        with suite.case(name):
            check(cli)
    return suite.finish()


if __name__ == "__main__":
    sys.exit(main())
