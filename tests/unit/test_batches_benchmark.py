"""The benchmark of batches on a tiny model, and its table."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from tiny_model import TinyConfig, make_tiny, write_gguf

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

import make_results_table as tables  # noqa: E402

from benchmarks import batches  # noqa: E402


def test_rows_and_table(tmp_path: Path) -> None:
    model = tmp_path / "tiny.gguf"
    config = TinyConfig(seed=0, n_ctx=512)
    write_gguf(make_tiny(config), model)
    path = tmp_path / "benchmarks" / "results" / "batches.json"
    path.parent.mkdir(parents=True)
    options = ["-n", "5", "--rounds", "1", "--max-new-tokens", "4", "--threads", "1"]
    batches.main(["--model", str(model), *options, "--json", str(path)])
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    assert [row["batch_size"] for row in rows] == [1, 2, 4] * len(batches.modes())
    for row in rows:
        assert row["tokens_s"] > 0 and row["forward_tokens_token"] > 1
        assert row["batch_size"] > 1 or row["gain"] == 1
    text = tables.results_text(path)
    assert text.count("\n| ") == 2 + len(batches.modes())
    assert "batch_size=4" in text
    with pytest.raises(SystemExit):
        batches.main(["-n", "0"])
