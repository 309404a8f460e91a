"""The documents of the contract are whole, and the committed ones equal those of the code."""

import json
import re
from pathlib import Path

import jsonschema
import pytest

from berlin_schemas import documents, names
from berlin_schemas.jobs import PromptJob
from berlin_worker.cli.schema import check, files, write
from tests.support.workers import ROOT

pytestmark = pytest.mark.unit

FOLDER = ROOT / "schemas"


def references(text: str) -> set[str]:
    return set(re.findall(r'"\$ref": "#([^"]+)"', text))


def resolve(document: object, pointer: str) -> object:
    for part in pointer.strip("/").split("/"):
        assert isinstance(document, dict)
        document = document[part]
    return document


def test_committed_documents_are_those_of_the_code() -> None:
    assert check(FOLDER) == 0, "run `make schema`"


def test_check_names_each_file_that_differs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(tmp_path) == 1
    assert len(capsys.readouterr().out.splitlines()) == len(files())
    write(tmp_path)
    assert check(tmp_path) == 0
    (tmp_path / "json/job.json").write_bytes(b"\xff")
    (tmp_path / "json/event.json").unlink()
    (tmp_path / "json/stale.json").write_text("{}")
    assert check(tmp_path) == 1
    shown = capsys.readouterr().out
    assert all(f"json/{name}.json differs" in shown for name in ("job", "event", "stale"))


@pytest.mark.parametrize("path", files())
def test_document_is_whole(path: str) -> None:
    text = files()[path]
    document = json.loads(text)
    for pointer in references(text):
        resolve(document, pointer)
    # Anchors that regular expressions of other languages do not know would match nothing there.
    assert r"\A" not in text.replace("\\\\", "\\")
    assert "``" not in text
    if path.startswith("json/"):
        jsonschema.Draft202012Validator.check_schema(document)


def test_schemas_of_asyncapi_are_of_its_dialect() -> None:
    schemas = documents.asyncapi()["components"]["schemas"]
    for schema in schemas.values():
        jsonschema.Draft7Validator.check_schema(schema)
    text = json.dumps(schemas)
    assert not {word for word in ("prefixItems", "$defs", '"discriminator"') if word in text}


def test_channels_have_the_names_of_the_contract() -> None:
    addresses = {each["address"] for each in documents.asyncapi()["channels"].values()}
    by_id = {each.replace("{slot}", "{8c1e}").replace("{job_id}", "8c1e") for each in addresses}
    assert by_id == {
        names.QUEUE,
        names.CONTROL_CHANNEL,
        names.DEAD_LETTERS,
        names.channel("8c1e"),
        names.sharded_channel("8c1e"),
        names.log_key("8c1e"),
        names.state_key("8c1e"),
    }


def test_job_and_event_keep_their_rules() -> None:
    job = json.loads(files()["json/job.json"])
    assert job["required"] == ["messages"]
    assert job["additionalProperties"] is False
    assert set(job["properties"]) == set(PromptJob.model_fields)
    event = json.loads(files()["json/event.json"])
    assert len(event["oneOf"]) == len(documents.EVENTS) == 8
    valid = jsonschema.Draft202012Validator(event).is_valid
    whole = {"v": 1, "job_id": "a", "seq": 1, "attempt": 1, "ts": 1.5, "type": "started"}
    assert valid(whole | {"a later field": 1})
    for name in whole:
        assert not valid({key: value for key, value in whole.items() if key != name}), name
