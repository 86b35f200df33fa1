"""Contexts, and how everything here calls C.

A Handle owns one C object. Objects of C keep what they need alive themselves;
what belongs to Python (a buffer that C borrows) goes along in the handle.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import itertools
import logging
import os
import signal
import struct
import sys
import threading
import time
import weakref
from typing import (Any, Callable, Collection, Iterable, Iterator, Mapping,
                    Optional, Union)

from . import _errors, _ffi, _library
from ._library import lib

Progress = Callable[[str, int, int], Any]

logger = logging.getLogger("liblora")


# Not empty when the interpreter ends: see _end_all().
_ended: list[bool] = []

_LAST_WAIT = 5.0  # seconds for operations to end when the interpreter does


class Handle:
    """One C object; it is freed when nothing refers to the handle any more."""

    __slots__ = ("_as_parameter_", "_destroy", "_process", "keep",
                 "__weakref__")

    def __init__(self, pointer: Any, destroy: Any, keep: Any = None) -> None:
        self._as_parameter_ = pointer
        self._destroy = destroy
        self._process = os.getpid()
        self.keep = keep

    def __del__(self, getpid: Callable[[], int] = os.getpid,
                ended: list[bool] = _ended) -> None:
        # A forked child has the parent's contexts but not their threads, and
        # would wait for them for ever. After the end C must not call back.
        if self._process == getpid() and not ended:
            self._destroy(self._as_parameter_)


# Error records that are not in use: making one costs more than most calls.
_error_records: list[_ffi.lora_error] = []


def options(kind: Any, /, **fields: Any) -> Any:
    """A struct that begins with its size; zero means default throughout."""
    if not fields:
        return kind(ctypes.sizeof(kind))
    unknown = fields.keys() - {field[0] for field in kind._fields_}
    if unknown:  # ctypes would take it for an attribute
        raise TypeError(f"no such setting: {', '.join(sorted(unknown))}")
    return kind(struct_size=ctypes.sizeof(kind), **fields)


@functools.lru_cache(maxsize=None)
def layout(kind: Any) -> struct.Struct:
    """The fields of a struct of C: with many of them at once, struct is faster
    than objects of ctypes."""
    return struct.Struct("".join(
        f"{getattr(field, '_length_', '')}{_code(field)}"
        for _, field in kind._fields_))


def _code(field: Any) -> str:
    """What struct calls a type of ctypes, or the elements of an array."""
    code = field._type_
    return getattr(code, "_type_", code).replace("z", "P")


class Columns:
    """Structs of C, many of them in one block, a field of all at a time: with
    so many, an object for each would cost more than what C does."""

    def __init__(self, kind: Any, count: int) -> None:
        self._kind, self._count = kind, count
        self.block = bytearray(ctypes.sizeof(kind) * count)

    def __getitem__(self, field: str) -> list[Any]:
        """What all structs have there."""
        return self._column(field).tolist()

    def texts(self, field: str) -> list[str]:
        """The texts of C that all structs have there."""
        return _decoded(self._column(field).tobytes(), self._count)

    def slices(self, first: str, last: str) -> Iterator[tuple[bytes]]:
        """The bytes that all structs have from a field to another."""
        begin, end = getattr(self._kind, first), getattr(self._kind, last)
        count = end.offset + end.size - begin.offset
        rest = ctypes.sizeof(self._kind) - begin.offset - count
        return struct.iter_unpack(f"{begin.offset}x{count}s{rest}x",
                                  self.block)

    def _column(self, field: str) -> memoryview:
        code, bytes = _codes(self._kind)[field]
        first = getattr(self._kind, field).offset // bytes
        step = ctypes.sizeof(self._kind) // bytes
        return memoryview(self.block).cast(code)[first::step]


@functools.lru_cache(maxsize=None)
def _codes(kind: Any) -> dict[str, tuple[Any, int]]:
    return {name: (_code(field), struct.calcsize(_code(field)))
            for name, field in kind._fields_}


def texts(addresses: Collection[int]) -> list[str]:
    """The texts of C at those addresses."""
    return _decoded(struct.pack(f"{len(addresses)}P", *addresses),
                    len(addresses))


def _decoded(table: bytes, count: int) -> list[str]:
    strings = ctypes.cast(table, ctypes.POINTER(ctypes.c_char_p))
    return list(map(bytes.decode, strings[:count]))


def text(value: str) -> bytes:
    """Text for C, which ends it at the first zero byte."""
    if "\0" in value:
        raise _errors.make(_ffi.LORA_ERROR_ARGUMENT,
                           "text with a zero byte in it")
    return value.encode("utf-8")


def path_text(path: Union[str, bytes, "os.PathLike[Any]"]) -> bytes:
    name = os.fspath(path)
    if isinstance(name, bytes):
        name = os.fsdecode(name)
    if "\0" in name:
        raise _errors.make(_ffi.LORA_ERROR_ARGUMENT,
                           "a path with a zero byte in it")
    return name.encode("utf-8", "surrogateescape")


def is_path(thing: Any) -> bool:
    return isinstance(thing, (str, os.PathLike))


# Callbacks. C is given the number of an object, not a function of its own, so
# that no function can go away while C is within it.

_contexts: "weakref.WeakValueDictionary[int, Context]" = (
    weakref.WeakValueDictionary())
_numbers = itertools.count(1)

_LEVELS = {
    _ffi.LORA_LOG_ERROR: logging.ERROR,
    _ffi.LORA_LOG_WARNING: logging.WARNING,
    _ffi.LORA_LOG_INFO: logging.INFO,
    _ffi.LORA_LOG_DEBUG: logging.DEBUG,
}


@_ffi.lora_log_fn
def _on_log(user: int, level: int, line: bytes) -> None:
    logger.log(_LEVELS.get(level, logging.ERROR), "%s",
               line.decode("utf-8", "replace"))


@_ffi.lora_progress_fn
def _on_progress(user: int, stage: bytes, done: int, total: int) -> int:
    context = _contexts.get(user)
    return 0 if context is None else context._told(stage, done, total)


class _Bar:
    """What progress=True shows: tqdm's bar, or a line without tqdm."""

    def __init__(self) -> None:
        self._shown: Optional[tuple[str, int]] = None
        self._bar: Any = None

    def __call__(self, stage: str, done: int, total: int) -> None:
        if (stage, total) != self._shown:
            self.close()
            self._shown, self._bar = (stage, total), self._start(stage, total)
        if self._bar is not None:
            self._bar.update(done - self._bar.n)
        else:
            sys.stderr.write(f"\r{stage} {100 * done // max(total, 1):3d} %")
            sys.stderr.flush()

    @staticmethod
    def _start(stage: str, total: int) -> Any:
        try:
            from tqdm import tqdm
        except ImportError:
            return None
        return tqdm(total=total, desc=stage)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
        elif self._shown:
            sys.stderr.write("\n")
        self._shown, self._bar = None, None


