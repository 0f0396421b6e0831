"""What can go wrong on *our* side, and where.

    RewardError
    ├ RulesetError           one ruleset, one or more findings with their places
    │ ├ RulesetSyntaxError   the text does not parse
    │ ├ RulesetNameError     a name, rule, option or capture that does not exist
    │ └ RulesetTypeError     a type, range or level that does not fit
    ├ BatchError             columns that cannot be scored: one is missing, lengths differ
    │ ├ DataError            a file that cannot be read as a dataset
    │ │ └ MissingFileError   there is no such file
    │ └ OutputError          a file that cannot be written
    │   └ OverwriteError     what would be written is what is read
    └ RuleError              a bug in a kernel: which rule, which row, what; never a score

What a *model* wrote never raises: it sets a value and a status (see `columns.Status`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Place:
    """A stretch of a ruleset's text, as character offsets; the end is exclusive."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Source:
    """The text of a ruleset and the name it goes by in messages."""

    name: str
    text: str

    def line_col(self, offset: int) -> tuple[int, int]:
        """One-based line and column of an offset."""
        offset = min(max(offset, 0), len(self.text))
        line = self.text.count("\n", 0, offset) + 1
        return line, offset - self.text.rfind("\n", 0, offset)

    def line_text(self, offset: int) -> str:
        """The line that an offset falls in, without its newline."""
        offset = min(max(offset, 0), len(self.text))
        start = self.text.rfind("\n", 0, offset) + 1
        end = self.text.find("\n", offset)
        return self.text[start : end if end >= 0 else len(self.text)]


Severity = Literal["error", "warning"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to say about a ruleset. `code` is documented in docs/findings.md.

    >>> source = Source("demo.reward", "reward = boxd")
    >>> finding = Finding("N01", "unknown name `boxd`", Place(9, 13), "did you mean `boxed`?")
    >>> print(finding.show(source))
    demo.reward:1:10: error[N01]: unknown name `boxd`
      reward = boxd
               ^^^^
      hint: did you mean `boxed`?
    """

    code: str
    message: str
    place: Place
    hint: str = ""
    severity: Severity = "error"

    def show(self, source: Source) -> str:
        """`file:line:col: …`, the line, the caret, and one hint line where there is one."""
        line, col = source.line_col(self.place.start)
        text = source.line_text(self.place.start)
        start = max(0, col - 61)  # a line of a megabyte is shown around its caret only
        shown = text[start : start + 120].replace("\t", " ")
        width = max(1, min(self.place.end - self.place.start, len(shown) - (col - 1 - start)))
        lines = [
            f"{source.name}:{line}:{col}: {self.severity}[{self.code}]: {self.message}",
            f"  {shown}",
            "  " + " " * (col - 1 - start) + "^" * width,
        ]
        if self.hint:
            lines.append(f"  hint: {self.hint}")
        return "\n".join(lines)


class Problem(Exception):
    """What is wrong with one statement. It never reaches the user: the parser and the compiler
    catch it, keep its finding and go on with the next statement. `finding` is None where the
    statement depends on another one that has a finding already."""

    def __init__(self, code: str, message: str, place: Place, hint: str = "") -> None:
        self.finding: Finding | None = Finding(code, message, place, hint) if code else None

    @staticmethod
    def silent() -> Problem:
        """A problem without a finding."""
        return Problem("", "", Place(0, 0))


class RewardError(Exception):
    """Base of everything that this package raises on purpose.

    `message` is what went wrong, in the user's words; each of `hints` says in a line what may help.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hints = [hint] if hint else []

    def __str__(self) -> str:
        return "\n".join([self._sentence(), *(f"  hint: {hint}" for hint in self.hints)])

    def _sentence(self) -> str:
        return self.message


class RulesetError(RewardError):
    """A ruleset that cannot be used. `findings` holds all that is wrong, in the file's order."""

    def __init__(self, source: Source, findings: list[Finding] | tuple[Finding, ...]) -> None:
        self.source = source
        self.findings = tuple(sorted(findings, key=lambda finding: finding.place.start))
        super().__init__("\n".join(finding.show(source) for finding in self.findings))

    def __reduce__(self) -> tuple[type, tuple[Source, tuple[Finding, ...]]]:
        return type(self), (self.source, self.findings)

    @staticmethod
    def of(source: Source, findings: list[Finding]) -> RulesetError:
        """The subclass that the first error belongs to (its code's letter says which)."""
        first = min(findings, key=lambda finding: finding.place.start)
        kinds = {"S": RulesetSyntaxError, "N": RulesetNameError, "T": RulesetTypeError}
        return kinds.get(first.code[0], RulesetTypeError)(source, findings)


class RulesetSyntaxError(RulesetError):
    """The text does not parse."""


class RulesetNameError(RulesetError):
    """A name, rule, option or capture that does not exist."""


class RulesetTypeError(RulesetError):
    """A type, range or level that does not fit."""


class BatchError(RewardError, ValueError):
    """Columns that cannot be scored: one is missing, lengths differ, a value has a wrong type.

    `row` is the row of the batch that is wrong, where it is one; whoever knows the batch's file
    sets `place`, which is then told instead. `missing` is the name of an input that nobody passed,
    and `remedy` how to pass it in Python; other boundaries tell their own way.
    """

    def __init__(
        self,
        message: str,
        *,
        row: int | None = None,
        hint: str = "",
        missing: str = "",
        remedy: str = "",
    ) -> None:
        super().__init__(message, hint=hint)
        self.row = row
        self.place = ""
        self.missing = missing
        self._remedy = remedy
        self.hints += [remedy] if remedy else []

    def tell_remedy(self, remedy: str) -> None:
        """Tell another way to pass what is missing."""
        self.hints = [*(hint for hint in self.hints if hint != self._remedy), remedy]
        self._remedy = remedy

    def _sentence(self) -> str:
        where = self.place or ("" if self.row is None else f"row {self.row}")
        return f"{where}: {self.message}" if where else self.message


class DataError(BatchError):
    """A file that cannot be read as a dataset, or one of its rows."""


class MissingFileError(DataError):
    """A file that somebody named and that is not there."""


class OutputError(BatchError):
    """A file that cannot be written."""


class OverwriteError(OutputError):
    """A file that is read would be written over. Nothing has been opened yet."""


class RuleError(RewardError):
    """A kernel raised. That is a bug in the rule, never a score. `row` counts from 0 in the batch;
    whoever knows the batch's file sets `place`, which is then told instead."""

    def __init__(self, rule: str, row: int, cause: str) -> None:
        super().__init__(f"rule `{rule}` failed")
        self.rule, self.row, self.cause = rule, row, cause
        self.place = ""

    def _sentence(self) -> str:
        return f"{self.message} on {self.place or f'row {self.row}'}: {self.cause}"

    def __reduce__(self) -> tuple[type, tuple[str, int, str], dict[str, Any]]:
        return type(self), (self.rule, self.row, self.cause), self.__dict__


def refuse_overwriting(read: Iterable[Path], written: Iterable[Path]) -> None:
    """OverwriteError where a file to write is one to read, by whatever path or link."""
    files = list(read)
    for new in written:
        for old in files:
            if _same(new, old):
                raise OverwriteError(f"{new}: it would overwrite {old}, which is read")


def _same(new: Path, old: Path) -> bool:
    try:
        return os.path.samefile(new, old)
    except (OSError, ValueError):  # one is not there; what cannot be opened is told by who opens it
        return False
