"""The lock files: complete, equal to pyproject.toml, without the address of an index."""

import re
import tomllib
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PINNED = re.compile(r"^([\w.-]+)==([^ ;\\]+)", re.MULTILINE)

RUNTIME = [
    *PROJECT["build-system"]["requires"],
    *PROJECT["project"]["dependencies"],
    *chain.from_iterable(PROJECT["project"]["optional-dependencies"].values()),
]
GROUPS = [
    wanted
    for wanted in chain.from_iterable(PROJECT["dependency-groups"].values())
    if isinstance(wanted, str)
]


def pins(lock: str) -> dict[str, Version]:
    text = (ROOT / lock).read_text(encoding="utf-8")
    return {canonicalize_name(name): Version(version) for name, version in PINNED.findall(text)}


@pytest.mark.parametrize(
    ("lock", "requirements"),
    [("requirements.lock", RUNTIME), ("requirements-dev.lock", RUNTIME + GROUPS)],
)
def test_lock_pins_every_requirement_of_the_project(lock, requirements):
    pinned = pins(lock)
    for requirement in map(Requirement, requirements):
        version = pinned.get(canonicalize_name(requirement.name))
        assert version, f"{requirement.name} is not in {lock}: run `make lock`"
        assert version in requirement.specifier, f"{requirement}: run `make lock`"


def test_both_locks_agree_so_that_one_environment_serves_both():
    everything = pins("requirements-dev.lock")
    assert pins("requirements.lock").items() <= everything.items()


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-dev.lock"])
def test_lock_names_no_registry_and_has_a_hash_for_every_file(lock):
    text = (ROOT / lock).read_text(encoding="utf-8")
    assert "://" not in text
    assert "--index-url" not in text
    blocks = re.split(r"^(?=[\w.-]+==)", text, flags=re.MULTILINE)[1:]
    assert len(blocks) == len(pins(lock))
    assert all("--hash=sha256:" in block for block in blocks)
