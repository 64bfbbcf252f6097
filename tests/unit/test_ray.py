"""deal.ray.map on a local cluster of two actors."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from generation import PROMPT, PROMPTS, WORDS
from tiny_model import TinyConfig, make_tiny, write_gguf

import deal

SEARCH = deal.Search(top_k=3, lookahead=4, reward_weight=2.0)
N_NEW = 8


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ray") / "tiny.gguf"
    write_gguf(make_tiny(TinyConfig(seed=0)), path)
    return path


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    pytest.importorskip("ray.data", reason="Ray Data is not installed")
    tests = str(Path(__file__).parent.parent)  # where actors find what tests import
    paths = os.pathsep.join([tests, str(Path(__file__).parent)])
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        runtime_env={"env_vars": {"PYTHONPATH": paths}},
        log_to_driver=False,
    )
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield ray
    ray.shutdown()


def marked(path: Path) -> Any:
    """A reward that notes each call, and fails on the prompts of its column."""

    @deal.reward(name="marked", range=(0, 1))
    def reward(completions: list[str], fails: list[int], **kwargs: Any) -> list[float]:
        with path.open("a") as file:
            file.write("x\n")
        n_calls = len(path.read_text().splitlines())
        if fails[0] >= n_calls:
            raise RuntimeError(f"call {n_calls} of {fails[0]}")
        return [float("cat" in text) for text in completions]

    return reward


def by_prompt(dataset: Any) -> dict[str, dict[str, Any]]:
    return {row["prompt"]: row for row in dataset.take_all()}


def test_two_actors_give_what_one_process_gives(cluster: Any, path: Path) -> None:
    prompts = [f"{prompt} {word}" for prompt in PROMPTS for word in WORDS]
    rewards = deal.rewards.Keywords(WORDS) + 0.5 * deal.rewards.Length("words", max=4)
    settings = {"search": SEARCH, "max_new_tokens": N_NEW}
    rows = [{"prompt": prompt, "id": i} for i, prompt in enumerate(prompts)]
    found = deal.ray.map(
        cluster.data.from_items(rows),
        model=path,
        rewards=rewards,
        actors=2,
        batch_size=2,
        **settings,
    ).take_all()
    lm = deal.load(path)
    assert sorted(row["id"] for row in found) == list(range(len(prompts)))
    for row in found:
        r = lm.generate(prompts[row["id"]], rewards=rewards, **settings)
        assert row["prompt"] == prompts[row["id"]]
        assert (row["text"], tuple(row["token_ids"])) == (r.text, r.token_ids)
        assert (row["logprob"], row["score"]) == (r.logprob, r.score)
        assert (row["reward"], row["rewards"]) == (r.reward, r.rewards)
        assert row["stats"]["n_steps"] == r.stats.n_steps
        assert row["error"] is None


def test_conversations_and_setup(cluster: Any, path: Path) -> None:
    messages = [{"role": "user", "content": PROMPT}]

    def setup(lm: deal.Model) -> dict[str, Any]:
        return {"rewards": deal.rewards.Fluency(lm)}

    (row,) = deal.ray.map(
        [messages], model=path, setup=setup, search=SEARCH, max_new_tokens=N_NEW
    ).take_all()
    lm = deal.load(path)
    fluent = deal.rewards.Fluency(lm)
    r = lm.chat(messages, rewards=fluent, search=SEARCH, max_new_tokens=N_NEW)
    assert (row["text"], row["rewards"]) == (r.text, r.rewards)


def test_rows_that_raise_are_rows_and_are_tried_again(
    cluster: Any, path: Path, tmp_path: Path
) -> None:
    rows = [
        {"prompt": PROMPTS[0], "fails": 0},
        {"prompt": PROMPTS[1], "fails": 10**6},
    ]
    reward = marked(tmp_path / "calls")
    settings = {"model": path, "rewards": reward, "max_new_tokens": N_NEW}
    found = by_prompt(deal.ray.map(rows, **settings))
    assert found[PROMPTS[0]]["text"] and found[PROMPTS[0]]["error"] is None
    bad = found[PROMPTS[1]]
    assert "RuntimeError: call" in bad["error"] and bad["text"] is None
    with pytest.raises(Exception, match="call .* of 1000000"):
        deal.ray.map(rows, on_error="raise", **settings).take_all()

    once = [{"prompt": PROMPT, "fails": 1}]
    again = marked(tmp_path / "again")
    settings["rewards"] = again
    (row,) = deal.ray.map(once, retries=1, **settings).take_all()
    assert row["error"] is None and row["text"]


def test_checkpoint_keeps_what_is_done(
    cluster: Any, path: Path, tmp_path: Path
) -> None:
    calls = tmp_path / "calls"
    rows = [{"prompt": PROMPTS[0], "fails": 0}, {"prompt": PROMPTS[1], "fails": 10**6}]
    settings = {
        "model": path,
        "rewards": marked(calls),
        "max_new_tokens": N_NEW,
        "checkpoint": tmp_path / "kept",
    }
    first = by_prompt(deal.ray.map(rows, **settings))
    calls.write_text("x\n" * 10**6)  # what failed works from here on
    n_calls = len(calls.read_text().splitlines())
    second = by_prompt(deal.ray.map(rows[:1], **settings))
    assert len(calls.read_text().splitlines()) == n_calls  # none for the row it has
    assert second[PROMPTS[0]] == first[PROMPTS[0]]
    third = by_prompt(deal.ray.map(rows, **settings))
    assert third[PROMPTS[0]] == first[PROMPTS[0]]
    assert third[PROMPTS[1]]["error"] is None and third[PROMPTS[1]]["text"]
    with pytest.raises(ValueError, match="other settings"):
        deal.ray.map(rows, **{**settings, "max_new_tokens": N_NEW + 1})
    others = {
        "column": "fails",
        "load_kwargs": {"compute": "int8"},
        "setup": lambda lm: {"search": SEARCH},
    }
    for name, value in others.items():
        with pytest.raises(ValueError, match="other settings"):
            deal.ray.map(rows, **{**settings, name: value})


def test_an_actor_that_dies_loses_no_row(
    cluster: Any, path: Path, tmp_path: Path
) -> None:
    flag = tmp_path / "died"

    @deal.reward(per_text=True, range=(0, 1))
    def fatal(text: str) -> float:
        if not flag.exists():
            flag.touch()
            os._exit(1)
        return 1.0

    found = deal.ray.map(
        PROMPTS, model=path, rewards=fatal, batch_size=1, max_new_tokens=N_NEW
    ).take_all()
    assert flag.exists()
    assert sorted(row["prompt"] for row in found) == sorted(PROMPTS)
    assert all(row["error"] is None and row["text"] for row in found)


def test_bad_arguments(cluster: Any, path: Path) -> None:
    with pytest.raises(ValueError, match="actors"):
        deal.ray.map(PROMPTS, actors=0)
    with pytest.raises(TypeError, match="prompts: expected a list"):
        deal.ray.map("one string")
    with pytest.raises(ValueError, match="num_return_sequences"):
        deal.ray.map(PROMPTS, num_return_sequences=2)
    with pytest.raises(ValueError, match="on_error"):
        deal.ray.map(PROMPTS, on_error="ignore")
    with pytest.raises(TypeError, match="unexpected keyword argument 'max_tokens'"):
        deal.ray.map(PROMPTS, max_tokens=3)
    with pytest.raises(ValueError, match="ray_remote_args: num_cpus"):
        deal.ray.map(PROMPTS, ray_remote_args={"num_cpus": 2})
    with pytest.raises(Exception, match="column: expected 'prompt'"):
        deal.ray.map([{"question": "a"}], model=path).take_all()
    with pytest.raises(Exception, match="would hide .'text'"):
        deal.ray.map([{"prompt": "a", "text": "b"}], model=path).take_all()


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray.data", None)  # type: ignore[arg-type]
    with pytest.raises(ImportError, match=r"deal-lm\[ray\]"):
        deal.ray.map(PROMPTS)


@pytest.mark.parametrize("is_bad", [False, True])
def test_rows_that_share_passes(path: Path, tmp_path: Path, is_bad: bool) -> None:
    """An actor's rows together: each as it is alone, also where one of them fails."""
    pa = pytest.importorskip("pyarrow", reason="Ray Data is not installed")
    from deal.ray import Kept, Worker

    prompts = [*PROMPTS, *(f"{word} {PROMPT}" for word in WORDS)]
    if is_bad:
        prompts[2] = PROMPT * 100  # longer than the context
    options = {
        "rewards": deal.rewards.Keywords(WORDS),
        "search": SEARCH,
        "max_new_tokens": N_NEW,
    }
    kept = Kept(tmp_path, {"model": "tiny"}, options)
    worker = Worker(str(path), {}, options, "prompt", None, 0, "keep", kept)
    table = pa.table({"prompt": prompts, "id": list(range(len(prompts)))})
    rows = worker(table).to_pylist()
    lm = deal.load(path)
    before = worker._lm.n_forward_tokens
    for i, row in enumerate(rows):
        assert row["id"] == i and row["prompt"] == prompts[i]
        if is_bad and i == 2:
            assert row["error"].startswith("ContextLengthError")
            continue
        alone = lm.generate(prompts[i], **options)
        assert row["error"] is None and row["text"] == alone.text
        assert (row["logprob"], row["score"]) == (alone.logprob, alone.score)
    again = worker(table).to_pylist()
    assert [row["text"] for row in again] == [row["text"] for row in rows]
    assert worker._lm.n_forward_tokens == before  # all were kept
