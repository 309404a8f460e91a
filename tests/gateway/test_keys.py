"""API keys and tickets: their rights and their lifetime."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berlin_worker.errors import SettingsError
from berlin_worker.gateway import tickets
from berlin_worker.gateway.keys import Key, KeyFile, Keys, WatchedKeys, new_key, read_keys
from berlin_worker.gateway.origins import is_loopback
from berlin_worker.gateway.server import open_gateway
from berlin_worker.settings import Settings

pytestmark = pytest.mark.unit

SECRET = b"a secret of the test"


def test_key_names_its_tenant_and_other_text_names_no_tenant() -> None:
    text, entry = new_key("acme")
    keys = Keys([new_key("other")[1], entry])
    caller = keys.caller(text)
    assert caller is not None
    assert caller.tenant == "acme"
    assert [caller.may(scope) for scope in ("submit", "read", "cancel", "fleet")] == [
        True, True, True, False,
    ]  # fmt: skip
    for wrong in ("", text[:-1], text + "x", text.upper(), entry.hash, "\ud800", "ключ"):
        assert keys.caller(wrong) is None


@pytest.mark.parametrize(
    ("patterns", "provider", "model", "allowed"),
    [
        (["*"], "berlin", "anything", True),
        (["gpt-4*"], "openai", "gpt-4o", True),
        (["gpt-4*"], "openai", "gpt-3.5-turbo", False),
        (["vllm/*"], "vllm", "llama", True),
        (["vllm/*"], "openai", "llama", False),
        ([], "berlin", "x", False),
    ],
)
def test_models_of_a_key_are_patterns(
    patterns: list[str], provider: str, model: str, allowed: bool
) -> None:
    text, entry = new_key("acme")
    caller = Keys([entry.model_copy(update={"models": patterns})]).caller(text)
    assert caller is not None
    assert caller.may_use(provider, model) is allowed


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (None, "No such file"),
        ("", "the file"),
        ("{}", "keys"),
        ('{"keys": []}', "no keys"),
        ('{"keys": [{"hash": "secret-in-clear", "tenant": "a"}]}', "keys.0.hash"),
        (json.dumps({"keys": [{"hash": "sha256:" + "0" * 64}]}), "keys.0.tenant"),
        (
            json.dumps({"keys": [{"hash": "sha256:" + "0" * 64, "tenant": "a", "scopes": ["x"]}]}),
            "keys.0.scopes",
        ),
    ],
)
def test_unusable_key_file_is_one_line_without_its_content(
    tmp_path: Path, content: str | None, part: str
) -> None:
    file = tmp_path / "keys.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(SettingsError) as raised:
        read_keys(str(file))
    text = str(raised.value)
    assert part in text
    assert text.startswith("WORKER_GATEWAY_KEYS: ")
    assert "\n" not in text
    assert "secret-in-clear" not in text


def test_changed_key_file_is_read_again_and_a_broken_one_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "keys.json"
    (old, old_entry), (new, new_entry) = new_key("acme"), new_key("acme")

    def write(*entries: Key) -> None:
        # As Kubernetes changes a mounted Secret: another file takes the name.
        file.with_suffix(".new").write_text(KeyFile(keys=list(entries)).model_dump_json())
        file.with_suffix(".new").rename(file)

    write(old_entry)
    keys = WatchedKeys(str(file), check_s=0)
    assert keys.caller(old) is not None
    assert keys.caller(new) is None
    write(old_entry, new_entry)
    assert keys.caller(new) is not None
    write(new_entry)
    assert keys.caller(old) is None
    for break_it in (lambda: file.write_text("{"), file.unlink):
        break_it()
        assert keys.caller(new) is not None
        assert keys.caller(new) is not None
    assert [record.levelname for record in caplog.records].count("WARNING") == 2


@given(st.from_regex("[A-Za-z0-9_-]{1,128}", fullmatch=True), st.integers(0, 4_000_000_000))
def test_ticket_reads_its_job_until_its_end(job_id: str, now: int) -> None:
    ticket = tickets.issue(SECRET, job_id, now)
    assert tickets.redeem(SECRET, ticket, now) == job_id
    assert tickets.redeem(SECRET, ticket, now + tickets.LIFETIME_S - 1) == job_id
    assert tickets.redeem(SECRET, ticket, now + tickets.LIFETIME_S) is None
    assert tickets.redeem(b"another secret", ticket, now) is None


@given(st.data())
def test_changed_ticket_is_refused(data: st.DataObject) -> None:
    ticket = tickets.issue(SECRET, "a-job", 1_000)
    place = data.draw(st.integers(0, len(ticket) - 1))
    other = data.draw(st.characters(codec="utf-8").filter(lambda c: c != ticket[place]))
    assert tickets.redeem(SECRET, ticket[:place] + other + ticket[place + 1 :], 1_000) is None


@given(st.text())
def test_invalid_ticket_is_refused(text: str) -> None:
    assert tickets.redeem(SECRET, text, 0) is None


@pytest.mark.parametrize(
    ("host", "inside"),
    [
        ("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("localhost", True),
        ("0.0.0.0", False), ("::", False), ("10.0.0.1", False), ("example.org", False), ("", False),
    ],
)  # fmt: skip
def test_gateway_without_keys_listens_on_loopback_only(host: str, inside: bool) -> None:
    assert is_loopback(host) is inside
    warnings: list[Any] = []
    if inside:
        open_gateway(Settings(), host, warn=warnings.append)
        assert "WORKER_GATEWAY_KEYS" in warnings[0]
    else:
        with pytest.raises(SettingsError, match="loopback"):
            open_gateway(Settings(), host, warn=warnings.append)
