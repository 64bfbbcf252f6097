"""Python rewards with bounds, and Python rewards that are not pure."""

from __future__ import annotations

import dataclasses
import math
import random
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from generation import PROMPT, PROMPTS, WORDS, coverage, python_keywords
from tiny_model import TinyConfig, make_tiny, write_gguf

import deal
from deal import _core

ROOT = Path(__file__).parents[2]
SEARCH = deal.Search(top_k=4, lookahead=6, reward_weight=4.0)
NAIVE = dataclasses.replace(SEARCH, mode="naive")
SEARCHES = [
    SEARCH,
    dataclasses.replace(SEARCH, num_beams=3),
    dataclasses.replace(SEARCH, num_beams=2, commit=3, lookahead=4),
    dataclasses.replace(SEARCH, reward_weight=-3.0, commit=2),
    dataclasses.replace(SEARCH, skip_above=0.3),
]
STOPS = [None, ["er"], [" the", "ou", "s a"]]


@pytest.fixture(scope="module", params=["byte", "spm"])
def lm(request: Any, tmp_path_factory: pytest.TempPathFactory) -> deal.Model:
    path = tmp_path_factory.mktemp("bounds") / "tiny.gguf"
    write_gguf(make_tiny(TinyConfig(seed=0, vocab=request.param)), path)
    return deal.load(path, compute="f32", threads=2)


def decided(r: deal.Generation) -> list[Any]:
    """All that a search decides."""
    chosen = [
        {c.token_id for c in decision.candidates if c.is_chosen} for decision in r.trace
    ]
    return [r.text, r.token_ids, r.logprob, r.rewards, r.score, r.finish_reason, chosen]


# --- bounds --------------------------------------------------------------------------


class Asked:
    """Coverage of words with its bounds, a token touching one word at most."""

    def __init__(self) -> None:
        self.scored: list[str] = []
        self.bounded: list[tuple[str, str, int]] = []

    def score(self, completions: list[str], **kwargs: Any) -> list[float]:
        self.scored += completions
        return coverage(completions, WORDS)

    def bounds(self, prompt: str, text: str, tokens_left: int) -> tuple[float, float]:
        self.bounded.append((prompt, text, tokens_left))
        closed = text[: -len(re.search(r"\w*$", text)[0]) or None]
        low, now = coverage([closed, text], WORDS)
        return low, min(1.0, now + tokens_left / len(WORDS))

    def reward(self) -> deal.Reward:
        return deal.reward(self.score, range=(0, 1), bounds=self.bounds, name="asked")


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("stop", STOPS)
def test_bounds_change_no_decision(
    lm: deal.Model, search: deal.Search, stop: list[str] | None
) -> None:
    n_bounded = 0
    for prompt in PROMPTS:
        asked = Asked()
        given = {"max_new_tokens": 20, "stop": stop}
        r = lm.generate(prompt, rewards=asked.reward(), search=search, **given)
        naive = dataclasses.replace(search, mode="naive")
        want = lm.generate(prompt, rewards=python_keywords, search=naive, **given)
        want_rewards = {"asked": want.reward}
        expected = decided(dataclasses.replace(want, rewards=want_rewards))
        assert decided(r) == expected
        assert max(Counter(asked.bounded).values(), default=0) <= 1
        assert {p for p, _, _ in asked.bounded} <= {prompt}
        for _, text, tokens_left in asked.bounded:
            assert 1 <= tokens_left <= search.lookahead + 4  # bytes that are pending
            for held in stop or []:
                cuts = [held[:n] for n in range(1, len(held) + 1)]
                assert not text.endswith(tuple(cuts))
        n_bounded += len(asked.bounded)
    assert n_bounded > 20


def test_bounds_spare_rollouts_and_scores(lm: deal.Model) -> None:
    asked = Asked()
    n_scored, n_rows = [0, 0], [0, 0]
    for prompt in PROMPTS:
        plain = Asked()
        only_range = deal.reward(plain.score, range=(0, 1), name="asked")
        exact = deal.Exact(drafts=False, speculation=False)  # what hangs on clocks
        search = dataclasses.replace(SEARCH, exact=exact)
        given = {"max_new_tokens": 24, "search": search}
        results = [
            lm.generate(prompt, rewards=reward, **given)
            for reward in (only_range, asked.reward())
        ]
        assert decided(results[0]) == decided(results[1])
        for side, r in enumerate(results):
            n_rows[side] += r.stats.n_rollout_tokens
        n_scored[0] += len(plain.scored)
    n_scored[1] = len(asked.scored)
    assert n_scored[1] < n_scored[0] and n_rows[1] < n_rows[0], (n_scored, n_rows)


