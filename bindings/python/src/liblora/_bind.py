"""Models and bindings: what an adapter changes in a base model."""

from __future__ import annotations

import ctypes
import functools
import os
from typing import Any, Iterable, Mapping, Optional, Sequence, Union

from . import _arrays, _core, _errors, _ffi, _resize
from ._adapter import Adapter
from ._core import Context, Handle, options, text
from ._library import lib
from ._report import Report, table

Path = Union[str, "os.PathLike[str]"]
Part = tuple[str, int, int]

_ORDERS = {"rows": _ffi.LORA_ORDER_ROWS, "ggml": _ffi.LORA_ORDER_GGML}


class Model:
    """The tensors that adapters may change: of a host, which adds its own, of a
    checkpoint (Model.open()) or of a family without a file (Model.family()).

        model = liblora.Model()
        for name, weight in pipe.unet.state_dict().items():
            model.add(name, weight.shape, component="unet")

    For one thread at a time until it is bound or looked at; immutable then.

    family   what it is, such as "sdxl"; None: a guess
    """

    def __init__(self, *, family: Optional[str] = None,
                 context: Optional[Context] = None) -> None:
        self._make(context, lib.lora_model_create, options(
            _ffi.lora_model_options,
            family=None if family is None else text(family)))

    def _make(self, context: Optional[Context], function: Any,
              *arguments: Any) -> None:
        self._context = context or _core.default_context()
        out = ctypes.POINTER(_ffi.lora_model)()
        self._context.call(function, out, self._context.handle, *arguments)
        self._handle = Handle(out, lib.lora_model_destroy)

    @classmethod
    def open(cls, path: Path, *, family: Optional[str] = None,
             context: Optional[Context] = None) -> "Model":
        """A checkpoint: a file, an index of shards, or a folder of diffusers'.
        Weights are not read."""
        model = cls.__new__(cls)
        model._make(context, lib.lora_model_open, _core.path_text(path),
                    options(_ffi.lora_model_options,
                            family=None if family is None else text(family)))
        return model

    @classmethod
    def family(cls, name: str, *, context: Optional[Context] = None
               ) -> "Model":
        """The layers of a family, such as "sd15"; few of them have shapes."""
        model = cls.__new__(cls)
        model._make(context, lib.lora_model_family, text(name))
        return model

    def add(self, name: str, shape: Sequence[int], *, dtype: Any = "f16",
            order: str = "rows", component: Optional[str] = None,
            parts: Iterable[Part] = ()) -> None:
        """List one tensor, "<module>.weight" or "<module>.bias".

        order      of the dimensions: "rows" is torch's, "ggml" its reverse
        component  "unet", "transformer", "prior", "text_encoder",
                   "text_encoder_2", "text_encoder_3"; None: the name says it
        parts      (layer as diffusers names it, first row, end) of a tensor
                   that is several; none: those that its name tells
        """
        rows = [(text(target), begin, end) for target, begin, end in parts]
        table = (_ffi.lora_model_part * len(rows))(*rows)
        tensor = options(
            _ffi.lora_model_tensor, name=text(name), ndim=len(shape),
            component=None if component is None else text(component),
            parts=table, part_count=len(rows), dtype=_arrays.dtype_code(dtype),
            order=_resize.choice(_ORDERS, "order", order))
        if len(shape) > _ffi.LORA_MAX_DIMS:
            raise _errors.make(_ffi.LORA_ERROR_SHAPE, "too many dimensions",
                               name)
        for i, size in enumerate(shape):
            tensor.shape[i] = size
        self._context.call(lib.lora_model_add, self._handle, tensor)

    @functools.cached_property
    def info(self) -> dict[str, Any]:
        """path, family (None: not known), confidence, tensor_count. No tensor
        can be added afterwards."""
        self._context.call(lib.lora_model_seal, self._handle)
        row = options(_ffi.lora_model_info)
        self._context.call(lib.lora_model_get_info, row, self._handle)
        return {"path": os.fsdecode(row.path),
                "family": row.family.decode() or None,
                "confidence": row.confidence,
                "tensor_count": row.tensor_count}

    @functools.cached_property
    def tensors(self) -> list[dict[str, Any]]:
        """name, target, component and shape (None: not known) of each."""
        rows = []
        for i in range(self.info["tensor_count"]):
            row = options(_ffi.lora_model_tensor_info)
            self._context.call(lib.lora_model_get_tensor, row, self._handle, i)
            rows.append({"name": row.name.decode(),
                         "target": row.target.decode(),
                         "component": row.component.decode() or None,
                         "shape": None if row.ndim < 0 else
                         tuple(row.shape[:row.ndim])})
        return rows

    def __repr__(self) -> str:
        return (f"<liblora.Model: {self.info['family']}, "
                f"{self.info['tensor_count']} tensors>")


