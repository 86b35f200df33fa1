"""What works on files as they are, without opening them as adapters."""

from __future__ import annotations

import ctypes
import os
from typing import Any, Mapping, Optional, Union

from . import _core, _ffi
from ._core import Context, options, text
from ._library import lib

Path = Union[str, "os.PathLike[str]"]


def hashes(path: Path, *, context: Optional[Context] = None
           ) -> dict[str, Optional[str]]:
    """The hashes by which sites and front ends know a file, of any container,
    as `lora hash --json` has them: None where one is not defined for it."""
    context = context or _core.default_context()
    record = options(_ffi.lora_hashes)
    context.work(lib.lora_hash_file, record, context.handle,
                 _core.path_text(path))
    return {name: getattr(record, name).decode() or None
            for name, kind, *_ in _ffi.lora_hashes._fields_
            if issubclass(kind, ctypes.Array)}


def edit_metadata(path: Path, entries: Mapping[str, Optional[str]], *,
                  output: Optional[Path] = None, room: int = 0,
                  overwrite: bool = False, rewrite: bool = False,
                  dry_run: bool = False, context: Optional[Context] = None
                  ) -> dict[str, Any]:
    """Edit the metadata of a safetensors file, leaving its tensors alone: in
    the file where the header has room, else by a new file in its place. A dict
    with what was done: added, replaced, removed, in_place, bytes, room_bytes.

    entries    values by key; None removes the entries whose key matches, with
               "*" for any characters and "?" for one
    output     write the edited file here instead
    room       bytes to leave free in a header that is written anew
    overwrite  replace an existing output
    rewrite    never write within the file, so that a crash cannot harm it
    dry_run    everything but writing
    """
    context = context or _core.default_context()
    changes = [_ffi.lora_metadata_change(
        text(key), None if value is None else text(value))
        for key, value in entries.items()]
    record = options(_ffi.lora_metadata_edit)
    context.work(
        lib.lora_metadata_edit_file, record, context.handle,
        _core.path_text(path),
        (_ffi.lora_metadata_change * len(changes))(*changes), len(changes),
        options(_ffi.lora_metadata_edit_options,
                output=None if output is None else _core.path_text(output),
                room_bytes=room, overwrite=overwrite, rewrite=rewrite,
                dry_run=dry_run))
    return {"added": record.added, "replaced": record.replaced,
            "removed": record.removed, "in_place": bool(record.in_place),
            "bytes": record.bytes, "room_bytes": record.room_bytes}