def test_documented_bounds(lm: deal.Model) -> None:
    text = (ROOT / "docs" / "rewards.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(def left_to_say.*?)```", text, re.DOTALL)
    names: dict[str, Any] = {"deal": deal}
    exec(example.replace("please", "river"), names)
    for prompt in PROMPTS:
        given = {"rewards": names["pleading"], "max_new_tokens": 20}
        r = lm.generate(prompt, search=SEARCH, **given)
        want = lm.generate(prompt, search=NAIVE, **given)
        assert decided(r) == decided(want)
        assert r.stats.n_reward_texts < want.stats.n_reward_texts


def test_only_mode_exact_asks_for_bounds(lm: deal.Model) -> None:
    asked = Asked()
    for search in (
        NAIVE,
        dataclasses.replace(SEARCH, exact=deal.Exact(bounds=False)),
        dataclasses.replace(SEARCH, lookahead=0),  # nothing is ever incomplete
        deal.Search(mode="segment", top_k=2, lookahead=4),
    ):
        lm.generate(PROMPT, rewards=asked.reward(), search=search, max_new_tokens=8)
    lm.generate(PROMPT, rewards=asked.reward(), num_beams=1, sampling=deal.Sampling())
    assert asked.scored and not asked.bounded


def test_bounds_of_the_parts_of_a_sum(lm: deal.Model) -> None:
    asked, other = Asked(), Asked()
    total = asked.reward() - 0.5 * other.reward() + deal.rewards.Length(max=6)
    r = lm.generate(PROMPT, rewards=total, search=SEARCH, max_new_tokens=16)
    want = lm.generate(PROMPT, rewards=total, search=NAIVE, max_new_tokens=16)
    assert decided(r) == decided(want)
    assert asked.bounded == other.bounded != []


def test_a_text_that_comes_twice_is_bounded_once() -> None:
    asked = Asked()
    bounds = asked.reward()._bounds
    found = bounds("p", ["a", "b", "a", "a"], [3, 3, 3, 2], {})
    assert found[0] == found[2] and len(found) == 4
    assert asked.bounded == [("p", "a", 3), ("p", "b", 3), ("p", "a", 2)]


def test_columns_that_bounds_get(lm: deal.Model) -> None:
    seen: list[Any] = []

    def some(prompt: str, text: str, n: int, label: str) -> tuple[float, float]:
        seen.append(label)
        return 0, 1

    def every(prompt: str, text: str, n: int, **kwargs: Any) -> tuple[float, float]:
        seen.append(kwargs)
        return 0, 1

    for bounds in (some, every):
        reward = deal.reward(range=(0, 1), bounds=bounds, per_text=True)(lambda t: 0.5)
        columns = {"label": ["x"], "text": ["y"]}
        lm.generate([PROMPT], rewards=reward, search=SEARCH, reward_kwargs=columns)
        assert all(s in ("x", {"label": "x"}) for s in seen), seen
        assert seen
        seen.clear()


def through_capsule(reward: deal.Reward, text: str, n_left: int) -> Any:
    state = _core.RewardState(reward._capsule({}), "the prompt")
    state.advance(text.encode())
    return state.bounds(n_left)


def test_bounds_that_count() -> None:
    for pair in ([0, 1], (0.0, 1), np.array([0.0, 1.0]), (np.float32(0), True)):
        reward = deal.reward(lambda completions: [0], bounds=lambda p, t, n, v=pair: v)
        assert through_capsule(reward, "a", 3) == (0.0, 1.0)
    wide = (-math.inf, math.inf)
    reward = deal.reward(lambda completions: [0], bounds=lambda p, t, n: wide)
    assert through_capsule(reward, "a", 3) == wide
    seen: list[Any] = []
    reward = deal.reward(
        lambda completions: [0], bounds=lambda *given: seen.append(given) or (0, 1)
    )
    assert through_capsule(reward, "\u00e9\0", 2) == (0.0, 1.0)
    assert seen == [("the prompt", "\u00e9\0", 2)]


BAD_BOUNDS: list[tuple[Any, type[Exception], str]] = [
    (None, TypeError, "two numbers .*got None"),
    (0.5, TypeError, "two numbers .*got 0.5"),
    ("01", TypeError, "two numbers .*got '01'"),
    ((0.0,), TypeError, "two numbers"),
    ((0.0, 0.5, 1.0), TypeError, "two numbers"),
    ((0.0, "1"), TypeError, "two numbers"),
    ((0.0, None), TypeError, "two numbers"),
    ((0.0, 1j), TypeError, "two numbers"),
    ((0, 10**400), ValueError, "floats"),
    ((math.nan, 1.0), ValueError, "low <= high, got .nan"),
    ((0.0, math.nan), ValueError, "low <= high"),
    ((0.75, 0.25), ValueError, r"low <= high, got \(0.75, 0.25\) for \d+ tokens left"),
]


