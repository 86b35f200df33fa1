"""Adapters: open a file, look inside, compute with it, save it."""

from __future__ import annotations

import builtins
import ctypes
import functools
import itertools
import json
import os
from typing import (TYPE_CHECKING, Any, Iterable, Mapping, NamedTuple,
                    Optional, Sequence, Union)

from . import _arrays, _core, _errors, _ffi, _resize, _streams
from ._core import Context, Handle, Progress, options, text, texts
from ._library import lib
from ._report import Report, table

if TYPE_CHECKING:
    from ._layer import Layer

_PARTS = {"weight": _ffi.LORA_PART_WEIGHT, "bias": _ffi.LORA_PART_BIAS}
_RULES = {
    "strength_rule": {"origin": _ffi.LORA_STRENGTH_ORIGIN,
                      "interpolate": _ffi.LORA_STRENGTH_INTERPOLATE},
    "dora": {"origin": _ffi.LORA_DORA_ORIGIN,
             "lycoris": _ffi.LORA_DORA_LYCORIS, "peft": _ffi.LORA_DORA_PEFT},
}

_NO_MODULE = 2**64 - 1

# What is read before anybody could press Ctrl-C.
_FEW_BYTES = 4 << 20


def _rule(option: str, name: str) -> int:
    rules = _RULES[option]
    if name not in rules:
        raise _errors.make(_ffi.LORA_ERROR_OPTION,
                           f'{option} is one of {", ".join(rules)}', str(name))
    return rules[name]


@functools.lru_cache(maxsize=4096)
def _form(data: bytes) -> tuple[str, tuple[int, ...], int]:
    """The number type, shape, and code of the type, by the end of a
    lora_tensor_info. They are much the same in all tensors of all files."""
    info = _ffi.lora_tensor_info.from_buffer_copy(
        bytes(_ffi.lora_tensor_info.shape.offset) + data)
    return (_arrays.dtype_name(info.dtype), tuple(info.shape[:info.ndim]),
            info.dtype)


class _Table(NamedTuple):
    """The tensors, a column each."""

    names: list[str]
    forms: list[tuple[str, tuple[int, ...], int]]  # see _form()
    infos: _core.Columns  # the rest, of lora_tensor_info


