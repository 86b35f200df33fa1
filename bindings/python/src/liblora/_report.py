"""What an operation found or did."""

from __future__ import annotations

import functools
import html
import json
from typing import Any, Iterable

from . import _ffi
from ._core import Context, Handle, options
from ._library import lib

_SEVERITIES = {
    _ffi.LORA_SEVERITY_NOTE: "note",
    _ffi.LORA_SEVERITY_WARNING: "warning",
    _ffi.LORA_SEVERITY_ERROR: "error",
}


def table(rows: Iterable[Iterable[Any]], head: Iterable[str] = ()) -> str:
    """A table in HTML."""
    def line(cells: Iterable[Any], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(str(cell))}</{tag}>"
                                for cell in cells) + "</tr>"

    top = line(head, "th") if head else ""
    return f"<table>{top}{''.join(line(row, 'td') for row in rows)}</table>"


class Report:
    """What an operation found or did; never changes.

    modules   of a report on ranks: dicts with name, rank_in, rank_out, energy
              (share kept), frobenius (its root), error (norm of what was
              dropped), spectral (largest value dropped), largest and least
              (value of all, and of those kept), stable_rank, effective_rank and
              sigma (all singular values)
    problems  dicts with code, severity, subject, message and status
    fixes     of repairs: dicts with code, subject and message
    """

    def __init__(self, pointer: Any, context: Context, source: Handle) -> None:
        """source: the adapter it is about, whose names it may have."""
        self._handle = Handle(pointer, lib.lora_report_destroy, source)
        self._context = context

    def to_json(self) -> str:
        """All of it, as `lora --json` prints it."""
        return lib.lora_report_to_json(self._handle, None).decode()

    def to_dict(self) -> dict[str, Any]:
        return json.loads(self.to_json())

    @functools.cached_property
    def modules(self) -> list[dict[str, Any]]:
        rows = []
        for i in range(lib.lora_report_module_count(self._handle)):
            row = options(_ffi.lora_report_module)
            self._context.call(lib.lora_report_get_module, row, self._handle,
                               i)
            rows.append({
                "name": row.name.decode(),
                "rank_in": row.rank_in, "rank_out": row.rank_out,
                "energy": row.energy, "error": row.error,
                "spectral": row.spectral, "frobenius": row.frobenius,
                "largest": row.largest, "least": row.least,
                "stable_rank": row.stable_rank,
                "effective_rank": row.effective_rank,
                "sigma": row.sigma[:row.sigma_count] if row.sigma else []})
        return rows

    @functools.cached_property
    def problems(self) -> list[dict[str, Any]]:
        rows = []
        for i in range(lib.lora_report_problem_count(self._handle)):
            row = options(_ffi.lora_problem)
            self._context.call(lib.lora_report_get_problem, row, self._handle,
                               i)
            rows.append({
                "code": row.code.decode(),
                "severity": _SEVERITIES.get(row.severity, "error"),
                "subject": row.subject.decode("utf-8", "replace"),
                "message": row.message.decode("utf-8", "replace"),
                "status": row.status})
        return rows

    @functools.cached_property
    def fixes(self) -> list[dict[str, Any]]:
        rows = []
        for i in range(lib.lora_report_fix_count(self._handle)):
            row = options(_ffi.lora_problem)
            self._context.call(lib.lora_report_get_fix, row, self._handle, i)
            rows.append({
                "code": row.code.decode(),
                "subject": row.subject.decode("utf-8", "replace"),
                "message": row.message.decode("utf-8", "replace")})
        return rows

    @property
    def good(self) -> bool:
        """Whether no problem is an error."""
        return all(row["severity"] != "error" for row in self.problems)

    def __repr__(self) -> str:
        return (f"<liblora.Report: {len(self.modules)} modules, "
                f"{len(self.problems)} problems>")

    def _repr_html_(self) -> str:
        parts = []
        if self.modules:
            parts.append(table(
                ((row["name"], f"{row['rank_in']} → {row['rank_out']}",
                  f"{100 * row['energy']:.2f} %", f"{row['error']:.3g}")
                 for row in self.modules),
                ("module", "rank", "energy kept", "error")))
        if self.problems or not parts:
            parts.append(table(
                ((row["severity"], row["code"], row["subject"],
                  row["message"]) for row in self.problems),
                ("severity", "code", "subject", "message")))
        return "".join(parts)
