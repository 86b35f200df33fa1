"""Extractions that are ended in all ways: killed, interrupted, out of disk, with
their journal cut and damaged. There is never half a result, and what is resumed
has the bytes of what was never ended.

What a journal holds is read here by the description at the top of
lib/op/journal.c.
"""

import hashlib
import os
import pathlib
import random
import shutil
import signal
import struct
import subprocess
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import models  # noqa: E402
import support  # noqa: E402
from support import FAILED, equal, require  # noqa: E402

INTERRUPTED = 130
MAGIC = b"LORAJRN1"
HEAD = len(MAGIC) + 32
RECORD = struct.Struct("=QQ16s")
KILLS = 16  # for each number of threads


def records(data):
    """(index, first byte, end) of every whole record of a journal."""
    rows, at = [], HEAD
    while at + RECORD.size <= len(data):
        index, size, digest = RECORD.unpack_from(data, at)
        first = at + RECORD.size
        body = data[first:first + size]
        whole = hashlib.sha256(struct.pack("=QQ", index, size) + body).digest()
        if len(body) < size or whole[:16] != digest:
            break
        rows.append((index, at, first + size))
        at = first + size
    return rows


class Job:
    """A pair of checkpoints, what it gives, and where it is written to."""

    def __init__(self, suite, name, rule, **more):
        self.suite, self.rule = suite, rule
        self.folder = suite.path(name)
        self.folder.mkdir()
        model = models.Model(**more)
        self.layers = len(model.layers)
        self.base = model.write_single(self.folder / models.BASE, model.base)
        self.tuned = model.write_single(self.folder / models.TUNED, model.tuned)
        self.out = self.folder / "out.safetensors"
        self.journal = self.folder / "out.safetensors.journal"
        begun = time.monotonic()
        self.run()
        self.seconds = time.monotonic() - begun
        self.want = self.out.read_bytes()
        support.require_writer_rules(self.out)
        self.clear()

    def args(self, *more):
        return ["extract", str(self.base), str(self.tuned), "-o",
                str(self.out), *self.rule, *map(str, more)]

    def run(self, *more, **how):
        return self.suite.run(*self.args(*more), **how)

    def start(self, *more):
        return subprocess.Popen(
            [self.suite.program, *self.args(*more)], stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def clear(self):
        for path in self.folder.iterdir():
            if path not in (self.base, self.tuned):
                path.unlink()

    def end_after(self, seconds, number, *more):
        """Start, and send a signal after a while; the exit code."""
        with self.start(*more) as process:
            time.sleep(seconds)
            process.send_signal(number)
            self.said = process.communicate()[1].decode()
        return process.returncode

    def end_in_journal(self, number, *more, bytes_there=HEAD + 1):
        """The same once the journal has so many bytes."""
        with self.start(*more) as process:
            while process.poll() is None and (
                    not self.journal.exists() or
                    self.journal.stat().st_size < bytes_there):
                time.sleep(0.0005)
            process.send_signal(number)
            self.said = process.communicate()[1].decode()
        return process.returncode

    def part(self):
        """A journal of some of the layers."""
        self.clear()
        code = self.end_in_journal(signal.SIGKILL,
                                   bytes_there=len(self.want) // 2)
        equal(code, -signal.SIGKILL, "ended before it could be killed")
        data = self.journal.read_bytes()
        require(1 < len(records(data)) < self.layers,
                f"{len(records(data))} records")
        return data

    def require_none(self, old=None):
        """No output, or the old one."""
        if old is None:
            require(not self.out.exists(), "there is an output")
        else:
            equal(self.out.read_bytes(), old, "what was there before")

    def check_resumed(self, *more):
        self.run("--resume", *more)
        require(self.out.read_bytes() == self.want,
                "another result than that of one call")
        require(not self.journal.exists(), "the journal is still there")


# Killed ---------------------------------------------------------------------

def kill_once(job, threads, dice):
    """1 if the kill left something to go on with."""
    job.clear()
    code = job.end_after(dice.uniform(0, 1.1 * job.seconds), signal.SIGKILL,
                         "--threads", threads)
    left = job.journal.exists() and len(records(job.journal.read_bytes()))
    if job.out.exists():
        require(job.out.read_bytes() == job.want, "half an output")
    else:
        equal(code, -signal.SIGKILL, "how it ended")
        job.check_resumed("--threads", dice.choice((1, 2)))
    return bool(left)


def check_kills(job):
    """The result is whole or not there, at whatever moment."""
    dice = random.Random(1)
    for threads in (1, 2):
        useful = sum(kill_once(job, threads, dice) for _ in range(KILLS))
        require(useful >= KILLS // 4,
                f"only {useful} of {KILLS} kills left a journal")


def check_many_kills(job):
    """Several in a row: each goes on with all that those before it did."""
    for threads in (1, 2):
        job.clear()
        step, kept = len(job.want) // 6, b""
        for i in range(5):
            code = job.end_in_journal(
                signal.SIGKILL, *["--resume"][:i], "--threads", threads,
                bytes_there=max(len(kept), HEAD) + step)
            equal(code, -signal.SIGKILL, "ended before it could be killed")
            job.require_none()
            data = job.journal.read_bytes()
            require(data.startswith(kept), "what was done was done again")
            end = records(data)[-1][2]
            require(end > len(kept), "no progress")
            kept = data[:end]
        job.check_resumed("--threads", threads)


# Damaged --------------------------------------------------------------------

def check_cut(job):
    """Cut at every kind of place, and with other bytes behind the cut."""
    data = job.part()
    found = records(data)
    ends = [end for _, _, end in found]
    cuts = {0, 1, 7, 8, 9, HEAD - 1, HEAD, HEAD + 1, HEAD + RECORD.size - 1,
            HEAD + RECORD.size, HEAD + RECORD.size + 1, len(data)}
    for end in (ends[0], ends[len(ends) // 2], ends[-1]):
        cuts |= {end - 1, end, end + 1, end + RECORD.size}
    for cut in sorted(cuts):
        for tail in (b"", bytes(100), b"\xff" * 100, data[HEAD:HEAD + 5000]):
            job.clear()
            if cut < HEAD and tail:
                continue  # then it is no journal
            job.journal.write_bytes(data[:cut] + tail)
            job.check_resumed()


def check_flipped(job):
    """A wrong byte: all before its record is used, the rest is done again."""
    data = job.part()
    _, first, end = records(data)[len(records(data)) // 2]
    for at in (first, first + 7, first + 8, first + 15, first + 16, first + 31,
               first + RECORD.size, first + RECORD.size + 40, end - 1):
        job.clear()
        wrong = bytearray(data)
        wrong[at] ^= 0x55
        job.journal.write_bytes(wrong)
        job.check_resumed()


def check_foreign(job):
    """What is no journal is left alone, also by a call that does not resume."""
    data = job.part()
    other = bytearray(data)
    other[0] ^= 1
    for content in (b"my notes\n", b"L" * 8, b"my notes\n" * 20, bytes(other)):
        for more in ([], ["--resume"]):
            job.clear()
            job.journal.write_bytes(content)
            run = job.run(*more, code=FAILED)
            require(job.journal.name in run.err and "journal" in run.err,
                    run.err)
            equal(job.journal.read_bytes(), content, "a foreign file")
            job.require_none()
    for more in ([], ["--resume"]):
        job.clear()
        target = job.folder / "target"
        target.write_bytes(data)
        job.journal.symlink_to(target)
        job.run(*more, code=FAILED)
        equal(target.read_bytes(), data, "what a link leads to")
        require(job.journal.is_symlink(), "the link is gone")
        job.journal.unlink()
        job.journal.mkdir()
        job.run(*more, code=FAILED)
        job.journal.rmdir()
        job.require_none()


def check_other_jobs(job):
    """A journal of other inputs or options is refused, and stays."""
    data = job.part()
    others = [["--seed", 7], ["--kind", "lora"], ["--dtype", "f32"],
              ["--dialect", "kohya"], ["--include", "*attn1*"],
              ["--clamp", 0.99], ["--conv-rank", 2], ["--max-rank", 3],
              ["--module-rank", "*attn1*=2"], ["--exact"]]
    for more in others:
        run = job.run("--resume", *more, code=FAILED)
        require("journal of other inputs or options" in run.err, run.err)
        require("--resume goes on" not in run.err, run.err)
        equal(job.journal.read_bytes(), data, f"the journal, after {more}")
        job.require_none()
    tuned = job.tuned.read_bytes()
    changed = bytearray(tuned)
    changed[-1] ^= 1
    for content in (job.base.read_bytes(), bytes(changed)):
        job.tuned.write_bytes(content)
        run = job.run("--resume", code=FAILED)
        require("journal of other inputs or options" in run.err, run.err)
        equal(job.journal.read_bytes(), data, "the journal")
    job.tuned.write_bytes(tuned)
    moved = job.folder / "moved.safetensors"
    shutil.copy(job.base, moved)  # where an input lies does not matter
    kept, job.base = job.base, moved
    job.check_resumed()
    job.base = kept
    job.clear()
    job.journal.write_bytes(data)  # what is refused or left out: no matter
    job.check_resumed("--skip-shapes", "--skip-bad")


def check_anew(job):
    """Without --resume an old journal is begun anew."""
    data = job.part()
    job.run()
    require(job.out.read_bytes() == job.want, "another result")
    require(not job.journal.exists(), "the journal is still there")
    job.clear()
    dice = random.Random(2)
    for _ in range(KILLS):  # never the old records as those of a new job
        job.clear()
        job.journal.write_bytes(data)
        job.end_after(dice.uniform(0, 0.3 * job.seconds), signal.SIGKILL,
                      "--seed", "7")
        if job.journal.exists():
            now = job.journal.read_bytes()
            require(now == data or (now[8:HEAD] != data[8:HEAD] and
                                    now[HEAD:HEAD + 99] != data[HEAD:HEAD + 99]
                                    ), "old records in a new journal")


# Interrupted, and a full disk -----------------------------------------------

def check_interrupt(job):
    for number, exit_code in ((signal.SIGINT, INTERRUPTED),
                              (signal.SIGTERM, 128 + signal.SIGTERM)):
        for threads in (1, 2):
            job.clear()
            code = job.end_in_journal(number, "--threads", threads)
            equal(code, exit_code, f"exit code, {job.said}")
            job.require_none()
            require("interrupted, nothing was written" in job.said and
                    "--resume goes on" in job.said, job.said)
            job.check_resumed()


def check_full_disk(job):
    """The journal is the first that the disk has no room for."""
    for old in (None, b"old"):
        for share in (0.02, 0.3, 0.9):
            for threads in (1, 2):
                job.clear()
                more = ["--threads", threads]
                if old:
                    job.out.write_bytes(old)
                    more.append("--force")
                run = job.run(*more, code=FAILED,
                              largest=int(share * len(job.want)))
                require(job.journal.name in run.err and
                        "too large" in run.err, run.err)
                job.require_none(old)
                job.check_resumed(*more)


def check_full_disk_at_save(job):
    """Everything is in the journal, and the result finds no place: somebody
    made a file of its name, then the disk is full."""
    job.clear()
    with job.start() as process:
        while process.poll() is None and not job.journal.exists():
            time.sleep(0.0005)
        job.out.write_bytes(b"new")
        process.wait()
    equal(process.returncode, FAILED, "exit code")
    job.require_none(b"new")
    data = job.journal.read_bytes()
    equal(len(records(data)), job.layers, "records")
    run = job.run("--resume", "--force", code=FAILED,
                  largest=len(job.want) - 1)
    require(job.out.name in run.err and job.journal.name not in
            run.err.splitlines()[0], run.err)
    job.require_none(b"new")
    equal(job.journal.read_bytes(), data, "the journal")
    job.check_resumed("--force")


def check_at_once(job):
    """Two calls of one output: one is told off, the other is whole."""
    job.clear()
    first = job.start()
    while first.poll() is None and not job.journal.exists():
        time.sleep(0.0005)
    run = job.run("--resume", code=None)
    said = first.communicate()[1].decode()
    codes = sorted((first.returncode, run.code))
    require(codes in ([0, 0], [0, FAILED]), f"{codes}: {said} {run.err}")
    require(job.out.read_bytes() == job.want, "another result")


def main():
    suite = support.Suite(__doc__.splitlines()[0])
    # Exact decompositions take about a second; sketches of small layers are
    # for the cases that end where they are told to.
    slow = Job(suite, "slow", ["--rank", "16", "--exact"], width=160,
               context=128)
    quick = Job(suite, "quick", ["--rank", "4"], width=96, context=64)
    for check, job in ((check_kills, slow), (check_many_kills, slow),
                       (check_interrupt, slow), (check_cut, quick),
                       (check_flipped, quick), (check_foreign, quick),
                       (check_other_jobs, quick), (check_anew, quick),
                       (check_full_disk, quick),
                       (check_full_disk_at_save, slow),
                       (check_at_once, slow)):
        with suite.case(check.__name__):
            check(job)
    return suite.finish()


if __name__ == "__main__":
    os.umask(0o022)
    sys.exit(main())
