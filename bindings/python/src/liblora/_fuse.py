"""Fusing: adapters into the weights of a checkpoint, and out again."""

from __future__ import annotations

import ctypes
import os
from typing import Iterable, Mapping, Optional, Union

from . import _core, _ffi, _resize
from ._adapter import Adapter, _rule, open
from ._bind import Binding, Model, bind
from ._core import Context, Progress, options
from ._library import lib
from ._report import Report

Path = Union[str, "os.PathLike[str]"]
Source = Union[Adapter, Path]
Weighted = Union[Source, tuple[Source, float], tuple[Source, float, float]]

_MODES = {"raw": _ffi.LORA_UNDO_RAW, "predict": _ffi.LORA_UNDO_PREDICT}


class _Applied:
    """Adapters bound to a model, as C takes them."""

    def __init__(self, model: Model, adapters: Iterable[Weighted],
                 context: Context, select: Optional[Mapping[str, float]],
                 strict: bool) -> None:
        self.kept: list[Binding] = []
        weights = []
        for given in adapters:
            source, *weight = given if isinstance(given, tuple) else (given,)
            adapter = source if isinstance(source, Adapter) else open(
                source, context=context)
            self.kept.append(bind(adapter, model, select=select,
                                  strict=strict))
            unet = weight[0] if weight else 1.0
            weights.append((unet, weight[1] if len(weight) > 1 else unet))
        self.count = len(weights)
        self.bindings = (ctypes.POINTER(_ffi.lora_binding) * self.count)(
            *(binding._handle._as_parameter_ for binding in self.kept))
        self.strengths = (_ffi.lora_strength * self.count)(*weights)


def fuse(base: Union[Model, Path], adapters: Iterable[Weighted], out: Path, *,
         undo: Optional[Path] = None, undo_mode: str = "raw",
         select: Optional[Mapping[str, float]] = None, strict: bool = False,
         stochastic: bool = False, seed: int = 0, saturate: bool = False,
         shard_size: Optional[int] = None, strength_rule: str = "origin",
         dora: str = "origin", overwrite: bool = False, dry_run: bool = False,
         resume: bool = False, context: Optional[Context] = None,
         progress: Union[bool, Progress, None] = None) -> Report:
    """Write a checkpoint again with adapters in its weights, all with one
    rounding; every tensor keeps its name, type and place.

        liblora.fuse("base.safetensors", [(style, 0.8)], "out.safetensors")

    base         a file, an index of shards, a folder of diffusers', or a Model
                 of one of these
    adapters     in the order in which they are applied: each an Adapter or the
                 path of one, alone, or with its weight, or with one for the
                 model and one for text encoders
    out          a file, or a folder where the base is of several files
    undo         a file from which unfuse() brings the old weights back
    undo_mode    "raw", or "predict", which is smaller and needs the adapters
    select, strict  as of bind()
    stochastic   round up or down by chance, which depends on `seed`
    saturate     in 8-bit floats the largest number, where it would be NaN
    shard_size   most bytes of data of one file, with an index
    strength_rule, dora  as of Adapter.delta()
    overwrite    replace what is there; `out` may be the base then
    dry_run      check all, and write nothing
    resume       go on where a call with it ended; not with `undo`
    progress     for a context of its own

    The result says how much of each adapter is in, and what is not.
    """
    context = _core.settle(context, progress)
    model = base if isinstance(base, Model) else Model.open(base,
                                                            context=context)
    applied = _Applied(model, adapters, context, select, strict)
    settings = options(
        _ffi.lora_model_fuse_options,
        undo=None if undo is None else _core.path_text(undo), seed=seed,
        shard_bytes=shard_size or 0,
        undo_mode=_resize.choice(_MODES, "undo_mode", undo_mode),
        strength_rule=_rule("strength_rule", strength_rule),
        dora_rule=_rule("dora", dora),
        flags=((_ffi.LORA_FUSE_OVERWRITE if overwrite else 0) |
               (_ffi.LORA_FUSE_STOCHASTIC if stochastic else 0) |
               (_ffi.LORA_FUSE_SATURATE if saturate else 0) |
               (_ffi.LORA_FUSE_RESUME if resume else 0) |
               (_ffi.LORA_FUSE_DRY_RUN if dry_run else 0)))
    report = ctypes.POINTER(_ffi.lora_report)()
    context.work(lib.lora_model_fuse, report, model._handle, applied.bindings,
                 applied.strengths, applied.count, _core.path_text(out),
                 settings)
    return Report(report, context, context.handle)


def unfuse(fused: Path, undo: Path, out: Path, *,
           adapters: Iterable[Weighted] = (),
           select: Optional[Mapping[str, float]] = None,
           overwrite: bool = False, dry_run: bool = False,
           context: Optional[Context] = None,
           progress: Union[bool, Progress, None] = None) -> Report:
    """Write the files that a checkpoint had before fuse(), bit for bit. Every
    tensor must be as fuse() left it.

    adapters, select  what was fused, for an undo file of the mode "predict"
    """
    context = _core.settle(context, progress)
    given = list(adapters)
    settings = options(
        _ffi.lora_model_unfuse_options,
        flags=((_ffi.LORA_FUSE_OVERWRITE if overwrite else 0) |
               (_ffi.LORA_FUSE_DRY_RUN if dry_run else 0)))
    applied = None if not given else _Applied(
        Model.open(fused, context=context), given, context, select, False)
    report = ctypes.POINTER(_ffi.lora_report)()
    context.work(lib.lora_model_unfuse, report, context.handle,
                 _core.path_text(fused), _core.path_text(undo),
                 _core.path_text(out), applied and applied.bindings,
                 applied and applied.strengths, applied.count if applied else 0,
                 settings)
    return Report(report, context, context.handle)
