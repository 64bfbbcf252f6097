"""The examples of docs/lm-eval.md, on a tiny model instead of the demo model."""

from __future__ import annotations

import re
import shlex
from functools import partialmethod
from pathlib import Path
from typing import Any

import pytest
from lm_eval_requests import tiny

pytest.importorskip("lm_eval", reason="lm_eval is not installed")

from deal._lm_eval_options import KNOWN
from deal._reward_spec import CALLS
from deal.cli import main

DOCS = Path(__file__).parents[2] / "docs" / "lm-eval.md"
MODEL = "smollm2-135m-instruct"  # an alias, but a folder of this name goes first


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the document shows, and the model."""
    folder = tmp_path_factory.mktemp("docs")
    tiny("byte", folder / MODEL)
    files = re.findall(r"^`(\S+)`:\n\n```\w+\n(.*?)```", DOCS.read_text(), re.S | re.M)
    assert len(files) == 4
    for name, text in files:
        (folder / name).write_text(text)
    return folder


@pytest.fixture(autouse=True)
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lm_eval.tasks import TaskManager

    init = partialmethod(TaskManager.__init__, include_defaults=False)
    monkeypatch.setattr(TaskManager, "__init__", init)
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(place / "cache"))
    monkeypatch.chdir(place)


def commands() -> list[list[str]]:
    blocks = re.findall(r"```sh\n(.*?)```", DOCS.read_text(), re.S)
    lines = "".join(blocks).replace("\\\n", "").splitlines()
    return [shlex.split(line) for line in lines]


@pytest.mark.parametrize("command", commands(), ids=lambda c: " ".join(c)[-40:])
def test_commands(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert command[0] == "deal"
    assert main(command[1:]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("deal (") and "|words|" in printed
    for setting in [a for a in command if a.startswith("rewards=")]:
        assert setting.partition("=")[2][:20] in printed


def test_python(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    exec((place / "my_run.py").read_text(), names)
    assert "exact_match,none" in capsys.readouterr().out
    assert names["results"]["config"]["gen_kwargs"]["reward_weight"] == 4.0


def test_every_setting_is_named() -> None:
    text = DOCS.read_text()
    for name in (*KNOWN, *CALLS):
        assert f"`{name}`" in text, name