class Adapter:
    """The immutable picture of one file: its tensors, and the modules they
    form. open() and Builder make them, and so does every operation. Any number
    of threads may use one.

    Names of modules are as stored or canonical ("unet.down_blocks.0...").
    """

    def __init__(self, pointer: Any, context: Context,
                 keep: Any = None, report: Optional[Report] = None) -> None:
        self._open: Optional[Handle] = Handle(
            pointer, lib.lora_adapter_destroy, keep)
        self._context = context
        #: What the operation that made it did, or None.
        self.report = report

    # Lifetime -----------------------------------------------------------

    @property
    def _handle(self) -> Handle:
        if self._open is None:
            raise _errors.make(_ffi.LORA_ERROR_STATE, "the adapter was closed")
        return self._open

    @property
    def context(self) -> Context:
        return self._context

    def close(self) -> None:
        """Give the file up. What was made from this adapter keeps what it
        needs."""
        self._open = None

    def __enter__(self) -> "Adapter":
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()

    def _made(self, handle: Handle, pointer: Any,
              report: Optional[Report] = None) -> "Adapter":
        """An adapter that was made from this one, which may have been closed
        meanwhile."""
        return Adapter(pointer, self._context, handle.keep, report)

    # Looking inside -----------------------------------------------------

    def info(self, *, modules: bool = False, hashes: bool = False
             ) -> dict[str, Any]:
        """What the file is: the object of `lora info --json`. modules: one
        entry a module instead of counts; hashes: reads the whole file."""
        return json.loads(self._describe(modules, hashes).to_json())

    def _describe(self, modules: bool, hashes: bool) -> Report:
        handle = self._handle
        out = ctypes.POINTER(_ffi.lora_report)()
        call = self._context.work if hashes else self._context.call
        call(lib.lora_adapter_describe, out, handle,
             options(_ffi.lora_adapter_describe_options, modules=modules,
                     hashes=hashes))
        return Report(out, self._context, handle)

    @functools.cached_property
    def modules(self) -> list[dict[str, Any]]:
        """The adapted layers, as `lora info --json --modules` has them."""
        return self.info(modules=True)["modules"]

    @functools.cached_property
    def problems(self) -> list[dict[str, Any]]:
        """What is wrong without looking at values; see check()."""
        return self._describe(False, False).problems

    @functools.cached_property
    def metadata(self) -> dict[str, str]:
        entries = {}
        for i in range(lib.lora_adapter_metadata_count(self._handle)):
            key, value = ctypes.c_char_p(), ctypes.c_char_p()
            self._context.call(lib.lora_adapter_get_metadata, key, value,
                               self._handle, i)
            name = (key.value or b"").decode()
            entries[name] = (value.value or b"").decode()
        return entries

    @functools.cached_property
    def tensors(self) -> list[dict[str, Any]]:
        """The tensors in the order of the file, as `lora keys --json` has
        them. Where their modules are of no interest, headers cost less."""
        handle, table = self._handle, self._table
        rows = self._context.columns(
            lib.lora_adapter_get_modules, _ffi.lora_module_info,
            self._module_count, handle)
        modules: dict[int, Any] = dict(enumerate(
            zip(rows.texts("name"), rows.texts("target"))))
        modules[_NO_MODULE] = (None, None)
        addresses = table.infos["role"]
        roles = dict(zip(set(addresses), texts(set(addresses))))
        return [
            {"name": name, "dtype": dtype, "shape": list(shape),
             "offset": offset, "bytes": size, "module": module,
             "target": target, "role": role}
            for (name, dtype, shape), offset, size, (module, target), role
            in zip(
                self.headers, table.infos["offset"], table.infos["bytes"],
                map(modules.__getitem__, table.infos["module_index"]),
                map(roles.__getitem__, addresses))]

    @functools.cached_property
    def headers(self) -> list[tuple[str, str, tuple[int, ...]]]:
        """Name, number type and shape of each tensor, in the order of the
        file."""
        return [(name, dtype, shape) for name, (dtype, shape, _) in zip(
            self._table.names, self._table.forms)]

    @functools.cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the tensors by name."""
        return {name: shape for name, _, shape in self.headers}

    @functools.cached_property
    def dtypes(self) -> dict[str, str]:
        """The number types of the tensors by name, as safetensors calls
        them."""
        return {name: dtype for name, dtype, _ in self.headers}

    def keys(self) -> list[str]:
        """The names of the tensors."""
        return self._table.names.copy()

    @functools.cached_property
    def _table(self) -> _Table:
        handle = self._handle
        infos = self._context.columns(
            lib.lora_adapter_get_tensor_infos, _ffi.lora_tensor_info,
            lib.lora_adapter_tensor_count(handle), handle)
        return _Table(infos.texts("name"), list(itertools.starmap(
            _form, infos.slices("shape", "dtype"))), infos)

    @functools.cached_property
    def _tensor_index(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self._table.names)}

    def tensor(self, name: str, dtype: Any = None, *, copy: bool = True
               ) -> Any:
        """The values of one tensor, converted to `dtype` if that is given.
        copy=False: a read-only view, of adapters that are in memory or that
        were opened with map=True."""
        index = self._tensor_index.get(name)
        if index is None:
            raise _errors.make(_ffi.LORA_ERROR_KEY, "no such tensor", name)
        code = _arrays.dtype_code(dtype)
        if not copy:
            return self._lent(index, code)
        _, shape, own = self._table.forms[index]
        array, memory = _arrays.empty(code or own, shape)
        self._context.call(lib.lora_adapter_read_tensor, memory.address,
                           memory.bytes, self._handle, index, code)
        return array

    def load(self, dtype: Any = None, *, copy: bool = True) -> dict[str, Any]:
        """The values of all tensors by name, as tensor() gives them, but read
        in one call, into one block of memory that lives as long as any of
        them."""
        code, table = _arrays.dtype_code(dtype), self._table
        if not copy:
            return {name: self._lent(i, code)
                    for i, name in enumerate(table.names)}
        arrays, places = _arrays.block(
            [code or own for _, _, own in table.forms],
            [shape for _, shape, _ in table.forms])
        pack = _core.layout(_ffi.lora_tensor_read).pack
        reads = bytearray().join(
            pack(address, size, i, code, 0)
            for i, (address, size) in enumerate(places))
        if places:
            few = sum(size for _, size in places) < _FEW_BYTES
            call = self._context.call if few else self._context.work
            call(lib.lora_adapter_read_tensors,
                 _ffi.lora_tensor_read.from_buffer(reads), len(places),
                 self._handle)
        return dict(zip(table.names, arrays))

    def _lent(self, index: int, code: int) -> Any:
        if code not in (0, self._table.forms[index][2]):
            raise _errors.make(_ffi.LORA_ERROR_ARGUMENT,
                               "a view cannot be converted",
                               self._table.names[index])
        view = _ffi.lora_tensor()
        handle = self._handle
        self._context.call(lib.lora_adapter_get_tensor, view, handle, index)
        return _arrays.lent(view, handle)

    @property
    def _module_count(self) -> int:
        return lib.lora_adapter_module_count(self._handle)

    def _module_at(self, index: int) -> _ffi.lora_module_info:
        row = options(_ffi.lora_module_info)
        self._context.call(lib.lora_adapter_get_module, row, self._handle,
                           index)
        return row

    def _find(self, name: str) -> int:
        index = ctypes.c_size_t()
        self._context.call(lib.lora_adapter_find_module, index, self._handle,
                           text(name))
        return index.value

    # Computing ----------------------------------------------------------

    def delta(self, name: str, strength: float = 1.0, dtype: Any = None, *,
              part: str = "weight", out: Any = None, weight: Any = None,
              bias: Any = None, strength_rule: str = "origin",
              dora: str = "origin", weights: bool = False) -> Any:
        """The dense change of one module's weight, in the shape of the weight,
        float32 or float64; or of its bias (part="bias"). `out` is an array to
        write to.

        weight, bias   arrays of the base model, for kinds whose change depends
                       on them
        strength_rule  "origin", or "interpolate" between the weight and what
                       strength 1 makes of it
        dora           whose rules DoRA follows: "lycoris", "peft", or
                       "origin", by the name of its tensor
        weights        the changed weight, or bias, instead of its change"""
        if part not in _PARTS:
            raise _errors.make(_ffi.LORA_ERROR_ARGUMENT,
                               'part is "weight" or "bias"', str(part))
        index = self._find(name)
        base = {"weight": weight, "bias": bias}
        views = {key: _arrays.view(array, key) if array is not None
                 else (None, None) for key, array in base.items()}
        given = views[part][1]
        row = self._module_at(index)
        shape = (given.shape if given is not None else
                 tuple(row.shape[:row.ndim if part == "weight" else 1]))
        array, memory = _arrays.target(out, _arrays.dtype_code(dtype), shape)
        place = (memory.address, memory.bytes, self._handle, index,
                 _PARTS[part], strength, memory.dtype, 0,
                 shape[0] if shape else 0)
        if weight is None and bias is None and not weights:
            self._context.call(lib.lora_adapter_delta, *place)
        else:
            self._context.call(
                lib.lora_adapter_delta_base, *place, views["weight"][0],
                views["bias"][0], options(
                    _ffi.lora_adapter_delta_base_options,
                    strength_rule=_rule("strength_rule", strength_rule),
                    dora_rule=_rule("dora", dora), weights=weights))
        return array

    def factors(self, name: str, rank: Optional[int] = None,
                dtype: Any = None) -> tuple[Any, Any, float]:
        """(up, down, scale) with dW = scale * up @ down, exactly, or the best
        approximation of at most `rank`; float32 or float64. Of a convolution
        down has the shape [rank, in * kernel]."""
        if rank is not None:
            return self._lowered(name, rank).factors(name, None, dtype)
        index = self._find(name)
        code = _arrays.dtype_code(dtype) or _ffi.LORA_DTYPE_F32
        sizes = [ctypes.c_int64() for _ in "rck"]
        scale = ctypes.c_double()
        self._context.call(lib.lora_adapter_factors, *sizes, scale, None, None,
                           code, self._handle, index)
        rows, columns, own = (size.value for size in sizes)
        up, up_memory = _arrays.empty(code, (rows, own))
        down, down_memory = _arrays.empty(code, (own, columns))
        self._context.call(lib.lora_adapter_factors, None, None, None, None,
                           up_memory.address, down_memory.address, code,
                           self._handle, index)
        return up, down, scale.value

    def layer(self, name: str, strength: float = 1.0, **how: Any) -> "Layer":
        """One module, ready to run on arrays, forward and back.

        stride, padding, dilation  of a convolution: one number, or one for
                                   each dimension of the kernel
        kernel                     the same, where factors do not tell it
        groups                     of a convolution
        dtype                      of what goes in and out: float32, float16
                                   or bfloat16
        """
        from ._layer import Layer
        return Layer(self, name, strength, **how)

    def _lowered(self, name: str, rank: int) -> "Adapter":
        """An adapter of one module only, with a lower rank, in f32."""
        from ._builder import Builder
        wanted = self._module_at(self._find(name)).name.decode()
        builder = Builder(self)
        for row in self.tensors:
            if row["module"] != wanted:
                builder.remove(row["name"])
        return builder.finish().resize(rank=rank, dtype="F32")

    def resize(self, *, rank: Optional[int] = None,
               energy: Optional[float] = None, ratio: Optional[float] = None,
               threshold: Optional[float] = None,
               cumulative: Optional[float] = None,
               effective: bool = False, knee: bool = False,
               size: Optional[int] = None,
               global_threshold: Optional[float] = None,
               conv_rank: Optional[int] = None,
               max_rank: Optional[int] = None, min_rank: Optional[int] = None,
               module_rank: Optional[Mapping[str, int]] = None,
               pad: bool = False, keep_core: bool = False,
               count: str = "exact", split: str = "even", dtype: Any = None,
               skip_bad: bool = False, base: Any = None) -> "Adapter":
        """Lower ranks, losing as little as possible; .report of the result
        says what it cost. One rule:

        rank        at most so many directions a layer
        energy      the least rank that keeps this share of the sum of squares
        ratio       drop values below the largest divided by it
        threshold   drop values up to it
        cumulative  the least rank that keeps this share of the sum
        effective   exp(entropy) of the values' shares of their sum, rounded up
        knee        up to where the curve of the values bends
        size        a file of at most so many bytes
        global_threshold  as threshold, in every layer: without conv_rank and
                    module_rank

        and, beside it or alone:

        conv_rank   the rank of k x k convolutions
        max_rank, min_rank  bounds, whatever the rule
        module_rank ranks of the modules whose name matches a pattern ("*" any
                    characters, "?" one); the last that matches holds
        pad         fill up with zeros to just `rank`
        keep_core   keep the cores of Tucker modules, which are multiplied out
                    otherwise
        count       "kohya" or "lycoris": be off by one as their tools are
        split       "up": all of the values into up, none into down
        dtype       of the factors; None keeps them
        skip_bad    leave unusable modules out
        base        the model, a file or folder: kinds that change a weight by
                    what it is become pairs, which are refused without it, and
                    the report's errors of DoRA are those of the changed weights
        """
        handle = self._handle
        return self._resized(
            handle, lib.lora_adapter_resize, handle,
            _resize.arguments(
                rank=rank, energy=energy, ratio=ratio, threshold=threshold,
                cumulative=cumulative, effective=effective, knee=knee,
                size=size, global_threshold=global_threshold,
                conv_rank=conv_rank, max_rank=max_rank, min_rank=min_rank,
                module_rank=module_rank, pad=pad, keep_core=keep_core,
                count=count, split=split, dtype=dtype, skip_bad=skip_bad,
                base=base))

    def _resized(self, handle: Handle, function: Any, operand: Handle,
                 arguments: tuple[Any, Any]) -> "Adapter":
        """What a function of resizing makes of this adapter, whose handle it
        is, given as that or as its spectra."""
        out = ctypes.POINTER(_ffi.lora_adapter)()
        report = ctypes.POINTER(_ffi.lora_report)()
        self._context.work(function, out, report, operand, *arguments)
        return self._made(handle, out, Report(report, self._context, handle))

    def spectra(self) -> "Spectra":
        """Decompose every module, for several results of resize()."""
        return Spectra(self)

    def convert(self, *, dialect: Optional[str] = None, dtype: Any = None,
                family: Optional[str] = None, bake_alpha: bool = False,
                skip_bad: bool = False, drop: Iterable[str] = (),
                strength: float = 1.0, te_strength: Optional[float] = None,
                kind: Optional[str] = None, rank: Optional[int] = None,
                rank_prefix: Optional[int] = None,
                truncate: str = "keep-alpha", base: Any = None,
                energy: Optional[float] = None, ratio: Optional[float] = None,
                threshold: Optional[float] = None,
                size: Optional[int] = None) -> "Adapter":
        """Other names or number types, fewer modules, another strength; else
        the same weight change.

        dialect     such as "kohya" or "diffusers"
        dtype       of the factors
        family      the base to take names from, instead of the guess
        bake_alpha  scale into the factors, alpha = rank
        skip_bad    leave unusable modules out
        drop        leave modules out: names of components ("text_encoder"),
                    or patterns of names ("*" any characters, "?" one)
        strength    the result has at 1 the effect that this has at it
        te_strength the same for text encoders; None: the same number
        kind        "lora" or "full": what other kinds become, pairs or
                    differences; .report of the result says what it cost
        base        the model, a file or folder, for kinds that change a weight
                    by what it is
        rank        of these, and of what was one before, at most; None: exact
        energy, ratio, threshold, size  instead of it, as resize() has them; a
                    size is of the file with the names and at the strength that
                    this has
        rank_prefix of DyLoRA: the first directions to keep
        truncate    what becomes of alpha then: "keep-alpha", "trained-sqrt"
                    or "keep-scale"
        """
        handle = self._handle
        patterns = [text(pattern) for pattern in drop]
        weights = _ffi.lora_strength(
            strength, strength if te_strength is None else te_strength)
        rule = _resize.rule_of({"rank": rank, "energy": energy,
                                "ratio": ratio, "threshold": threshold,
                                "size": size})
        out = ctypes.POINTER(_ffi.lora_adapter)()
        report = ctypes.POINTER(_ffi.lora_report)()
        self._context.work(
            lib.lora_adapter_convert_report, out, report, handle,
            options(_ffi.lora_adapter_convert_options,
                    dialect=None if dialect is None else text(dialect),
                    family=None if family is None else text(family),
                    dtype=_arrays.dtype_code(dtype), bake_alpha=bake_alpha,
                    skip_bad=skip_bad, strength=ctypes.pointer(weights),
                    drops=(ctypes.c_char_p * len(patterns))(*patterns),
                    drop_count=len(patterns),
                    kind=None if kind is None else text(kind),
                    base=None if base is None else _core.path_text(base),
                    rule=None if rule is None else ctypes.pointer(rule),
                    rank_prefix=rank_prefix or 0,
                    truncation=_resize.choice(_resize.TRUNCATIONS,
                                              "truncate", truncate)))
        return self._made(handle, out, Report(report, self._context, handle)
                          if report else None)

    def to_lokr(self, *, factor: Optional[int] = None,
                rank: Optional[int] = None, dtype: Any = None,
                skip_bad: bool = False) -> "Adapter":
        """The nearest LoKr of each module with factors; .report of the result
        says what is lost.

        factor    divides the sides as LyCORIS does; None: near square
        rank      of the larger factor at most; None: it is whole
        dtype     of the factors
        skip_bad  leave unusable modules out
        """
        handle = self._handle
        out = ctypes.POINTER(_ffi.lora_adapter)()
        report = ctypes.POINTER(_ffi.lora_report)()
        self._context.work(
            lib.lora_adapter_to_lokr, out, report, handle,
            options(_ffi.lora_lokr_options, factor=factor or 0, rank=rank or 0,
                    dtype=_arrays.dtype_code(dtype), skip_bad=skip_bad))
        return self._made(handle, out, Report(report, self._context, handle))

    def check(self, *, family: Optional[str] = None) -> Report:
        """Everything that would make it do nothing, or harm, values included.
        family: report what this base lacks."""
        handle = self._handle
        out = ctypes.POINTER(_ffi.lora_report)()
        self._context.work(
            lib.lora_adapter_check, out, handle,
            options(_ffi.lora_adapter_check_options,
                    family=None if family is None else text(family)))
        return Report(out, self._context, handle)

    def fix(self, *, family: Optional[str] = None, skip_bad: bool = False
            ) -> "Adapter":
        """Repair what check() finds, where there is one way to; the weight
        changes stay. .report of the result has `fixes`, what was done, and
        `problems`, what is left.

        family    base to take names from
        skip_bad  leave unusable modules out
        """
        handle = self._handle
        out = ctypes.POINTER(_ffi.lora_adapter)()
        report = ctypes.POINTER(_ffi.lora_report)()
        self._context.work(
            lib.lora_adapter_fix, out, report, handle,
            options(_ffi.lora_adapter_fix_options,
                    family=None if family is None else text(family),
                    skip_bad=skip_bad))
        return self._made(handle, out, Report(report, self._context, handle))

    # Learned tokens -----------------------------------------------------

    @functools.cached_property
    def embeddings(self) -> list[dict[str, Any]]:
        """Learned tokens, of textual inversion and pivotal tuning, one entry a
        token and text encoder, as `lora embed list --json` has them."""
        handle, table, rows = self._handle, self._table, []
        sizes = table.infos["bytes"]
        for i in range(lib.lora_adapter_embedding_count(handle)):
            row = options(_ffi.lora_embedding_info)
            self._context.call(lib.lora_adapter_get_embedding, row, handle, i)
            rows.append({
                "token": row.token.decode(), "encoder": row.encoder.decode(),
                "form": row.form.decode(),
                "tensor": table.names[row.tensor_index],
                "dtype": _arrays.dtype_name(row.dtype),
                "vectors": row.vectors, "width": row.width,
                "bytes": sizes[row.tensor_index],
                "usable": row.status == _ffi.LORA_OK})
        return rows

    def embedding(self, token: str, encoder: Optional[str] = None,
                  dtype: Any = None) -> Any:
        """The vectors of a token, [vectors, width], converted to `dtype` if
        that is given. encoder: "clip_l", "clip_g", ...; None: the first."""
        index = ctypes.c_size_t()
        handle, code = self._handle, _arrays.dtype_code(dtype)
        self._context.call(lib.lora_adapter_find_embedding, index, handle,
                           text(token), None if encoder is None
                           else text(encoder))
        row = options(_ffi.lora_embedding_info)
        self._context.call(lib.lora_adapter_get_embedding, row, handle, index)
        array, memory = _arrays.empty(code or row.dtype,
                                      (row.vectors, row.width))
        self._context.call(lib.lora_adapter_read_embedding, memory.address,
                           memory.bytes, handle, index, code)
        return array

    def extract_embeddings(self, *tokens: str, form: Optional[str] = None,
                           token: Optional[str] = None, dtype: Any = None
                           ) -> "Adapter":
        """Learned tokens alone, all if none is named.

        form   "token", "encoder", "bundle" or "emb_params": names of tensors;
               None: those that programs read
        token  what the only one is to be called
        dtype  of the vectors
        """
        handle = self._handle
        out = ctypes.POINTER(_ffi.lora_adapter)()
        self._context.work(
            lib.lora_adapter_extract_embeddings, out, handle,
            *_tokens(tokens), _embed_options(form, token, dtype))
        return self._made(handle, out)

    def insert_embeddings(self, *sources: "Adapter",
                          form: Optional[str] = None,
                          token: Optional[str] = None,
                          family: Optional[str] = None, dtype: Any = None,
                          replace: bool = False) -> "Adapter":
        """The same with the learned tokens of other files.

        form, token, dtype  as for extract_embeddings()
        family   the base, instead of the guess
        replace  tokens that are there already
        """
        handles = [source._handle for source in (self, *sources)]
        others = (ctypes.c_void_p * len(sources))(
            *(ctypes.cast(handle._as_parameter_, ctypes.c_void_p)
              for handle in handles[1:]))
        out = ctypes.POINTER(_ffi.lora_adapter)()
        settings = _embed_options(form, token, dtype)
        settings.family = None if family is None else text(family)
        settings.replace = replace
        self._context.work(
            lib.lora_adapter_insert_embeddings, out, handles[0],
            ctypes.cast(others, ctypes.POINTER(
                ctypes.POINTER(_ffi.lora_adapter))), len(sources), settings)
        return Adapter(out, self._context, [h.keep for h in handles])

    def remove_embeddings(self, *tokens: str) -> "Adapter":
        """The same without these learned tokens, all if none is named."""
        handle = self._handle
        out = ctypes.POINTER(_ffi.lora_adapter)()
        self._context.work(lib.lora_adapter_remove_embeddings, out, handle,
                           *_tokens(tokens))
        return self._made(handle, out)

    def with_metadata(self, entries: Mapping[str, Optional[str]]) -> "Adapter":
        """The same with metadata entries set, or removed where None."""
        from ._builder import Builder
        builder = Builder(self)
        for key, value in entries.items():
            builder.set_metadata(key, value)
        return builder.finish()

    # Saving -------------------------------------------------------------

    def _converted(self, dialect: Optional[str], dtype: Any) -> "Adapter":
        if dialect is None and dtype is None:
            return self
        return self.convert(dialect=dialect, dtype=dtype)

    def save(self, target: Any, *, dialect: Optional[str] = None,
             dtype: Any = None, overwrite: bool = False) -> None:
        """Save as a safetensors file: to a path, where the new file is there
        whole or not at all, or to a file object. A path to a folder, or that
        ends with a separator, becomes what PEFT loads, from PEFT's names."""
        adapter = self._converted(dialect, dtype)
        if _core.is_path(target):
            folder = os.path.isdir(target) or os.fspath(target).endswith(
                (os.sep, os.altsep or os.sep))
            self._context.work(
                lib.lora_adapter_save_peft if folder else
                lib.lora_adapter_save, adapter._handle,
                _core.path_text(target),
                options(_ffi.lora_adapter_save_options, overwrite=overwrite))
            return
        with _streams.Writer(target, self._context) as writer:
            self._context.work(lib.lora_adapter_save_writer, adapter._handle,
                               writer)

    def to_bytes(self, *, dialect: Optional[str] = None, dtype: Any = None
                 ) -> bytearray:
        """What save() would write."""
        handle = self._converted(dialect, dtype)._handle
        size = ctypes.c_size_t()
        self._context.call(lib.lora_adapter_save_memory, None, 0, size, handle)
        data = bytearray(size.value)
        place = (ctypes.c_char * len(data)).from_buffer(data)
        self._context.work(lib.lora_adapter_save_memory,
                           ctypes.addressof(place), len(data), size, handle)
        return data

    def save_delta(self, path: Union[str, "os.PathLike[str]"],
                   strength: float = 1.0, *, dtype: Any = None, canonical: bool = False,
                   overwrite: bool = False, skip_bad: bool = False,
                   base: Union[str, "os.PathLike[str]", None] = None,
                   strength_rule: str = "origin", dora: str = "origin",
                   weights: bool = False) -> None:
        """Save the dense weight change of every module, as `lora delta`. `base`
        is the path of the base model; with weights=True what its weights become
        is saved."""
        self._context.work(
            lib.lora_adapter_save_delta, self._handle, _core.path_text(path),
            strength, options(_ffi.lora_adapter_delta_options,
                              dtype=_arrays.dtype_code(dtype),
                              canonical=canonical, overwrite=overwrite,
                              skip_bad=skip_bad,
                              base=None if base is None
                              else _core.path_text(base),
                              strength_rule=_rule("strength_rule",
                                                  strength_rule),
                              dora_rule=_rule("dora", dora),
                              weights=weights))

    # Showing ------------------------------------------------------------

    def __repr__(self) -> str:
        if self._open is None:
            return "<liblora.Adapter: closed>"
        row = options(_ffi.lora_adapter_info)
        self._context.call(lib.lora_adapter_get_info, row, self._handle)
        return (f"<liblora.Adapter {row.path.decode('utf-8', 'replace')!r}: "
                f"{row.module_count} modules, {row.tensor_count} tensors, "
                f"base {row.family.decode() or 'unknown'}>")

    def _repr_html_(self) -> str:
        info = self.info()
        kinds = ", ".join(f"{kind} ({n})" for kind, n in info["kinds"].items())
        return table([
            ("file", info["file"]), ("base model", info["base"]["family"]),
            ("modules", kinds), ("names", ", ".join(info["dialects"])),
            ("dtypes", ", ".join(info["dtype"])),
            ("parameters", f"{info['parameters']:,}"),
            ("problems", len(info["problems"]))])