class Binding:
    """What became of an adapter in a model; bind() makes it.

    verdict   "right", "wrong" or "unsure": whether it is the right base
    modules   how many there are, bound: how many change the model, share: of
              the modules, counts: how many items there are by state
    items     dicts with name, target, state ("bound", "half", "nowhere",
              "shape", "dtype", "partner", "damaged", "unsupported", "unknown",
              "left_out"), factor and changes (tensor, part, rows, module_row,
              transposed); where not bound with reason, suggestion, expected and
              found shape
    """

    def __init__(self, pointer: Any, context: Context) -> None:
        self._handle = Handle(pointer, lib.lora_binding_destroy)
        self._context = context
        out = ctypes.POINTER(_ffi.lora_report)()
        context.call(lib.lora_binding_report, out, self._handle)
        #: The same as a Report, with what is wrong as its problems.
        self.report = Report(out, context, self._handle)
        told = self.report.to_dict()
        self.verdict: str = told["verdict"]
        self.modules: int = told["modules"]
        self.bound: int = told["bound"]
        self.share: float = told["share"]
        self.counts: dict[str, int] = told["counts"]
        self.items: list[dict[str, Any]] = told["items"]

    def suggest(self, name: str) -> Optional[str]:
        """The name in the model that is nearest to that of an item."""
        for i, item in enumerate(self.items):
            if item["name"] == name:
                out = ctypes.c_char_p()
                self._context.call(lib.lora_binding_suggest, out, self._handle,
                                   i)
                return None if out.value is None else out.value.decode()
        raise _errors.make(_ffi.LORA_ERROR_KEY, "no such item", name)

    def __repr__(self) -> str:
        return (f"<liblora.Binding: {self.bound} of {self.modules} modules, "
                f"base {self.verdict}>")

    def _repr_html_(self) -> str:
        return table(
            ((item["name"], item["state"], ", ".join(
                change["tensor"] for change in item["changes"]) or
              item.get("reason", "")) for item in self.items),
            ("module", "state", "changes"))


def _model_of(model: Union[Model, Path], context: Context) -> Model:
    """A model that there is, a family, or a path."""
    if isinstance(model, Model):
        return model
    if isinstance(model, str) and not os.path.exists(model):
        try:
            return Model.family(model, context=context)
        except _errors.ArgumentError:
            pass  # opening says what is wrong with the path
    return Model.open(model, context=context)


def bind(adapter: Adapter, model: Union[Model, Path], *,
         select: Optional[Mapping[str, float]] = None, strict: bool = False
         ) -> Binding:
    """Find all modules of an adapter in a model: a Model, the path of a
    checkpoint, or a family such as "sdxl".

    select   factors by pattern: a component, "te", a block of a UNet ("IN04",
             "M00", "OUT11", "BASE", "blocks.down"), a sort of layer ("attn",
             "attn.cross", "ff", "conv", "norm"), a pattern of names, or a list
             of block weights; of several that fit the product counts
    strict   raise for whatever is not bound, instead of listing it
    """
    context = adapter.context
    rows = [(text(pattern), factor)
            for pattern, factor in (select or {}).items()]
    selections = (_ffi.lora_selection * len(rows))(*rows)
    settings = options(_ffi.lora_binding_create_options,
                       selections=selections, selection_count=len(rows),
                       strict=strict)
    out = ctypes.POINTER(_ffi.lora_binding)()
    context.call(lib.lora_binding_create, out, _model_of(model, context)._handle,
                 adapter._handle, settings)
    return Binding(out, context)
