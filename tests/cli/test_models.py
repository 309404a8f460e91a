"""`berlin models`: the models of one upstream."""

import pytest
from click.testing import CliRunner

from berlin_schemas import ErrorCode
from berlin_worker import providers
from berlin_worker.cli import main
from berlin_worker.errors import JobError
from berlin_worker.testing import scripted

pytestmark = pytest.mark.unit


class Listing(scripted()):  # type: ignore[misc]  # a class of the test's own making
    """Lists its models, or fails."""

    answer: object = ["small", "large\x1b[2J"]

    async def models(self):
        """Return or raise the answer."""
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
def run(monkeypatch):
    """Return a function that runs the command with the provider ``mine`` alone."""

    def invoke(kind, *args):
        monkeypatch.setattr(providers, "load", lambda name: kind)
        return CliRunner().invoke(main, ["models", *args])

    return invoke


@pytest.mark.parametrize("default", [True, False])
def test_each_model_is_a_line(run, monkeypatch, default):
    if default:
        monkeypatch.setenv("WORKER_DEFAULT_PROVIDER", "mine")
    shown = run(Listing, *([] if default else ["--provider", "mine"]))
    assert (shown.exit_code, shown.stdout) == (0, "small\nlarge␛[2J\n")


def test_provider_without_a_list_is_named(run):
    shown = run(scripted(), "--provider", "mine")
    assert shown.exit_code == 1
    assert "provider mine offers no list of models" in shown.stderr


def test_upstream_that_fails_is_one_line(run):
    class Failing(Listing):
        answer = JobError(ErrorCode.AUTH_FAILED, "the upstream refuses the key")

    shown = run(Failing, "--provider", "mine")
    assert shown.exit_code == 1
    assert shown.stderr.strip() == "berlin: provider mine: the upstream refuses the key"
