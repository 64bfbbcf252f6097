"""Hard constraints on SmolLM2: every text has its form, with rewards at work."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import deal
from deal.rewards import Grammar, JsonSchema, Keywords, Regex

pytest.importorskip("llguidance", reason="pip install 'deal-lm[constraints]'")

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 1, "maximum": 99},
        "pets": {"type": "array", "items": {"enum": ["cat", "dog"]}, "maxItems": 2},
    },
    "required": ["name", "age", "pets"],
    "additionalProperties": False,
}
DATE = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
QUESTION = [{"role": "user", "content": "Describe a person with a dog."}]
REWARDS = Keywords(["dog", "Anna"])


@pytest.fixture(scope="module")
def lm(smollm2_path: Path) -> deal.Model:
    return deal.load(smollm2_path, threads=1)


def is_person(text: str) -> bool:
    value = json.loads(text)
    return list(value) == ["name", "age", "pets"] and set(value["pets"]) <= {
        "cat",
        "dog",
    }


FORMS: list[tuple[Any, Any]] = [
    (Regex(DATE), lambda text: re.fullmatch(DATE, text)),
    (JsonSchema(SCHEMA, whitespace_flexible=False), is_person),
    (
        Grammar('start: ("The " | "A ") ("cat" | "dog") " " /[a-z]{2,8}/ "."'),
        lambda text: re.fullmatch(r"(The|A) (cat|dog) [a-z]{2,8}\.", text),
    ),
]


@pytest.mark.parametrize("constraint, check", FORMS)
def test_texts_have_their_form(lm: deal.Model, constraint: Any, check: Any) -> None:
    settings = {"top_k": 3, "lookahead": 4, "reward_weight": 8.0}
    found = {}
    for name, options in {
        "greedy": {},
        "drawn": {"sampling": deal.Sampling(temperature=1.2, seed=4)},
        "beams": {"num_beams": 2},
        "naive": {"search": deal.Search(mode="naive", **settings)},  # type: ignore
        "exact": {"search": deal.Search(**settings)},  # type: ignore[arg-type]
        "segment": {"search": deal.Search(mode="segment", top_k=2, lookahead=6)},
    }.items():
        rewards = {"rewards": REWARDS} if "search" in options else {}
        r = lm.chat(
            QUESTION, constraint=constraint, max_new_tokens=60, **options, **rewards
        )
        assert r.finish_reason == "stop" and check(r.text), (name, r.text)
        found[name] = r
    a, b = found["naive"], found["exact"]
    assert (a.token_ids, a.logprob, a.score) == (b.token_ids, b.logprob, b.score)
    assert b.stats.n_forward_passes < a.stats.n_forward_passes
    assert a.reward == pytest.approx(REWARDS.score([a.text])[0])
    if constraint.name == "json_schema":
        assert a.reward > REWARDS.score([found["greedy"].text])[0]
