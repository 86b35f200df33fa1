"""Fusing that is ended in all ways: killed, interrupted, out of disk. There is
what was there before, whole, or what was to be made, whole; and of a process
that was killed at most one temporary file for each that it wrote.
"""

import json
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


# Resumed --------------------------------------------------------------------

def bodies(path):
    """{tensor: its bytes} of a file, or of those of a folder."""
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    return {name: t.data for f in files
            for name, t in support.read_file(f)[0].items()}


def resume(job, *more, **how):
    """Go on; how many tensors were there."""
    return json.loads(job.run("--resume", "--json", *more, **how).out)[
        "resumed"]


def require_partial(job, what):
    """Of a run that was ended there is an output, or what leads to one."""
    names = {p.name for p in job.files() if job.out not in (p, *p.parents)}
    require(names <= {job.out.name + end for end in (".journal", ".partial")},
            f"{what}: {names}")
    if job.out.is_dir():
        for path in job.out.iterdir():
            require(path.name.endswith(".partial") or
                    path.read_bytes() == job.want[path.name],
                    f"{what}: half of {path.name}")
    elif job.out.exists():
        require(job.out.read_bytes() == job.want, f"{what}: half an output")


def check_resume(job):
    """Killed until it is done: the same bytes, and no work twice but that of
    the last moments."""
    dice = random.Random(3)
    job.clear()
    begun = time.monotonic()
    equal(resume(job), 0, "tensors of no earlier run")
    seconds = time.monotonic() - begun
    equal((job.state() == job.want, job.files() - {job.out}), (
        True, {job.out / n for n in job.want} if job.out.is_dir() else set()),
        "what an uninterrupted run leaves")
    useful = 0
    for threads in (1, 2):
        for _ in range(KILLS):
            job.clear()
            for kill in range(3):
                code = job.end_after(dice.uniform(0, 0.7 * seconds),
                                     signal.SIGKILL, "--resume", "--force",
                                     "--threads", threads)
                require_partial(job, f"kill {kill}, exit {code}")
            done = resume(job, "--force", "--threads", dice.choice((1, 2)))
            useful += 0 < done
            require(job.state() == job.want, f"another result, {done} resumed")
            require(not any(p.suffix in (".partial", ".journal")
                            for p in job.files()), "files that were left")
    require(useful >= KILLS // 2, f"only {useful} of {2 * KILLS} runs found "
            "something done")


def leave_some(job):
    """End a run when some of it is in the journal."""
    for _ in range(50):
        job.clear()
        journal = job.out.with_name(job.out.name + ".journal")
        with job.start("--resume", "--threads", 1) as process:
            while process.poll() is None and not (
                    journal.exists() and journal.stat().st_size > 100):
                time.sleep(0.0005)
            process.kill()
            process.communicate()
        if not job.state() or isinstance(job.state(), dict):
            if journal.exists() and journal.stat().st_size > 100:
                return journal
    raise AssertionError("no run could be ended in time")


def partials(job):
    return [p for p in job.files() if p.suffix == ".partial"]


def check_resumed_work(job):
    """Other bytes in the place of all that is done stay: it is not written
    again. Exactly as many tensors as are told of have them."""
    leave_some(job)
    for path in partials(job):
        data = bytearray(path.read_bytes())
        start = 8 + int.from_bytes(data[:8], "little")
        data[start:] = b"\xA5" * (len(data) - start)
        path.write_bytes(data)
    done = resume(job)
    require(0 < done < LAYERS, f"{done} resumed")
    kept = [d for d in bodies(job.out).values() if set(d) == {0xA5}]
    equal(len(kept), done, "tensors that were not written again")


