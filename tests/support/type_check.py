"""What mypy finds in a snippet that a user of the package might write."""

from pathlib import Path

from mypy import api

_ROOT = Path(__file__).parents[2]


def mypy_errors(snippet: str, folder: Path) -> list[tuple[int, str]]:
    """Return line and message of each error that ``mypy --strict`` finds in ``snippet``.

    ``folder`` takes the file and mypy's cache; MYPYPATH must lead to the packages.
    """
    file = folder / "snippet.py"
    file.write_text(snippet)
    options = ["--strict", "--follow-imports=silent", "--no-error-summary", "--config-file="]
    out, err, _ = api.run([*options, f"--cache-dir={folder}/cache", str(file)])
    assert not err, err
    found = (line.split(":", 2) for line in out.splitlines() if ": error:" in line)
    return [(int(number), message) for _, number, message in found]


MYPYPATH = f"{_ROOT}/schemas:{_ROOT}/worker"
