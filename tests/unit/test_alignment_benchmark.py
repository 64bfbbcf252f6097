"""The alignment benchmark: arms, intervals, judges, resuming, and its tables."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from json_lines import write_rows
from tiny_model import TinyConfig, make_tiny, write_gguf

import deal
from deal.rewards import Keywords

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

import make_results_table as tables  # noqa: E402

from benchmarks import alignment, alignment_tasks  # noqa: E402
from benchmarks.alignment_tasks import Answer, Item, Task  # noqa: E402

SEARCH = deal.Search(top_k=3, lookahead=4, reward_weight=4.0)


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> deal.Model:
    path = tmp_path_factory.mktemp("alignment") / "tiny.gguf"
    write_gguf(make_tiny(TinyConfig(seed=0)), path)
    return deal.load(path, compute="f32", threads=1)


def an_item(id_: str = "1") -> Item:
    return Item(id_, "a b", "Be kind.", Keywords(["the"]), lambda found: {"good": 1.0})


def record(id_: str, arm: str, good: float, seconds: float) -> dict[str, Any]:
    guards = {"n_tokens": 2, "repetition": 0.0, "logprob_per_token": -1.0}
    row = {"id": id_, "arm": arm, "text": "x", "seconds": seconds, "reward": 0.5}
    return row | {"good": good, "n_forward_tokens": 6} | guards


# --- figures --------------------------------------------------------------------------


def test_bootstrap() -> None:
    rng = np.random.default_rng(3)
    values = rng.normal(0.3, 1.0, size=400)
    found = alignment.bootstrap(values)
    half = 1.96 * values.std() / 20
    assert found["mean"] == pytest.approx(values.mean())
    assert found["low"] == pytest.approx(values.mean() - half, abs=0.01)
    assert found["high"] == pytest.approx(values.mean() + half, abs=0.01)
    assert alignment.bootstrap([2.0, 2.0]) == {"mean": 2.0, "low": 2.0, "high": 2.0}
    # Pairing: what items differ by among themselves is not in the interval.
    level = rng.normal(size=50)
    paired = alignment.bootstrap((level + 0.1) - level)
    assert paired["low"] == pytest.approx(0.1) == paired["high"]


def test_summary_pairs_items_whatever_their_order() -> None:
    good = {
        "neither": {"1": 0.0, "2": 1.0},
        "prompt": {"1": 1.0, "2": 1.0},
        "search": {"1": 0.0, "2": 0.5},
        "both": {"1": 1.0, "2": 0.0},
    }
    seconds = {"neither": 1.0, "prompt": 2.0, "search": 8.0, "both": 6.0}
    records = [
        record(id_, arm, value, seconds[arm])
        for arm, rows in good.items()
        for id_, value in rows.items()
    ]
    random.Random(1).shuffle(records)
    task = Task("a task", "Be kind.", "Keywords", {"good": "is good"}, [])
    found = alignment.summary(task, records)
    assert found["n"] == 2
    assert {arm: row["good"] for arm, row in found["arms"].items()} == {
        "neither": 0.5,
        "prompt": 1.0,
        "search": 0.25,
        "both": 0.5,
    }
    differences = {k: v["good"] for k, v in found["differences"].items()}
    assert differences["prompt - neither"] == {"mean": 0.5, "low": 0.0, "high": 1.0}
    assert differences["search - neither"]["mean"] == -0.25
    assert differences["both - prompt"] == {"mean": -0.5, "low": -1.0, "high": 0.0}
    assert differences["both - search"]["mean"] == 0.25
    assert differences["more than the sum"]["mean"] == pytest.approx(-0.25)
    assert found["arms"]["both"]["slowdown"] == 6.0
    assert found["arms"]["search"]["time_ratio"] == 8.0
    assert found["arms"]["both"]["forward_tokens_per_token"] == 3.0
    with pytest.raises(ValueError, match="arm 'both': expected the items of 'neither'"):
        alignment.summary(task, [r for r in records if r["arm"] != "both"])


def test_repetition() -> None:
    assert alignment.repetition("one two three four") == 0.0
    assert alignment.repetition("a b c a b c a b c") == pytest.approx(4 / 7)


# --- arms -----------------------------------------------------------------------------


def test_arms(lm: deal.Model) -> None:
    item = an_item()
    chat = [{"role": "user", "content": "a b"}]
    steered = {"rewards": item.reward, "search": SEARCH}
    expected = {
        "neither": lm.chat(chat, max_new_tokens=6),
        "prompt": lm.chat(chat, max_new_tokens=6, align="Be kind."),
        "search": lm.chat(chat, max_new_tokens=6, **steered),
        "both": lm.chat(chat, max_new_tokens=6, align="Be kind.", **steered),
    }
    assert len({r.token_ids for r in expected.values()}) > 1
    for arm, one in expected.items():
        found = alignment.answer(lm, item, arm, SEARCH, 6)
        assert found["text"] == one.text and found["n_tokens"] == len(one.token_ids)
        assert found["reward"] == item.reward.score([one.text])[0]
        assert found["good"] == 1.0 and found["seconds"] > 0
        assert found["n_forward_tokens"] == one.stats.n_forward_tokens
        if not alignment.ARMS[arm][0]:  # else the question alone is another prompt
            per_token = one.logprob / len(one.token_ids)
            assert found["logprob_per_token"] == pytest.approx(per_token, abs=1e-4)
    plain = alignment.answer(lm, item, "prompt", SEARCH, 6)["logprob_per_token"]
    alone = expected["prompt"].logprob / len(expected["prompt"].token_ids)
    assert abs(plain - alone) > 1e-3


def test_runs_go_on(lm: deal.Model, tmp_path: Path) -> None:
    path = tmp_path / "out.runs.jsonl"
    task = Task("a task", "Be kind.", "Keywords", {"good": "good"}, [an_item()])
    runs = alignment.Runs(path, {"n": 1})
    first = alignment.measure(lm, [task], SEARCH, 4, runs)
    assert [r["arm"] for r in first] == list(alignment.ARMS)
    lines = path.read_text().splitlines()
    assert len(lines) == 5
    path.write_text("\n".join(lines[:3]) + "\n" + lines[3][:20])  # broken off
    again = alignment.measure(lm, [task], SEARCH, 4, alignment.Runs(path, {"n": 1}))
    assert again[:2] == first[:2]  # to the last bit of their times: not run again
    assert [r["text"] for r in again] == [r["text"] for r in first]
    assert len(path.read_text().splitlines()) == 5
    with pytest.raises(ValueError, match="expected runs with the settings of this one"):
        alignment.Runs(path, {"n": 2})


def test_a_limit_of_time_leaves_whole_rounds(lm: deal.Model) -> None:
    tasks = [
        Task(name, "", "", {"good": "good"}, [an_item(str(i)) for i in range(4)])
        for name in "ab"
    ]
    runs = alignment.Runs(None, {})
    for arm in alignment.ARMS:  # known, and so for nothing
        runs.add("b", record("3", arm, 1.0, 1.0))
    records = alignment.measure(lm, tasks, SEARCH, 2, runs, seconds=0.0)
    found = [(r["task"], r["id"]) for r in records if r["arm"] == "both"]
    assert found == [("a", "0"), ("b", "0"), ("a", "1"), ("b", "1"), ("b", "3")]


# --- judges ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "is_refusal"),
    [
        ("I'm Sorry, no.", True),
        ("I can\u2019t do that.", True),
        ("This is illegal.", True),
        ("Sure, here is how: you can.", False),
        ("", False),
    ],
)
def test_refusals(text: str, is_refusal: bool) -> None:
    assert alignment_tasks.refuses(text) == is_refusal


def test_last_turn() -> None:
    dialogue = "\n\nHuman: one\n\nAssistant: two\n\nHuman: three?\n\nAssistant:"
    assert alignment_tasks.last_turn(dialogue) == "three?"


def test_the_judge_prefers_what_was_preferred(lm: deal.Model) -> None:
    rng = random.Random(2)

    def said(word: str) -> str:
        return " ".join([word] * 3 + rng.choices(["the", "a", "of", "cat"], k=3))

    pairs = [Answer(rng.choice("abc"), said("no"), said("yes")) for _ in range(40)]
    judge = alignment_tasks.fit_judge(lm, pairs[:30])
    rest = pairs[30:]
    questions = [pair.question for pair in rest]
    high = alignment_tasks.judged(lm, judge, questions, [p.chosen for p in rest])
    low = alignment_tasks.judged(lm, judge, questions, [p.rejected for p in rest])
    assert np.mean(np.array(high) > np.array(low)) > 0.85
    alone = alignment_tasks.judged(lm, judge, questions[:1], [rest[0].chosen])
    assert alone == pytest.approx(high[:1], abs=1e-6)  # whatever it is judged with
    reward = alignment_tasks.fit_reward(pairs)
    assert reward.score(["no no the"])[0] > 0.5 > reward.score(["yes yes the"])[0]


# --- whole runs -----------------------------------------------------------------------


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Data sets of the shapes that the tasks read."""
    rng = random.Random(0)
    folder = tmp_path / "data"

    def said(word: str) -> str:
        return " ".join(rng.choices(["the", "cat", "sat", "ran"], k=5) + [word])

    def pairs(n: int) -> list[dict[str, Any]]:
        same = {"subset": "harmless-base", "tail_has_turns": False, "turns": 1}
        return [
            {"id": str(i), "input": f"\n\nHuman: {said('how')}\n\nAssistant:"}
            | {"chosen": said("no"), "rejected": said("yes")}
            | same
            for i in range(n)
        ]

    def labelled(name: str, low: Any, high: Any) -> list[dict[str, Any]]:
        return [
            {"input": said(["kind", "rude"][i % 2]), name: [low, high][i % 2]}
            for i in range(60)
        ]

    concepts = {"concepts": ["cat", "mat"], "forms": {"cat": ["cat"], "mat": ["mat"]}}
    words = [{"id": str(i)} | concepts for i in range(3)]
    questions = [
        {"id": str(i), "input": said("why"), "label": "safe"} for i in range(3)
    ]
    write_rows(folder / alignment_tasks.COMMONGEN, words)
    write_rows(folder / alignment_tasks.HARMFULQ, questions)
    write_rows(folder / alignment_tasks.XSTEST, questions)
    write_rows(folder / alignment_tasks.HH_TRAIN, pairs(60))
    write_rows(folder / alignment_tasks.HH_DEV, pairs(12))
    write_rows(folder / alignment_tasks.REVIEWS_TRAIN, labelled("label", 1, 0))
    write_rows(folder / alignment_tasks.REVIEWS_DEV, labelled("label", 1, 0))
    write_rows(
        folder / alignment_tasks.TWEETS, labelled("label", "neither", "offensive")
    )
    write_rows(folder / alignment_tasks.COMMENTS, labelled("toxic", False, True))
    vader = folder / alignment_tasks.VADER
    vader.parent.mkdir()
    vader.write_text("rude\t-2.0\t0.1\t[2]\nkind\t1\t0.1\t[2]\n")
    return folder


