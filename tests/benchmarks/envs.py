"""An environment for each kind of peer: some require versions that others do not support."""

import contextlib
import subprocess
import sys

from tests.benchmarks.fleet import ENVS, HERE


def install(name: str) -> None:
    """Make ``.bench/envs/<name>`` from its requirements, unless it is up to date."""
    requirements = HERE / "requirements" / f"{name}.txt"
    place = ENVS / name
    installed = place / ".installed"
    if installed.is_file() and installed.read_text() == requirements.read_text():
        return
    print(f"Installing {name} for the benchmark", file=sys.stderr)
    subprocess.run([sys.executable, "-m", "venv", "--clear", "--without-pip", place], check=True)
    python = str(place / "bin" / "python")
    with contextlib.suppress(subprocess.CalledProcessError):
        _quietly([sys.executable, "-m", "uv", "pip", "install", "--python", python], requirements)
        installed.write_text(requirements.read_text())
        return
    # uv is quicker, but fails if only the configuration of pip names the package index.
    subprocess.run([python, "-m", "ensurepip"], check=True, stdout=subprocess.DEVNULL)
    _quietly([python, "-m", "pip", "install"], requirements)
    installed.write_text(requirements.read_text())


def _quietly(command: list[str], requirements: object) -> None:
    subprocess.run([*command, "--quiet", "-r", str(requirements)], check=True)
