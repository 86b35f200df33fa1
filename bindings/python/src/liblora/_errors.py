"""Exceptions: one for each status of the C interface."""

from __future__ import annotations

import errno
import os
from typing import Any, Optional

from . import _ffi


class LoraError(Exception):
    """Something failed in liblora.

    status    the number of the C interface, LORA_ERROR_...
    message   what is wrong, and what to do where that helps
    subject   the file, tensor, module or option it is about; "" if none
    offset    the byte in the input, or None
    os_error  errno of the operating system, or 0
    """

    def __init__(self, message: str, *, status: int, subject: str = "",
                 offset: Optional[int] = None, os_error: int = 0) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.subject = subject
        self.offset = offset
        self.os_error = os_error

    def __str__(self) -> str:
        where = f" (at byte {self.offset})" if self.offset is not None else ""
        about = f"{self.subject}: " if self.subject else ""
        return f"{about}{self.message}{where}"

    def __reduce__(self) -> Any:
        return make, (self.status, self.message, self.subject, self.offset,
                      self.os_error)


class ArgumentError(LoraError, ValueError):
    """A senseless argument."""


class StateError(LoraError, RuntimeError):
    """A call out of order, such as on an adapter that was closed."""


class RangeError(LoraError, ValueError):
    """An index or a value out of range."""


class UnsupportedError(LoraError):
    """Not in this build, or not for this kind of module."""


class OptionError(LoraError, ValueError):
    """An option that this version of the library does not know."""


class OutOfMemoryError(LoraError, MemoryError):
    """An allocation failed, or was over the context's limit."""


class FileError(LoraError, OSError):
    """The operating system refused."""

    def __init__(self, message: str, *, os_error: int = 0, **more: Any
                 ) -> None:
        super().__init__(message, os_error=os_error, **more)
        if os_error:
            self.errno, self.strerror = os_error, os.strerror(os_error)
            self.filename = self.subject or None


class MissingFileError(FileError, FileNotFoundError):
    """There is no such file."""


class ExistingFileError(FileError, FileExistsError):
    """There is such a file already, and overwrite is not set."""


class LimitError(LoraError):
    """The input is over a limit of the context."""


class ThreadError(LoraError, RuntimeError):
    """A thread could not be started."""


class FormatError(LoraError, ValueError):
    """Not of the format, or damaged."""


class TruncatedError(FormatError):
    """The input ends too early."""


class DTypeError(LoraError, TypeError):
    """A number type that cannot be used here."""


class ShapeError(LoraError, ValueError):
    """Shapes that do not fit."""


class KeyMatchError(LoraError, KeyError):
    """A name that is missing, unknown or without partner."""


class DuplicateError(LoraError, ValueError):
    """The same thing twice."""


class NonFiniteError(LoraError, ArithmeticError):
    """NaN or infinity."""


class ConvergenceError(LoraError, ArithmeticError):
    """An iteration did not settle."""


class Cancelled(LoraError):
    """Stopped by Context.cancel()."""


class InternalError(LoraError, RuntimeError):
    """A fault in liblora: please report it."""


BY_STATUS: dict[int, type[LoraError]] = {
    _ffi.LORA_ERROR_ARGUMENT: ArgumentError,
    _ffi.LORA_ERROR_STATE: StateError,
    _ffi.LORA_ERROR_RANGE: RangeError,
    _ffi.LORA_ERROR_UNSUPPORTED: UnsupportedError,
    _ffi.LORA_ERROR_OPTION: OptionError,
    _ffi.LORA_ERROR_MEMORY: OutOfMemoryError,
    _ffi.LORA_ERROR_IO: FileError,
    _ffi.LORA_ERROR_LIMIT: LimitError,
    _ffi.LORA_ERROR_THREAD: ThreadError,
    _ffi.LORA_ERROR_FORMAT: FormatError,
    _ffi.LORA_ERROR_TRUNCATED: TruncatedError,
    _ffi.LORA_ERROR_DTYPE: DTypeError,
    _ffi.LORA_ERROR_SHAPE: ShapeError,
    _ffi.LORA_ERROR_KEY: KeyMatchError,
    _ffi.LORA_ERROR_DUPLICATE: DuplicateError,
    _ffi.LORA_ERROR_NONFINITE: NonFiniteError,
    _ffi.LORA_ERROR_CONVERGENCE: ConvergenceError,
    _ffi.LORA_ERROR_CANCELLED: Cancelled,
    _ffi.LORA_ERROR_INTERNAL: InternalError,
}

_BY_ERRNO: dict[int, type[LoraError]] = {
    errno.ENOENT: MissingFileError,
    errno.EEXIST: ExistingFileError,
}


def make(status: int, message: str, subject: str = "",
         offset: Optional[int] = None, os_error: int = 0) -> LoraError:
    """The exception for a status; a number that is not known here, as newer
    libraries have more, is a plain LoraError."""
    kind = BY_STATUS.get(status, LoraError)
    if kind is FileError:
        kind = _BY_ERRNO.get(os_error, FileError)
    return kind(message, status=status, subject=subject, offset=offset,
                os_error=os_error)


def from_record(status: int, record: Any) -> LoraError:
    """The exception for a failed call and its error record."""
    offset = record.offset
    return make(status, record.message.decode("utf-8", "replace"),
                record.subject.decode("utf-8", "replace"),
                None if offset == _ffi.LORA_NO_OFFSET else offset,
                record.os_error)
