"""File objects of Python as readers and writers of C.

C gets the number of a stream; see _core.py. What a file object raises is kept
for Context.call(), which raises it where the operation was called.
"""

from __future__ import annotations

import ctypes
import io
import itertools
import threading
from typing import Any, Callable

from . import _arrays, _ffi
from ._core import Context, options

_streams: "dict[int, _Stream]" = {}
_numbers = itertools.count(1)


class _Stream:
    """A file object in use, and the context that is told of its errors."""

    def __init__(self, file: Any, context: Context) -> None:
        self.file = file
        self.lock = threading.Lock()
        self._raised = context.raised
        self.number = next(_numbers)
        _streams[self.number] = self

    def close(self) -> None:
        _streams.pop(self.number, None)

    def attempt(self, action: Callable[..., None], *arguments: Any) -> int:
        try:
            action(self.file, *arguments)
        except BaseException as error:  # C cannot pass it on
            self._raised.append(error)
            return _ffi.LORA_ERROR_IO
        return _ffi.LORA_OK


def _measure(file: Any, out_bytes: Any) -> None:
    file.seek(0, io.SEEK_END)
    out_bytes[0] = file.tell()


def _read(file: Any, offset: int, buffer: int, count: int, out_got: Any
          ) -> None:
    file.seek(offset)
    got = 0
    while got < count:
        data = bytes(file.read(count - got))  # no text
        if not data:
            break
        if len(data) > count - got:
            raise ValueError("read() gave more than it was asked for")
        ctypes.memmove(buffer + got, data, len(data))
        got += len(data)
    out_got[0] = got


def _write(file: Any, data: int, count: int) -> None:
    rest = memoryview(ctypes.string_at(data, count))
    while rest:
        written = file.write(rest)
        rest = rest[len(rest) if written is None else written:]


def _flush(file: Any) -> None:
    if hasattr(file, "flush"):
        file.flush()


_READER: dict[str, Any] = {row[0]: row[1] for row in
                           _ffi.lora_reader._fields_}
_WRITER: dict[str, Any] = {row[0]: row[1] for row in
                           _ffi.lora_writer._fields_}


@_READER["size"]
def _on_size(user: int, out_bytes: Any) -> int:
    stream = _streams[user]
    with stream.lock:
        return stream.attempt(_measure, out_bytes)


@_READER["read_at"]
def _on_read(user: int, offset: int, buffer: int, count: int, out_got: Any
             ) -> int:
    stream = _streams[user]
    with stream.lock:
        return stream.attempt(_read, offset, buffer, count, out_got)


@_READER["destroy"]
def _on_destroy(user: int) -> None:
    _streams[user].close()


@_WRITER["write"]
def _on_write(user: int, data: int, count: int) -> int:
    return _streams[user].attempt(_write, data, count)


@_WRITER["finish"]
def _on_finish(user: int) -> int:
    return _streams[user].attempt(_flush)


@_WRITER["abort"]
def _on_abort(user: int) -> None:
    """What was written stays: only the owner of the file can remove it."""


def can_seek(file: Any) -> bool:
    """Whether it is a file to read at any place of. What has its bytes in
    memory, as a mapping, is better taken from there."""
    if not hasattr(file, "read") or _arrays.is_buffer(file):
        return False
    return hasattr(file, "seek") and getattr(file, "seekable", lambda: True)()


def reader(file: Any, context: Context) -> _ffi.lora_reader:
    """A reader of a file object that can seek. C gives it up by itself."""
    return options(_ffi.lora_reader, user=_Stream(file, context).number,
                   size=_on_size, read_at=_on_read, destroy=_on_destroy)


class Writer:
    """A writer to a file object; a context manager that yields it."""

    def __init__(self, file: Any, context: Context) -> None:
        self._stream = _Stream(file, context)

    def __enter__(self) -> _ffi.lora_writer:
        return options(_ffi.lora_writer, user=self._stream.number,
                       write=_on_write, finish=_on_finish, abort=_on_abort)

    def __exit__(self, *exception: Any) -> None:
        self._stream.close()