@pytest.mark.parametrize(("value", "error", "message"), BAD_BOUNDS)
def test_bounds_that_break_the_contract(
    lm: deal.Model, value: Any, error: type[Exception], message: str
) -> None:
    reward = deal.reward(
        lambda completions: [0.5] * len(completions),
        range=(0, 1),
        bounds=lambda p, t, n: value,
        name="mine",
    )
    ways: list[Callable[[], Any]] = [
        lambda: through_capsule(reward, "a", 3),
        lambda: lm.generate(PROMPT, rewards=reward, search=SEARCH),
    ]
    for way in ways:
        with pytest.raises(deal.RewardError, match=message) as caught:
            way()
        assert isinstance(caught.value, error) and "'mine'" in str(caught.value)
    lm.generate(PROMPT, rewards=reward, search=NAIVE)  # never asks


def steer(lm: deal.Model, bounds: Callable[..., Any], score: float = 0.5) -> Any:
    reward = deal.reward(
        lambda completions: [score] * len(completions),
        range=(0, 1),
        bounds=bounds,
        name="mine",
    )
    search = dataclasses.replace(SEARCH, reward_weight=40.0)  # every score matters
    return lm.generate(PROMPT, rewards=reward, search=search, max_new_tokens=8)


def test_bounds_outside_of_the_range(lm: deal.Model) -> None:
    message = r"reward \"mine\".*bounds \[2, 3\] do not meet \[0, 1\]"
    with pytest.raises(deal.RewardError, match=message):
        steer(lm, lambda p, t, n: (2, 3))
    r = steer(lm, lambda p, t, n: (-math.inf, 7))  # what is outside says nothing
    assert r.reward == 0.5
    assert all(c.bounds[1] <= c.logprob + 40.0 for d in r.trace for c in d.candidates)


def test_score_that_breaks_its_bounds(lm: deal.Model) -> None:
    message = r"reward \"mine\".*score 0.5 is not in \[0, 0.25\], the bounds"
    with pytest.raises(deal.RewardError, match=message):
        steer(lm, lambda p, t, n: (0, 0.25 if n > 1 else 1))  # the first one holds on
    with pytest.raises(deal.RewardError, match="do not meet"):
        steer(lm, lambda p, t, n: (0, 0.25) if n > 4 else (0.5, 1))
    # Bounds without width are the score, which is not asked for.
    assert steer(lm, lambda p, t, n: (0.25, 0.25), score=0.25).reward == 0.25


def test_bounds_that_raise(lm: deal.Model) -> None:
    error = KeyError("mine")
    n_calls = 0

    def raising(prompt: str, text: str, tokens_left: int) -> Any:
        nonlocal n_calls
        n_calls += 1
        if n_calls == 7:
            raise error
        return 0, 1

    with pytest.raises(KeyError) as caught:
        steer(lm, raising)
    assert caught.value is error and caught.traceback[-1].name == "raising"
    assert steer(lm, lambda p, t, n: (0, 1)).reward == 0.5  # the model goes on


def test_bounds_that_use_the_model(lm: deal.Model) -> None:
    def asking(prompt: str, text: str, tokens_left: int) -> Any:
        return 0, len(lm.generate(PROMPTS[1], max_new_tokens=2).token_ids) / 2

    assert steer(lm, asking).reward == 0.5


async def not_plain(prompt: str, text: str, tokens_left: int) -> Any:
    return 0, 1


@pytest.mark.parametrize("bounds", [5, not_plain, lambda text: (0, 1)])
def test_bounds_that_are_refused(bounds: Any) -> None:
    with pytest.raises(TypeError, match="'mine': bounds: expected a function"):
        deal.reward(lambda completions: [0], bounds=bounds, name="mine")


# --- not pure ------------------------------------------------------------------------


