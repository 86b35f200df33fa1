"""Layers: the adapter of one module run on arrays, forward and back."""

from __future__ import annotations

import ctypes
import math
from typing import Any, Mapping, NamedTuple, Optional, Sequence, Union

from . import _arrays, _errors, _ffi
from ._core import Context, Handle, options
from ._library import lib

Sizes = Union[int, Sequence[int]]


class Gradients(NamedTuple):
    """What Layer.backward() gives."""

    x: Any                   # of the input, or None
    factors: dict[str, Any]  # float32, by the role of the factor


class Layer:
    """One module of an adapter, ready to run: Adapter.layer() makes it. What
    goes in are rows [..., in] or images [batch, in, size...], in the type that
    was asked for; or int64 ids [...], which have no gradient, into an embedding.

    A layer may be used by any number of threads, while none sets a factor.
    """

    def __init__(self, adapter: Any, name: str, strength: float = 1.0, *,
                 stride: Sizes = 1, padding: Sizes = 0, dilation: Sizes = 1,
                 kernel: Sizes = 0, groups: int = 1, dtype: Any = None
                 ) -> None:
        index = adapter._find(name)
        dims = max(adapter._module_at(index).ndim - 2, 0)
        if not dims and kernel:
            dims = 2 if isinstance(kernel, int) else len(kernel)
        sizes = {key: _sizes(value, max(dims, 1)) for key, value in
                 (("stride", stride), ("padding", padding),
                  ("dilation", dilation), ("kernel", kernel))}
        self._context: Context = adapter.context
        out = ctypes.POINTER(_ffi.lora_layer)()
        self._context.call(
            lib.lora_layer_create, out, adapter._handle, index, strength,
            options(_ffi.lora_layer_options, groups=groups,
                    dtype=_arrays.dtype_code(dtype), **sizes))
        self._handle = Handle(out, lib.lora_layer_destroy)
        self._info = options(_ffi.lora_layer_info)
        self._context.call(lib.lora_layer_get_info, self._info, self._handle)
        self._rows: dict[str, _ffi.lora_layer_factor] = {}
        for i in range(self._info.factor_count):
            row = options(_ffi.lora_layer_factor)
            self._context.call(lib.lora_layer_get_factor, row, self._handle, i)
            self._rows[row.role.decode()] = row

    @property
    def _ids(self) -> bool:
        return self._info.input == _ffi.LORA_LAYER_INPUT_IDS

    @property
    def place(self) -> str:
        """What x is, and what the result is added to: "beside" the model's
        layer, the input of both and its output; "before" it, that input; the
        "product", what the weight gives without the bias; "after", the output.
        """
        return ("beside", "before", "product", "after")[self._info.place]

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in): elements of a row, or channels."""
        return self._info.channels_out, self._info.channels_in

    @property
    def factors(self) -> dict[str, str]:
        """The names of the tensors that take part, by role."""
        return {role: row.name.decode() for role, row in self._rows.items()}

    def set_factors(self, values: Mapping[str, Any]) -> None:
        """Put other numbers, float32, into factors, by role."""
        order = list(self._rows)
        for role, value in values.items():
            if role not in self._rows:
                raise _errors.make(_ffi.LORA_ERROR_KEY, "no such factor", role)
            memory = _arrays.borrow(value)
            if memory.dtype != _ffi.LORA_DTYPE_F32:
                raise _errors.make(_ffi.LORA_ERROR_DTYPE,
                                   "float32 is needed", role)
            self._context.call(
                lib.lora_layer_set_factor, self._handle, order.index(role),
                ctypes.cast(memory.address, ctypes.POINTER(ctypes.c_float)),
                memory.bytes // 4)

    def _batch(self, x: _arrays.Memory) -> tuple[Any, tuple[int, ...]]:
        """(the batch, the shape of what goes out)"""
        out, into = self.shape
        dims = self._info.dims
        axis = len(x.shape) - 1 - dims
        needed = _ffi.LORA_DTYPE_I64 if self._ids else self._info.dtype
        if x.dtype != needed:
            raise _errors.make(_ffi.LORA_ERROR_DTYPE,
                               f"{_arrays.dtype_name(needed)} is needed, not "
                               f"{_arrays.dtype_name(x.dtype)}")
        if self._ids:
            return (_ffi.lora_layer_batch(math.prod(x.shape)),
                    (*x.shape, out))
        if axis < 0 or x.shape[axis] != into:
            raise _errors.make(_ffi.LORA_ERROR_SHAPE,
                               f"an array of shape {x.shape} for {into} inputs")
        batch = _ffi.lora_layer_batch(
            math.prod(x.shape[:axis]),
            (ctypes.c_int64 * 3)(*x.shape[axis + 1:]))
        sizes = (ctypes.c_int64 * 3)()
        self._context.call(lib.lora_layer_output_size, sizes, self._handle,
                           batch)
        return batch, (*x.shape[:axis], out, *sizes[:dims])

    def _room(self, batch: Any, back: bool) -> Any:
        sizes = ctypes.c_size_t(), ctypes.c_size_t()
        self._context.call(lib.lora_layer_workspace, *sizes, self._handle,
                           batch)
        return _arrays.empty(_ffi.LORA_DTYPE_U8, (sizes[back].value,))[1]

    def forward(self, x: Any, *, out: Optional[Any] = None, add: bool = False
                ) -> Any:
        """What the adapter adds to the layer's output for x. With `add` it is
        added to `out`."""
        if add and out is None:
            raise _errors.make(_ffi.LORA_ERROR_ARGUMENT,
                               "add needs an array to add to")
        memory = _arrays.borrow(x)
        batch, shape = self._batch(memory)
        array, target = _arrays.target(out, self._info.dtype, shape)
        room = self._room(batch, False)
        self._context.work(
            lib.lora_layer_forward, target.address, 0, self._handle,
            memory.address, 0, batch, _ffi.LORA_LAYER_ADD if add else 0,
            room.address, room.bytes)
        return array

    def backward(self, x: Any, grad_y: Any, *, input: bool = True,
                 factors: bool = True) -> Gradients:
        """Gradients of a loss with respect to x and the factors, from its
        gradient with respect to the output. Frozen factors have none."""
        memory, gradient = _arrays.borrow(x), _arrays.borrow(grad_y)
        batch, shape = self._batch(memory)
        if gradient.shape != shape or gradient.dtype != self._info.dtype:
            raise _errors.make(_ffi.LORA_ERROR_SHAPE,
                               f"the gradient has shape {gradient.shape}, the "
                               f"output {shape}")
        made = {role: _arrays.empty(_ffi.LORA_DTYPE_F32,
                                    tuple(row.shape[:row.ndim]))
                for role, row in self._rows.items()
                if factors and not row.frozen}
        places = (ctypes.POINTER(ctypes.c_float) * len(self._rows))(*(
            ctypes.cast(made[role][1].address, ctypes.POINTER(ctypes.c_float))
            if role in made else None for role in self._rows))
        array, target = (_arrays.empty(self._info.dtype, memory.shape)
                         if input and not self._ids else (None, None))
        room = self._room(batch, True)
        self._context.work(
            lib.lora_layer_backward, target.address if target else None, 0,
            places, self._handle, memory.address, 0, gradient.address, 0,
            batch, 0, room.address, room.bytes)
        return Gradients(array, {role: row[0] for role, row in made.items()})


def _sizes(value: Sizes, dims: int) -> Any:
    """Three numbers of C; one number is for all dimensions."""
    numbers = [value] * dims if isinstance(value, int) else list(value)
    if len(numbers) > 3:
        raise _errors.make(_ffi.LORA_ERROR_SHAPE, "too many dimensions")
    return (ctypes.c_int32 * 3)(*numbers)


def layer_forward(adapter: Any, name: str, x: Any, strength: float = 1.0,
                  **how: Any) -> Any:
    """Adapter.layer(name, strength, **how).forward(x)"""
    return Layer(adapter, name, strength, **how).forward(x)


def layer_backward(adapter: Any, name: str, x: Any, grad_y: Any,
                   strength: float = 1.0, **how: Any) -> Gradients:
    """Adapter.layer(name, strength, **how).backward(x, grad_y)"""
    return Layer(adapter, name, strength, **how).backward(x, grad_y)
