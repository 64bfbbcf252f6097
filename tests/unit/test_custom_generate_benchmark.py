"""The benchmark of custom_generate: its ways over a tiny model, and the table."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from hf_models import deal, llama

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks import custom_generate as benchmark  # noqa: E402

SEARCH = deal.Search(top_k=3, lookahead=3, reward_weight=8.0)


def test_ways_write_what_they_should(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = llama()
    lm = deal.from_transformers(model, tokenizer, threads=1)
    ways = benchmark.ways_of(model, tokenizer, {"f32": lm}, SEARCH)
    assert next(iter(ways)) == benchmark.GREEDY
    assert set(benchmark.SAME_AS) | set(benchmark.SAME_AS.values()) == set(ways)
    items = [(tokenizer(text)["input_ids"], ["cat", "sun"]) for text in ("a", "one")]
    rows = benchmark.measure(ways, items, 6, 3)
    benchmark.summarise(rows)
    for name, row in rows.items():
        assert len(row["seconds"]) == 3 and row["n_tokens"] <= 12
        assert row["n_tokens"] == sum(map(len, row["token_ids"]))
        if name in benchmark.SAME_AS:
            assert row["n_same"] == 2
        if "greedy" in name:  # a pass for the prompt, then one a token but the last
            assert row["n_passes"] == row["n_tokens"] == 12
    greedy, naive = rows[benchmark.GREEDY], rows["custom_generate, naive"]
    assert greedy["time_ratio"] == 1
    assert naive["n_passes"] > max(greedy["n_passes"], naive["n_tokens"])
    assert naive["token_ids"] != greedy["token_ids"]

    result = {
        "benchmark": "custom_generate",
        "environment": benchmark.common.environment(),
        "settings": {
            "model": "tiny",
            "model_file": "tiny.gguf",
            "threads": 1,
            "n": 2,
            "rounds": 3,
            "max_new_tokens": 6,
            "search": {"top_k": 3, "lookahead": 3, "reward_weight": 8.0},
            "packages": {"torch": "2"},
        },
        "ways": rows,
    }
    path = tmp_path / "benchmarks" / "results" / "custom_generate.json"
    benchmark.common.write_json(path, result)
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    text = __import__("make_results_table").results_text(path)
    assert f"| transformers, greedy | {greedy['tok_s']:.1f} | 1 | 1.00 |  |" in text
    assert "| custom_generate, exact |" in text and "| 2 of 2 |" in text
    assert json.loads(path.read_text())["ways"] == rows


def test_ratios_are_of_tokens_in_one_round() -> None:
    rows = {
        "a": {"seconds": [1.0, 2.0, 9.0], "n_tokens": 10, "n_passes": 10},
        "b": {"seconds": [4.0, 2.0, 27.0], "n_tokens": 5, "n_passes": 20},
    }
    benchmark.summarise(rows)
    assert rows["b"]["time_ratio"] == 6.0  # of 8, 2 and 6
    assert rows["b"]["tok_s"] == 5 / 4.0 and rows["b"]["passes_per_token"] == 4
