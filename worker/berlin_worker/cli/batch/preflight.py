"""Compare the lines of a batch with the results of earlier runs (pure)."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic_core import from_json

from berlin_worker.cli.batch.lines import BadLine, Line

_SHOWN_LINES: Final = 5
_MOST_RETRIES: Final = 10**9
"""A job ID has room for the number."""


class WrongOutput(ValueError):
    """The output file holds the results of another input, or something else."""


@dataclass(frozen=True, slots=True)
class KnownResult:
    """A result of an earlier run; ``place`` is its position in the files of the caller."""

    place: int
    status: str
    fingerprint: str | None


class KnownResults:
    """The results of earlier runs, by job ID, or by line number if the line is not a job."""

    def __init__(self) -> None:
        self._found: dict[str | int, KnownResult] = {}
        self._order: list[int] = []
        self._retries = {0}
        """The numbers of runs that a result has. A file of a stranger may name any."""

    def add(self, place: int, data: bytes, *, in_order: bool) -> None:
        """Add one result, which replaces an earlier one of the same job.

        ``in_order``: it is the next one in the file of results. Raises :class:`WrongOutput` if
        ``data`` is not a result.
        """
        try:
            result = from_json(data)  # at most 200 levels deep: what is read can be written again
            line, job_id, status = result["line"], result["job_id"], result["status"]
            retry, fingerprint = result.get("retry", 0), result.get("fingerprint")
        except (ValueError, TypeError, KeyError, AttributeError):
            raise WrongOutput("it holds a line that is not a result of a batch") from None
        optional = isinstance(job_id, str | None) and isinstance(fingerprint, str | None)
        if not (type(line) is type(retry) is int and isinstance(status, str) and optional):
            raise WrongOutput("it holds a line that is not a result of a batch")
        if not 0 <= retry <= _MOST_RETRIES:
            raise WrongOutput(f"it holds a result with retry {retry}, which no batch has written")
        self._retries.add(retry)
        key = line if job_id is None else job_id
        self._found[key] = KnownResult(place, status, fingerprint)
        if in_order:
            self._order.append(hash((line, key)))

    def match(
        self, line: Line | BadLine, *, retry_failed: bool
    ) -> tuple[Line | BadLine, KnownResult | None]:
        """Return the line with the job ID to run, and its result if it need not run.

        The line gets a new ID if its payload has changed under its own ID, or if
        ``retry_failed`` and its job was not completed.
        """
        if isinstance(line, BadLine):
            return line, self._found.get(line.number)
        for retry in sorted(self._retries, reverse=True):
            tried = line.as_retry(retry)
            known = self._found.get(tried.job_id)
            if known is not None:
                changed = known.fingerprint not in {None, line.fingerprint}
                if changed or (retry_failed and known.status != "completed"):
                    return line.as_retry(retry + 1), None
                return tried, known
        return line, None

    def is_at(self, index: int, line: Line | BadLine) -> bool:
        """Return whether result number ``index`` of the file, from 0, belongs to ``line``."""
        mark = hash((line.number, line.job_id or line.number))
        return index < len(self._order) and self._order[index] == mark

    @property
    def in_file(self) -> int:
        """Number of results in the file of results."""
        return len(self._order)

    @property
    def places(self) -> frozenset[int]:
        """The places of the results that were not replaced."""
        return frozenset(known.place for known in self._found.values())

    def completed_without(self, used: set[int]) -> int:
        """Count the completed results whose places are not ``used``."""
        return sum(
            known.status == "completed" and known.place not in used
            for known in self._found.values()
        )


@dataclass(slots=True)
class Preflight:
    """The work of a batch, determined before anything is sent."""

    total: int = 0
    done: int = 0
    """Number of lines with a result."""
    failed: int = 0
    """Number of results whose job was not completed."""
    in_place: int = 0
    """Number of results at the start of the file that stay in their places."""
    unused: int = 0
    """Number of completed results whose line is no longer in the input."""
    bad: int = 0
    bad_examples: list[BadLine] = field(default_factory=list)
    clashes: list[str] = field(default_factory=list)
    """Pairs of lines with one job ID and different payloads, described in words."""


def run_preflight(
    lines: Iterable[Line | BadLine], known: KnownResults, *, retry_failed: bool = False
) -> Preflight:
    """Check all lines, and count what is left to do.

    Raises :class:`WrongOutput` if completed results exist and none belongs to a line.
    """
    found, used, recognized = Preflight(), set[int](), False
    own_ids: dict[str, tuple[int, str]] = {}
    for index, line in enumerate(lines):
        found.total += 1
        if isinstance(line, BadLine):
            found.bad += 1
            if found.bad <= _SHOWN_LINES:
                found.bad_examples.append(line)
        elif line.own_id:
            first, fingerprint = own_ids.setdefault(line.job_id, (line.number, line.fingerprint))
            if fingerprint != line.fingerprint and len(found.clashes) < _SHOWN_LINES:
                found.clashes.append(
                    f"lines {first} and {line.number} have the job_id {line.job_id}, and "
                    "different payloads"
                )
        tried, result = known.match(line, retry_failed=retry_failed)
        recognized |= result is not None or (isinstance(tried, Line) and tried.retry > 0)
        if result is not None:
            used.add(result.place)
            found.done += 1
            found.failed += result.status != "completed"
            if found.in_place == index and known.is_at(index, tried):
                found.in_place += 1
    found.unused = known.completed_without(used)
    if found.unused and not recognized and found.total:
        raise WrongOutput("it holds the results of another input")
    return found


def moved(result: dict[str, Any], line: Line | BadLine) -> dict[str, Any]:
    """Return the ``result`` of an earlier run with the present number and label of its line."""
    rest = {name: value for name, value in result.items() if name not in {"line", "id"}}
    label = {"id": line.label} if isinstance(line, Line) and line.label is not None else {}
    return {"line": line.number, **label, **rest}
