"""The benchmark of hard constraints on a tiny model, and its table."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from tiny_model import TinyConfig, make_tiny, write_gguf

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

import make_results_table as tables  # noqa: E402

pytest.importorskip("llguidance", reason="pip install 'deal-lm[constraints]'")

from benchmarks import constraints  # noqa: E402


def test_rows_and_table(tmp_path: Path) -> None:
    model = tmp_path / "tiny.gguf"
    write_gguf(make_tiny(TinyConfig(seed=0, n_ctx=512)), model)
    path = tmp_path / "benchmarks" / "results" / "constraints.json"
    path.parent.mkdir(parents=True)
    options = ["-n", "2", "--rounds", "1", "--max-new-tokens", "6", "--threads", "1"]
    constraints.main(["--model", str(model), *options, "--json", str(path)])
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    names = list(constraints.constraints())
    assert [row["constraint"] for row in rows] == 2 * names
    for row in rows:
        assert row["n_sound"] == row["n"] == 2
        if row["constraint"] == "none":
            assert row["of_none"] == 1 and row["n_same_text"] == 2
    text = tables.results_text(path)
    assert text.count("\n| ") == 2 + len(rows)  # a head and its line
    assert "matched" in text and "llguidance" in text
    with pytest.raises(SystemExit):
        constraints.main(["-n", "0"])
