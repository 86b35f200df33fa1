"""The Python package at work: objects freed in any order, threads, progress,
cancelling, Ctrl-C, forked processes, errors of file objects, and without
numpy."""

import gc
import io
import itertools
import logging
import os
import random
import signal
import subprocess
import sys
import threading
import time
import types
import warnings
import weakref

import numpy as np

import bindinglib
import support
from bindinglib import CONVOLUTION, LINEAR, raises, same
from support import KOHYA, equal, require

PATIENCE = 60  # seconds for what takes less than one

suite = support.Suite(__doc__.splitlines()[0])
liblora = bindinglib.load(suite)

from liblora import _core  # noqa: E402


class Stop(Exception):
    """What a callback of the tests raises."""


class Traced(io.BytesIO):
    """A file object that a weak reference can see go."""


# Lifetime -------------------------------------------------------------------

def family(data, context):
    """Objects that hang together in every way there is."""
    file = Traced(data)
    read = liblora.open(file, context=context)
    lent = liblora.open(bytearray(data), context=context)
    builder = liblora.Builder(lent)
    builder.add("extra", 1.0)
    resized = read.resize(rank=2)
    things = {
        "read": read, "lent": lent, "builder": builder, "resized": resized,
        "report": resized.report, "problems": lent.check(),
        "converted": lent.convert(dtype="f16"),
        "edited": read.with_metadata({"a": "b"}),
        "view": lent.tensor(LINEAR + KOHYA["up"], copy=False),
    }
    resized.report = None
    return things, weakref.ref(file)


USES = {
    "read": lambda thing: thing.to_bytes(),
    "lent": lambda thing: thing.delta(LINEAR).tobytes(),
    "resized": lambda thing: thing.to_bytes(),
    "report": lambda thing: repr(thing.modules) + thing.to_json(),
    "problems": lambda thing: thing.to_json(),
    "converted": lambda thing: thing.to_bytes(),
    "edited": lambda thing: thing.delta(CONVOLUTION).tobytes(),
    "view": lambda thing: thing.tobytes(),
}


def try_any_order(path):
    """Whatever goes first, the rest works; at the end nothing is left."""
    data = path.read_bytes()
    context = liblora.Context(threads=2)
    things, _ = family(data, context)
    expected = {name: use(things[name]) for name, use in USES.items()}
    del things
    gc.collect()
    equal(context.memory_live, 0, "live at first")
    rng = random.Random(3)
    for turn in range(40):
        things, file = family(data, context)
        order = list(things)
        rng.shuffle(order)
        for name in order:
            thing = things.pop(name)
            if turn % 2 and isinstance(thing, liblora.Adapter):
                thing.close()
            del thing
            if turn % 3 == 0:
                gc.collect()
            if "lent" in things and "builder" not in things:
                same(things["lent"].delta(LINEAR).tobytes(), expected["lent"],
                     "lent")
            for other in things.keys() & USES.keys():
                require(USES[other](things[other]) == expected[other],
                        f"{other} without {name}")
        gc.collect()
        equal(context.memory_live, 0, f"live after {order}")
        require(file() is None, "the file object is gone")
    gone = weakref.ref(context)
    adapter = liblora.open(data, context=context)
    del context
    same(adapter.to_bytes(), data, "an adapter keeps its context")
    del adapter
    gc.collect()
    require(gone() is None, "and gives it back")


def try_cycles(path):
    """Objects in a cycle are freed by the collector."""
    context = liblora.Context()
    adapter = liblora.open(path, context=context)
    adapter.itself = adapter
    del adapter
    gc.collect()
    equal(context.memory_live, 0, "live")


# Threads --------------------------------------------------------------------

def run_threads(count, work):
    failures = []

    def run(number):
        try:
            work(number)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
        require(not thread.is_alive(), "a thread hangs")
    if failures:
        raise failures[0]


def try_threads(path):
    data = path.read_bytes()
    for threads in (1, 2, 5):
        context = liblora.Context(threads=threads)
        adapters = [liblora.open(path, context=context),
                    liblora.open(io.BytesIO(data), context=context)]
        delta = adapters[0].delta(LINEAR)
        small = adapters[0].resize(energy=0.9).to_bytes()

        def work(number, adapters=adapters, delta=delta, small=small):
            adapter = adapters[number % 2]
            for _ in range(5):
                require(np.array_equal(adapter.delta(LINEAR), delta), "delta")
                same(adapter.resize(energy=0.9).to_bytes(), small, "resize")
                equal(len(adapter.info(modules=True)["modules"]), 4, "info")
                raises(KeyError, adapter.delta, "none")

        run_threads(6, work)


