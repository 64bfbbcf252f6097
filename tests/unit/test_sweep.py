"""Sweeps: the same as separate runs, at less cost; errors, checkpoints, summaries."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from generation import PROMPTS, WORDS, coverage
from tiny_model import TinyConfig, make_tiny, write_gguf

import deal
from deal._trade_off import pareto_front

GRID = {
    "reward_weight": [0.0, 2.0, 30.0],
    "lookahead": [0, 5],
    "keywords": [1.0, 0.25],
    "mode": ["exact", "naive"],
}
BASE = deal.Search(top_k=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep")
    write_gguf(make_tiny(TinyConfig(seed=0)), folder / "tiny.gguf")
    write_gguf(make_tiny(TinyConfig(seed=1)), folder / "other.gguf")
    return folder


@pytest.fixture(scope="module")
def lm(folder: Path) -> deal.Model:
    return deal.load(folder / "tiny.gguf", compute="f32", threads=2)


class Words:
    """A reward on texts, with its own name, that counts what it is asked."""

    def __init__(self, fail_on: str | None = None, fail_after: int = -1) -> None:
        self.asked: list[str] = []
        self.fail_on, self.fail_after = fail_on, fail_after

    def __call__(
        self, completions: list[str], prompts: list[str], **kwargs: Any
    ) -> list[float]:
        if self.fail_after >= 0 and len(self.asked) >= self.fail_after:
            raise KeyboardInterrupt
        self.asked += completions
        if self.fail_on in prompts:
            raise RuntimeError("told to fail")
        return coverage(completions, WORDS)


def make_rewards(words: Words, weight: float = 1.0) -> deal.Reward:
    asked = deal.reward(words, range=(0, 1), name="words")
    keywords = deal.rewards.Keywords(["cat", "garden", "day"])
    return weight * keywords + 0.5 * asked


def separately(
    lm: deal.Model, prompt: Any, point: dict[str, Any], words: Words, **kwargs: Any
) -> deal.Generation:
    settings = {k: v for k, v in point.items() if k != "keywords"}
    search = deal.Search(**{"top_k": 4} | settings)
    rewards = make_rewards(words, point.get("keywords", 1.0))
    return lm.generate(prompt, rewards=rewards, search=search, **kwargs)


def key(r: Any) -> tuple[Any, ...]:
    rewards = tuple(sorted(r.rewards.items()))
    return r.text, r.logprob, r.reward, rewards, r.score, r.finish_reason


def run(lm: deal.Model, grid: Any = GRID, prompts: Any = PROMPTS, **kwargs: Any) -> Any:
    rewards = kwargs.pop("rewards", None) or make_rewards(Words())
    kwargs = {"search": BASE, "max_new_tokens": 8} | kwargs
    return deal.sweep(lm, prompts, grid, rewards=rewards, **kwargs)


# --- the same, for less --------------------------------------------------------------


def test_points_are_separate_runs(lm: deal.Model) -> None:
    together, alone = Words(), Words()
    found = run(lm, rewards=make_rewards(together))
    assert len(found.points) == 24 and len(found.outcomes) == 24 * len(PROMPTS)
    n_alone = n_naive = 0
    for i, outcome in enumerate(found.outcomes):
        assert outcome.i_prompt == i % len(PROMPTS)
        assert outcome.point == found.points[i // len(PROMPTS)]
        prompt = PROMPTS[outcome.i_prompt]
        r = separately(lm, prompt, outcome.point, alone, max_new_tokens=8)
        assert key(outcome) == key(r) and outcome.n_tokens == len(r.token_ids)
        n_alone += r.stats.n_forward_tokens
        n_naive += outcome.point["mode"] == "naive" and outcome.n_forward_tokens > 0
    assert len({outcome.text for outcome in found.outcomes}) > len(PROMPTS)
    assert found.n_forward_tokens * 4 < n_alone
    assert found.n_recalled_tokens > n_alone / 2
    # A text is asked about once a prompt, whatever the weights.
    assert len(together.asked) * 4 < len(alone.asked)
    assert len(together.asked) <= len(set(together.asked)) * len(PROMPTS)


@pytest.mark.parametrize("search", [deal.Search(4, 5, 3.0, 3), BASE])
def test_beams_commits_and_chats(lm: deal.Model, search: deal.Search) -> None:
    grid = {"commit": [1, 3], "num_beams": [1, 2], "top_k": [2, 6]}
    found = run(lm, grid, prompts=[PROMPTS[0], [5, 6, 7]], search=search)
    for outcome in found.outcomes:
        point = {"lookahead": search.lookahead, "reward_weight": search.reward_weight}
        prompt = [PROMPTS[0], [5, 6, 7]][outcome.i_prompt]
        r = separately(lm, prompt, point | outcome.point, Words(), max_new_tokens=8)
        assert key(outcome) == key(r)


def test_rollouts_by_another_model(lm: deal.Model, folder: Path) -> None:
    other = deal.load(folder / "other.gguf", compute="f32", threads=1)
    search = deal.Search(top_k=4, lookahead=5, rollout_model=other)
    grid = {"reward_weight": [0.5, 30.0], "mode": ["exact", "naive"]}
    found = run(lm, grid, search=search)
    for outcome in found.outcomes:
        point = {"lookahead": 5, "rollout_model": other} | outcome.point
        prompt = PROMPTS[outcome.i_prompt]
        r = separately(lm, prompt, point, Words(), max_new_tokens=8)
        assert key(outcome) == key(r)
    assert found.n_recalled_tokens > 0


def test_controls_in_force(lm: deal.Model) -> None:
    vector = np.full(lm.hparams.n_embd, 0.5, np.float32)
    grid = {"reward_weight": [1.0, 30.0]}
    plain = run(lm, grid)
    with lm.controls([deal.AddResidual(layer=0, vector=vector)]):
        edited = run(lm, grid)
        for outcome in edited.outcomes:
            prompt = PROMPTS[outcome.i_prompt]
            r = separately(lm, prompt, outcome.point, Words(), max_new_tokens=8)
            assert key(outcome) == key(r)
    assert [key(o) for o in edited.outcomes] != [key(o) for o in plain.outcomes]


def test_rewards_of_hidden_states(lm: deal.Model) -> None:
    weight = np.random.default_rng(3).normal(size=2 * lm.hparams.n_embd)
    head = deal.rewards.RewardModel(
        weight.astype(np.float32) / 8, 0.1, layers=(1, -1), pooling="mean", name="head"
    )
    found = run(
        lm, {"reward_weight": [1.0, 20.0], "head": [1.0, -1.0]}, rewards=1 * head
    )
    assert found.errors == () and found.n_recalled_tokens > 0
    for outcome in found.outcomes:
        search = deal.Search(4, reward_weight=outcome.point["reward_weight"])
        rewards = outcome.point["head"] * head
        prompt = PROMPTS[outcome.i_prompt]
        r = lm.generate(prompt, rewards=rewards, search=search, max_new_tokens=8)
        assert key(outcome) == key(r)


def test_little_memory(folder: Path) -> None:
    small = deal.load(folder / "tiny.gguf", compute="f32", threads=1)
    page = small._core.kv_page_size(0)
    small = deal.load(
        folder / "tiny.gguf", compute="f32", threads=1, kv_budget=3 * page
    )
    grid = {"reward_weight": [2.0, 30.0], "lookahead": [3, 5]}
    found = run(small, grid, max_new_tokens=24)
    assert found.errors == ()
    plain = run(deal.load(folder / "tiny.gguf", compute="f32"), grid, max_new_tokens=24)
    assert [key(o) for o in found.outcomes] == [key(o) for o in plain.outcomes]


def test_sessions_are_given_back(lm: deal.Model) -> None:
    before = len(lm._sessions)
    run(lm, {"reward_weight": [1.0]})
    n_session, size = len(lm._sessions), lm.kv_size
    for _ in range(3):
        run(lm, {"reward_weight": [1.0, 4.0]})
    assert len(lm._sessions) == n_session <= max(1, before)
    assert lm.kv_size <= 2 * size


# --- errors --------------------------------------------------------------------------


def test_a_prompt_that_fails_leaves_the_others(lm: deal.Model) -> None:
    prompts = [PROMPTS[0], "", PROMPTS[1], [10**9], PROMPTS[2]]
    words = Words(fail_on=PROMPTS[1])
    found = run(
        lm, {"reward_weight": [1.0, 30.0]}, prompts, rewards=make_rewards(words)
    )
    errors = {each.i_prompt: each.error for each in found.errors}
    assert sorted(errors) == [1, 2, 3] and len(found.errors) == 6
    assert errors[1].startswith("ValueError: prompt: expected at least one token")
    assert errors[2] == "RuntimeError: told to fail"
    assert "prompt" in errors[3]
    good = run(lm, {"reward_weight": [1.0, 30.0]}, [PROMPTS[0], PROMPTS[2]])
    kept = [each for each in found.outcomes if each.error is None]
    assert [key(each) for each in kept] == [key(each) for each in good.outcomes]


def test_a_point_that_fails_leaves_the_next_right(lm: deal.Model) -> None:
    """What was asked when a reward failed is asked again, not taken for 0."""

    class Once(Words):
        def __call__(self, completions: list[str], **kwargs: Any) -> list[float]:
            if len(self.asked) == 0:
                self.asked.append("")
                raise RuntimeError("once")
            return super().__call__(completions, **kwargs)

    grid = {"reward_weight": [30.0, 30.0]}
    found = run(lm, grid, PROMPTS[:1], rewards=make_rewards(Once()))
    first, second = found.outcomes
    assert first.error == "RuntimeError: once" and second.error is None
    expected = run(lm, grid, PROMPTS[:1]).outcomes[0]
    assert key(second) == key(expected)


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({}, "expected a mapping"),
        ([1, 2], "expected a mapping"),
        ({"weight": [1]}, r"grid\['weight'\]: expected one of .*'keywords', 'words'"),
        ({"top_k": []}, r"grid\['top_k'\]: expected a list"),
        ({"mode": "exact"}, r"grid\['mode'\]: expected a list"),
        ({"top_k": 5}, r"grid\['top_k'\]: expected a list"),
        ({"top_k": [4, 0]}, "top_k: expected at least 1, got 0"),
        ({"mode": ["fast"]}, "mode: expected one of"),
        ({"keywords": [float("nan")]}, "finite|nan"),
    ],
)
def test_bad_grids(lm: deal.Model, grid: Any, message: str) -> None:
    words = Words()
    with pytest.raises(ValueError, match=message):
        run(lm, grid, rewards=make_rewards(words))
    assert words.asked == []


def test_bad_arguments(lm: deal.Model) -> None:
    grid = {"top_k": [2]}
    with pytest.raises(ValueError, match="prompts: expected at least one"):
        run(lm, grid, prompts=[])
    with pytest.raises(TypeError, match="prompts: expected a list"):
        run(lm, grid, prompts="the cat")
    with pytest.raises(TypeError, match="lm: expected deal.Model"):
        run("lm", grid)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="unexpected keyword argument 'tokens'"):
        run(lm, grid, tokens=3)
    with pytest.raises(TypeError, match="search: expected deal.Search"):
        run(lm, grid, search=3)
    with pytest.raises(ValueError, match=r"reward_kwargs\['answer'\]"):
        run(lm, grid, reward_kwargs={"answer": [1]})
    taken = deal.rewards.Keywords(["cat"], name="top_k")
    with pytest.raises(ValueError, match="give the reward another one"):
        run(lm, grid, rewards=taken)
    for name in ("reward", "logprob_per_token", "n"):
        column = deal.rewards.Keywords(["cat"], name=name)
        with pytest.raises(ValueError, match="a column of the results has this name"):
            run(lm, {name: [1.0, 2.0]}, rewards=column)
    with pytest.raises(ValueError, match="expected one of"):  # no weighted sum
        run(
            lm,
            {"keywords": [1.0]},
            rewards=deal.rewards.Keywords(["cat"])
            * 2
            * (deal.rewards.Keywords(["dog"], name="dogs")),
        )


# --- checkpoints ---------------------------------------------------------------------


def test_an_interrupted_sweep_goes_on(lm: deal.Model, tmp_path: Path) -> None:
    file = tmp_path / "sweep.jsonl"
    grid = {"reward_weight": [1.0, 5.0, 30.0]}
    with pytest.raises(KeyboardInterrupt):
        run(lm, grid, rewards=make_rewards(Words(fail_after=60)), checkpoint=file)
    n_done = len(file.read_text().splitlines()) - 1
    assert 0 < n_done < 9
    with open(file, "a") as out:
        out.write('{"key": "cut sh')  # as a crash leaves it
    words = Words()
    found = run(lm, grid, rewards=make_rewards(words), checkpoint=file)
    whole = run(lm, grid)
    assert [key(o) for o in found.outcomes] == [key(o) for o in whole.outcomes]
    assert 0 < len(words.asked)
    assert len(file.read_text().splitlines()) == 1 + 9
    words = Words()
    again = run(lm, grid, rewards=make_rewards(words), checkpoint=file)
    assert again == found and words.asked == []
    # The grid and the prompts may grow.
    grid = {"reward_weight": [1.0, 5.0, 30.0, 60.0]}
    prompts = [*PROMPTS, "red house"]
    more = run(lm, grid, prompts, rewards=make_rewards(words), checkpoint=file)
    assert [key(o) for o in more.outcomes] == [
        key(o) for o in run(lm, grid, prompts).outcomes
    ]
    assert len(file.read_text().splitlines()) == 1 + 16


def test_errors_are_tried_again(lm: deal.Model, tmp_path: Path) -> None:
    file, grid = tmp_path / "sweep.jsonl", {"reward_weight": [1.0]}
    bad = make_rewards(Words(fail_on=PROMPTS[1]))
    assert len(run(lm, grid, rewards=bad, checkpoint=file).errors) == 1
    assert run(lm, grid, checkpoint=file).errors == ()


def test_columns_tell_prompts_apart(lm: deal.Model, tmp_path: Path) -> None:
    file, grid = tmp_path / "sweep.jsonl", {"reward_weight": [30.0]}
    seen: list[Any] = []

    def answer(completions: list[str], answer: list[str], **kwargs: Any) -> list[float]:
        seen.extend(answer)
        return [float(answer[0] in text) for text in completions]

    rewards = deal.reward(answer, range=(0, 1), name="answer")
    prompts = [PROMPTS[0], PROMPTS[0]]
    columns = {"answer": ["dog", "river"]}
    found = run(
        lm, grid, prompts, rewards=rewards, reward_kwargs=columns, checkpoint=file
    )
    assert set(seen) == {"dog", "river"}
    assert len(file.read_text().splitlines()) == 3
    for outcome, word in zip(found.outcomes, columns["answer"], strict=True):
        assert outcome.reward == float(word in outcome.text)


def damaged(text: str, line: int, change: Any) -> str:
    lines = text.splitlines()
    row = json.loads(lines[line])
    change(row)
    lines[line] = json.dumps(row)
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda row: row["result"].pop("text"), "expected outcomes of"),
        (lambda row: row["result"].update(logprob="1"), "logprob of an outcome"),
        (lambda row: row["result"].update(score=float("nan")), "score of an outcome"),
        (lambda row: row["result"].update(n_tokens=-1), "n_tokens of an outcome"),
        (lambda row: row["result"].update(rewards={}), "rewards of an outcome"),
        (lambda row: row["result"].update(other=1), "expected outcomes of"),
        (lambda row: row.pop("key"), "line 2: expected a key and a result"),
        (lambda row: row.update(result=[]), "line 2: expected a result"),
    ],
)
def test_damaged_checkpoints(
    lm: deal.Model, tmp_path: Path, change: Any, message: str
) -> None:
    file, grid = tmp_path / "sweep.jsonl", {"reward_weight": [1.0]}
    run(lm, grid, PROMPTS[:1], checkpoint=file)
    file.write_text(damaged(file.read_text(), 1, change))
    with pytest.raises(ValueError, match=message):
        run(lm, grid, PROMPTS[:1], checkpoint=file)


def test_other_files_are_left_alone(lm: deal.Model, tmp_path: Path) -> None:
    grid = {"reward_weight": [1.0]}
    for text in ("notes", "notes\n", '{"format": "other"}\n', "[1]\n", "\xff\x00\n"):
        file = tmp_path / "notes.txt"
        file.write_text(text, encoding="latin-1")
        before = file.read_bytes()
        with pytest.raises(ValueError, match="line 1: expected"):
            run(lm, grid, checkpoint=file)
        assert file.read_bytes() == before
    with pytest.raises(OSError):
        run(lm, grid, checkpoint=tmp_path / "no" / "such" / "folder.jsonl")


def test_a_checkpoint_of_other_settings(lm: deal.Model, tmp_path: Path) -> None:
    file, grid = tmp_path / "sweep.jsonl", {"reward_weight": [1.0]}
    run(lm, grid, PROMPTS[:1], checkpoint=file)
    with pytest.raises(ValueError, match="another settings.*max_new_tokens"):
        run(lm, grid, PROMPTS[:1], checkpoint=file, max_new_tokens=5)
    with pytest.raises(ValueError, match="another search.*top_k=3"):
        run(lm, grid, PROMPTS[:1], checkpoint=file, search=deal.Search(top_k=3))
    with pytest.raises(ValueError, match="another rewards"):
        run(
            lm,
            grid,
            PROMPTS[:1],
            checkpoint=file,
            rewards=deal.rewards.Keywords(["cat"]),
        )


# --- what comes out ------------------------------------------------------------------


def test_frame_and_summary(lm: deal.Model) -> None:
    pandas = pytest.importorskip("pandas")
    grid = {"reward_weight": np.array([1.0, 30.0]), "keywords": (1.0, 0.0)}
    found = run(lm, grid, [*PROMPTS, ""])
    frame = found.frame()
    assert isinstance(frame, pandas.DataFrame) and len(frame) == 4 * 4
    assert {"reward_weight", "keywords", "reward:keywords", "text", "error"} <= set(
        frame.columns
    )
    assert frame["error"].notna().sum() == 4
    by_point = frame.groupby(["reward_weight", "keywords"])
    for row in found.summary():
        group = by_point.get_group((row["reward_weight"], row["keywords"]))
        group = group[group["error"].isna()]
        assert row["n"] == len(group) == 3
        for name in ("logprob", "n_tokens", "reward", "reward:words"):
            assert row[name] == pytest.approx(group[name].mean())
        per_token = (group["logprob"] / group["n_tokens"]).mean()
        assert row["logprob_per_token"] == pytest.approx(per_token)
    assert str(found).startswith("4 points, 16 outcomes, 4 errors; ")
    assert repr(found) == f"<deal.Sweep: {found}>"


def test_a_cell_shows_the_means(lm: deal.Model) -> None:
    asked = deal.reward(Words(), range=(0, 1), name="<words> & more")
    grid = {"top_k": [2, 4], "<words> & more": [0.5, 4.0]}
    search = deal.Search(lookahead=2)
    for prompts in (PROMPTS, [""]):  # the empty one is an error at every point
        found = deal.sweep(
            lm, prompts, grid, rewards=asked, search=search, max_new_tokens=6
        )
        page = found._repr_html_()
        assert str(found) in page and "<words>" not in page
        table = [
            re.findall("<t[hd][^>]*>(.*?)</t[hd]>", line)
            for line in re.findall("<tr>(.*?)</tr>", page)
        ]
        rows = found.summary()
        assert [html.unescape(key) for key in table[0]] == list(rows[0])
        assert len(table) == 1 + len(rows)
        for cells, row in zip(table[1:], rows, strict=True):
            for told, value in zip(cells, row.values(), strict=True):
                if value is None:
                    assert told == "-" and prompts == [""]
                else:
                    assert float(told) == pytest.approx(value, rel=1e-3)


def brute_front(points: Sequence[tuple[float, float]]) -> list[int]:
    def beats(a: tuple[float, float], b: tuple[float, float]) -> bool:
        return a[0] >= b[0] and a[1] >= b[1] and a != b

    return [
        i for i, p in enumerate(points) if not any(beats(other, p) for other in points)
    ]


def test_pareto_front() -> None:
    rng = np.random.default_rng(0)
    for n in (1, 2, 3, 5, 20):
        for _ in range(40):
            points = [tuple(map(float, row)) for row in rng.integers(0, 5, (n, 2))]
            found = pareto_front(points)
            assert sorted(found) == brute_front(points)
            assert [points[i] for i in found] == sorted(points[i] for i in found)


def test_plot(lm: deal.Model) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    found = run(lm, {"reward_weight": [0.0, 2.0, 30.0], "lookahead": [2, 5]})
    axes = found.plot()
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("reward:keywords", "reward:words")
    rows = found.summary()
    places = [(row["reward:keywords"], row["reward:words"]) for row in rows]
    drawn = axes.collections[0].get_offsets().tolist()
    assert drawn == [pytest.approx(place) for place in places]
    front = axes.lines[0].get_xydata().tolist()
    assert front == [pytest.approx(places[i]) for i in pareto_front(places)]
    assert found.front() == [rows[i] for i in pareto_front(places)]
    timed = [(row["reward"], row["seconds"]) for row in rows]
    chosen = [rows[i] for i in pareto_front(timed)]
    assert found.front("reward", "seconds") == chosen
    labels = [text.get_text() for text in axes.texts]
    assert len(labels) == len(set(places))
    assert labels[0].startswith("0, 2")
    n_more = sum(
        int(word) for text in labels for word in re.findall("and ([0-9]+)", text)
    )
    assert len(labels) + n_more == len(rows)
    given = matplotlib.figure.Figure().subplots()
    assert found.plot("logprob_per_token", "reward", ax=given) is given
    with pytest.raises(ValueError, match="y: expected one of .*got 'speed'"):
        found.plot(y="speed")
    with pytest.raises(ValueError, match="x: expected one of .*got 'speed'"):
        found.front("speed")
    failed = run(lm, {"top_k": [2]}, [""])
    assert failed.front() == []
    with pytest.raises(ValueError, match="nothing to plot"):
        failed.plot()


@pytest.mark.parametrize("module", ["pandas", "matplotlib.pyplot"])
def test_extras_are_named(
    lm: deal.Model, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, module, None)
    found = run(lm, {"top_k": [2]}, PROMPTS[:1])
    with pytest.raises(ImportError, match=r"deal-lm\[notebook\]"):
        found.frame() if module == "pandas" else found.plot()


def test_progress(lm: deal.Model, capsys: pytest.CaptureFixture[str]) -> None:
    run(lm, {"top_k": [1, 2]}, progress=True)
    assert re.search(r"sweep: 100%.* 6/6", capsys.readouterr().err)
    run(lm, {"top_k": [1, 2]})
    assert capsys.readouterr().err == ""
