"""Print, write and check the documents of the contract."""

import difflib
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter

from berlin_schemas import documents
from berlin_worker.cli.errors import USAGE, Problem
from berlin_worker.cli.output import print_out
from berlin_worker.client.values import Result

_FILE: Final = "asyncapi.json"


def files() -> dict[str, str]:
    """Return the text of each document by its path in the folder of the contract."""
    adapters: dict[str, TypeAdapter[Any]] = {
        **documents.ADAPTERS,
        "result": TypeAdapter(Result),  # made from the events by a reader, not a message
    }
    made = {_FILE: documents.asyncapi()}
    made |= {
        f"json/{name}.json": documents.json_schema(name, adapter)
        for name, adapter in adapters.items()
    }
    return {path: documents.as_text(document) for path, document in made.items()}


def _by_name() -> dict[str, str]:
    return {Path(path).stem: text for path, text in files().items()}


def print_names() -> None:
    """Print the names of the documents, one a line."""
    print_out("\n".join(_by_name()))


def print_document(name: str) -> None:
    """Print one document; raises ``Problem`` if there is no document ``name``."""
    found = _by_name()
    if name not in found:
        near = difflib.get_close_matches(name, found, 1)
        hint = f"did you mean {near[0]}?" if near else f"the documents are {', '.join(found)}"
        raise Problem("no document has that name", exit_code=USAGE, hint=hint)
    print_out(found[name].rstrip("\n"))


def write(folder: Path) -> None:
    """Write all documents into ``folder``; raises ``OSError``."""
    for path, text in files().items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")


def check(folder: Path) -> int:
    """Print the path of each document that is missing or differs; return the exit code."""
    made = files()
    wrong = [path for path, text in made.items() if _read(folder / path) != text]
    wrong += [path for path in _json_files(folder) if path not in made]
    for path in wrong:
        print_out(f"{folder / path} differs from the code: berlin schema --write {folder}")
    return 1 if wrong else 0


def _read(file: Path) -> str | None:
    try:
        return file.read_text(encoding="utf-8")
    except (FileNotFoundError, UnicodeDecodeError):
        return None


def _json_files(folder: Path) -> list[str]:
    return [file.relative_to(folder).as_posix() for file in sorted(folder.glob("json/*.json"))]
