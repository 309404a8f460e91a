"""The environment of the suites, in the folder with all files of a run."""

import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent
ROOT: Final = HERE.parents[1]
PLACE: Final = ROOT / ".suites"
PYTHON: Final = PLACE / "env" / "bin" / "python"


def clean_up() -> None:
    """Remove the files of an earlier run; servers keep their data in a folder that this removes."""
    for pattern in ("*.record", "*.leftout", "*.log", "*.xml"):
        for old in PLACE.glob(pattern):
            old.unlink()
    data = PLACE / "data"
    shutil.rmtree(data, ignore_errors=True)
    data.mkdir()
    tempfile.tempdir = str(data)


def locked(package: str) -> str:
    """Return the version of ``package`` that ``requirements-dev.lock`` names."""
    found = re.search(
        rf"^{package}==(\S+)", (ROOT / "requirements-dev.lock").read_text(), re.MULTILINE
    )
    assert found is not None, f"{package} is not locked"
    return found[1]


def install() -> None:
    """Make the environment of the suites, unless it has the requirements already."""
    requirements = [ROOT / "requirements-dev.lock", HERE / "requirements.txt"]
    wanted = "".join(each.read_text() for each in requirements)
    marker = PLACE / "installed"
    if marker.is_file() and marker.read_text() == wanted:
        return
    print("Installing the environment of the suites", file=sys.stderr)
    subprocess.run([sys.executable, "-m", "venv", "--clear", PLACE / "env"], check=True)
    pip = [str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--no-deps", "--require-hashes", "-r", requirements[0]], check=True)
    subprocess.run([*pip, "-r", requirements[1]], check=True)
    marker.write_text(wanted)


def unpacked(package: str) -> Path:
    """Fetch and unpack the sdist of the locked version; return its folder."""
    name = f"{package}-{locked(package)}"
    if not (PLACE / name).is_dir():
        source = name.replace(f"{package}-", f"{package}==")
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check",
             "--no-deps", "--no-binary", ":all:", "--dest", PLACE, source],
            check=True,
        )  # fmt: skip
        with tarfile.open(PLACE / f"{name}.tar.gz") as archive:
            archive.extractall(PLACE, filter="data")
    return PLACE / name


def mortal(program: Path) -> Path:
    """Return a wrapper of a program, which ends with this process even if that is killed."""
    setpriv = shutil.which("setpriv")  # of Linux
    if setpriv is None:
        return program
    wrapper = PLACE / f"mortal-{program.name}"
    wanted = f'#!/bin/sh\nexec {setpriv} --pdeathsig KILL -- {program} "$@"\n'
    if not wrapper.is_file() or wrapper.read_text() != wanted:
        wrapper.write_text(wanted)
        wrapper.chmod(0o755)
    return wrapper
