"""A job that names no provider or no model gets the operator's, then the provider's own."""

from typing import Any

import pytest

from berlin_schemas import PromptJob
from berlin_worker.providers.base import Provider
from berlin_worker.providers.berlin.provider import BerlinProvider
from berlin_worker.providers.defaults import JobDefaults
from berlin_worker.providers.echo import EchoProvider

pytestmark = pytest.mark.unit


class WithModel:
    default_model = "own-model"


class WithoutModel:
    pass


PROVIDERS: dict[str, Any] = {
    "berlin": BerlinProvider,
    "own": WithModel(),
    "plain": WithoutModel(),
}


def resolve(defaults: JobDefaults, **named: str) -> tuple[str, str, Provider]:
    job = PromptJob.model_validate({"messages": [{"role": "user", "content": "x"}], **named})
    resolved, provider = defaults.resolve(job, PROVIDERS.__getitem__)
    assert resolved.messages == job.messages
    return resolved.provider, resolved.model, provider


@pytest.mark.parametrize(
    ("defaults", "named", "expected"),
    [
        (JobDefaults(), {}, ("berlin", "gpt-3.5-turbo")),
        (JobDefaults(), {"provider": "own"}, ("own", "own-model")),
        (JobDefaults("own"), {}, ("own", "own-model")),
        (JobDefaults("own"), {"provider": "berlin"}, ("berlin", "gpt-3.5-turbo")),
        (JobDefaults("own", "m"), {}, ("own", "m")),
        (JobDefaults("own", "m"), {"model": "gpt-3.5-turbo"}, ("own", "gpt-3.5-turbo")),
        (JobDefaults("own", "m"), {"provider": "berlin", "model": "x"}, ("berlin", "x")),
        (JobDefaults("plain"), {}, ("plain", "gpt-3.5-turbo")),
        (JobDefaults("plain"), {"model": "x"}, ("plain", "x")),
    ],
)
def test_named_provider_and_model_count_before_defaults(
    defaults: JobDefaults, named: dict[str, str], expected: tuple[str, str]
) -> None:
    provider, model, found = resolve(defaults, **named)
    assert (provider, model) == expected
    assert found is PROVIDERS[expected[0]]


@pytest.mark.parametrize(
    ("defaults", "named", "provider", "expected"),
    [
        (JobDefaults(), {}, EchoProvider, "echo"),
        (JobDefaults(), {}, BerlinProvider, "gpt-3.5-turbo"),
        (JobDefaults(), {}, WithoutModel, None),
        (JobDefaults(), {}, None, None),
        (JobDefaults(model="m"), {}, EchoProvider, "m"),
        (JobDefaults(model="m"), {"model": "x"}, None, "x"),
    ],
)
def test_logged_model_is_a_configured_name(
    defaults: JobDefaults, named: dict[str, str], provider: Any, expected: str | None
) -> None:
    job = PromptJob.model_validate({"messages": [{"role": "user", "content": "x"}], **named})
    assert defaults.model_of(job, provider) == expected


def test_unknown_default_provider_raises_what_the_lookup_raises() -> None:
    with pytest.raises(KeyError):
        resolve(JobDefaults("nobody"))
