"""The rewards benchmark on small data, and its tables."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import numpy as np
import pytest
from json_lines import write_rows
from tiny_model import TinyConfig, make_tiny, write_gguf

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

import make_results_table as tables  # noqa: E402

from benchmarks import reward_quality, rewards  # noqa: E402


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Data sets of the shapes that the benchmark reads; "rude" makes the label."""
    rng = random.Random(0)
    folder = tmp_path / "data"

    def rows(n: int, name: str, values: tuple[object, object]) -> list[dict]:
        found = []
        for i in range(n):
            words = rng.choices(["the", "cat", "sat", "ran"], k=6)
            words += [["kind", "rude"][i % 2]]
            rng.shuffle(words)
            found.append({"input": " ".join(words), name: values[i % 2]})
        return found

    for part in ("train", "dev"):
        path = f"{part}.jsonl"
        write_rows(folder / "rt_polarity" / path, rows(60, "label", (0, 1)))
        tweets = rows(60, "label", ("neither", "offensive"))
        write_rows(folder / "hate_offensive" / path, tweets)
    write_rows(folder / "wiki_toxicity" / "dev.jsonl", rows(60, "toxic", (False, True)))
    (folder / "lexicons").mkdir()
    vader = folder / "lexicons" / "vader_lexicon.txt"
    vader.write_text("rude\t2.0\t0.1\t[2]\nkind\t-1\t0.1\t[2]\n")
    (folder / "lexicons" / "ldnoobw_en.txt").write_text("rude\nvery rude\n")
    return folder


def test_auroc() -> None:
    labels = np.array([True, False, True, False])
    assert reward_quality.auroc(np.array([4.0, 3.0, 2.0, 1.0]), labels) == 0.75
    assert reward_quality.auroc(np.zeros(4), labels) == 0.5
    rng = np.random.default_rng(1)
    scores, truth = rng.integers(9, size=60), rng.random(60) < 0.4
    pairs = [
        (high > low) + 0.5 * (high == low)
        for high in scores[truth]
        for low in scores[~truth]
    ]
    assert reward_quality.auroc(scores, truth) == pytest.approx(np.mean(pairs))


def test_quality(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "benchmarks" / "results" / "rewards.json"
    parts = ["--parts", "throughput", "quality", "--rounds", "1"]
    assert rewards.main([*parts, "--data", str(data), "--json", str(out)]) == 0
    result = json.loads(out.read_text())
    assert {row["task"] for row in result["quality"]} == {
        "rt_polarity",
        "hate_offensive",
        "wiki_toxicity",
    }
    assert all(row["value"] > 0.95 for row in result["quality"])
    assert len(result["throughput"]) == len(rewards.SCORERS)
    for row in result["throughput"]:
        assert all(rate > 0 for rate in row["bytes_s"].values())
    text = tables.results_text(out, "quality")
    assert "| wiki_toxicity | Lexicon, LDNOOBW's | AUROC | 1.000 |" in text
    result["throughput"][0]["bytes_s"] = {"4": 49e6, "64": 51e6}
    for row in result["throughput"][1:]:
        row["bytes_s"] = {"4": 50e6, "64": 50e6}
    out.write_text(json.dumps(result))
    text = tables.results_text(out, "throughput")
    assert "| Lexicon, per word | 50 | 50 |" in text
    assert "Goal: 50. Below it: Keywords, 5 concepts, tokens of 4 bytes." in text
    assert "not measured" in tables.results_text(out, "search")


def test_search(tmp_path: Path) -> None:
    model = tmp_path / "tiny.gguf"
    write_gguf(make_tiny(TinyConfig(seed=0)), model)
    out = tmp_path / "benchmarks" / "results" / "rewards.json"
    size = ["-n", "1", "--rounds", "1", "--max-new-tokens", "3"]
    command = ["--parts", "search", "--model", str(model), *size, "--json", str(out)]
    assert rewards.main(command) == 0
    rows = json.loads(out.read_text())["search"]
    assert len(rows) == 2 * 7
    assert [row["of_keywords"] for row in rows if row["reward"] == "Keywords"] == [1, 1]
    (naive,) = [r for r in rows if r["reward"] == "Python" and r["mode"] == "naive"]
    assert naive["call_overhead"] > 0 and naive["n_texts_call"] >= 1
    assert all(row["rows_token"] > 0 for row in rows)
    text = tables.results_text(out, "search")
    assert "| exact | Lexicon |" in text
    assert "| exact | Lexicon, clipped at 0.5 |" in text
    assert rewards.main([*command, "--into", "--parts", "throughput"]) == 0
    assert set(json.loads(out.read_text())) >= {"search", "throughput"}
