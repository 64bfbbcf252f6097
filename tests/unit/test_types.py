"""The package's types, as those who install it see them, and the core's stub."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import typing
import venv
from pathlib import Path

import numpy
import pytest

from deal import Model
from deal._request import GenerateKwargs
from deal.rewards.python import _Declaration, reward

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with what a wheel would hold, but for the compiled core."""
    folder = tmp_path_factory.mktemp("types")
    venv.create(folder / "venv", symlinks=True)
    executable = folder / "venv" / "bin" / "python"
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(subprocess.check_output([executable, "-c", ask], text=True).strip())
    (site / "numpy").symlink_to(Path(numpy.__file__).parent)
    build = ["build_py", "--build-lib", str(site)]
    command = [sys.executable, "setup.py", "--quiet", *build]
    subprocess.run(command, cwd=ROOT, check=True, timeout=120)
    assert (site / "deal" / "_core.pyi").is_file()
    return executable


@pytest.mark.slow
def test_a_users_script(python: Path, tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    script = ROOT / "tests" / "typed_user.py"
    command = [sys.executable, "-m", "mypy", "--strict", "--python-executable", python]
    command += ["--config-file", os.devnull, "--cache-dir", tmp_path, script]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr


def keywords(function: typing.Any) -> set[str]:
    parameters = inspect.signature(function).parameters.values()
    return {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}


def test_overloads_know_every_keyword() -> None:
    names = GenerateKwargs.__annotations__.keys() | {"num_return_sequences"}
    assert names == keywords(Model.generate)
    assert _Declaration.__annotations__.keys() == keywords(reward)
