"""Finds the C library, loads it, and checks that it fits this package.

LORA_LIBRARY names another library than the one in the package.
"""

from __future__ import annotations

import ctypes
import os
import pathlib
import sys
from typing import Any

from . import _ffi

_FILES = {"win32": "lora.dll", "darwin": "liblora.dylib"}


def fits(theirs: int, ours: int = _ffi.LORA_VERSION_NUMBER) -> bool:
    """Whether a library of one version serves a package of another. Until 1.0
    each minor version may break the ABI; later ones only add to it."""
    if theirs // 1000000 != ours // 1000000:
        return False
    if ours < 1000000:
        return theirs // 1000 == ours // 1000
    return theirs // 1000 >= ours // 1000


def _path() -> str:
    chosen = os.environ.get("LORA_LIBRARY")
    if chosen:
        return chosen
    name = _FILES.get(sys.platform, "liblora.so")
    return str(pathlib.Path(__file__).resolve().parent / name)


def _load(path: str, functions: dict[str, Any]) -> ctypes.CDLL:
    """A library whose functions have their types."""
    try:
        library = ctypes.CDLL(path)
    except OSError as error:
        raise ImportError(
            f"cannot load the C library: {error} (install the package with "
            "pip, or let LORA_LIBRARY name the file)") from error
    for name, (result, parameters) in functions.items():
        try:
            function = getattr(library, name)
        except AttributeError:
            raise ImportError(f"{path} has no {name}: it is of another "
                              f"version than {_ffi.LORA_VERSION_STRING}"
                              ) from None
        function.restype, function.argtypes = result, parameters
    return library


def _open() -> ctypes.CDLL:
    path = _path()
    head = {"lora_version_number": _ffi.FUNCTIONS["lora_version_number"]}
    theirs = _load(path, head).lora_version_number()
    if not fits(theirs):
        text = f"{theirs // 1000000}.{theirs // 1000 % 1000}.{theirs % 1000}"
        raise ImportError(f"{path} is liblora {text}, this package needs "
                          f"{_ffi.LORA_VERSION_STRING}")
    return _load(path, _ffi.FUNCTIONS)


def openblas() -> Any:
    """The backend table of liblora_openblas, from beside the library or from
    the system; None where there is none."""
    stem = "liblora_openblas"
    beside = pathlib.Path(_path()).resolve().parent
    for name in (str(beside / f"{stem}.so"),
                 f"{stem}.so.{_ffi.LORA_SOVERSION}",
                 str(beside / f"{stem}.dylib"), f"{stem}.dylib"):
        try:
            library = _load(name, _ffi.OPENBLAS_FUNCTIONS)
        except ImportError:
            continue
        return library.lora_openblas_backend()
    return None


lib: Any = _open()