def check_resume_refused(job):
    """Other inputs or options: refused, and begun anew with --force."""
    other = job.folder / "other.safetensors"
    tensors, _ = support.read_file(pathlib.Path(job.adapter))
    name = next(iter(tensors))
    data = bytearray(tensors[name].data)
    data[-1] ^= 1  # of a number's mantissa or sign: all else is the same
    tensors[name] = support.Tensor(tensors[name].dtype, tensors[name].shape,
                                   bytes(data))
    support.write_file(other, tensors)
    job.kept.add(other)
    adapter = job.adapter
    for change in ("strength", "seed", "adapter"):
        leave_some(job)
        more = ["--seed", 1, "--stochastic"] if change == "seed" else []
        job.adapter = {"strength": f"{adapter}:0.5", "seed": adapter,
                       "adapter": other}[change]
        try:
            before = {p: p.read_bytes() for p in job.files()}
            run = job.run("--resume", *more, code=FAILED)
            require("nothing to resume" in run.err, run.err)
            equal({p: p.read_bytes() for p in job.files()} == before, True,
                  "files of a run that was refused")
            equal(resume(job, "--force", *more), 0, "resumed of another job")
            got = job.state()
            job.clear()
            job.run(*more)
            require(job.state() == got, f"{change}: another result")
        finally:
            job.adapter = adapter
    job.run("--resume", "--undo", job.folder / "undo", "--force",
            code=support.USAGE)
    out, job.out = job.out, job.base
    try:
        before = job.base.read_bytes()
        run = job.run("--resume", "--force", code=None)
        require(run.code != 0 and "own input" in run.err, run.err)
        require(job.base.read_bytes() == before, "the base is another")
    finally:
        job.out = out


def check_resume_gone(job):
    """A journal without its files is of no use."""
    leave_some(job)
    for path in partials(job):
        path.unlink()
    fusing.remove(job.out)
    equal(resume(job), 0, "resumed from files that are gone")
    require(job.state() == job.want, "another result")
    leave_some(job)
    path = partials(job)[0]
    path.write_bytes(path.read_bytes()[:-1])
    equal(resume(job), 0, "resumed from a file that was cut")
    require(job.state() == job.want, "another result")


def check_resume_interrupt(job):
    """What is in no batch yet is told of too, where the program can."""
    for _ in range(50):
        job.clear()
        with job.start("--resume", "--threads", 1) as process:
            while process.poll() is None and not partials(job):
                time.sleep(0.0005)
            time.sleep(0.2 * job.seconds)
            process.send_signal(signal.SIGINT)
            process.communicate()
        if process.returncode == INTERRUPTED:
            break
    equal(process.returncode, INTERRUPTED, "exit code")
    require_partial(job, "interrupted")
    resume(job)
    require(job.state() == job.want, "another result")


def check_resume_names(job):
    """Ended between the names of two files: those that have theirs stay."""
    name = sorted(n for n in job.want if n.endswith(".safetensors"))[2]
    for _ in range(20):
        job.clear()
        with job.start("--resume", "--threads", 1) as process:
            while process.poll() is None and len(partials(job)) < len(job.want):
                time.sleep(0.0005)
            (job.out / name).mkdir(exist_ok=True)
            process.communicate()
        if process.returncode == FAILED:
            break
    equal(process.returncode, FAILED, "exit code")
    (job.out / name).rmdir()
    require(partials(job), "no file is without its name")
    require(any(p.suffix == ".safetensors" for p in job.out.iterdir()),
            "no file has its name")
    equal(resume(job), LAYERS, "tensors that are there")
    require(job.state() == job.want, "another result")
    require(not partials(job), "files that were left")


def main():
    suite = support.Suite(__doc__.splitlines()[0])
    plain = Job(suite, "plain")
    for check in (check_kills, check_kills_in_place, check_interrupt,
                  check_full_disk, check_changed_input, check_resume,
                  check_resumed_work, check_resume_refused, check_resume_gone,
                  check_resume_interrupt):
        with suite.case(check.__name__):
            check(plain)
    shards = Job(suite, "shards", shards=True)
    for check in (check_kills, check_interrupt, check_full_disk, check_resume,
                  check_resumed_work, check_resume_gone, check_resume_names):
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
