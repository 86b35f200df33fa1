"""Adapters in the weights of diffusers' pipelines: any kind, in any names, also
those that diffusers itself does not load.

    import liblora

    style = liblora.diffusers.load(pipe, "style.safetensors", 0.8)
    image = pipe("a cat").images[0]
    style.set_strength(0.5)
    style.remove()              # every bit is as it was

Weights are changed where they lie, each with one rounding for all adapters
together; a layer runs as fast as without. Those on other devices, or whose
elements do not lie one after the other, go through a copy that is written back.
torch is not imported before it is used, and diffusers not at all.
"""

from __future__ import annotations

import os
import warnings
from typing import Any, Iterator, Mapping, NamedTuple, Optional, Union

from . import _arrays, _core, _errors, _ffi
from ._adapter import Adapter, open
from ._bind import Binding, Model, bind
from ._builder import Builder
from ._core import Context, options
from ._plan import Plan

Source = Union[Adapter, str, bytes, "os.PathLike[str]", Mapping[str, Any], Any]

_COMPONENTS = ("unet", "transformer", "prior", "text_encoder",
               "text_encoder_2", "text_encoder_3")

# Where components keep the plan that they are in.
_MARK = "_liblora_weights"


class _Place(NamedTuple):
    """Whose attribute a parameter is: it may be another one tomorrow."""

    component: str
    layer: Any
    attribute: str

    @property
    def parameter(self) -> Any:
        return self.layer._parameters[self.attribute]


def _inner(component: Any) -> Any:
    """The model itself, less what torch.compile() and PEFT put around it."""
    component = getattr(component, "_orig_mod", component)
    base = getattr(component, "get_base_model", None)
    return component if base is None else base()


def _walk(component: str, layer: Any, prefix: str
          ) -> Iterator[tuple[str, _Place]]:
    """All parameters by name. A layer that PEFT wrapped is the layer in it:
    what PEFT added are adapters, no weights."""
    base = layer._modules.get("base_layer")
    if base is not None:
        yield from _walk(component, base, prefix)
        return
    for attribute, parameter in layer._parameters.items():
        if parameter is not None:
            yield prefix + attribute, _Place(component, layer, attribute)
    for name, child in layer._modules.items():
        if child is not None:
            yield from _walk(component, child, f"{prefix}{name}.")


def _dtype(parameter: Any) -> str:
    """For the model's list; of packed numbers that have no type here it only
    matters that no adapter can change them."""
    try:
        return _arrays.dtype_name(_arrays.dtype_code(parameter.dtype))
    except _errors.DTypeError:
        return "U8"


class _Weights(Plan):
    """The weights of the components of a pipeline, and the adapters in them.
    The components keep it, as long as there are adapters."""

    def __init__(self, components: Mapping[str, Any], context: Context
                 ) -> None:
        self.components = dict(components)
        self.loaded: list[Loaded] = []
        self._places: dict[str, _Place] = {}
        model, seen = Model(context=context), set()
        for component, root in components.items():
            for name, place in _walk(component, _inner(root), component + "."):
                parameter = place.parameter
                if id(parameter) in seen:  # tied to one that is there
                    continue
                seen.add(id(parameter))
                self._places[name] = place
                model.add(name, tuple(parameter.shape) or (1,),
                          dtype=_dtype(parameter), component=component)
        self._make(model, list(self._places), options(_ffi.lora_plan_options))

    def __reduce__(self) -> Any:
        return type(None), ()  # copied models have weights, and no plan

    def update(self) -> None:
        """Run the plan on the parameters as they are now."""
        import torch

        copies = []
        try:
            with torch.no_grad():
                for name in self.changed:
                    parameter = self._places[name].parameter
                    array = self._array_of(name, parameter)
                    if array.data_ptr() != parameter.data_ptr():
                        copies.append((parameter, array))
                    self._place(name, _arrays.Memory(
                        array.data_ptr(), array.nbytes,
                        _arrays.dtype_code(array.dtype), tuple(array.shape),
                        array))
            try:
                self.run()
            finally:
                with torch.no_grad():
                    for parameter, array in copies:
                        parameter.copy_(array)
        finally:
            self._memory.clear()  # the next time they may lie elsewhere

    @staticmethod
    def _array_of(name: str, parameter: Any) -> Any:
        """The parameter, or a copy of it, in main memory."""
        if parameter.device.type == "meta":
            raise _errors.make(
                _ffi.LORA_ERROR_UNSUPPORTED,
                "a weight that is not loaded: switch offloading on after the "
                "adapters", name)
        return parameter.detach().to("cpu").contiguous()

    def keep(self, loaded: "Loaded") -> None:
        """One more is added, and about to be run."""
        self.loaded.append(loaded)
        for root in self.components.values():
            setattr(_inner(root), _MARK, self)

    def take(self, loaded: "Loaded") -> None:
        """Take one out. After a failure the components still keep this, so that
        the next one that comes or goes is run from the saved rows."""
        self.remove(loaded._number)
        self.loaded.remove(loaded)
        self.update()
        if not self.loaded:
            for root in self.components.values():
                delattr(_inner(root), _MARK)