def _takes_signals() -> bool:
    """Whether Ctrl-C would raise something in this thread."""
    return (threading.current_thread() is threading.main_thread()
            and callable(signal.getsignal(signal.SIGINT)))


class Context:
    """What the library may use. There is no other state: adapters of two
    contexts have nothing in common.

    threads      how many; None: one for each CPU. Results do not depend on it.
    memory       most bytes to use at once; None: no limit
    progress     True for a bar, or a function that is called with (stage,
                 done, total) from any thread. What it raises stops the
                 operation and is raised there.
    backend      for decompositions: "builtin", "blas" (liblora_openblas), or
                 "auto", which takes the second where it can be loaded
    limits       what inputs may ask for: header_bytes, tensor_count,
                 name_bytes, rank
    disable_cpu  parts of the CPU not to use: "avx2", "avx512", "neon", "sha"
    """

    def __init__(self, *, threads: Optional[int] = None,
                 memory: Optional[int] = None,
                 progress: Union[bool, Progress, None] = None,
                 backend: str = "builtin",
                 limits: Optional[Mapping[str, int]] = None,
                 disable_cpu: Iterable[str] = ()) -> None:
        self._number = next(_numbers)
        self._lock = threading.Lock()
        self._active = 0
        self._cancelled = False
        self.raised: list[BaseException] = []  # in callbacks
        self._progress: Any = _Bar() if progress is True else progress or None
        self._handle = None
        token = ctypes.POINTER(_ffi.lora_cancel_token)()
        self.call(lib.lora_cancel_token_create, token)
        self._token = Handle(token, lib.lora_cancel_token_destroy)
        settings = options(
            _ffi.lora_context_options, cancel=token,
            max_threads=_cpu_count() if threads is None else threads,
            log=_on_log, backend=_backend(backend),
            disable_cpu=_cpu_bits(disable_cpu))
        if self._progress is not None:
            settings.progress = _on_progress
            settings.progress_user = self._number
        bounds = options(_ffi.lora_limits, memory_bytes=memory or 0,
                         **(limits or {}))
        settings.limits = ctypes.pointer(bounds)
        pointer = ctypes.POINTER(_ffi.lora_context)()
        self.call(lib.lora_context_create, pointer, settings)
        self._handle = Handle(pointer, lib.lora_context_destroy)
        _contexts[self._number] = self

    def __repr__(self) -> str:
        return f"<liblora.Context: {self.memory_live} bytes in use>"

    @property
    def handle(self) -> Any:
        return self._handle

    @property
    def memory_peak(self) -> int:
        """The most memory that was in use at once, in bytes."""
        return lib.lora_context_memory_peak(self._handle)

    @property
    def memory_live(self) -> int:
        """The memory that is in use, in bytes."""
        return lib.lora_context_memory_live(self._handle)

    def cancel(self) -> None:
        """Stop the operations that run in this context now: they raise
        Cancelled. May be called from any thread."""
        with self._lock:
            if self._active:
                self._cancelled = True
                lib.lora_cancel_token_cancel(self._token)

    def _told(self, stage: bytes, done: int, total: int) -> int:
        try:
            self._progress(stage.decode(), done, total)
        except BaseException as error:  # C cannot pass it on: call() does
            self.raised.append(error)
            return 1
        return 0

    def _begin(self) -> None:
        with self._lock:
            if _ended:
                raise _errors.make(_ffi.LORA_ERROR_STATE,
                                   "the interpreter is ending")
            self._active += 1

    def _end(self) -> None:
        with self._lock:
            self._active -= 1
            if self._active:
                return
            self.raised.clear()
            if self._cancelled:
                self._cancelled = False
                lib.lora_cancel_token_reset(self._token)
        if isinstance(self._progress, _Bar):
            self._progress.close()

    def call(self, function: Any, *arguments: Any) -> None:
        """Call a C function, without its last parameter, the error record;
        raise what went wrong, in it or in a callback."""
        try:  # one that a call left as it was
            error = _error_records.pop()
        except IndexError:
            error = options(_ffi.lora_error)
        self._begin()
        try:
            status = function(*arguments, error)
            if not status:
                _error_records.append(error)
            if status and self.raised:
                raise self.raised.pop(0)
            if status:
                raise _errors.from_record(status, error)
        finally:
            self._end()

    def columns(self, function: Any, kind: Any, count: int, *arguments: Any
                ) -> Columns:
        """Structs of which C fills many in one call."""
        columns = Columns(kind, count)
        if count:
            first = kind.from_buffer(columns.block)
            first.struct_size = ctypes.sizeof(kind)
            self.call(function, first, *arguments, 0, count)
        return columns

    def work(self, function: Any, *arguments: Any) -> None:
        """As call(), for what may take long. Python runs signal handlers in
        the main thread only, and not while it is in C: there, another thread
        does the work, and this one waits for it or for Ctrl-C."""
        if not _takes_signals():
            self.call(function, *arguments)
            return
        done = threading.Event()
        failure: list[BaseException] = []

        def run() -> None:
            try:
                self.call(function, *arguments)
            except BaseException as error:
                failure.append(error)
            finally:
                done.set()

        try:
            threading.Thread(target=run, name="liblora").start()
        except RuntimeError:  # the interpreter is ending
            self.call(function, *arguments)
            return
        interrupt = self._wait(done)
        if interrupt is not None:
            failure.clear()
            raise interrupt
        if failure:
            raise failure.pop()

    def _wait(self, done: threading.Event) -> Optional[BaseException]:
        """Wait for work to end, cancelling it when a signal's handler raises
        something; that, or None. With a timeout, as Windows takes no Ctrl-C
        while it waits for ever."""
        interrupt: Optional[BaseException] = None
        while True:
            try:
                while not done.wait(0.1):
                    pass
                return interrupt
            except BaseException as error:
                interrupt = error
                self.cancel()