class Moody:
    """A score that hangs on what was asked before, and a diary of it."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.calls: list[list[str]] = []

    def __call__(self, completions: list[str], **kwargs: Any) -> list[float]:
        self.calls.append(list(completions))
        return [self.rng.random() for _ in completions]


def run_moody(lm: deal.Model, search: deal.Search, stop: Any, others: bool) -> Any:
    """Everything that comes out of a search, and all calls in their order."""
    calls: list[Any] = []
    moody = [Moody(1), Moody(2)]

    def pure(completions: list[str], **kwargs: Any) -> list[float]:
        calls.append(("pure", list(completions)))
        return coverage(completions, WORDS)

    def impure(completions: list[str], **kwargs: Any) -> list[float]:
        calls.append(("impure", list(completions)))
        return moody[0](completions)

    rewards: Any = deal.reward(impure, range=(0, 1), pure=False)
    if others:
        rewards = deal.rewards.Keywords(WORDS) + deal.reward(pure, range=(0, 1))
        rewards += 0.5 * deal.reward(impure, range=(0, 1), pure=False)
        rewards -= deal.reward(moody[1], pure=False, name="unbounded")
        assert not rewards.pure
    found = [
        lm.generate(
            prompt,
            rewards=rewards,
            search=search,
            stop=stop,
            max_new_tokens=14,
            num_return_sequences=search.num_beams,
        )
        for prompt in PROMPTS
    ]
    rows = [r if isinstance(r, list) else [r] for r in found]
    return [[decided(r) for r in row] for row in rows], calls, moody[1].calls


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("others", [False, True])
def test_impure_reward_is_asked_as_naive_asks(
    lm: deal.Model, search: deal.Search, others: bool
) -> None:
    naive = dataclasses.replace(search, mode="naive")
    for stop in STOPS:
        want = run_moody(lm, naive, stop, others)
        assert run_moody(lm, search, stop, others) == want
        assert any(call[0] == "impure" for call in want[1])


@pytest.mark.parametrize("mode", ["exact", "naive"])
@pytest.mark.parametrize("search", SEARCHES)
def test_no_text_is_asked_twice(lm: deal.Model, search: deal.Search, mode: str) -> None:
    """Whatever tokens it came of, and whether an end token closed it or none did."""
    n_asked = n_shared = 0
    for seed in range(6):
        asked = Asked()
        r = lm.generate(
            PROMPT,
            rewards=asked.reward(),
            search=dataclasses.replace(search, mode=mode),
            eos_token_id=list(range(seed, lm.hparams.n_vocab, 6)),
            max_new_tokens=16,
        )
        assert len(set(asked.scored)) == len(asked.scored)
        assert len(set(asked.bounded)) == len(asked.bounded)
        n_asked += len(asked.scored)
        n_shared += r.stats.n_reward_texts - len(asked.scored)
    assert n_asked > 0 and (n_shared > 0 or search.skip_above)


def test_texts_are_asked_again(lm: deal.Model) -> None:
    """A pure reward is asked about none twice, an impure one about all of naive's."""
    moody, pure = Moody(3), Moody(4)
    pure.rng.random = lambda: 0.5  # type: ignore[method-assign]
    for reward in (
        deal.reward(moody, range=(0, 1), pure=False),
        deal.reward(pure, range=(0, 1)),
    ):
        r = lm.generate(PROMPT, rewards=reward, search=NAIVE, max_new_tokens=16)
    asked = [text for call in moody.calls for text in call]
    n_candidates = sum(len(decision.candidates) for decision in r.trace)
    assert len(moody.calls) == r.stats.n_steps and len(asked) == n_candidates
    assert max(Counter(asked).values()) > 1
    asked = [text for call in pure.calls for text in call]
    assert len(set(asked)) == len(asked) < n_candidates


def test_impure_reward_in_other_modes(lm: deal.Model) -> None:
    segment = deal.Search(mode="segment", top_k=3, lookahead=4, num_beams=1)
    texts = []
    for _ in range(2):
        moody = deal.reward(Moody(5), range=(0, 1), pure=False)
        r = lm.generate(PROMPT, rewards=moody, search=segment, max_new_tokens=12)
        texts.append(r.text)
    assert texts[0] == texts[1]
    moody = Moody(6)
    reward = deal.reward(moody, range=(0, 1), pure=False)
    lm.generate(PROMPT, rewards=reward, sampling=deal.Sampling(seed=1))
    assert len(moody.calls) == 1


def test_pure_and_its_absence_are_told() -> None:
    moody = deal.reward(pure=False, per_text=True)(lambda text: 0.0)
    assert not moody.pure and deal.rewards.Keywords(["a"]).pure
    assert not (deal.rewards.Keywords(["a"]) + 0.5 * moody).pure
    assert not deal.rewards.Native(moody._capsule({})).pure
    assert _core.reward_info(moody._capsule({}))[4] is False
    with pytest.raises(ValueError, match="bounds: a reward that is not pure"):
        deal.reward(lambda completions: [0], bounds=lambda p, t, n: (0, 1), pure=False)