def try_interpreter_is_released(path):
    """The functions are of the sort that releases it. (One of PyDLL's would
    hold it; a test by time would be a matter of luck.)"""
    import ctypes
    library = type(_core.lib)
    require(issubclass(library, ctypes.CDLL)
            and not issubclass(library, ctypes.PyDLL), str(library))


# Progress and cancelling ----------------------------------------------------

def operations(adapter, folder):
    """All that tells progress."""
    yield "resize", lambda: adapter.resize(rank=2)
    yield "convert", lambda: adapter.convert(dtype="bf16")
    yield "save", lambda: adapter.save(folder / "saved", overwrite=True)
    yield "bytes", lambda: adapter.to_bytes()
    yield "stream", lambda: adapter.save(io.BytesIO())
    yield "delta", lambda: adapter.save_delta(folder / "delta", overwrite=True)
    yield "hashes", lambda: liblora.hashes(folder / "adapter.safetensors",
                                           context=adapter.context)


def try_progress(path):
    told = []
    adapter = liblora.open(path, progress=lambda *call: told.append(call))
    for name, operation in operations(adapter, suite.folder):
        told.clear()
        operation()
        require(told, f"{name} tells")
        passes = itertools.groupby(told, lambda call: (call[0], call[2]))
        for (stage, total), steps in passes:
            done = [call[1] for call in steps]
            require(stage and done == sorted(done) and done[-1] == total,
                    f"{name}: {stage} {done} of {total}")


def try_stop_at_each_call(path):
    """What a callback raises comes out, nothing is left behind, and the
    context works on."""
    calls = itertools.count()
    limit = [10**9]

    def tell(stage, done, total):
        if next(calls) >= limit[0]:
            raise Stop(f"{stage} at {done}")

    context = liblora.Context(threads=2, progress=tell)
    adapter = liblora.open(path, context=context)
    for name, operation in operations(adapter, suite.folder):
        gc.collect()
        before = context.memory_live
        stopped = 0
        while True:
            calls, limit[0] = itertools.count(), stopped
            try:
                operation()
                break
            except Stop:
                stopped += 1
            gc.collect()
            equal(context.memory_live, before, f"live after {name}")
            left = [p.name for p in suite.folder.iterdir() if "tmp" in p.name]
            equal(left, [], "temporary files")
        require(stopped, f"{name} was never stopped")
    equal(context.raised, [], "exceptions that nobody asked for")


def try_cancel(path):
    """Context.cancel() stops what runs, and only that."""
    running, go_on = threading.Event(), threading.Event()

    def tell(stage, done, total):
        running.set()
        go_on.wait(PATIENCE)

    context = liblora.Context(threads=1, progress=tell)
    adapter = liblora.open(path, context=context)
    context.cancel()  # nothing runs: nothing happens
    outcome = []

    def work():
        try:
            adapter.resize(rank=2)
        except liblora.Cancelled as error:
            outcome.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    require(running.wait(PATIENCE), "it runs")
    context.cancel()
    go_on.set()
    thread.join(PATIENCE)
    require(outcome and outcome[0].status == -400, "it was cancelled")
    require(len(adapter.resize(rank=2).modules) == 4, "and works again")


CTRL_C = """
import os, signal, sys, threading, time
import liblora

def tell(stage, done, total):
    print("running", flush=True)
    time.sleep(0.05)

adapter = liblora.open(sys.argv[1], context=liblora.Context(
    threads=int(sys.argv[2]), progress=tell))
try:
    for _ in range(10000):
        adapter.resize(rank=2)
except KeyboardInterrupt:
    print("interrupted")
    adapter.delta(sys.argv[3])
"""


