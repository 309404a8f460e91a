"""Errors that mypy finds in a snippet, as a user of the package might write it."""

import fcntl
from pathlib import Path
from typing import Final

from mypy import api

_ROOT: Final = Path(__file__).parents[2]
_CACHE: Final = _ROOT / ".mypy_cache/snippets"
"""Shared, one run at a time: without it mypy would check the whole package for each snippet."""


def mypy_errors(snippet: str, folder: Path) -> list[tuple[int, str]]:
    """Return line and message of each error that ``mypy --strict`` finds in ``snippet``.

    ``folder`` takes the file; MYPYPATH must lead to the packages.
    """
    file = folder / "snippet.py"
    file.write_text(snippet)
    options = ["--strict", "--follow-imports=silent", "--no-error-summary", "--config-file="]
    _CACHE.mkdir(parents=True, exist_ok=True)
    with (_CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        out, err, _ = api.run([*options, f"--cache-dir={_CACHE}", str(file)])
    assert not err, err
    found = (line.split(":", 2) for line in out.splitlines() if ": error:" in line)
    return [(int(number), message) for _, number, message in found]


MYPYPATH = f"{_ROOT}/schemas:{_ROOT}/worker"
