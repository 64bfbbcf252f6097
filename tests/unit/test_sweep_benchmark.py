"""The benchmark of sweeps: both ways on a tiny model, and the table of its result."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_model import TinyConfig, make_tiny, write_gguf

import deal
from benchmarks import sweep

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> deal.Model:
    path = tmp_path_factory.mktemp("sweep") / "tiny.gguf"
    write_gguf(make_tiny(TinyConfig(seed=0)), path)
    lm = deal.load(path, compute="f32", threads=1)
    lm.tokenizer.chat_template = "{{ messages[0].content }}"
    return lm


def test_item(lm: deal.Model) -> None:
    item = {"id": "a", "concepts": {"cat": ("cat", "cats"), "sun": ("sun",)}}
    row = sweep.measure_item(lm, item, deal.Search(top_k=3), 6)
    assert 0 < row["sweep_tokens"] < row["separate_tokens"]
    assert row["recalled_tokens"] > 0
    assert row["sweep_seconds"] > 0 and row["separate_seconds"] > 0


def test_texts_that_differ_are_an_error(
    lm: deal.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = {"id": "a", "concepts": {"cat": ("cat",)}}
    chat = lm.chat

    def other(messages: Any, **kwargs: Any) -> deal.Generation:
        return chat(messages, **kwargs | {"max_new_tokens": 2})

    monkeypatch.setattr(lm, "chat", other)
    with pytest.raises(AssertionError, match="not the same text"):
        sweep.measure_item(lm, item, deal.Search(top_k=3), 6)


def test_summary_and_table(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        {"separate_tokens": 10 * i, "sweep_tokens": 5}
        | {"separate_seconds": 3.0 * i, "sweep_seconds": 1.0}
        for i in (1, 2, 6)
    ]
    summary = sweep.summary_of(rows)
    assert summary["tokens_ratio_median"] == 4.0
    assert (summary["tokens_ratio_min"], summary["tokens_ratio_max"]) == (2.0, 12.0)
    assert summary["seconds_ratio_median"] == 6.0
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    sections = __import__("results_sections")
    text = (ROOT / "benchmarks" / "results" / "sweep.json").read_text("utf-8")
    result = json.loads(text) | {"summary": summary}
    table = sections.SECTIONS["sweep", ""](result, "sweep.json")
    assert "| tokens evaluated | 4.0 | 2.0 | 12.0 |" in table
    assert "| processor time | 6.0 | 3.0 | 18.0 |" in table
