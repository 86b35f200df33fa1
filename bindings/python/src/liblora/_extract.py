"""Extraction: an adapter from two checkpoints."""

from __future__ import annotations

import ctypes
import os
from typing import Any, Iterable, Mapping, Optional, Union

from . import _arrays, _core, _ffi, _resize
from ._adapter import Adapter
from ._core import Context, Progress, options, text
from ._library import lib
from ._report import Report

Path = Union[str, "os.PathLike[str]"]

_KINDS = {
    "locon": _ffi.LORA_EXTRACT_LOCON,
    "lora": _ffi.LORA_EXTRACT_LORA,
    "tucker": _ffi.LORA_EXTRACT_TUCKER,
    "lokr": _ffi.LORA_EXTRACT_LOKR,
    "full": _ffi.LORA_EXTRACT_FULL,
}

# Those that need no rule.
_WITHOUT_RANK = ("lokr", "full")


def _patterns(given: Iterable[str]) -> Any:
    rows = [text(pattern) for pattern in given]
    return (ctypes.c_char_p * len(rows))(*rows)


def extract(base: Path, tuned: Path, *, rank: Union[int, str, None] = None,
            energy: Optional[float] = None, ratio: Optional[float] = None,
            threshold: Optional[float] = None,
            cumulative: Optional[float] = None, effective: bool = False,
            knee: bool = False, size: Optional[int] = None,
            global_threshold: Optional[float] = None,
            conv_rank: Optional[int] = None,
            max_rank: Optional[int] = None, min_rank: Optional[int] = None,
            module_rank: Optional[Mapping[str, int]] = None,
            kind: str = "locon", factor: Optional[int] = None,
            include: Iterable[str] = (), exclude: Iterable[str] = (),
            dialect: Optional[str] = None, dtype: Any = None, seed: int = 0,
            clamp: Optional[float] = None, exact: bool = False,
            count: str = "exact", split: str = "even",
            journal: Optional[Path] = None, resume: bool = False,
            skip_shapes: bool = False, skip_bad: bool = False,
            context: Optional[Context] = None,
            progress: Union[bool, Progress, None] = None) -> Adapter:
    """The adapter that a checkpoint was tuned by: what turns `base` into
    `tuned`, each a file, an index of shards, or a folder of diffusers'. .report
    of the result says what it keeps.

    One rule, as of Adapter.resize(): rank, energy, ratio, threshold,
    cumulative, effective, knee, size or global_threshold. rank="auto" keeps
    what is more than rounding noise. Beside it:

    conv_rank   the rank of k x k convolutions
    max_rank, min_rank  bounds, whatever the rule
    module_rank ranks by pattern of names; the last that matches counts
    kind        what layers become: "locon", "lora" (no k x k convolutions),
                "tucker", "lokr" or "full", the last two without a rule too
    factor      of LoKr: split dimensions by it
    include, exclude  patterns of the names of layers; the latter win
    dialect     of the names; None: "diffusers"
    dtype       of the factors; None: F16, or BF16 where `tuned` is
    seed        of the sketches by which large layers are decomposed
    exact       decompose in full instead
    clamp       cut factors at this quantile, as kohya's tool at 0.99
    count, split  as of resize()
    journal     a file to keep what is done in, until all is; the caller's to
                remove, once the adapter was saved
    resume      go on with the journal of an earlier call
    skip_shapes leave out layers whose shapes differ, instead of refusing
    skip_bad    leave out layers with NaN or infinities, instead of refusing
    progress    for a context of its own
    """
    context = _core.settle(context, progress)
    given = {"rank": None if rank == "auto" else rank, "energy": energy,
             "ratio": ratio, "threshold": threshold, "cumulative": cumulative,
             "effective": effective, "knee": knee, "size": size,
             "global_threshold": global_threshold}
    rule = _resize.rule_of(given)
    if (rule is None) != (rank == "auto") and not (
            rule is None and kind in _WITHOUT_RANK):
        raise _resize.one_of(given)
    _resize.check_global(global_threshold, conv_rank, module_rank)
    overrides = _resize.overrides_of(module_rank)
    wanted, unwanted = _patterns(include), _patterns(exclude)
    settings = options(
        _ffi.lora_adapter_extract_options, overrides=overrides,
        override_count=len(overrides), include=wanted,
        include_count=len(wanted), exclude=unwanted,
        exclude_count=len(unwanted),
        dialect=None if dialect is None else text(dialect),
        journal=None if journal is None else _core.path_text(journal),
        seed=seed, clamp=clamp or 0.0, max_rank=max_rank or 0,
        min_rank=min_rank or 0, dtype=_arrays.dtype_code(dtype),
        kind=_resize.choice(_KINDS, "kind", kind),
        counting=_resize.choice(_resize.COUNTS, "count", count),
        split=_resize.choice(_resize.SPLITS, "split", split),
        lokr_factor=factor or 0,
        flags=((_ffi.LORA_EXTRACT_EXACT if exact else 0) |
               (_ffi.LORA_EXTRACT_SKIP_SHAPES if skip_shapes else 0) |
               (_ffi.LORA_EXTRACT_SKIP_BAD if skip_bad else 0) |
               (_ffi.LORA_EXTRACT_RESUME if resume else 0)))
    if conv_rank is not None:
        settings.conv_rule = ctypes.pointer(_resize.fixed(conv_rank))
    out = ctypes.POINTER(_ffi.lora_adapter)()
    report = ctypes.POINTER(_ffi.lora_report)()
    context.work(lib.lora_adapter_extract, out, report, context.handle,
                 _core.path_text(base), _core.path_text(tuned), rule, settings)
    return Adapter(out, context, None, Report(report, context, context.handle))
