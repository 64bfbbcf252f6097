"""The model of what a search costs, which the search benchmark compares with."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_model import TinyConfig, make_tiny, write_gguf

import deal

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

from benchmarks.cost_model import Curve, measure_curve  # noqa: E402
from benchmarks.search_runs import PLAIN, summary  # noqa: E402

CURVE = Curve((1, 2, 4), (1.0, 1.5, 3.5), 20.0)
KEY = ("a setting", "exact")


def record(
    item_id: str, key: tuple[str, str], n_tokens: int, counts: tuple[int, int, int]
) -> dict[str, Any]:
    """A run that took a second, with counts of prompt, rows and passes."""
    names = ("n_prompt_tokens", "n_forward_tokens", "n_forward_passes")
    return {
        "id": item_id,
        "setting": key[0],
        "mode": key[1],
        "token_ids": list(range(n_tokens)),
        "logprob": -1.0,
        "seconds": [1.0],
        "seconds_prefill": [0.5],
        "seconds_as_long": [1.0],
        "stats": dict(zip(names, counts, strict=True)),
        "coverage_soft": 0.5,
        "coverage_hard": 0.0,
        "n_decisions": 0,
        "n_candidates": 0,
    }


def test_a_pass_costs_what_lies_on_the_curve() -> None:
    found = [CURVE.cost(n) for n in (1, 1.5, 2, 3, 4, 5)]
    assert found == [1.0, 1.25, 1.5, 2.5, 3.5, 4.5]


def test_a_request_costs_its_prompt_and_its_passes() -> None:
    # 10 of the prompt in half a second; 20 more in 9 passes of 20 / 9 rows.
    seconds = 0.5 + 9 * CURVE.cost(20 / 9)
    run = record("1", KEY, 10, (10, 30, 10))
    assert CURVE.seconds_per_token(run) == pytest.approx(seconds / 10)
    short = record("1", KEY, 1, (10, 10, 1))
    assert CURVE.seconds_per_token(short) == pytest.approx(0.5)


def test_predicted_slowdown_is_a_median_over_items() -> None:
    records = [
        record("1", PLAIN, 5, (5, 9, 5)),
        record("2", PLAIN, 10, (10, 19, 10)),
        record("1", KEY, 10, (10, 30, 10)),
        record("2", KEY, 10, (10, 30, 10)),
    ]
    ours = (0.5 + 9 * CURVE.cost(20 / 9)) / 10
    plain = [(0.25 + 4 * 1.0) / 5, (0.5 + 9 * 1.0) / 10]
    expected = sum(ours / one for one in plain) / 2
    found = summary(records, KEY, CURVE)["slowdown_predicted"]
    assert found == pytest.approx(expected)
    assert summary(records, PLAIN, CURVE)["slowdown_predicted"] == pytest.approx(1)
    assert "slowdown_predicted" not in summary(records, KEY)


def test_line_through_a_curve() -> None:
    straight = Curve((1, 2, 8), (3.0, 4.0, 10.0), 1.0)
    assert straight.line() == pytest.approx((2.0, 1.0, 0.0), abs=1e-12)
    # Every point counts by its own size: b minimises sum (a + b n - y)^2 / y^2.
    bent = Curve((1, 2, 8), (3.0, 4.0, 20.0), 1.0)
    start, slope, error = bent.line()

    def loss(a: float, b: float) -> float:
        pairs = zip(bent.rows, bent.seconds, strict=True)
        return sum(((a + b * n - y) / y) ** 2 for n, y in pairs)

    for da, db in ((0.01, 0), (-0.01, 0), (0, 0.01), (0, -0.01)):
        assert loss(start, slope) < loss(start + da, slope + db)
    assert error > 0.05


def test_curve_is_measured(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    write_gguf(make_tiny(TinyConfig(seed=0)), path)
    curve = measure_curve(deal.load(path, compute="f32"), (1, 2, 8))
    assert curve.rows == (1, 2, 8) and min(curve.seconds) > 0
    assert curve.prefill_tok_s > 0
    assert curve.as_dict()["seconds"] == list(curve.seconds)
