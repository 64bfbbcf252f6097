"""Reward functions with the signature that TRL documents, unchanged.

A trainer calls ``fn(prompts=..., completions=..., completion_ids=..., **columns)``,
where the columns are those of the data set and ``trainer_state``, ``log_extra`` and
``log_metric`` come along; a score may be None. With conversational data a prompt is a
list of messages and a completion a list of one.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
from generation import PROMPT, PROMPTS, SEARCH, WORDS
from tiny_model import TinyConfig, make_tiny, write_gguf

import deal
from deal.rewards import Keywords, from_trl


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> deal.Model:
    path = tmp_path_factory.mktemp("trl") / "tiny.gguf"
    write_gguf(make_tiny(TinyConfig(seed=0)), path)
    return deal.load(path, compute="f32", threads=1)


# --- functions of TRL's documentation, in kind ----------------------------------------


def length(completions: list[str], **kwargs: Any) -> list[float]:
    return [float(len(text)) for text in completions]


def has_answer(
    prompts: list[str], completions: list[str], answer: list[str], **kwargs: Any
) -> list[float]:
    assert len(prompts) == len(completions) == len(answer)
    return [float(a in text) for text, a in zip(completions, answer, strict=True)]


def of_one_task(
    completions: list[str], task: list[str], **kwargs: Any
) -> list[float | None]:
    return [
        float(len(text)) if kind == "long" else None
        for text, kind in zip(completions, task, strict=True)
    ]


def format_of_messages(completions: list[Any], **kwargs: Any) -> list[float]:
    contents = [completion[0]["content"] for completion in completions]
    return [1.0 if re.match(r" ?[a-z]", text) else 0.0 for text in contents]


def asks_the_trainer(
    completions: list[str],
    trainer_state: Any,
    log_extra: Any,
    log_metric: Any = None,
    **kwargs: Any,
) -> list[float]:
    log_extra("texts", list(completions))
    log_metric("n", len(completions))
    step = 0 if trainer_state is None else trainer_state.global_step
    return [float(step) + len(text) for text in completions]


def test_functions_are_rewards_as_they_are(lm: deal.Model) -> None:
    r = lm.generate(PROMPT, rewards=length, search=SEARCH, max_new_tokens=6)
    assert r.reward == len(r.text)
    rs = lm.generate(
        PROMPTS,
        rewards=deal.reward(length) + 2.0 * deal.reward(has_answer),
        search=SEARCH,
        max_new_tokens=6,
        reward_kwargs={"answer": WORDS[: len(PROMPTS)]},
    )
    for r, answer in zip(rs, WORDS, strict=False):
        assert r.rewards == {
            "length": len(r.text),
            "has_answer": float(answer in r.text),
        }


def test_none_does_not_apply(lm: deal.Model) -> None:
    reward = from_trl(of_one_task)
    texts = ["a", "bb", "ccc"]
    task = ["long", "short", "long"]
    assert reward.score(texts, task=task) == [1.0, 0.0, 3.0]
    summed = from_trl([of_one_task, length], weights=[2.0, -1.0])
    assert summed.score(texts, task=task) == [1.0, -2.0, 3.0]
    assert [part.name for part in summed.parts()] == ["of_one_task", "length"]
    plain = from_trl([of_one_task, length])
    assert plain.score(texts, task=task) == [2.0, 2.0, 6.0]
    rs = lm.generate(
        PROMPTS[:2],
        rewards=reward + Keywords(WORDS),
        search=SEARCH,
        max_new_tokens=6,
        reward_kwargs={"task": ["long", "short"]},
    )
    assert [r.rewards["of_one_task"] for r in rs] == [len(rs[0].text), 0.0]
    # Where it was not said to come from there, it is taken for a mistake.
    with pytest.raises(deal.RewardError, match="expected a number, got NoneType"):
        deal.reward(of_one_task).score(texts, task=task)


def test_none_widens_the_range() -> None:
    def some(completions: list[str], **kwargs: Any) -> list[float | None]:
        return [None if not text else float(len(text)) for text in completions]

    assert from_trl(some, range=(1, 3)).range == (0.0, 3.0)
    assert from_trl(some, range=(1, 3)).score(["", "a", "bbb"]) == [0.0, 1.0, 3.0]
    assert from_trl(some, range=(-3, -1)).range == (-3.0, 0.0)
    assert from_trl(some, range=(-3, 1)).range == (-3.0, 1.0)
    with pytest.raises(deal.RewardError, match="in its range"):
        from_trl(some, range=(1, 3)).score(["four"])


def test_conversations(lm: deal.Model) -> None:
    reward = from_trl(format_of_messages, conversational=True)
    assert reward.score(["ab", "AB"]) == [1.0, 0.0]
    seen: list[Any] = []

    def look(prompts: Any, completions: Any, **kwargs: Any) -> list[float]:
        seen.extend(zip(prompts, completions, strict=True))
        return [0.0] * len(completions)

    messages = [{"role": "user", "content": "the cat"}]
    both = reward + from_trl(look, conversational=True)
    r = lm.chat(messages, rewards=both, search=SEARCH, max_new_tokens=6)
    assert r.rewards["format_of_messages"] == float(
        re.match(r" ?[a-z]", r.text) is not None
    )
    assert all(prompt == messages for prompt, _ in seen)
    assert [{"role": "assistant", "content": r.text}] in [c for _, c in seen]
    seen.clear()
    both.score(["x"], "she said")
    asked = [{"role": "user", "content": "she said"}]
    assert seen == [(asked, [{"role": "assistant", "content": "x"}])]


def test_what_trainers_pass(lm: deal.Model) -> None:
    r = lm.generate(
        PROMPT, rewards=from_trl(asks_the_trainer), search=SEARCH, max_new_tokens=6
    )
    assert r.reward == len(r.text)


def test_completion_ids(lm: deal.Model) -> None:
    def count(
        completions: list[str], completion_ids: list[list[int]], **kwargs: Any
    ) -> list[float]:
        return [float(len(ids)) for ids in completion_ids]

    texts = [" the cat", " dog"]
    reward = from_trl(count, tokenizer=lm.tokenizer)
    assert reward.score(texts) == [
        float(len(lm.tokenizer.encode(text, add_special_tokens=False)))
        for text in texts
    ]
    with pytest.raises(TypeError, match="takes completion_ids; give the tokenizer"):
        from_trl(count)


def test_functions_without_kwargs() -> None:
    def bare(completions: list[str]) -> list[float]:
        return [1.0 for _ in completions]

    assert from_trl(bare).score(["a"], "p", answer=["b"]) == [1.0]


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: from_trl("length"), "expected reward functions"),
        (lambda: from_trl([length, 3]), "expected reward functions"),
        (lambda: from_trl(type("M", (), {"forward": 1, "__call__": 1})()), "for a mod"),
        (lambda: from_trl(lambda texts: texts), "a parameter 'completions'"),
    ],
)
def test_what_is_refused(make: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        make()


def test_async_functions_are_refused() -> None:
    async def later(completions: list[str], **kwargs: Any) -> list[float]:
        return [0.0 for _ in completions]

    with pytest.raises(TypeError, match="got async"):
        from_trl(later)


def test_weights_fit_the_functions() -> None:
    with pytest.raises(ValueError, match="weights: expected 2, one a function, got 1"):
        from_trl([length, format_of_messages], weights=[1.0])


def test_what_a_function_returns_is_checked() -> None:
    def broken(completions: list[str], **kwargs: Any) -> Any:
        return None

    with pytest.raises(deal.RewardError, match="expected a list of 1 numbers"):
        from_trl(broken).score(["a"])
