"""The provider of OpenAI-compatible servers against the rules for every provider."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any, ClassVar

import pytest

from berlin_worker.embedded.openai_upstream import OpenAIUpstream
from berlin_worker.providers.base import Provider
from berlin_worker.providers.openai import OpenAIProvider
from berlin_worker.testing.conformance import ProviderConformance, services

pytestmark = pytest.mark.contract


class TestConformance(ProviderConformance):
    provider_class = OpenAIProvider
    invalid_jobs = ({"options": {"n": 2}}, {"options": {"stream": False}}, {"proxy": "ftp://x"})
    failing_job: ClassVar[dict[str, Any]] = {
        "messages": [{"role": "user", "content": "[[status:500]]"}]
    }

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator[Provider]:
        async with OpenAIUpstream() as upstream, services(upstream.environ) as lent:
            yield OpenAIProvider(lent)


class TestConformanceOfTools(TestConformance):
    job: ClassVar[dict[str, Any]] = {
        "messages": [{"role": "user", "content": "[[reasoning:2]][[tool_calls:2]]"}]
    }
