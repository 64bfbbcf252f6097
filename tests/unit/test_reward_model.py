"""A head over hidden states: the search's scores against `lm.hidden`, and bad input."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from generation import PROMPT, PROMPTS, SEARCH, WORDS, key
from tiny_model import TinyConfig, make_tiny, write_gguf

import deal
from deal import _core
from deal.rewards import Keywords, RewardModel, pooled_states

N_EMBD = 64


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("reward_model") / "tiny.gguf"
    write_gguf(make_tiny(TinyConfig(seed=0, n_layer=3)), path)
    return path


@pytest.fixture(scope="module", params=["f32", "int8"])
def lm(path: Path, request: pytest.FixtureRequest) -> deal.Model:
    return deal.load(path, compute=request.param, threads=2)


@pytest.fixture(scope="module")
def plain(path: Path) -> deal.Model:
    return deal.load(path, compute="f32", threads=1)


def make_head(layers: tuple[int, ...], pooling: str, **kwargs: Any) -> RewardModel:
    rng = np.random.default_rng(len(layers))
    weight = rng.normal(size=(len(layers), N_EMBD)) * 0.5
    return RewardModel(weight, -0.2, layers=layers, pooling=pooling, **kwargs)


def expected(
    lm: deal.Model, head: RewardModel, prompt: list[int], completion: list[int]
) -> float:
    """The definition, in NumPy."""
    ids = prompt + completion
    states = lm.hidden(ids, layers=head.layers, positions="all")
    told = states[:, len(prompt) :] if completion else states[:, len(prompt) - 1 :]
    pooled = told[:, -1] if head.pooling == "last" else told.mean(1, dtype=np.float64)
    return 1 / (1 + np.exp(-(head.weight @ pooled.ravel() + head.bias)))


def words_of(lm: deal.Model, r: deal.Generation) -> list[int]:
    ids = list(r.token_ids)
    return ids[:-1] if ids and ids[-1] in lm.tokenizer.eos_token_ids else ids


MODES = [
    {"search": SEARCH},
    {"search": dataclasses.replace(SEARCH, mode="exact", num_beams=3, commit=2)},
    {"search": dataclasses.replace(SEARCH, mode="exact", reward_weight=-4.0)},
    {"search": dataclasses.replace(SEARCH, mode="exact", skip_above=0.3)},
    {"search": dataclasses.replace(SEARCH, mode="exact", lookahead=0)},
    {"search": deal.Search(mode="segment", top_k=3, lookahead=4, num_beams=2)},
    {"search": deal.Search.best_of_n(4), "sampling": deal.Sampling(1.0, seed=1)},
    {"sampling": deal.Sampling(temperature=1.0, seed=3), "num_return_sequences": 3},
    {"num_beams": 3, "num_return_sequences": 3, "rewards_after": True},
]


@pytest.mark.parametrize("pooling", ["last", "mean"])
@pytest.mark.parametrize("layers", [(-1,), (1,), (2, -1, 0)])
def test_scores_are_those_of_the_states(
    lm: deal.Model, layers: tuple[int, ...], pooling: str
) -> None:
    head = make_head(layers, pooling)
    scores = set()
    for prompt in PROMPTS[:2]:
        ids = lm.tokenizer.encode(prompt)
        for mode in MODES:
            settings = dict(mode)
            if settings.pop("rewards_after", False):
                settings["search"] = None
            for stop in (None, ["e"]):
                found = lm.generate(
                    prompt, rewards=head, max_new_tokens=11, stop=stop, **settings
                )
                for r in found if isinstance(found, list) else [found]:
                    wanted = expected(lm, head, ids, words_of(lm, r))
                    assert r.reward == pytest.approx(wanted, abs=1e-6, rel=0)
                    scores.add(r.reward)
    assert len(scores) > 10 and max(scores) - min(scores) > 0.1


@pytest.mark.parametrize("layers", [(-1,), (0, 2)])
def test_exact_is_naive(lm: deal.Model, layers: tuple[int, ...]) -> None:
    rewards = make_head(layers, "mean") + 0.5 * make_head(layers, "last", name="last")
    rewards = rewards + Keywords(WORDS)
    for prompt in PROMPTS:
        for num_beams, commit in ((1, 1), (3, 2)):
            both = [
                lm.generate(
                    prompt,
                    rewards=rewards,
                    max_new_tokens=14,
                    search=dataclasses.replace(
                        SEARCH, mode=mode, num_beams=num_beams, commit=commit
                    ),
                )
                for mode in ("naive", "exact")
            ]
            assert key(both[0])[:-1] == key(both[1])[:-1]
            assert both[0].rewards == both[1].rewards
            naive, exact = (r.stats for r in both)
            guessed = exact.n_ahead_tokens + exact.n_draft_tokens
            assert exact.n_forward_tokens <= naive.n_forward_tokens + guessed


def test_results_do_not_depend_on_batch_or_threads(path: Path, lm: deal.Model) -> None:
    other = deal.load(path, compute=lm.compute, threads=1)
    settings = {"rewards": make_head((2, -1), "mean"), "max_new_tokens": 9}
    settings["search"] = dataclasses.replace(SEARCH, mode="exact")
    together = lm.generate(PROMPTS, **settings)
    alone = [other.generate(prompt, **settings) for prompt in PROMPTS]
    assert [key(r)[:-1] for r in together] == [key(r)[:-1] for r in alone]


def test_rollouts_are_not_evaluated_again(plain: deal.Model) -> None:
    """A candidate costs one row more than without: that of its rollout's last token."""
    settings = {"max_new_tokens": 8, "search": SEARCH}
    with_words = plain.generate(PROMPT, rewards=Keywords(["zzz"]), **settings)
    head = RewardModel(np.zeros(N_EMBD))  # the same for every text, as the other
    with_head = plain.generate(PROMPT, rewards=head, **settings)
    assert with_head.token_ids == with_words.token_ids
    more = with_head.stats.n_forward_tokens - with_words.stats.n_forward_tokens
    assert 0 < more <= 8 * SEARCH.top_k
    before = plain.generate(PROMPT, max_new_tokens=8).stats.n_forward_tokens
    drawn = plain.generate(
        PROMPT, max_new_tokens=8, rewards=head, sampling=deal.Sampling(0.0)
    )
    assert drawn.stats.n_forward_tokens == before + 1


