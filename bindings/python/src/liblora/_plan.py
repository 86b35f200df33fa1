"""Plans: adapters in weights that lie in arrays."""

from __future__ import annotations

import ctypes
from typing import Any, Iterable, Mapping, Optional, Union

from . import _arrays, _core, _errors, _ffi
from ._adapter import Adapter, _rule
from ._bind import Binding, Model, bind
from ._core import Context, Handle, options
from ._library import lib

Strength = Union[float, "tuple[float, float]"]


def _strength(value: Strength) -> _ffi.lora_strength:
    model, encoder = value if isinstance(value, tuple) else (value, value)
    return _ffi.lora_strength(model, encoder)


class Plan:
    """Adapters in a model's weights, which are changed in place by run(), and
    no sooner.

        plan = liblora.Plan({"unet.conv_in.weight": array, ...})
        style = plan.add(adapter, 0.8)
        plan.run()
        plan.set_strength(style, 0.5)
        plan.run()
        plan.restore()      # bit for bit as before

    weights      arrays by name, or pairs of both: of numpy, torch (on the CPU)
                 and others, to be written to, their elements one after another.
                 Names are those of diffusers or of the model's authors.
    family       what it is, such as "sdxl"; None: a guess
    saved_bytes  most that the rows kept of before may take; None: no limit
    seed         round up or down by chance, in proportion to what is near; None:
                 to nearest
    saturate     in 8-bit floats, what is too large becomes the largest number
    strength_rule, dora  as of Adapter.delta()

    A plan is for one thread at a time.
    """

    def __init__(self, weights: Union[Mapping[str, Any],
                                      Iterable[tuple[str, Any]]], *,
                 family: Optional[str] = None,
                 saved_bytes: Optional[int] = None,
                 seed: Optional[int] = None, saturate: bool = False,
                 strength_rule: str = "origin", dora: str = "origin",
                 context: Optional[Context] = None) -> None:
        context = _core.settle(context, None)
        pairs = (weights.items() if isinstance(weights, Mapping)
                 else list(weights))
        memories = {name: _arrays.borrow(array, True)
                    for name, array in pairs}
        model = Model(family=family, context=context)
        for name, memory in memories.items():
            model.add(name, memory.shape or (1,),
                      dtype=_arrays.dtype_name(memory.dtype))
        self._make(model, list(memories), options(
            _ffi.lora_plan_options, saved_bytes=saved_bytes or 0,
            seed=seed or 0,
            flags=(_ffi.LORA_PLAN_STOCHASTIC * (seed is not None) |
                   _ffi.LORA_PLAN_SATURATE * bool(saturate) |
                   _ffi.LORA_PLAN_SAVE_NONE * (saved_bytes == 0)),
            strength_rule=_rule("strength_rule", strength_rule),
            dora_rule=_rule("dora", dora)))
        for name, memory in memories.items():
            self._place(name, memory)

    def _make(self, model: Model, names: list[str], how: Any) -> None:
        """A plan for a model, whose tensors have these names and no memory."""
        self._context = model._context
        self.model = model
        self._names = names
        self._rows = {name: row for row, name in enumerate(names)}
        self._memory: dict[str, _arrays.Memory] = {}
        self._ids: list[int] = []
        out = ctypes.POINTER(_ffi.lora_plan)()
        self._context.call(lib.lora_plan_create, out, model._handle, how)
        self._handle = Handle(out, lib.lora_plan_destroy, self._memory)

    def _place(self, name: str, memory: _arrays.Memory) -> None:
        """Say where a weight lies now."""
        self._context.call(
            lib.lora_plan_set_memory, self._handle, self._rows[name],
            options(_ffi.lora_plan_memory, data=memory.address,
                    dtype=memory.dtype))
        self._memory[name] = memory

    def _bind(self, adapter: Union[Adapter, Binding], **how: Any) -> Binding:
        binding = (adapter if isinstance(adapter, Binding) else
                   bind(adapter, self.model, **how))
        if not binding.bound:
            raise _errors.make(_ffi.LORA_ERROR_KEY,
                               "nothing of the adapter is in these weights")
        return binding

    def add(self, adapter: Union[Adapter, Binding], strength: Strength = 1.0,
            *, select: Optional[Mapping[str, float]] = None,
            strict: bool = False) -> int:
        """Put an adapter, or what bind() made of one and .model, behind those
        that are there, at a strength, or one for the model and one for text
        encoders. Gives its number. An adapter that has nothing for these
        weights is refused; what else it has is left out, if not `strict`.
        `select` is that of bind()."""
        out = ctypes.c_uint64()
        self._context.call(lib.lora_plan_add, out, self._handle,
                           self._bind(adapter, select=select,
                                      strict=strict)._handle,
                           _strength(strength))
        self._ids.append(out.value)
        return out.value

    def remove(self, number: int) -> None:
        """Take an adapter out."""
        self._context.call(lib.lora_plan_remove, self._handle, number)
        self._ids.remove(number)

    def replace(self, number: int, adapter: Union[Adapter, Binding],
                strength: Strength = 1.0) -> None:
        """Put an adapter in the place of another one."""
        self._context.call(lib.lora_plan_replace, self._handle, number,
                           self._bind(adapter)._handle, _strength(strength))

    def set_strength(self, number: int, strength: Strength) -> None:
        """Make an adapter stronger or weaker."""
        self._context.call(lib.lora_plan_set_strength, self._handle, number,
                           _strength(strength))

    @property
    def changed(self) -> list[str]:
        """The weights that run() would make again."""
        count = ctypes.c_size_t()
        rows = (ctypes.c_size_t * len(self._names))()
        self._context.call(lib.lora_plan_diff, rows, len(rows), count,
                           self._handle)
        return [self._names[row] for row in rows[:count.value]]

    @property
    def saved_bytes(self) -> int:
        """Bytes of rows that are kept."""
        return lib.lora_plan_saved_bytes(self._handle)

    def run(self) -> None:
        """Make the weights what they should be. After a failure or Ctrl-C,
        running again goes on."""
        self._context.work(lib.lora_plan_run, self._handle)

    def restore(self) -> None:
        """Take all adapters out, and run()."""
        for number in list(self._ids):
            self.remove(number)
        self.run()

    def factors(self, name: str, *, rank: Optional[int] = None,
                pad_rank: Optional[int] = None, dtype: Any = None
                ) -> tuple[Any, Any, float]:
        """(up, down, error): what all adapters together add to a weight is up @
        down, to be used beside it, whatever was run. With `rank` the nearest
        of that rank, and the share of the change that is left out; with
        `pad_rank` zeros up to that."""
        if name not in self._rows:
            raise _errors.make(_ffi.LORA_ERROR_KEY, "no such weight", name)
        code = _arrays.dtype_code(dtype) or _ffi.LORA_DTYPE_F32
        info = options(_ffi.lora_plan_factors_info)
        how = options(_ffi.lora_plan_factors_options, dtype=code,
                      rank=rank or 0, pad_rank=pad_rank or 0)
        index = self._rows[name]
        self._context.call(lib.lora_plan_factors, info, None, 0, None, 0, None,
                           self._handle, index, how)
        up, up_memory = _arrays.empty(code, (info.rows, info.rank))
        down, down_memory = _arrays.empty(code, (info.rank, info.columns))
        if info.rank:
            self._context.work(
                lib.lora_plan_factors, info, up_memory.address,
                up_memory.bytes, down_memory.address, down_memory.bytes, None,
                self._handle, index, how)
        return up, down, info.error
