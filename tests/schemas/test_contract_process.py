"""The modules that an import of the contract loads, in a process of its own."""

import subprocess
import sys

import pytest

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
