"""A user's script, for a type checker alone: nothing runs it (unit/test_types.py).

Each `type: ignore` stands on a mistake, and is an error itself where none is found.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from typing_extensions import assert_type

import deal
from deal.rewards import Keywords, Length, Reward
from deal.rewards.python import PythonReward

lm = deal.load("smollm2-135m-instruct", compute="f32", threads=2)
assert_type(lm, deal.Model)
search = deal.Search(top_k=5, lookahead=16, reward_weight=4.0, mode="exact")
deal.Search(top_k="5")  # type: ignore[arg-type]
deal.load(threads="2")  # type: ignore[arg-type]

# What `generate` returns follows what it is given.
one = lm.generate("A cat", search=search, rewards=Keywords(["cat"]), max_new_tokens=8)
assert_type(one, deal.Generation)
assert_type(one.text, str)
assert_type(one.token_ids, tuple[int, ...])
assert_type(one.stats, deal.Stats)
assert_type(lm.generate([1, 2, 3], sampling=deal.Sampling(seed=1)), deal.Generation)
assert_type(lm.generate(["A cat", "A dog"]), list[deal.Generation])
assert_type(lm.generate([[1, 2], [3]], stop="."), list[deal.Generation])
assert_type(lm.generate("A cat", num_beams=4, num_return_sequences=4), Any)
lm.generate("A cat", max_tokens=3)  # type: ignore[call-overload]
lm.generate(7)  # type: ignore[call-overload]
for piece in lm.stream("A cat"):
    assert_type(piece, str)


# A function as a reward, in every form.
@deal.reward
def short(completions: list[str], prompts: list[str]) -> list[float]:
    return [-float(len(text)) for text in completions]


@deal.reward(range=(0.0, 1.0), per_text=True)
def has_cat(text: str) -> float:
    return float("cat" in text)


def plain(completions: list[str]) -> list[float]:
    return [0.0 for _ in completions]


assert_type(short, PythonReward)
assert_type(has_cat, PythonReward)
assert_type(deal.reward(plain, name="plain"), PythonReward)
assert_type(deal.reward(pure=False), Callable[[Callable[..., Any]], PythonReward])
deal.reward(plain, span=(0, 1))  # type: ignore[call-overload]

# Arithmetic with rewards makes rewards.
total = 2.0 * short + has_cat * 0.5 - Length(max=20, unit="words") + 1
assert_type(total, Reward)
assert_type(-total, Reward)
assert_type(has_cat * short, Reward)
assert_type(total.score(["A cat"], prompts=["Write:"]), list[float])
lm.generate("A cat", rewards=total)

with lm.controls([deal.AddResidual(layer=3, vector=[0.0] * 576)]):
    lm.logits("A cat")
