"""The documents: valid code blocks, links and tables."""

import re
import tomllib

import pytest

from berlin_worker.settings import Settings
from tests.support.documents import BLOCKS, DOCUMENTS, Block, blocks_of, parse, problem, text_of
from tests.support.workers import ROOT

pytestmark = pytest.mark.unit

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
WITHOUT_BLOCKS = {"CHANGELOG.md", "tests/benchmarks/FIGURES.md", "tests/examples/README.md"}
WORKER = ROOT / "worker/berlin_worker"


def test_every_document_of_the_repository_is_tried() -> None:
    found = {
        str(path.relative_to(ROOT))
        for folder in (".", ".github", "schemas", "worker", "deploy", "tests")
        for path in (ROOT / folder).glob("*.md" if folder in {".", ".github"} else "**/*.md")
    }
    assert found - WITHOUT_BLOCKS == set(DOCUMENTS)
    assert all("```" not in text_of(name) for name in WITHOUT_BLOCKS)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.name)
def test_block_is_valid_in_its_language(block: Block) -> None:
    assert problem(block) is None
    parse(block)


def anchors_of(text: str) -> set[str]:
    headings = re.findall(r"(?m)^#+ (.+)$", re.sub(r"(?s)```.*?```", "", text))
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_within_the_repository_lead_somewhere(document: str) -> None:
    path = ROOT / document
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", path.read_text(encoding="utf-8")):
        name, _, anchor = target.partition("#")
        place = (path.parent / name) if name else path
        assert place.exists(), target
        if anchor:
            assert anchor in anchors_of(place.read_text(encoding="utf-8")), target


@pytest.mark.parametrize("document", DOCUMENTS)
def test_document_begins_with_its_contents(document: str) -> None:
    text = text_of(document)
    start = text.index("- [")
    named = set(re.findall(r"\]\(#([^)]+)\)", text[start : text.index("\n## ")]))
    sections = anchors_of("\n".join(re.findall(r"(?m)^## .+$", text)))
    assert sections <= named


def test_documented_extras_are_those_of_the_package() -> None:
    text = text_of("deploy/README.md")
    table = text.partition("<!-- extras -->")[2].partition("<!-- /extras -->")[0]
    extras = PROJECT["project"]["optional-dependencies"]
    assert re.findall(r"(?m)^\| `(\w+)` \|", table) == list(extras)
    texts = [
        text_of("README.md"),
        *(path.read_text() for path in (ROOT / "deploy").rglob("*.*e*") if path.is_file()),
    ]
    for text in texts:
        for named in re.findall(r"pip install '[^\[']*\[([\w,]+)\]", text):
            assert set(named.split(",")) <= extras.keys()


def test_settings_of_the_readme_are_settings_of_the_worker() -> None:
    known = {field.validation_alias for field in Settings.model_fields.values()}
    for document in DOCUMENTS:
        named = set(re.findall(r"\b(?:WORKER|BERLIN)_[A-Z_]+\b", text_of(document)))
        named = {name for name in named if not name.startswith("WORKER_ENDPOINT_")}
        assert named <= known | {"BERLIN_CHAOS_SEED"}, document
    section = text_of("README.md").partition("## Settings")[2].partition("\n## ")[0]
    defaults = {field.validation_alias: field.default for field in Settings.model_fields.values()}
    rows = re.findall(r"(?m)^\| `(\w+)` \| .* \| `?([^`|]+)`? \|$", section)
    assert len(rows) >= 8
    for name, default in rows:
        if name != "CELERY_BROKER_URL":
            shown = defaults[name]
            assert default == ("none" if shown is None else str(shown).removesuffix(".0"))


def test_rooms_of_the_architecture_are_the_floors() -> None:
    text = text_of("worker/README.md")
    table = text.partition("<!-- floors -->")[2].partition("<!-- /floors -->")[0]
    [layers] = [
        each["layers"]
        for each in PROJECT["tool"]["importlinter"]["contracts"]
        if each["type"] == "layers"
    ]
    assert re.findall(r"(?m)^\| `(\w+)` \|", table) == layers


def test_files_that_the_architecture_names_exist() -> None:
    named = re.findall(r"`([\w./]+\.(?:py|lua)|[\w/]+/)`", text_of("worker/README.md"))
    bases = (WORKER, WORKER / "cli", WORKER / "providers", WORKER / "providers/berlin", ROOT)
    bases += (
        WORKER / "providers/openai",
        WORKER / "storage",
        WORKER / "storage/lua",
        ROOT / "schemas",
    )
    assert named
    assert [name for name in named if not any((base / name).exists() for base in bases)] == []


def test_documents_are_in_plain_words() -> None:
    words = r"\b(told|whoever|bury|buried|doorbell|pardon|suspects|probation)\b"
    for document in DOCUMENTS:
        assert re.findall(words, text_of(document), re.IGNORECASE) == [], document


def test_code_cites_no_document_that_a_clone_lacks() -> None:
    cited = re.compile(r"CONTRACT\.md|HOUSE\.md|\(contract[,)]")
    citing = [
        path.name
        for folder in ("schemas", "worker", "tests")
        for path in (ROOT / folder).rglob("*.*")
        if path.suffix in {".py", ".lua"} and path.name != "test_documents.py"
        if cited.search(path.read_text(encoding="utf-8"))
    ]
    assert citing == []


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ("```\nmake\n```\n", True),
        ("```console\n$ make\n```\n", True),
        ("<!-- needs: docker -->\n\n```console\n$ make\n```\n", False),
        ("<!-- needs: docker -->\n```\nmake\n```\n", True),
        ("<!-- needs: docker -->\nSome text.\n```console\nmake\n```\n", True),
        ("```bash\nmake\n```\n", False),
    ],
)
def test_block_without_a_kind_or_a_mark_is_refused(text: str, refused: bool) -> None:
    [block] = blocks_of("x.md", text)
    assert (problem(block) is not None) == refused


def test_fence_that_is_never_closed_is_refused() -> None:
    with pytest.raises(AssertionError, match=r"x.md:1"):
        list(blocks_of("x.md", "```bash\nmake\n"))
