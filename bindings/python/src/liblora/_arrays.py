"""Arrays in and out.

In: whatever has the buffer protocol or DLPack (numpy, torch, ...), borrowed
without a copy. Out: numpy arrays, or memoryviews with a shape where numpy is
not installed. What a memoryview or numpy cannot express (bfloat16, 8-bit
floats) has the bits as unsigned integers; with ml_dtypes installed numpy can.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import math
import numbers
import struct
from typing import Any, Callable, NamedTuple, Optional, Sequence

from . import _errors, _ffi
from ._core import text
from ._library import lib


class _Type(NamedTuple):
    code: Any   # of struct and memoryview; of the bits where there is none
    numpy: str  # the name of numpy or of ml_dtypes; "" where there is none


_TYPES = {
    "BOOL": _Type("?", "bool"),
    "U8": _Type("B", "uint8"),
    "I8": _Type("b", "int8"),
    "U16": _Type("H", "uint16"),
    "I16": _Type("h", "int16"),
    "U32": _Type("I", "uint32"),
    "I32": _Type("i", "int32"),
    "U64": _Type("Q", "uint64"),
    "I64": _Type("q", "int64"),
    "F16": _Type("H", "float16"),
    "F32": _Type("f", "float32"),
    "F64": _Type("d", "float64"),
    "C64": _Type("Q", "complex64"),
    "BF16": _Type("H", "bfloat16"),
    "F8_E5M2": _Type("B", "float8_e5m2"),
    "F8_E4M3": _Type("B", "float8_e4m3fn"),
    "F8_E8M0": _Type("B", "float8_e8m0fnu"),
    "F8_E4M3FNUZ": _Type("B", "float8_e4m3fnuz"),
    "F8_E5M2FNUZ": _Type("B", "float8_e5m2fnuz"),
}

# Names of numpy and torch, other than those of safetensors.
_ALIASES = {kind.numpy: name for name, kind in _TYPES.items()}
_ALIASES.update({"half": "F16", "float": "F32", "double": "F64"})

# What buffers say: formats of struct to types, by size where it varies.
_FORMATS = {
    "?": "BOOL", "e": "F16", "f": "F32", "d": "F64", "Zf": "C64",
    **{code: sign for code, sign in zip("bhilqn", "IIIIII")},
    **{code: sign for code, sign in zip("BHILQN", "UUUUUU")},
    "c": "U",
}


@functools.lru_cache(maxsize=None)
def optional(name: str) -> Any:
    """A module, or None where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


@functools.lru_cache(maxsize=None)
def dtype_name(code: int) -> str:
    return lib.lora_dtype_name(code).decode()


def dtype_code(value: Any) -> int:
    """A number type by the name that safetensors, numpy or torch has for it,
    or as a dtype of theirs. None and "keep" are LORA_DTYPE_NONE."""
    if value is None or value == "keep":
        return _ffi.LORA_DTYPE_NONE
    return _code_of(value if isinstance(value, str) else getattr(
        value, "__name__", str(value)).rpartition(".")[2])


@functools.lru_cache(maxsize=256)
def _code_of(name: str) -> int:
    code = lib.lora_dtype_from_name(text(_ALIASES.get(name, name)))
    if code == _ffi.LORA_DTYPE_NONE:
        raise _errors.make(_ffi.LORA_ERROR_DTYPE, "no such number type", name)
    return code


class Memory(NamedTuple):
    """Where the elements of an array lie; `owner` keeps them there."""

    address: int
    bytes: int
    dtype: int
    shape: tuple[int, ...]
    owner: Any


# Between arrays in one block: what any number type, and SIMD, asks for.
_ALIGN = 64


# Out ------------------------------------------------------------------------

def _bytes_of(dtype: int, shape: tuple[int, ...]) -> int:
    return (math.prod(shape) * _bits_of(dtype) + 7) // 8


@functools.lru_cache(maxsize=None)
def _bits_of(dtype: int) -> int:
    return lib.lora_dtype_bits(dtype)


def _shaped(data: memoryview, dtype: int, shape: tuple[int, ...],
            start: int = 0) -> Any:
    """A view of bytes, from `start` on, as an array. Types of less than a byte
    stay bytes."""
    numpy, kind = optional("numpy"), _kind(dtype)
    if kind is None:
        dtype, shape = _code_of("U8"), (_bytes_of(dtype, shape),)
        kind = _TYPES["U8"]
    if numpy is not None:
        return numpy.ndarray(shape, _numpy_dtype(numpy, dtype), data, start)
    data = data[start:start + _bytes_of(dtype, shape)]
    if 0 in shape:  # memoryviews have no such shapes
        return data.cast(kind.code)
    return data.cast("B").cast(kind.code, shape)


@functools.lru_cache(maxsize=None)
def _kind(dtype: int) -> Optional[_Type]:
    return _TYPES.get(dtype_name(dtype))


