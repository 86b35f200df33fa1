"""Builders: make an adapter from tensors, or from another adapter."""

from __future__ import annotations

import ctypes
from typing import Any, Optional, Sequence

from . import _arrays, _core, _errors, _ffi
from ._adapter import Adapter
from ._core import Context, Handle, text
from ._library import lib


class Builder:
    """Makes an adapter from tensors, and from another adapter if one is given.
    For one thread at a time.

        builder = liblora.Builder()
        builder.add("unet.x.lora_down.weight", down)
        builder.add("unet.x.alpha", 4.0)
        adapter = builder.finish()
    """

    def __init__(self, source: Optional[Adapter] = None, *,
                 context: Optional[Context] = None) -> None:
        if source is not None:
            context = context or source.context
        self._context = context or _core.default_context()
        self._keep = None if source is None else source._handle.keep
        out = ctypes.POINTER(_ffi.lora_builder)()
        self._context.call(lib.lora_builder_create, out, self._context.handle,
                           None if source is None else source._handle)
        self._handle = Handle(out, lib.lora_builder_destroy)

    def add(self, name: str, tensor: Any, *, dtype: Any = None,
            shape: Optional[Sequence[int]] = None) -> None:
        """Add a tensor; its data is copied. It is an array of whatever kind, a
        number, or bytes with their dtype and shape."""
        row, memory = _arrays.view(tensor, name, dtype, shape)
        self._context.call(lib.lora_builder_add_tensor, self._handle,
                           text(name), row)
        del memory  # until here it had to stay

    def remove(self, name: str) -> None:
        """Take a tensor out."""
        self._context.call(lib.lora_builder_remove_tensor, self._handle,
                           text(name))

    def set_metadata(self, key: str, value: Optional[str]) -> None:
        """Set a metadata entry; None removes it."""
        self._context.call(lib.lora_builder_set_metadata, self._handle,
                           text(key), None if value is None else text(value))

    def clear_metadata(self) -> None:
        """Remove all metadata entries."""
        self._context.call(lib.lora_builder_set_metadata, self._handle, None,
                           None)

    def finish(self) -> Adapter:
        """Make the adapter. The builder is empty afterwards."""
        out = ctypes.POINTER(_ffi.lora_adapter)()
        self._context.call(lib.lora_builder_finish, out, self._handle)
        return Adapter(out, self._context, self._keep)
