"""Providers of other packages, and their conformance tests, under mypy."""

import pytest

from tests.support.type_check import MYPYPATH, mypy_errors

pytestmark = pytest.mark.integration

SNIPPET = """
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager

from berlin_schemas import PromptJob
from berlin_worker.providers.base import Provider, Report, Services
from berlin_worker.settings import Settings
from berlin_worker.testing.conformance import ProviderConformance, services

class Plain:
    def __init__(self, services: Services) -> None: ...
    def check(self, job: PromptJob) -> None: ...
    async def stream(self, job: PromptJob, report: Report) -> AsyncGenerator[list[str], None]:
        yield [job.model]

class Full(Plain):
    default_model = "mine"
    @classmethod
    def check_settings(cls, settings: Settings, environ: Mapping[str, str]) -> None: ...
    @classmethod
    def secrets(cls, settings: Settings, environ: Mapping[str, str]) -> list[str]:
        return [environ["KEY"]]
    @classmethod
    def server_url(cls, settings: Settings, environ: Mapping[str, str]) -> str:
        return "https://host"
    async def check_login(self) -> None: ...

class TestPlain(ProviderConformance):
    provider_class = Plain
    environ = {"KEY": "x"}
    job = {"options": {"a": 1}}
    invalid_jobs = ({"options": {"b": 1}},)
    failing_job = {"model": "x"}

class TestFull(ProviderConformance):
    provider_class = Full

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Provider]:
        async with services({"KEY": "x"}) as lent:
            yield Full(lent)

class NoStream:
    def __init__(self, services: Services) -> None: ...
    def check(self, job: PromptJob) -> None: ...

class TestNoStream(ProviderConformance):
    provider_class = NoStream  # wrong
    environ = {"KEY": 1}  # wrong
    invalid_jobs = [1]  # wrong
"""


def test_conformance_tests_of_a_package_pass_under_mypy(tmp_path, monkeypatch):
    monkeypatch.setenv("MYPYPATH", MYPYPATH)
    wrong = [
        number for number, line in enumerate(SNIPPET.splitlines(), 1) if line.endswith("# wrong")
    ]
    errors = mypy_errors(SNIPPET, tmp_path)
    assert [number for number, _ in errors] == wrong, errors
