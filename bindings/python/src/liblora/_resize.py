"""What resize() and extract() take of ranks, as C takes it."""

from __future__ import annotations

import ctypes
from typing import Any, Mapping, Optional

from . import _arrays, _errors, _ffi
from ._core import options, path_text, text

# The rules, in the order of parameters.
RULES = {
    "rank": _ffi.LORA_RANK_FIXED,
    "energy": _ffi.LORA_RANK_ENERGY,
    "ratio": _ffi.LORA_RANK_RATIO,
    "threshold": _ffi.LORA_RANK_THRESHOLD,
    "cumulative": _ffi.LORA_RANK_CUMULATIVE,
    "effective": _ffi.LORA_RANK_EFFECTIVE,
    "knee": _ffi.LORA_RANK_KNEE,
    "size": _ffi.LORA_RANK_SIZE,
    "global_threshold": _ffi.LORA_RANK_THRESHOLD,
}

COUNTS = {
    "exact": _ffi.LORA_COUNT_EXACT,
    "kohya": _ffi.LORA_COUNT_KOHYA,
    "lycoris": _ffi.LORA_COUNT_LYCORIS,
}

TRUNCATIONS = {
    "keep-alpha": _ffi.LORA_TRUNCATE_KEEP_ALPHA,
    "trained-sqrt": _ffi.LORA_TRUNCATE_TRAINED_SQRT,
    "keep-scale": _ffi.LORA_TRUNCATE_KEEP_SCALE,
}

SPLITS = {"even": _ffi.LORA_SPLIT_EVEN, "up": _ffi.LORA_SPLIT_UP}

# More than a layer has: the rule that keeps all.
_ANY_RANK = 65536


def fixed(rank: int) -> _ffi.lora_rank_rule:
    return _ffi.lora_rank_rule(_ffi.LORA_RANK_FIXED, rank, 0.0)


def rule_of(given: dict[str, Any]) -> Optional[_ffi.lora_rank_rule]:
    """The one rule that was given, of those that there are, or None."""
    names = [name for name in given
             if given[name] is not None and given[name] is not False]
    if not names:
        return None
    if len(names) != 1:
        raise one_of(given)
    value = given[names[0]]
    if names[0] == "rank":
        return fixed(value)
    return _ffi.lora_rank_rule(RULES[names[0]], 0, float(value))


def one_of(given: dict[str, Any]) -> _errors.LoraError:
    return _errors.make(_ffi.LORA_ERROR_ARGUMENT,
                        f"give one of {', '.join(given)}")


def check_global(threshold: Optional[float], conv_rank: Optional[int],
                 module_rank: Optional[Mapping[str, int]]) -> None:
    """The rule for all layers goes with none for some."""
    if threshold is not None and (conv_rank or module_rank):
        raise _errors.make(_ffi.LORA_ERROR_ARGUMENT,
                           "global_threshold is for all layers")


def overrides_of(module_rank: Optional[Mapping[str, int]]) -> Any:
    rows = [_ffi.lora_rank_override(text(pattern), fixed(k))
            for pattern, k in (module_rank or {}).items()]
    return (_ffi.lora_rank_override * len(rows))(*rows)


def choice(choices: dict[str, int], name: str, given: str) -> int:
    """The number of one of some words."""
    if given not in choices:
        raise _errors.make(_ffi.LORA_ERROR_ARGUMENT,
                           f"{name} is one of {', '.join(choices)}")
    return choices[given]


def arguments(*, rank: Optional[int] = None,
              energy: Optional[float] = None, ratio: Optional[float] = None,
              threshold: Optional[float] = None,
              cumulative: Optional[float] = None,
              effective: bool = False, knee: bool = False,
              size: Optional[int] = None,
              global_threshold: Optional[float] = None,
              conv_rank: Optional[int] = None,
              max_rank: Optional[int] = None, min_rank: Optional[int] = None,
              module_rank: Optional[Mapping[str, int]] = None,
              pad: bool = False, keep_core: bool = False, count: str = "exact",
              split: str = "even", dtype: Any = None, skip_bad: bool = False,
              base: Any = None) -> tuple[_ffi.lora_rank_rule,
                         _ffi.lora_adapter_resize_options]:
    """The rule and the options; see Adapter.resize()."""
    given = {"rank": rank, "energy": energy, "ratio": ratio,
             "threshold": threshold, "cumulative": cumulative,
             "effective": effective, "knee": knee, "size": size,
             "global_threshold": global_threshold}
    rule = rule_of(given)
    if rule is None:
        if not (conv_rank or max_rank or module_rank):
            raise one_of(given)
        rule = fixed(_ANY_RANK)
    check_global(global_threshold, conv_rank, module_rank)
    overrides = overrides_of(module_rank)
    settings = options(
        _ffi.lora_adapter_resize_options,
        overrides=overrides,
        override_count=len(overrides), max_rank=max_rank or 0,
        min_rank=min_rank or 0, pad=pad, keep_core=keep_core,
        skip_bad=skip_bad, base=None if base is None else path_text(base),
        counting=choice(COUNTS, "count", count),
        split=choice(SPLITS, "split", split),
        dtype=_arrays.dtype_code(dtype))
    if conv_rank is not None:
        settings.conv_rule = ctypes.pointer(fixed(conv_rank))
    return rule, settings
