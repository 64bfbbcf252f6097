"""The examples of docs/transformers.md and of the hub's README, on a tiny model."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hf_models import torch
from tiny_model import TinyConfig, make_tiny, write_hf_folder

ROOT = Path(__file__).parents[2]
NAMES = {
    "HuggingFaceTB/SmolLM2-135M-Instruct",
    "smollm2-135m-instruct",
    "your-name/your-model",
}


def run(document: Path, names: dict[str, str]) -> dict[str, Any]:
    """Runs the Python blocks of a document one after another."""
    blocks = re.findall(r"^```python\n(.*?)^```", document.read_text(), re.S | re.M)
    assert blocks
    space: dict[str, Any] = {}
    for block in blocks:
        for name, path in names.items():
            block = block.replace(f'"{name}"', repr(path))
        exec(compile(block, document.name, "exec"), space)
    return space


@pytest.fixture
def names(tmp_path: Path) -> dict[str, str]:
    write_hf_folder(make_tiny(TinyConfig()), tmp_path / "tiny")
    return dict.fromkeys(NAMES, str(tmp_path / "tiny"))


def test_documentation(names: dict[str, str], capsys: pytest.CaptureFixture) -> None:
    space = run(ROOT / "docs" / "transformers.md", names)
    assert space["out"].sequences.shape[0] == 4
    assert len(space["out"].scores) <= 12
    assert space["found"].shape[0] == 1
    assert space["reply"][0]["generated_text"][-1]["role"] == "assistant"
    assert isinstance(space["r"].rewards["keywords"], float)
    assert capsys.readouterr().out.count("\n") > 5


def test_hub_readme(
    names: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import dynamic_module_utils

    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path))
    names |= {"your-name/deal": str(ROOT)}
    ids = run(ROOT / "custom_generate" / "README.md", names)["ids"]
    assert ids.dtype == torch.long and ids.shape[0] == 1