def test_scores_outside_of_a_search(plain: deal.Model) -> None:
    for pooling in ("last", "mean"):
        head = make_head((1, -1), pooling, model=plain)
        texts = [" a dog ran", " the sun", ""]
        scores = head.score(texts, PROMPT)
        ids = plain.tokenizer.encode(PROMPT)
        for text, score in zip(texts, scores, strict=True):
            added = plain.tokenizer.encode(PROMPT + text)[len(ids) :]
            assert score == pytest.approx(expected(plain, head, ids, added), abs=1e-12)
            assert head.score([added], PROMPT) == [score]
        r = plain.generate(PROMPT, rewards=head, search=SEARCH, max_new_tokens=9)
        assert head.score([r.token_ids], PROMPT) == [r.reward]
        assert (2.0 * head).score([r.token_ids], [PROMPT]) == [2.0 * r.reward]
        end = plain.tokenizer.eos_token_ids[0]
        assert head.score([[*words_of(plain, r), end]], PROMPT) == [r.reward]


def test_texts_without_a_prompt(plain: deal.Model) -> None:
    """Where nothing comes before it, a text is scored as it is read alone."""
    assert not plain.tokenizer.encode("")
    texts = ["a dog ran", "the sun"]
    for pooling in ("last", "mean"):
        head = make_head((1, -1), pooling, model=plain)
        states = pooled_states(plain, texts, layers=(1, -1), pooling=pooling)
        alone = 1 / (1 + np.exp(-head.decision_function(states)))
        assert head.score(texts) == pytest.approx(alone, abs=1e-6)
        with pytest.raises(ValueError, match="expected at least one token"):
            head.score([""])


def test_an_empty_completion_has_the_prompts_state(plain: deal.Model) -> None:
    """Every token ends a completion: nothing is generated but the end."""
    ids = plain.tokenizer.encode(PROMPT)
    everything = list(range(plain.tokenizer.vocab_size))
    for pooling in ("last", "mean"):
        head = make_head((0, -1), pooling)
        for search in (None, SEARCH, dataclasses.replace(SEARCH, mode="exact")):
            r = plain.generate(
                PROMPT,
                rewards=head,
                search=search,
                sampling=None if search else deal.Sampling(0.0),
                eos_token_id=everything,
                max_new_tokens=5,
            )
            assert len(r.token_ids) == 1 and r.text == ""
            assert r.reward == pytest.approx(expected(plain, head, ids, []), abs=1e-12)


def test_states_are_read_after_edits(plain: deal.Model) -> None:
    head = make_head((1, -1), "mean")
    before = plain.generate(PROMPT, rewards=head, search=SEARCH, max_new_tokens=6)
    ids = plain.tokenizer.encode(PROMPT)
    with plain.controls([deal.AddResidual(1, np.full(N_EMBD, 0.3, np.float32))]):
        r = plain.generate(PROMPT, rewards=head, search=SEARCH, max_new_tokens=6)
        wanted = expected(plain, head, ids, words_of(plain, r))
    assert r.reward == pytest.approx(wanted, abs=1e-9)
    assert r.reward != before.reward


def test_standardised_features(plain: deal.Model) -> None:
    rng = np.random.default_rng(2)
    weight, mean = rng.normal(size=(2, N_EMBD))
    std = rng.uniform(0.5, 2.0, size=N_EMBD)
    head = RewardModel(weight, 0.7, mean=mean, std=std, model=plain)
    (score,) = head.score([" a dog"], PROMPT)
    ids = plain.tokenizer.encode(PROMPT + " a dog")
    z = weight @ ((plain.hidden(ids)[0] - mean) / std) + 0.7
    assert score == pytest.approx(1 / (1 + np.exp(-z)), abs=1e-9)


