"""WORKER_ENDPOINTS: names, addresses, and the variables of each."""

import pytest

from berlin_worker.config import endpoints
from berlin_worker.errors import SettingsError
from berlin_worker.settings import Settings

pytestmark = pytest.mark.unit


def test_list_of_endpoints() -> None:
    listed = " vllm=http://gpu1:8000/v1/, my-router = https://openrouter.ai/api/v1 ,"
    assert endpoints.parse(listed) == {
        "vllm": "http://gpu1:8000/v1",
        "my-router": "https://openrouter.ai/api/v1",
    }
    assert endpoints.variable("KEY", "my-router") == "WORKER_ENDPOINT_KEY_MY_ROUTER"
    assert endpoints.parse("") == {}


@pytest.mark.parametrize(
    ("listed", "part"),
    [
        ("vllm", "entry 1 must be of the form name=https://host/v1"),
        ("a=http://x,=http://secret", "entry 2"),
        ("b c=http://secret", "entry 1"),
        ("ä=http://secret", "entry 1"),
        ("1a=http://secret", "entry 1"),
        ("a=http://x,A=http://secret", "share the variable WORKER_ENDPOINT_KEY_A"),
        ("a-b=http://x,a_b=http://secret", "share the variable WORKER_ENDPOINT_KEY_A_B"),
        ("a=http://x,a=http://secret", "share"),
        ("a=http://me:secret@x/v1", r"WORKER_ENDPOINTS \(a\): .* without a login"),
        ("a=http://x/v1?key=secret", r"WORKER_ENDPOINTS \(a\): .* without a query"),
        ("a=ftp://secret", r"WORKER_ENDPOINTS \(a\)"),
        ("a=secret", r"WORKER_ENDPOINTS \(a\)"),
        ("a=", r"WORKER_ENDPOINTS \(a\)"),
        ("a=http://:11434/v1", r"WORKER_ENDPOINTS \(a\): it must be of the form"),
    ],
)
def test_entry_that_cannot_be_used_is_refused(listed: str, part: str) -> None:
    with pytest.raises(SettingsError, match=part) as caught:
        Settings.from_env({"WORKER_ENDPOINTS": listed})
    assert "secret" not in str(caught.value)


def test_base_url_has_no_query_and_no_slash() -> None:
    assert Settings.from_env({"OPENAI_BASE_URL": "http://x/v1/"}).openai_url == "http://x/v1"
    for url in ("http://x/v1?key=secret", "http://me:secret@x", "secret", "http://:11434/v1",
                "http://[::secret]/v1", "http://xn--a/v1", f"http://{'ä' * 64}/v1"):  # fmt: skip
        with pytest.raises(SettingsError, match="OPENAI_BASE_URL") as caught:
            Settings.from_env({"OPENAI_BASE_URL": url})
        assert "secret" not in str(caught.value)


def test_key_of_no_endpoint_is_a_misspelling() -> None:
    environ = {
        "WORKER_ENDPOINTS": "vllm=http://x/v1",
        "WORKER_ENDPOINT_KEY_VLLM": "secret",
        "WORKER_ENDPOINT_KEY_VLM": "secret",
    }
    environ |= {f"WORKER_ENDPOINT_{kind}_VLLM": "x" for kind in ("MODEL", "PROXY")}
    (warning,) = Settings.misspelt(environ)
    assert "WORKER_ENDPOINT_KEY_VLM is no setting" in warning
    assert "WORKER_ENDPOINT_KEY_VLLM?" in warning
    assert not Settings.misspelt({"WORKER_ENDPOINT_KEY_X": "x", "WORKER_ENDPOINT_MODEL_X": "x"})
    environ = {"WORKER_ENDPOINTS": "vllm=http://x/v1", "WORKER_ENDPOINT_MODEL_VLM": "x"}
    (warning,) = Settings.misspelt(environ)
    assert "WORKER_ENDPOINT_MODEL_VLLM?" in warning
