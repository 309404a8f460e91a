"""Providers by name: ours, and those that other packages bring."""

import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from berlin_schemas import ErrorCode, PromptJob
from berlin_worker import providers
from berlin_worker.errors import JobError, SettingsError
from berlin_worker.providers.base import Report
from berlin_worker.providers.offered import built_in_with_models

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[2]

MODULE = """
class Shout:
    def __init__(self, services):
        pass

    def check(self, job):
        pass

    async def stream(self, job, report):
        yield [job.messages[-1].content.upper()]

nothing = 3
"""


@pytest.fixture
def site_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory of packages that is searched like ``site-packages``."""
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("shouting", None)
    providers.refresh()


def install(site_packages: Path, package: str, entry_points: str) -> None:
    (site_packages / "shouting.py").write_text(MODULE)
    metadata = site_packages / f"{package}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[{providers.GROUP}]\n{entry_points}\n")
    providers.refresh()


async def test_installed_package_brings_a_provider(site_packages: Path) -> None:
    install(site_packages, "shouting", "shout = shouting:Shout")
    assert "shout" in providers.names()
    assert "shouting" not in sys.modules
    provider = providers.load("shout")(None)  # type: ignore[arg-type]  # needs no services
    job = PromptJob(messages=[{"role": "user", "content": "hello"}])
    assert [deltas async for deltas in provider.stream(job, Report())] == [["HELLO"]]


@pytest.mark.parametrize("name", ["berlin", "echo", "openai"])
def test_built_in_providers_are_registered(name: str) -> None:
    assert name in providers.names()
    assert callable(providers.load(name).stream)


def test_no_package_replaces_a_built_in_name(site_packages: Path) -> None:
    install(site_packages, "shouting", "berlin = shouting:Shout")
    assert providers.load("berlin").__module__ == "berlin_worker.providers.berlin.provider"


def test_unknown_name_is_an_invalid_job() -> None:
    with pytest.raises(JobError, match="echo") as caught:
        providers.load("no\nsuch" + "x" * 1000)
    assert caught.value.code is ErrorCode.INVALID_JOB
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 300


@pytest.mark.parametrize(
    "value",
    ["missing_module:Shout", "shouting:Missing", "shouting:nothing", "shouting:Shout.check"],
)
def test_package_that_cannot_be_used_is_named(site_packages: Path, value: str) -> None:
    install(site_packages, "shouting", f"shout = {value}")
    with pytest.raises(SettingsError, match=value):
        providers.load("shout")


def test_two_packages_with_one_name_are_refused(site_packages: Path) -> None:
    install(site_packages, "shouting", "shout = shouting:Shout")
    install(site_packages, "whispering", "shout = whispering:Whisper")
    with pytest.raises(
        SettingsError, match=r"shouting:Shout and whispering|whispering.* and shout"
    ):
        providers.load("shout")


def test_built_in_providers_are_the_entry_points_of_the_distribution() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert providers.built_in() == sorted(project["entry-points"][providers.GROUP])


def test_built_in_providers_with_a_list_of_models_are_found() -> None:
    assert "openai" in built_in_with_models()
    assert "echo" not in built_in_with_models()


def test_package_of_another_name_brings_no_built_in_provider(site_packages: Path) -> None:
    install(site_packages, "shouting", "shout = berlin_worker.providers.echo:EchoProvider")
    install(site_packages, "berlin-worker", "yell = shouting:Shout")
    assert {"shout", "yell"} <= {*providers.names()}
    assert not {"shout", "yell"} & {*providers.built_in()}
