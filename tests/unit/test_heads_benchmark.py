"""benchmarks.heads on a tiny model and data of its own making."""

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

from benchmarks import heads, search  # noqa: E402


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Data sets of the shapes that are read; the last letter makes the label."""
    rng = random.Random(0)
    folder = tmp_path / "data"

    def text(label: int) -> str:
        return "".join(rng.choices("abcd ", k=8)) + "xz"[label]

    def rows(name: str, values: tuple[object, object]) -> list[dict[str, object]]:
        return [{"input": text(i % 2), name: values[i % 2]} for i in range(60)]

    for part in ("train", "dev"):
        path = f"{part}.jsonl"
        write_rows(folder / "rt_polarity" / path, rows("label", (0, 1)))
        tweets = rows("label", ("neither", "hate"))
        write_rows(folder / "hate_offensive" / path, tweets)
        write_rows(
            folder / "hh_rlhf" / path,
            [
                {
                    "subset": heads.SUBSETS[i % 2],
                    "input": text(0),
                    "chosen": text(1),
                    "rejected": text(0),
                }
                for i in range(60)
            ],
        )
    write_rows(folder / "wiki_toxicity" / "dev.jsonl", rows("toxic", (False, True)))
    return folder


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "tiny.gguf"
    write_gguf(make_tiny(TinyConfig(seed=0, n_layer=3)), path)
    monkeypatch.setattr(heads, "LAYERS", (1, -1))
    monkeypatch.setattr(heads, "CHOICES", ((1,), (-1,), (1, -1)))
    return path


def test_heads(data: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "benchmarks" / "results" / "heads.json"
    cache = tmp_path / "states"
    command = ["--data", str(data), "--model", str(model), "--json", str(out)]
    assert heads.main([*command, "--cache", str(cache), "--n-tweets", "50"]) == 0
    first = json.loads(out.read_text())
    rows = {(row["task"], row["model"]): row for row in first["rows"]}
    for key in (
        ("rt_polarity", "head"),
        ("hate_offensive", "head"),
        ("wiki_toxicity", "head, fitted on tweets"),
        ("wiki_toxicity", "head, fitted on 5 folds"),
        ("hh_rlhf both", "head of both"),
        ("hh_rlhf helpful-base", "head of harmless-base"),
    ):
        assert rows[key]["value"] > 0.8
        assert rows[key]["low"] <= rows[key]["value"] <= rows[key]["high"]
    assert len(first["tried"]) == 5 * (3 * 2 * 3 + 3)
    assert sum(row["is_chosen"] for row in first["tried"]) == 5
    assert list(cache.glob("*.npy")) and not list(cache.glob("*.part.npy"))
    assert heads.main([*command, "--cache", str(cache), "--n-tweets", "50"]) == 0
    again = json.loads(out.read_text())
    assert again["rows"] == first["rows"] and again["tried"] == first["tried"]
    quality = tables.results_text(out, "quality")
    assert "| hh_rlhf both | head of both | pair accuracy |" in quality
    sweep = tables.results_text(out, "sweep")
    assert "| 1, -1 |" in sweep and "Chosen by held-out loss: rt_polarity:" in sweep


def test_order_of_pairs() -> None:
    row = heads.ordered("t", "m", np.array([1.0, 0.0, 0.0, 1.0, 2.0, 2.0, 3.0, 1.0]))
    assert row["value"] == 0.625 and row["n"] == 4
    # Wilson (1927) for 50 of 100.
    row = heads.ordered("t", "m", np.tile([1.0, 0.0, 0.0, 1.0], 50))
    assert row["low"] == pytest.approx(0.4038, abs=1e-4)
    assert row["high"] == pytest.approx(0.5962, abs=1e-4)


def test_sentiment_head(data: Path, model: Path) -> None:
    lm = search.deal.load(model, threads=1)
    head = heads.sentiment_head(lm, data / "rt_polarity" / "train.jsonl", 60)
    assert head.name == "sentiment" and head.report.n_fitted == 54
    assert head.report.n_validation == 6
    good, bad = (head.score([text], "a b")[0] for text in ("abcdz", "abcdx"))
    assert good > bad
