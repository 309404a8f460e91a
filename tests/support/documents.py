"""The documents of the repository and their code blocks."""

import ast
import json
import re
import subprocess
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import yaml

from berlin_schemas import Cancelled
from berlin_schemas.events import decode
from berlin_schemas.jobs import parse_job
from berlin_worker.gateway.keys import KeyFile
from berlin_worker.telemetry import job_end
from tests.support.workers import ROOT

DOCUMENTS: Final = (
    "README.md",
    "schemas/README.md",
    "worker/README.md",
    "deploy/README.md",
    "tests/README.md",
    ".github/CONTRIBUTING.md",
)
PARSED: Final = {"json", "toml", "yaml", "text"}
RUN: Final = {"bash", "python"}


@dataclass(frozen=True)
class Block:
    """A fenced code block; ``needs`` is the mark in front of it, or empty."""

    document: str
    line: int
    language: str
    needs: str
    text: str

    @property
    def name(self) -> str:
        return f"{self.document}:{self.line}"


def text_of(document: str) -> str:
    """Return the text of a document, by its path from the root."""
    return (ROOT / document).read_text(encoding="utf-8")


def blocks_of(document: str, text: str) -> Iterator[Block]:
    """Yield every fenced block; raises ``AssertionError`` for a fence that is never closed."""
    opened: tuple[int, str, str] | None = None
    lines: list[str] = []
    before = ""
    for number, line in enumerate(text.splitlines(), 1):
        if fence := re.match(r"\s*(?:```|~~~)\s*(.*)", line):
            if opened is None:
                mark = re.fullmatch(r"<!-- needs: (\S[^>]*?) -->", before)
                opened, lines = (number, fence[1].strip(), mark[1] if mark else ""), []
            else:
                yield Block(document, *opened, "\n".join(lines) + "\n")
                opened = None
        elif opened is not None:
            lines.append(line)
        before = line.strip() or before
    assert opened is None, f"{document}:{opened and opened[0]} is never closed"


BLOCKS: Final = [block for name in DOCUMENTS for block in blocks_of(name, text_of(name))]


def problem(block: Block) -> str | None:
    """Return why a block is neither run nor parsed; ``None`` if it is one of the two."""
    if block.language in RUN | PARSED or (block.needs and block.language):
        return None
    return f"{block.name}: {block.language or 'no language'}: name one of {sorted(RUN | PARSED)}"


def parse(block: Block) -> None:
    """Raise an error if the block is not valid in its language."""
    match block.language:
        case "bash":
            subprocess.run(["bash", "-n"], input=block.text, text=True, check=True)
        case "python":
            compile(block.text, block.name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        case "json":
            parse_json(json.loads(block.text))
        case "toml":
            tomllib.loads(block.text)
        case "yaml":
            list(yaml.safe_load_all(block.text))


def parse_json(found: object) -> None:
    """Raise an error unless ``found`` is a job, an event, a line of the log, a file of API keys, or
    a list of them.
    """
    if isinstance(found, list):
        for each in found:
            parse_json(each)
        return
    assert isinstance(found, dict)
    if "messages" in found:
        parse_job(found, "job-1")
    elif "keys" in found:
        KeyFile.model_validate(found)
    elif "seq" in found:
        event = decode(json.dumps(found))
        assert found.keys() <= event.model_dump().keys(), "a field that the event does not have"
    else:
        assert found["event"] == job_end.EVENT
        end = Cancelled(job_id="job-1", seq=1, attempt=1, ts=1.0, reason="requested")
        durations = {name: 0.0 for name in found if name.endswith("_ms")}
        fields = job_end.fields_of(end, about=None, chunks=0, durations_ms=durations)
        assert found.keys() == fields.keys() | {"timestamp", "level", "event", "logger"}
        assert len(durations) == 5