@functools.lru_cache(maxsize=None)
def _numpy_dtype(numpy: Any, dtype: int) -> Any:
    kind = _TYPES[dtype_name(dtype)]
    try:
        return numpy.dtype(kind.numpy)
    except TypeError:
        more = optional("ml_dtypes")
        special = getattr(more, kind.numpy, None)
        return numpy.dtype(special or kind.code)


def empty(dtype: int, shape: tuple[int, ...]) -> tuple[Any, Memory]:
    """A new array, and where it lies."""
    numpy = optional("numpy")
    if _kind(dtype) is not None and numpy is not None:
        array = numpy.empty(shape, _numpy_dtype(numpy, dtype))
        return array, Memory(array.__array_interface__["data"][0],
                             array.nbytes, dtype, shape, array)
    data = memoryview(_room(_bytes_of(dtype, shape)))
    memory = Memory(_address(data), len(data), dtype, shape, data)
    return _shaped(data, dtype, shape), memory


def block(dtypes: Sequence[int], shapes: Sequence[tuple[int, ...]]
          ) -> tuple[list[Any], list[tuple[int, int]]]:
    """New arrays, one after the other in one block of memory, and the address
    and size of each."""
    starts, sizes, end = [], [], 0
    bits = {dtype: _bits_of(dtype) for dtype in set(dtypes)}
    for dtype, shape in zip(dtypes, shapes):
        size = (math.prod(shape) * bits[dtype] + 7) // 8
        end += -end % _ALIGN
        starts.append(end)
        sizes.append(size)
        end += size
    room = memoryview(_room(end))
    base = _address(room)
    arrays = list(map(_shaper(room, set(dtypes)), dtypes, shapes, starts))
    return arrays, [(base + start, size)
                    for start, size in zip(starts, sizes)]


def _shaper(data: memoryview, dtypes: set[int]) -> Callable[..., Any]:
    """_shaped() of the data, for very many arrays of few types."""
    numpy = optional("numpy")
    if numpy is None or None in map(_kind, dtypes):
        return functools.partial(_shaped, data)
    types, array = {d: _numpy_dtype(numpy, d) for d in dtypes}, numpy.ndarray
    return lambda dtype, shape, start: array(shape, types[dtype], data, start)


def _room(count: int) -> Any:
    """Bytes to write to; numpy's need not be zeroed first."""
    numpy = optional("numpy")
    return bytearray(count) if numpy is None else numpy.empty(count, "u1")


def lent(tensor: _ffi.lora_tensor, owner: Any) -> Any:
    """A read-only array of memory that C lends as long as `owner` lives."""
    place = (ctypes.c_char * tensor.bytes).from_address(tensor.data or 0)
    place.owner = owner
    return _shaped(memoryview(place).cast("B").toreadonly(), tensor.dtype,
                   tuple(tensor.shape[:tensor.ndim]))


# In -------------------------------------------------------------------------

class _PyBuffer(ctypes.Structure):
    _fields_ = [
        ("buf", ctypes.c_void_p), ("obj", ctypes.c_void_p),
        ("len", ctypes.c_ssize_t), ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int), ("ndim", ctypes.c_int),
        ("format", ctypes.c_void_p), ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p), ("suboffsets", ctypes.c_void_p),
        ("internal", ctypes.c_void_p),
    ]


_get_buffer = ctypes.pythonapi.PyObject_GetBuffer
_get_buffer.argtypes = [ctypes.py_object, ctypes.POINTER(_PyBuffer),
                        ctypes.c_int]
_release_buffer = ctypes.pythonapi.PyBuffer_Release
_release_buffer.argtypes = [ctypes.POINTER(_PyBuffer)]
_release_buffer.restype = None


def _address(view: memoryview) -> int:
    """Where a contiguous view lies, which ctypes tells of writable ones only.
    It stays there while there is the view."""
    buffer = _PyBuffer()
    _get_buffer(view, buffer, 0)
    address = buffer.buf or 0
    _release_buffer(buffer)
    return address


def _buffer_dtype(view: memoryview) -> int:
    code = view.format[1:] if view.format[0] in "@=<" else view.format
    name = _FORMATS.get(code, "")
    if name in ("I", "U"):
        name = f"{name}{8 * view.itemsize}"
    if not name:
        raise _errors.make(_ffi.LORA_ERROR_DTYPE,
                           "a buffer of numbers that no number type fits",
                           view.format)
    return dtype_code(name)


def is_buffer(thing: Any) -> bool:
    try:
        memoryview(thing).release()
    except (TypeError, ValueError, BufferError):
        return False
    return True


def from_buffer(thing: Any, writable: bool = False) -> Memory:
    """Memory of an object with the buffer protocol. Elements that do not lie
    one after the other are copied, unless they are to be written to."""
    dtype = None
    if (_is_numpy(thing) and thing.dtype.isbuiltin == 2
            and thing.dtype.name in _ALIASES):  # of ml_dtypes: has no buffer
        dtype = dtype_code(thing.dtype.name)
        thing = thing.view(f"u{thing.dtype.itemsize}")
    view = memoryview(thing)
    dtype = _buffer_dtype(view) if dtype is None else dtype
    shape = tuple(view.shape or ())
    if writable and (view.readonly or not view.c_contiguous):
        raise _errors.make(_ffi.LORA_ERROR_ARGUMENT,
                           "an array that can be written to, with its "
                           "elements one after the other, is needed")
    if not view.c_contiguous:
        view = memoryview(view.tobytes())
    return Memory(_address(view), view.nbytes, dtype, shape, view)