def _cpu_count() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def _cpu_bits(names: Iterable[str]) -> int:
    bits = 0
    for name in names:
        bit = getattr(_ffi, f"LORA_CPU_{name.upper()}", None)
        if bit is None:
            raise _errors.make(_ffi.LORA_ERROR_ARGUMENT,
                               "no such part of a CPU", name)
        bits |= bit
    return bits


def _backend(name: str) -> Any:
    if name not in ("builtin", "blas", "auto"):
        raise _errors.make(_ffi.LORA_ERROR_ARGUMENT, "no such backend", name)
    table = None if name == "builtin" else _library.openblas()
    if name == "blas" and not table:
        raise _errors.make(_ffi.LORA_ERROR_UNSUPPORTED,
                           "liblora_openblas cannot be loaded", name)
    return table


def _end_all() -> None:
    """When the interpreter ends, daemon threads may be in C still, which must
    not call functions that are no more: stop them, and start nothing new."""
    _ended.append(True)
    end = time.monotonic() + _LAST_WAIT
    for context in list(_contexts.values()):
        context.cancel()
        while context._active and time.monotonic() < end:
            time.sleep(0.001)


def _forget_threads() -> None:
    """In a forked child: the threads that were in C are the parent's."""
    for context in list(_contexts.values()):
        context._lock = threading.Lock()
        context._active = 0


atexit.register(_end_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)


@functools.lru_cache(maxsize=None)
def default_context() -> Context:
    """The context of everything that is made without one."""
    return Context()


def settle(context: Optional[Context], progress: Union[bool, Progress, None]
           ) -> Context:
    """The context to use, or a new one that tells progress."""
    if not progress:
        return context or default_context()
    if context is not None:
        raise _errors.make(_ffi.LORA_ERROR_ARGUMENT,
                           "progress belongs to the context: give one of them")
    return Context(progress=progress)