def _tokens(tokens: Sequence[str]) -> tuple[Any, int]:
    names = [text(token) for token in tokens]
    return (ctypes.c_char_p * len(names))(*names), len(names)


def _embed_options(form: Optional[str], token: Optional[str], dtype: Any
                   ) -> Any:
    return options(_ffi.lora_adapter_embed_options,
                   form=None if form is None else text(form),
                   token=None if token is None else text(token),
                   dtype=_arrays.dtype_code(dtype))


class Spectra:
    """The decompositions of an adapter's modules: most of the work of
    resize(), done once."""

    def __init__(self, adapter: Adapter) -> None:
        out = ctypes.POINTER(_ffi.lora_spectra)()
        self._adapter = adapter
        handle = adapter._handle
        adapter._context.work(lib.lora_spectra_create, out, handle)
        self._handle = Handle(out, lib.lora_spectra_destroy, handle)

    def resize(self, **arguments: Any) -> Adapter:
        """As Adapter.resize(), of an adapter that may be closed meanwhile."""
        return self._adapter._resized(
            self._handle.keep, lib.lora_spectra_resize, self._handle,
            _resize.arguments(**arguments))


# Opening --------------------------------------------------------------------

def _read_config(config: Any) -> Optional[bytes]:
    """The text of an adapter_config.json, given as a path or as its object."""
    if config is None:
        return None
    if isinstance(config, Mapping):
        return json.dumps(config).encode()
    with builtins.open(config, "rb") as file:
        return file.read()