class _DLTensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


# Codes of DLPack.
_DLPACK_CPU = 1
_DLPACK_TYPES = {0: "I", 1: "U", 2: "F", 4: "BF", 5: "C", 6: "BOOL",
                 10: "F8_E4M3", 11: "F8_E4M3FNUZ", 12: "F8_E5M2",
                 13: "F8_E5M2FNUZ", 14: "F8_E8M0"}

_capsule_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_capsule_pointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
_capsule_pointer.restype = ctypes.c_void_p


def _dlpack_is_contiguous(tensor: _DLTensor, shape: tuple[int, ...]) -> bool:
    if not tensor.strides:
        return True
    step = 1
    for size, stride in zip(reversed(shape),
                            reversed(tensor.strides[:tensor.ndim])):
        if size > 1 and stride != step:
            return False
        step *= size
    return True


def from_dlpack(thing: Any) -> Memory:
    """Memory of an object with DLPack, version 0. The capsule owns it, and
    gives it back when it is collected."""
    if thing.__dlpack_device__()[0] != _DLPACK_CPU:
        raise _errors.make(_ffi.LORA_ERROR_UNSUPPORTED,
                           "a tensor that is not in main memory: use .cpu()")
    capsule = thing.__dlpack__()
    tensor = ctypes.cast(_capsule_pointer(capsule, b"dltensor"),
                         ctypes.POINTER(_DLTensor)).contents
    name = _DLPACK_TYPES.get(tensor.code, "?")
    if name in ("I", "U", "F", "BF", "C"):
        name = f"{name}{tensor.bits}"
    if tensor.lanes != 1:
        name = "?"
    dtype = dtype_code(name)
    shape = tuple(tensor.shape[:tensor.ndim])
    if not _dlpack_is_contiguous(tensor, shape):
        raise _errors.make(_ffi.LORA_ERROR_SHAPE,
                           "a tensor whose elements do not lie one after the "
                           "other: use .contiguous()")
    return Memory((tensor.data or 0) + tensor.byte_offset,
                  _bytes_of(dtype, shape), dtype, shape, capsule)


def borrow(thing: Any, writable: bool = False) -> Memory:
    """Memory of whatever array there is. Plain numbers are scalars in F32."""
    if isinstance(thing, numbers.Real) and not hasattr(thing, "dtype"):
        thing = memoryview(struct.pack("f", thing)).cast("f", [])
    if is_buffer(thing) or _is_numpy(thing):
        return from_buffer(thing, writable)
    if hasattr(thing, "__dlpack__"):
        return from_dlpack(thing)
    raise _errors.make(_ffi.LORA_ERROR_ARGUMENT,
                       "neither an array nor a number", type(thing).__name__)


def view(thing: Any, name: str = "", dtype: Any = None,
         shape: Optional[Sequence[int]] = None
         ) -> tuple[_ffi.lora_tensor, Memory]:
    """A tensor of the library over an array of whatever kind, a number, or
    bytes with their dtype and shape; valid as long as the memory."""
    memory = borrow(thing)
    sizes = memory.shape if shape is None else tuple(shape)
    if len(sizes) > _ffi.LORA_MAX_DIMS:
        raise _errors.make(_ffi.LORA_ERROR_SHAPE, "too many dimensions", name)
    return _ffi.lora_tensor(
        memory.address, memory.bytes,
        (ctypes.c_int64 * _ffi.LORA_MAX_DIMS)(*sizes), len(sizes),
        dtype_code(dtype) or memory.dtype), memory


def _is_numpy(thing: Any) -> bool:
    numpy = optional("numpy")
    return numpy is not None and isinstance(thing, numpy.ndarray)


def target(out: Optional[Any], dtype: int, shape: tuple[int, ...]
           ) -> tuple[Any, Memory]:
    """The array to write to: `out` if it is given and fits, or a new one.
    LORA_DTYPE_NONE takes the type of `out`, F32 without."""
    if out is None:
        return empty(dtype or _ffi.LORA_DTYPE_F32, shape)
    memory = borrow(out, writable=True)
    if memory.shape != shape:
        raise _errors.make(_ffi.LORA_ERROR_SHAPE,
                           f"out has shape {memory.shape}, not {shape}")
    if dtype not in (_ffi.LORA_DTYPE_NONE, memory.dtype):
        raise _errors.make(_ffi.LORA_ERROR_DTYPE,
                           f"out is {dtype_name(memory.dtype)}, not "
                           f"{dtype_name(dtype)}")
    return out, memory
