"""liblora: adapters of the LoRA family for diffusion models.

    import liblora

    with liblora.open("style.safetensors") as adapter:
        print(adapter.info())
        small = adapter.resize(energy=0.98)
        small.save("small.safetensors", dialect="diffusers", dtype="f16")

Arrays are numpy's where numpy is installed, else memoryviews with a shape.
Long calls release the interpreter, and Ctrl-C stops them.
"""

from . import _ffi, diffusers, light
from ._adapter import Adapter, Spectra, open
from ._bind import Binding, Model, bind
from ._builder import Builder
from ._core import Context
from ._errors import (ArgumentError, Cancelled, ConvergenceError, DTypeError,
                      DuplicateError, ExistingFileError, FileError,
                      FormatError, InternalError, KeyMatchError, LimitError,
                      LoraError, MissingFileError, NonFiniteError, OptionError,
                      OutOfMemoryError, RangeError, ShapeError, StateError,
                      ThreadError, TruncatedError, UnsupportedError)
from ._extract import extract
from ._files import edit_metadata, hashes
from ._fuse import fuse, unfuse
from ._layer import Gradients, Layer, layer_backward, layer_forward
from ._library import lib as _lib
from ._plan import Plan
from ._report import Report
from .light import orthogonal

__version__ = _ffi.LORA_VERSION_STRING

__all__ = [
    "Adapter", "ArgumentError", "Binding", "Builder", "Cancelled", "Context",
    "ConvergenceError", "DTypeError", "DuplicateError", "ExistingFileError",
    "FileError", "FormatError", "Gradients", "InternalError", "KeyMatchError",
    "Layer", "LimitError", "LoraError", "MissingFileError", "Model",
    "NonFiniteError", "OptionError", "OutOfMemoryError", "Plan", "RangeError",
    "Report", "ShapeError", "Spectra", "StateError", "ThreadError",
    "TruncatedError", "UnsupportedError", "bind", "build_info", "diffusers",
    "edit_metadata", "extract", "fuse", "hashes", "layer_backward",
    "layer_forward", "library_version", "light", "open", "orthogonal",
    "supports", "unfuse",
]


def library_version() -> str:
    """The version of the C library that was loaded."""
    return _lib.lora_version_string().decode()


def build_info() -> str:
    """What the C library has in it, in one line."""
    return _lib.lora_build_info().decode()


def supports(feature: str) -> bool:
    """Whether a part is in the C library: "threads", "simd", "zlib", "map"."""
    return bool(_lib.lora_feature_supported(feature.encode()))
