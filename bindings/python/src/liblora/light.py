"""Light-LoRA: factors that act between frozen random matrices, which need not
be stored where it is known how they were drawn.

    small = liblora.light.compress(adapter, liblora.light.Recipe(seed=0))
    plain = liblora.light.expand(small)
"""

from __future__ import annotations

import ctypes
import dataclasses
from typing import Any, Mapping, Optional, Sequence, Union

from . import _arrays, _core, _errors, _ffi
from ._adapter import Adapter
from ._core import Context, options, text
from ._library import lib
from ._report import Report

_INITS = {
    "orthogonal": _ffi.LORA_LIGHT_ORTHOGONAL,
    "normal": _ffi.LORA_LIGHT_NORMAL,
    "xavier": _ffi.LORA_LIGHT_XAVIER,
    "linear": _ffi.LORA_LIGHT_LINEAR,
}


@dataclasses.dataclass
class Recipe:
    """How frozen matrices were drawn.

    seed       of torch.manual_seed()
    draws      what was drawn, in order, such as "down_aux,down,up_aux"
    family     whose layers' sizes are meant, such as "sd15"
    base       a base model to take sizes from
    shapes     {pattern of names: (rows, columns)}
    down_size  rows of down_aux; up_size: columns of up_aux
    """

    seed: int = 0
    draws: Optional[str] = None
    family: Optional[str] = None
    base: Any = None
    shapes: Optional[Mapping[str, Sequence[int]]] = None
    down_size: int = 0
    up_size: int = 0

    def _struct(self) -> _ffi.lora_light_recipe:
        shapes = [_ffi.lora_light_shape(text(pattern), *shape)
                  for pattern, shape in (self.shapes or {}).items()]
        return options(
            _ffi.lora_light_recipe, seed=self.seed,
            draws=None if self.draws is None else text(self.draws),
            family=None if self.family is None else text(self.family),
            base=None if self.base is None else _core.path_text(self.base),
            shapes=(_ffi.lora_light_shape * len(shapes))(*shapes),
            shape_count=len(shapes), down_size=self.down_size,
            up_size=self.up_size)


def _draw(rows: int, cols: int, init: str = "orthogonal", value: float = 1.0
          ) -> _ffi.lora_light_draw:
    if init not in _INITS:
        raise _errors.make(_ffi.LORA_ERROR_ARGUMENT,
                           f"init is one of {', '.join(_INITS)}", init)
    return _ffi.lora_light_draw(rows, cols, value, _INITS[init], 0)


def orthogonal(shape: Sequence[int],
               recipe: Union[int, Mapping[str, Any]] = 0, *,
               context: Optional[Context] = None) -> Any:
    """The matrix that torch.nn.init.orthogonal_ makes on the CPU, as float32.

    recipe is the seed of torch.manual_seed(), or a mapping with

    seed    the same
    before  what was drawn first: shapes, or (rows, columns, init, value)
    init    "orthogonal", "normal", "xavier" or "linear"
    gain    of the matrix; of "normal" the standard deviation
    """
    settings = {"seed": recipe} if isinstance(recipe, int) else dict(recipe)
    draws = [_draw(*one) for one in settings.pop("before", ())]
    seed = settings.pop("seed", 0)
    draws.append(_draw(*shape, settings.pop("init", "orthogonal"),
                       settings.pop("gain", 1.0)))
    if settings:
        raise _errors.make(_ffi.LORA_ERROR_ARGUMENT,
                           "seed, before, init and gain make a recipe",
                           ", ".join(map(str, settings)))
    context = context or _core.default_context()
    array, memory = _arrays.empty(_ffi.LORA_DTYPE_F32, tuple(shape))
    context.work(lib.lora_light_draw_matrix,
                 memory.address, memory.bytes, context.handle, seed,
                 (_ffi.lora_light_draw * len(draws))(*draws), len(draws))
    return array


def expand(adapter: Adapter, recipe: Optional[Recipe] = None, *,
           rank: int = 0, dtype: Any = None, skip_bad: bool = False
           ) -> Adapter:
    """Plain LoRA. recipe: for matrices that are not stored, where the file does
    not say it; rank: of modules that have one trained matrix, at most."""
    handle = adapter._handle
    out = ctypes.POINTER(_ffi.lora_adapter)()
    adapter.context.work(
        lib.lora_light_expand, out, handle,
        None if recipe is None else recipe._struct(),
        options(_ffi.lora_light_options, rank=rank,
                dtype=_arrays.dtype_code(dtype), skip_bad=skip_bad))
    return adapter._made(handle, out)


def compress(adapter: Adapter, recipe: Optional[Recipe] = None, *,
             store: bool = False, dtype: Any = None, skip_bad: bool = False
             ) -> Adapter:
    """The nearest Light-LoRA; .report of the result says what is lost, which
    is most of what was not trained between these matrices. store: write the
    frozen matrices too."""
    handle = adapter._handle
    out = ctypes.POINTER(_ffi.lora_adapter)()
    report = ctypes.POINTER(_ffi.lora_report)()
    adapter.context.work(
        lib.lora_light_compress, out, report, handle,
        (recipe or Recipe())._struct(),
        options(_ffi.lora_light_options, store=store,
                dtype=_arrays.dtype_code(dtype), skip_bad=skip_bad))
    return adapter._made(handle, out,
                         Report(report, adapter.context, handle))


def create(recipe: Recipe, *, rank: int = 4, variant: int = 1,
           deviation: float = 0.0, targets: Sequence[str] = (),
           dialect: Optional[str] = None, store: bool = False,
           dtype: Any = None, context: Optional[Context] = None) -> Adapter:
    """A Light-LoRA to be trained, of the layers of recipe.family.

    variant    1: up is 0 at first, 2: down, 4: one matrix instead of both, 5:
               normal numbers instead of orthogonal matrices
    deviation  of the normal numbers
    targets    patterns of canonical names; none: the attention of the UNet
    """
    context = context or _core.default_context()
    out = ctypes.POINTER(_ffi.lora_adapter)()
    patterns = [text(pattern) for pattern in targets]
    context.work(
        lib.lora_light_create, out, context.handle, recipe._struct(),
        options(_ffi.lora_light_options, rank=rank, variant=variant,
                deviation=deviation, store=store,
                targets=(ctypes.c_char_p * len(patterns))(*patterns),
                target_count=len(patterns),
                dialect=None if dialect is None else text(dialect),
                dtype=_arrays.dtype_code(dtype)))
    return Adapter(out, context)


def verify(adapter: Adapter, recipe: Optional[Recipe] = None) -> Report:
    """Whether the frozen matrices that are stored are those of a recipe, which
    the file says if none is given; where not, the report's problems say which
    order of draws they come from."""
    handle = adapter._handle
    out = ctypes.POINTER(_ffi.lora_report)()
    adapter.context.work(lib.lora_light_verify, out, handle,
                         None if recipe is None else recipe._struct())
    return Report(out, adapter.context, handle)