def try_ctrl_c(path):
    for threads in (1, 3):
        script = suite.path("interrupt.py")
        script.write_text(CTRL_C, "utf-8")
        with subprocess.Popen(
                [sys.executable, "-B", str(script), str(path), str(threads),
                 LINEAR], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                text=True, preexec_fn=lambda: signal.signal(
                    signal.SIGINT, signal.default_int_handler)) as process:
            equal(process.stdout.readline(), "running\n", "first line")
            process.send_signal(signal.SIGINT)
            try:
                out, err = process.communicate(timeout=PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        require("interrupted" in out and process.returncode == 0,
                f"exit {process.returncode}: {out}{err}")


def try_bar(path):
    """progress=True: tqdm's bar, or a line on standard error."""
    made = []

    class Bar:
        def __init__(self, total, desc):
            self.n, self.total, self.desc, self.closed = 0, total, desc, False
            made.append(self)

        def update(self, n):
            self.n += n

        def close(self):
            self.closed = True

    saved = sys.modules.get("tqdm"), sys.stderr
    try:
        sys.modules["tqdm"] = types.SimpleNamespace(tqdm=Bar)
        liblora.open(path, progress=True).resize(rank=2)
        require(made and all(bar.closed and bar.n == bar.total
                             for bar in made), "bars are filled and closed")
        equal(made[0].desc, "resize", "stage")
        sys.modules["tqdm"], sys.stderr = None, io.StringIO()
        liblora.open(path, progress=True).resize(rank=2)
        text = sys.stderr.getvalue()
    finally:
        sys.modules["tqdm"], sys.stderr = saved
        if saved[0] is None:
            del sys.modules["tqdm"]
    require("resize 100 %" in text and text.endswith("\n"), repr(text))


# Files ----------------------------------------------------------------------

class Failing(io.BytesIO):
    """Fails at the nth call."""

    def __init__(self, data, at):
        super().__init__(data)
        self.at = at

    def fail(self):
        self.at -= 1
        if self.at < 0:
            raise Stop

    def read(self, count=-1):
        self.fail()
        return super().read(count)

    def write(self, data):
        self.fail()
        return super().write(data)


class Strange(io.BytesIO):
    """Gives what it should not, or little at a time."""

    def __init__(self, data, how):
        super().__init__(data)
        self.how = how

    def read(self, count=-1):
        if self.how == "some":
            return super().read(max(1, count // 2))
        return {"more": bytes(count + 1), "text": "text",
                "none": None}[self.how]

    def write(self, data):
        return super().write(data[:7])


def try_file_errors(path):
    data = path.read_bytes()
    context = liblora.Context()
    whole = liblora.open(data, context=context)
    for method in ("read", "write"):
        for at in itertools.count():
            file = Failing(data, at)
            try:
                if method == "write":
                    whole.save(file)
                else:
                    liblora.open(file, context=context).to_bytes()
                break
            except Stop:
                pass
            require(at < 10000, "it never ends")
        require(at > 0, f"{method} never failed")
    del whole
    gc.collect()
    equal(context.memory_live, 0, "live")
    same(liblora.open(Strange(data, "some")).to_bytes(), data, "short reads")
    sink = Strange(b"", "some")
    liblora.open(data).save(sink)
    same(sink.getvalue(), data, "short writes")
    raises(ValueError, liblora.open, Strange(data, "more"))
    raises(TypeError, liblora.open, Strange(data, "text"))
    raises(TypeError, liblora.open, Strange(data, "none"))


# Processes ------------------------------------------------------------------

def try_fork(path):
    """A forked child can use what it has, and end."""
    adapter = liblora.open(path, context=liblora.Context(threads=3))
    expected = adapter.resize(rank=2).to_bytes()
    with warnings.catch_warnings():  # of Python, against forking with threads
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if adapter.resize(rank=2).to_bytes() == expected else 2
            del adapter
            gc.collect()
        finally:
            os._exit(code)
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            equal(status, 0, "exit of the child")
            return
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise AssertionError("the child hangs")


def try_exit(path):
    """Ending with everything alive, and with threads at work that call back:
    in time, without a crash and without a word; and in a forked child. There
    no thread is at work: a fork in the middle of C code is not safe."""
    for turn in range(12):
        done = bindinglib.run_python(suite, ENDING, path, turn % 3)
        equal(done, "", "output")


ENDING = """
import io, logging, os, sys, threading, time, warnings
sys.stderr = sys.stdout
warnings.simplefilter("ignore")  # of forking with threads
import liblora

def work(adapter):
    try:
        while True:
            adapter.resize(rank=2)
    except liblora.LoraError:  # Cancelled, or StateError: it is the end
        pass

logging.getLogger("liblora").setLevel(logging.DEBUG)
logging.getLogger("liblora").addHandler(logging.NullHandler())
path, turn = sys.argv[1], int(sys.argv[2])
with open(path, "rb") as file:
    data = file.read()
kept = []
for threads in (1, 3):
    context = liblora.Context(threads=threads, progress=lambda *call: None)
    adapter = liblora.open(io.BytesIO(data), context=context)
    kept += [adapter, adapter.resize(rank=2), adapter.check(),
             liblora.Builder(adapter)]
    if turn < 2:
        threading.Thread(target=work, args=(adapter,), daemon=True).start()
kept.append(kept)
liblora.kept = kept if turn else None
time.sleep(0.01 * turn)
if turn == 2 and os.fork() == 0:
    threading.Thread(target=liblora.hashes, args=(path,)).start()
"""


NO_NUMPY = """
import struct, sys
sys.modules["numpy"] = None
sys.modules["ml_dtypes"] = None
import liblora

path, linear, up, half, alpha = sys.argv[1:]
adapter = liblora.open(path)
change = adapter.delta(linear)
assert (change.shape, change.format) == ((48, 32), "f"), change
left, right, scale = adapter.factors(linear, dtype="f64")
sums = [sum(left[i, k] * right[k, j] for k in range(8))
        for i in range(48) for j in range(32)]
flat = change.cast("B").cast("f")
assert all(abs(scale * a - b) < 1e-4 for a, b in zip(sums, flat))
assert adapter.tensor(half).format == "H"
assert adapter.tensor(half, "f32").format == "f"
assert adapter.tensor(alpha).tolist() == 4.0
builder = liblora.Builder()
builder.add("x", memoryview(struct.pack("4f", 1, 2, 3, 4)).cast("f", (2, 2)))
builder.add("y", b"", dtype="f32", shape=(0, 3))
made = builder.finish()
assert made.tensor("x").tolist() == [[1, 2], [3, 4]]
assert made.tensor("y").tolist() == []
assert {name: value.tolist() for name, value in made.load().items()} == {
    "x": [[1, 2], [3, 4]], "y": []}
assert made.load("f64")["x"].format == "d"
assert adapter.resize(rank=2).report.modules[0]["rank_out"] == 2
out = bytearray(48 * 32 * 4)
adapter.delta(linear, out=memoryview(out).cast("f", (48, 32)))
assert bytes(out) == change.tobytes()
assert sys.modules["numpy"] is None
"""


def try_no_numpy(path):
    bindinglib.run_python(suite, NO_NUMPY, path, LINEAR, LINEAR + KOHYA["up"],
                          bindinglib.NARROW + KOHYA["up"],
                          LINEAR + KOHYA["alpha"])


def try_log(path):
    records = []

    class Keep(logging.Handler):
        def emit(self, record):
            records.append(record)

    logger, handler = logging.getLogger("liblora"), Keep()
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        liblora.open(path).resize(rank=2)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)
    require(records and all(r.levelno == logging.DEBUG for r in records),
            f"records: {records}")


def try_settings(path):
    """A context's settings reach C."""
    expected = liblora.open(path).resize(rank=2).to_bytes()
    plain = liblora.Context(threads=1, disable_cpu=("avx2", "avx512"))
    require(len(liblora.open(path, context=plain).resize(rank=2).to_bytes())
            == len(expected), "without SIMD")
    context = liblora.Context(memory=10**8)
    liblora.open(path, context=context).to_bytes()
    require(0 < context.memory_peak < 10**8, "peak")
    try:
        blas = liblora.Context(backend="blas")
    except liblora.UnsupportedError:
        require(liblora.Context(backend="auto"), "auto does without")
        support.skip("the rest needs liblora_openblas")
    ranks = [m["rank"] for m in
             liblora.open(path, context=blas).resize(rank=2).modules]
    equal(ranks, [2, 2, 2, 2], "with OpenBLAS")


def main():
    path, _ = bindinglib.write_adapter(suite)
    for attempt in (try_any_order, try_cycles, try_threads,
                    try_interpreter_is_released, try_progress,
                    try_stop_at_each_call, try_cancel, try_ctrl_c, try_bar,
                    try_file_errors, try_fork, try_exit, try_no_numpy, try_log,
                    try_settings):
        with suite.case(attempt.__name__):
            attempt(path)
    sys.exit(suite.finish())


main()
