"""The contract's package in processes of their own: what its import loads, and its command."""

import json
import re
import subprocess
import sys

import pytest

from berlin_schemas.__main__ import json_schema

pytestmark = pytest.mark.integration


def test_importing_the_contract_loads_nothing_heavy():
    code = (
        "import sys, berlin_schemas, berlin_schemas.names; "
        "print(*sorted(m.split('.')[0] for m in sys.modules))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    ).stdout.split()
    heavy = {"berlin_worker", "celery", "kombu", "redis", "aiohttp", "asyncio", "click", "rich"}
    assert heavy.isdisjoint(loaded)
    assert "pydantic" in loaded


def test_json_schema_is_whole_and_prints_from_the_command_line():
    printed = subprocess.run(
        [sys.executable, "-m", "berlin_schemas"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout
    document = json.loads(printed)
    assert document == json_schema()
    defined = document["$defs"]
    refs = set(re.findall(r'"#/\$defs/(\w+)"', printed))
    assert refs <= set(defined)
    assert defined["PromptJob"]["required"] == ["messages"]
    assert defined["PromptJob"]["additionalProperties"] is False
    assert len(defined["Event"]["oneOf"]) == 8
    # Anchors that regular expressions of other languages do not know would bind nobody there.
    assert r"\A" not in printed.replace("\\\\", "\\")