def test_documented_heads(
    plain: deal.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path(__file__).parents[2] / "docs" / "reward-models.md"
    blocks = re.findall(r"```python\n(.*?)```", path.read_text("utf-8"), re.S)
    fitted, chats, by_hand = blocks
    names: dict[str, Any] = {"lm": plain, "deal": deal, "np": np}
    exec(fitted, names)
    assert set(names["r"].rewards) == {"reward_model", "classifier"}
    turns = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    opened = "{% if add_generation_prompt %}assistant: {% endif %}"
    monkeypatch.setattr(plain.tokenizer, "chat_template", turns + opened)
    exec(chats, names)
    assert names["judge"].report.n_fitted + names["judge"].report.n_validation == 2
    exec(by_hand, names)
    good, bad = names["head"].score(names["texts"], "a")
    assert good > bad and 0 < names["r"].reward < 1


# --- bad input -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"weight": [[1.0, 2.0]], "layers": (0, 1)}, "weight: expected shape"),
        ({"weight": np.ones(65), "layers": (0, 1)}, "weight: expected shape"),
        ({"weight": []}, "weight: expected shape"),
        ({"weight": np.full(64, np.nan)}, "weight: expected finite numbers"),
        ({"weight": [1.0, np.inf]}, "weight: expected finite numbers"),
        ({"bias": np.nan}, "bias: expected a finite number"),
        ({"pooling": "max"}, "pooling: expected one of last, mean, got 'max'"),
        ({"layers": ()}, "layers: expected at least one"),
        ({"layers": (-2,)}, "layers: expected at least -1|layers: expected -1 to"),
        ({"std": np.zeros(64)}, "std: expected positive numbers"),
        ({"std": np.ones(63)}, "std: expected 64 numbers"),
        ({"mean": np.full(64, np.inf)}, "mean: expected finite numbers"),
        ({"name": ""}, "name: expected a non-empty string"),
    ],
)
def test_bad_heads(changes: dict[str, Any], message: str) -> None:
    settings = {"weight": np.ones(64), **changes}
    with pytest.raises(ValueError, match=message):
        RewardModel(settings.pop("weight"), **settings)


@pytest.mark.parametrize("layers", ["1", 3, [1.5], [True]])
def test_layers_of_a_wrong_type(layers: Any) -> None:
    with pytest.raises(TypeError, match="layers"):
        RewardModel(np.ones(64), layers=layers)


def test_heads_of_another_model(plain: deal.Model) -> None:
    with pytest.raises(ValueError, match=r"weight: expected 1 \* 64 numbers.*got 32"):
        RewardModel(np.ones(32), model=plain)
    with pytest.raises(ValueError, match="layers: expected -1 to 2, got 3"):
        RewardModel(np.ones(64), layers=(3,), model=plain)
    wrong = RewardModel(np.ones(32))
    message = r"\"reward_model\" \(0\): expected hidden states of 64 features.*got 32"
    with pytest.raises(ValueError, match=message):
        plain.generate(PROMPT, rewards=wrong)
    message = r"\"reward_model\" \(0\): layers: expected -1 to 2 \(the model's\), got 7"
    with pytest.raises(ValueError, match=message):
        plain.generate(PROMPT, rewards=RewardModel(np.ones(64), layers=(7,)))
    assert plain.generate(PROMPT, max_new_tokens=3).token_ids  # it goes on


def test_rollouts_of_another_model_have_no_states(
    lm: deal.Model, plain: deal.Model
) -> None:
    search = dataclasses.replace(SEARCH, rollout_model=plain)
    with pytest.raises(NotImplementedError, match="rollout_model"):
        lm.generate("a b", rewards=make_head((1,), "last"), search=search)


def test_score_without_a_model(plain: deal.Model) -> None:
    with pytest.raises(ValueError, match=r"give the model.*model=lm"):
        RewardModel(np.ones(64)).score(["a"], PROMPT)


def test_states_by_hand() -> None:
    head = RewardModel([1.0, -1.0, 0.5, 0.0], layers=(0, 1), pooling="mean")
    state = _core.RewardState(head._capsule({}), "")
    with pytest.raises(ValueError, match="a text alone has none"):
        state.score()
    with pytest.raises(ValueError, match="expected 16 bytes of float32.*got 8"):
        state.observe(np.ones(2, np.float32))
    rows = np.array([[9, 0, 0, 0], [1, 0, 0, 0], [0, 2, 0, 5]], np.float32)
    scores = []
    for row in rows:
        state.observe(row)
        state = state.fork()
        scores.append(state.score())
    sigmoid = [1 / (1 + np.exp(-z)) for z in (9.0, 1.0, -0.5)]
    assert scores == pytest.approx(sigmoid, abs=1e-15)
    words = _core.RewardState(Keywords(["a"])._capsule({}), "")
    with pytest.raises(ValueError, match="asks for no hidden states"):
        words.observe(rows[0])