def open(source: Any, *, context: Optional[Context] = None,
         config: Any = None, map: bool = False,
         progress: Union[bool, Progress, None] = None) -> Adapter:
    """Open an adapter: a file, a folder that PEFT or diffusers wrote, the index
    of several files, bytes (or whatever has the buffer protocol), or a file
    object.

    context   what the library may use; see Context
    config    PEFT's adapter_config.json, if it lies elsewhere: a path, or the
              object that is in it
    map       map the file instead of reading it, so that tensor(copy=False)
              works; another program must not truncate it meanwhile
    progress  for a context of its own
    """
    context = _core.settle(context, progress)
    settings = options(_ffi.lora_adapter_open_options,
                       flags=_ffi.LORA_OPEN_MAP if map else 0)
    configured = _read_config(config)
    if configured is not None:
        settings.config, settings.config_bytes = configured, len(configured)
    out = ctypes.POINTER(_ffi.lora_adapter)()
    keep = None
    if _core.is_path(source):
        context.call(lib.lora_adapter_open, out, context.handle,
                     _core.path_text(source), settings)
    elif _streams.can_seek(source):
        context.call(lib.lora_adapter_open_reader, out, context.handle,
                     _streams.reader(source, context), settings)
    else:
        if hasattr(source, "read") and not _arrays.is_buffer(source):
            source = source.read()
        keep = _arrays.from_buffer(source)
        context.call(lib.lora_adapter_open_memory, out, context.handle,
                     keep.address, keep.bytes, settings)
    return Adapter(out, context, keep)