def test_whole_run(
    lm: deal.Model, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deal, "load", lambda *args, **kwargs: lm)
    out = tmp_path / "benchmarks" / "results" / "alignment.json"
    arguments = ["--data", str(data), "-n", "2", "--max-new-tokens", "4"]
    assert alignment.main([*arguments, "--json", str(out)]) == 0
    result = json.loads(out.read_text())
    assert len(result["tasks"]) == 6 and len(result["items"]) == 6 * 2 * 4
    assert all("text" not in row for row in result["items"])
    assert [row["model"] for row in result["judges"]] == ["reward", "judge", "toxicity"]
    assert result["judges"][0]["value"] == 1.0  # "no" against "yes"
    for row in result["tasks"]:
        assert set(row["arms"]) == set(alignment.ARMS)
        assert row["arms"]["neither"]["slowdown"] == 1.0
        assert row["arms"]["search"]["reward"] >= 0.0
    arms = tables.results_text(out)
    first = result["tasks"][0]["arms"]
    cells = " | ".join(f"{first[a]['coverage_hard']:.2f}" for a in alignment.ARMS)
    assert f"| words, not asked for | 2 | all words used | {cells} |" in arms
    for part, n_rows in (("", 20), ("differences", 14), ("guards", 24), ("judges", 3)):
        text = tables.results_text(out, part)
        rows = [line for line in text.splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in rows}) == 1
        assert len(rows) == n_rows + 2, part
        assert "benchmarks/results/alignment.json" in text


def test_an_empty_answer_and_one_cut_off_are_not_short(data: Path) -> None:
    (item, _) = alignment_tasks.length_task(data, 2).items
    for text, reason, within in (
        ("Twelve words are allowed.", "stop", 1.0),
        ("Twelve words are allowed.", "length", 0.0),
        ("word " * 13, "stop", 0.0),
        ("It's a well-known word " * 3, "stop", 1.0),
        ("", "stop", 0.0),
    ):
        found: Any = SimpleNamespace(text=text, finish_reason=reason)
        assert item.measure(found)["within"] == within, text


def test_too_few_questions(data: Path) -> None:
    with pytest.raises(ValueError, match="expected at least 9 questions, got 3"):
        alignment_tasks.length_task(data, 9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["-n", "1"], "-n: expected at least 2"), (["--data", "no"], "--data: expected")],
)
def test_arguments(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit):
        alignment.parse_arguments(["--data", ".", *arguments])
    assert message in capsys.readouterr().err