class Loaded:
    """An adapter in a pipeline; load() makes it. As a context manager it is
    taken out at the end.

    name     of the adapter
    binding  what became of each of its modules: a Binding
    report   the same as a Report
    strength, te_strength  what they are now
    """

    def __init__(self, weights: _Weights, binding: Binding, name: str,
                 strength: tuple[float, float]) -> None:
        self.name = name
        self.binding = binding
        self.report = binding.report
        self.strength, self.te_strength = strength
        self._number = weights.add(binding, strength)
        self._weights: Optional[_Weights] = weights
        weights.keep(self)
        try:
            weights.update()
        except BaseException:
            self.remove()
            raise

    def _there(self) -> _Weights:
        if self._weights is None:
            raise _errors.make(_ffi.LORA_ERROR_STATE, "it was taken out",
                               self.name)
        return self._weights

    def set_strength(self, strength: float,
                     te_strength: Optional[float] = None) -> None:
        """Make it stronger or weaker; in text encoders the same, unless
        something else is given."""
        both = (strength, strength if te_strength is None else te_strength)
        weights = self._there()
        Plan.set_strength(weights, self._number, both)
        self.strength, self.te_strength = both
        weights.update()

    def remove(self) -> None:
        """Take it out. Without the last one all weights are as they were, bit
        for bit."""
        weights, self._weights = self._there(), None
        weights.take(self)

    def __enter__(self) -> "Loaded":
        return self

    def __exit__(self, *exception: Any) -> None:
        if self._weights is not None:
            self.remove()

    def __repr__(self) -> str:
        where = ("taken out" if self._weights is None else
                 f"at {self.strength:g} and {self.te_strength:g}")
        return (f"<liblora.diffusers.Loaded: {self.name}, {where}, "
                f"{self.binding.bound} of {self.binding.modules} modules>")


def _components(pipe: Any) -> dict[str, Any]:
    found = {name: getattr(pipe, name, None) for name in _COMPONENTS}
    found = {name: component for name, component in found.items()
             if hasattr(component, "named_parameters")}
    if not found:
        raise _errors.make(_ffi.LORA_ERROR_ARGUMENT,
                           "a pipeline without a component that adapters are "
                           "for: " + ", ".join(_COMPONENTS))
    return found


def _find(components: Mapping[str, Any]) -> Optional[_Weights]:
    """The plan that the components are in already, maybe with more."""
    marks = {name: getattr(_inner(root), _MARK, None)
             for name, root in components.items()}
    plans = [plan for plan in marks.values() if plan is not None]
    if not plans:
        return None
    if any(plan is not plans[0] or plan.components.get(name) is None or
           _inner(plan.components[name]) is not _inner(components[name])
           for name, plan in marks.items()):
        raise _errors.make(
            _ffi.LORA_ERROR_STATE,
            "some components have adapters by way of another pipeline: take "
            "those out first", ", ".join(name for name, plan in marks.items()
                                         if plan is not None))
    return plans[0]


def _open(source: Source, context: Context) -> Adapter:
    if isinstance(source, Adapter):
        return source
    if not isinstance(source, Mapping):
        return open(source, context=context)
    builder = Builder(context=context)
    for key, tensor in source.items():
        if hasattr(tensor, "detach"):
            tensor = tensor.detach().to("cpu").contiguous()
        builder.add(key, tensor)
    return builder.finish()


def _name_of(source: Source) -> str:
    if isinstance(source, (str, os.PathLike)):
        return os.path.splitext(os.path.basename(os.fspath(source)))[0]
    return "adapter"


def _require_bound(binding: Binding, name: str) -> None:
    """Nothing bound is an error that says what the adapter is for; a part, a
    warning."""
    if binding.bound == binding.modules and binding.bound:
        return
    told = binding.report.to_dict()
    theirs, ours = told["adapter"]["family"], told["model"]["family"]
    if not binding.bound:
        guess = (f"it seems to be for {theirs}" if theirs else
                 "what it is for is not known")
        near = next((f"; {item['name']}: {item['reason']}, the nearest is "
                     f"{item['suggestion']}" for item in binding.items
                     if item.get("suggestion")), "")
        raise _errors.make(
            _ffi.LORA_ERROR_KEY,
            f"none of its {binding.modules} modules is in this pipeline, which "
            f"seems to be {ours or 'of no known family'}; {guess}{near}", name)
    missing = ", ".join(f"{count} {state}"
                        for state, count in binding.counts.items()
                        if count and state != "bound")
    warnings.warn(f"{name}: {binding.bound} of {binding.modules} modules are "
                  f"in this pipeline ({missing}); see .binding",
                  stacklevel=3)


def load(pipe: Any, source: Source, strength: float = 1.0,
         te_strength: Optional[float] = None, strict: bool = False,
         select: Optional[Mapping[str, float]] = None,
         name: Optional[str] = None, *, context: Optional[Context] = None
         ) -> Loaded:
    """Put an adapter into the weights of a pipeline, behind those that are
    there.

    source       a path, a folder, bytes, a file object, a dict of tensors, or
                 an Adapter
    strength     in the UNet or transformer
    te_strength  in text encoders; None: the same
    strict       raise for whatever is not bound, instead of warning
    select       factors by pattern, as of bind()
    name         for messages; None: that of the file

    An adapter of which nothing is in the pipeline is a KeyMatchError. As long
    as there are adapters nobody else may write to the weights: adapters that
    diffusers fused stay below them, and must not be unfused before these are
    out. The pipeline may be moved to a device and back, but keeps its number
    types. Of pipelines that share components the first that has adapters must
    have all the components of the others.
    """
    context = _core.settle(context, None)
    components = _components(pipe)
    weights = _find(components) or _Weights(components, context)
    name = name or _name_of(source)
    binding = bind(_open(source, context), weights.model, select=select,
                   strict=strict)
    _require_bound(binding, name)
    return Loaded(weights, binding, name, (
        strength, strength if te_strength is None else te_strength))


def loaded(pipe: Any) -> list[Loaded]:
    """The adapters that are in a pipeline, in the order of their loading."""
    weights = _find(_components(pipe))
    return [] if weights is None else list(weights.loaded)
