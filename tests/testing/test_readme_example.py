"""The example of a test in tests/README.md, run by a pytest of its own."""

import os
import re
import subprocess
import sys

import pytest

from tests.support.workers import ROOT

pytestmark = pytest.mark.integration


def test_example_of_the_readme_passes(tmp_path):
    text = (ROOT / "tests/README.md").read_text()
    block = re.search(r"<!-- testing -->\n```python\n(.*?)```\n<!-- /testing -->", text, re.DOTALL)
    assert block is not None
    (tmp_path / "test_service.py").write_text(block[1])
    plugins = ["-p", "berlin_worker.testing.plugin", "-p", "no:cacheprovider", "-q"]
    path = os.pathsep.join([str(ROOT / "schemas"), str(ROOT / "worker")])
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", *plugins, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": path},
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "3 passed" in ran.stdout
