"""Fusing that is ended in all ways: killed, interrupted, out of disk. There is
what was there before, whole, or what was to be made, whole; and of a process
that was killed at most one temporary file for each that it wrote.
"""

import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import time

import numpy as np

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import fusing  # noqa: E402
import models  # noqa: E402
import support  # noqa: E402
from fusing import Module  # noqa: E402
from support import FAILED, equal, require, tensor  # noqa: E402

INTERRUPTED = 130
KILLS = 12  # for each number of threads
TEMPORARY = re.compile(r"lora-[0-9A-Za-z]{8}\.tmp")
LAYERS, SIZE = 48, 384


class Job:
    """A base, an adapter for all of it, and what they give: one file, several
    with an index, or the base itself."""

    def __init__(self, suite, name, shards=False, undo=False):
        self.suite = suite
        self.folder = suite.path(name)
        self.folder.mkdir()
        rng = np.random.default_rng(1)
        names = ["unet.down_blocks.0.attentions.0.transformer_blocks."
                 f"{i}.attn1.to_q" for i in range(LAYERS)]
        weight = rng.standard_normal((SIZE, SIZE))
        tensors = {f"{n}.weight": tensor(np.roll(weight, i, 0), "F16")
                   for i, n in enumerate(names)}
        self.base = self.folder / ("base" if shards else "base.safetensors")
        if shards:
            self.base.mkdir()
            models.write_shards(self.base, "model", tensors, 4)
        else:
            support.write_file(self.base, tensors)
        module = Module(rng, (SIZE, SIZE), 64)
        self.adapter = fusing.write_adapter(
            self.folder / "adapter.safetensors", {n: module for n in names},
            "peft")
        self.out = self.folder / ("out" if shards else "out.safetensors")
        self.undo = self.folder / "undo" if undo else None
        self.more = ["--undo", str(self.undo)] if undo else []
        self.kept = {*self.folder.rglob("*"), self.base}
        begun = time.monotonic()
        self.run()
        self.seconds = time.monotonic() - begun
        self.want = self.state()
        self.clear()

    def args(self, *more):
        return ["fuse", str(self.base), str(self.adapter), "-o", str(self.out),
                *self.more, *map(str, more)]

    def run(self, *more, **how):
        return self.suite.run(*self.args(*more), **how)

    def start(self, *more):
        return subprocess.Popen(
            [self.suite.program, *self.args(*more)], stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def files(self):
        return {path for path in self.folder.rglob("*") if path.is_file()
                and path not in self.kept}

    def state(self):
        """The output's files and their bytes; None: there is none."""
        if not self.out.exists():
            return None
        if self.out.is_dir():
            return {p.name: p.read_bytes() for p in self.out.iterdir()
                    if not TEMPORARY.fullmatch(p.name)}
        return self.out.read_bytes()

    def clear(self):
        fusing.remove(self.out)
        for path in self.files():
            path.unlink()

    def end_after(self, seconds, number, *more):
        with self.start(*more) as process:
            time.sleep(seconds)
            process.send_signal(number)
            self.said = process.communicate()[1].decode()
        return process.returncode

    def end_in_output(self, number, *more):
        """The same once there is a temporary file with something in it."""
        with self.start(*more) as process:
            while process.poll() is None and not any(
                    TEMPORARY.fullmatch(p.name) and p.stat().st_size
                    for p in self.folder.rglob("*.tmp")):
                time.sleep(0.0005)
            process.send_signal(number)
            self.said = process.communicate()[1].decode()
        return process.returncode

    def temporaries(self):
        return {p for p in self.files() if TEMPORARY.fullmatch(p.name)}


def require_old_or_new(job, old, what):
    """The old output, or the new one; several files come one after the other,
    each whole, their index last."""
    state = job.state()
    if state is None or state == old or state == job.want:
        return state
    require(isinstance(state, dict), f"{what}: half an output")
    for name, data in state.items():
        require(data in (job.want[name], (old or {}).get(name)),
                f"{what}: half of {name}")
    require(not any(name.endswith(".json") and data == job.want[name]
                    for name, data in state.items()),
            f"{what}: an index before its files")
    return state


# Killed ---------------------------------------------------------------------

def check_kills(job):
    dice = random.Random(1)
    files = len(job.want) if isinstance(job.want, dict) else 1
    for threads in (1, 2):
        early = 0
        for _ in range(KILLS):
            job.clear()
            code = job.end_after(dice.uniform(0, 1.1 * job.seconds),
                                 signal.SIGKILL, "--threads", threads)
            state = require_old_or_new(job, None, f"exit {code}")
            early += state != job.want
            left = job.files()
            mine = job.temporaries()
            others = {p for p in left - mine if p != job.undo
                      and p != job.out and job.out not in p.parents}
            equal(others, set(), "files that nobody knows")
            require(len(mine) <= files + bool(job.undo),
                    f"{len(mine)} temporary files")
            if state == job.want and job.undo:
                require(job.undo.exists(), "an output without its undo file")
            # What is left over harms nobody.
            job.run("--threads", dice.choice((1, 2)), "--force")
            equal(job.state() == job.want, True, "another result")
        require(early >= KILLS // 4, f"only {early} of {KILLS} kills came in "
                "time")


def check_kills_in_place(job):
    """The input is the output: old or new, never half."""
    dice = random.Random(2)
    old = job.base.read_bytes()
    out, job.out = job.out, job.base
    done = 0
    try:
        for _ in range(KILLS):
            job.base.write_bytes(old)
            code = job.end_after(dice.uniform(0, 1.1 * job.seconds),
                                 signal.SIGKILL, "--force")
            now = job.base.read_bytes()
            require(now in (old, job.want), f"half a file, exit {code}")
            done += now == job.want
            for path in job.temporaries():
                path.unlink()
        require(done < KILLS, "no kill came in time")
    finally:
        job.base.write_bytes(old)
        job.out = out


# Interrupted, and a full disk -----------------------------------------------

def check_interrupt(job):
    for number, exit_code in ((signal.SIGINT, INTERRUPTED),
                              (signal.SIGTERM, 128 + signal.SIGTERM)):
        for threads in (1, 2):
            job.clear()
            code = job.end_in_output(number, "--threads", threads)
            equal(code, exit_code, f"exit code, {job.said}")
            equal(job.files(), set(), "files that were left")
            require(not job.out.exists(), "an output")
            require("interrupted" in job.said, job.said)


def check_full_disk(job):
    for old in (None, b"old"):
        if job.out.suffix == "" and old:
            continue
        largest = max(map(len, job.want.values())) if isinstance(
            job.want, dict) else len(job.want)
        for share in (0.0, 0.02, 0.5, 0.999):
            for threads in (1, 2):
                job.clear()
                more = ["--threads", threads]
                if old:
                    job.out.write_bytes(old)
                    more.append("--force")
                run = job.run(*more, code=FAILED,
                              largest=1 + int(share * largest))
                require("too large" in run.err or "space" in run.err, run.err)
                equal(len(run.err.splitlines()), 1, f"lines: {run.err}")
                equal(job.state(), old, "the output")
                equal(job.files(), {job.out} if old else set(),
                      "files that were left")


def check_full_undo(job):
    """No room for the undo file: no output either."""
    job.clear()
    job.run()
    size = job.undo.stat().st_size
    job.clear()
    # Files of the output are larger: it is cut by a limit of the undo file's.
    run = job.run(code=FAILED, largest=min(size, len(job.want)) - 1)
    require("too large" in run.err, run.err)
    equal(job.files(), set(), "files that were left")


def check_changed_input(job):
    """The base is cut while it is read: no half output."""
    old = job.base.read_bytes()
    job.clear()
    try:
        job.base.write_bytes(old[:-1000])
        run = job.run(code=support.UNREADABLE)
        require(job.base.name in run.err, run.err)
        equal(job.files(), set(), "files that were left")
    finally:
        job.base.write_bytes(old)


def main():
    suite = support.Suite(__doc__.splitlines()[0])
    plain = Job(suite, "plain")
    for check in (check_kills, check_kills_in_place, check_interrupt,
                  check_full_disk, check_changed_input):
        with suite.case(check.__name__):
            check(plain)
    shards = Job(suite, "shards", shards=True)
    for check in (check_kills, check_interrupt, check_full_disk):
        with suite.case(check.__name__ + ", shards"):
            check(shards)
    undo = Job(suite, "undo", undo=True)
    for check in (check_kills, check_interrupt, check_full_undo):
        with suite.case(check.__name__ + ", undo"):
            check(undo)
    return suite.finish()


if __name__ == "__main__":
    os.umask(0o022)
    sys.exit(main())
