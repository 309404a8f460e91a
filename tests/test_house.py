"""The shape of the tree: floors, sizes of files and functions, one level for each test file."""

import ast
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[1]
WORKER = ROOT / "worker/berlin_worker"
SOURCES = sorted([*WORKER.rglob("*.py"), *(ROOT / "schemas").rglob("*.py")])
FILES = {
    *SOURCES,
    *WORKER.rglob("*.lua"),
    *WORKER.rglob("*.js"),
    *(ROOT / "tests").rglob("*.py"),
}
MOST_LINES = 300
MOST_LINES_OF_A_FUNCTION = 60
LEVELS = {"unit", "contract", "integration"}
PROCESSES = {
    "PythonProcess", "UpstreamProcess", "WorkerProcess", "cli_stack", "run_berlin", "run_python",
    "subprocess",
}  # fmt: skip
"""Names by which a test file starts processes."""
SERVERS = ("redis_server", "redis_client", "redis_url", "sentinel_set")
"""Ends of the names of fixtures that start a server."""
APART = {"chaos", "smoke", "support", "sample_app"}
"""Folders of tests/ whose files have no level: they run apart, or are no tests."""


def layers() -> list[str]:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    [contract] = [
        each for each in config["tool"]["importlinter"]["contracts"] if each["type"] == "layers"
    ]
    found: list[str] = contract["layers"]
    return found


def room_of(path: Path) -> str:
    return path.relative_to(WORKER).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> Iterator[tuple[str, int]]:
    """Yield room and line of each import, also of those for type checkers alone."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{each.name}" for each in node.names]
        elif isinstance(node, ast.Import):
            names = [each.name for each in node.names]
        for name in names:
            package, *rest = name.split(".")
            if package == "berlin_worker" and rest:
                yield rest[0], node.lineno


def test_no_import_goes_against_the_floors() -> None:
    floor = {room: number for number, room in enumerate(layers())}
    upward = [
        f"{path.relative_to(ROOT)}:{line}: {room_of(path)} imports {room}"
        for path in WORKER.rglob("*.py")
        if room_of(path) != "__init__"
        for room, line in imported_rooms(path)
        if room != room_of(path) and floor.get(room, -1) <= floor[room_of(path)]
    ]
    assert upward == []


def test_no_file_and_no_function_is_too_long() -> None:
    long = []
    for path in FILES:
        lines = path.read_text(encoding="utf-8").count("\n")
        if lines > MOST_LINES:
            long.append(f"{path.relative_to(ROOT)}: {lines} lines")
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                size = node.end_lineno - node.lineno + 1
                if size > MOST_LINES_OF_A_FUNCTION:
                    long.append(f"{path.relative_to(ROOT)}:{node.lineno}: {node.name}, {size}")
    assert long == []


def test_clean_removes_every_folder_that_is_made() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    removed = makefile.partition("\nclean:")[2].partition("\n\n")[0].split()
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").split()
    made = {name.removesuffix("/") for name in ignored if name.endswith("/") and name[0] != "*"}
    made = (made - {".bench"}) | {".bench/envs"}  # results of measurements stay
    assert {name for name in made if not any(fnmatch(name, each) for each in removed)} == set()


def test_every_test_file_has_one_level() -> None:
    wrong = []
    for path in (ROOT / "tests").rglob("test_*.py"):
        if APART & set(path.relative_to(ROOT / "tests").parts):
            continue
        text = path.read_text(encoding="utf-8")
        found = {level for level in LEVELS if f"pytest.mark.{level}" in text}
        if len(found) != 1:
            wrong.append(f"{path.relative_to(ROOT)}: {sorted(found) or 'no level'}")
    assert wrong == []


def names_in(path: Path) -> Iterator[str]:
    """Names that a file imports, and those of the arguments of its functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.arg):
            yield node.arg


def test_levels_start_what_they_may() -> None:
    wrong = []
    for path in (ROOT / "tests").rglob("test_*.py"):
        text = path.read_text(encoding="utf-8")
        if APART & set(path.relative_to(ROOT / "tests").parts) or "mark.integration" in text:
            continue
        found = set(names_in(path))
        more = found & PROCESSES
        if "pytest.mark.unit" in text:
            more |= {name for name in found if name.endswith(SERVERS)}
        wrong += [f"{path.relative_to(ROOT)}: {name}" for name in sorted(more)]
    assert wrong == []
