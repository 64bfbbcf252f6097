"""generate_until: settings of the harness, search and rewards through gen_kwargs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lm_eval_requests import instance, tiny, write

pytest.importorskip("lm_eval", reason="lm_eval is not installed")

import deal
from deal._request import stops_and_ends
from deal.lm_eval import DealLM
from deal.rewards import Keywords, RewardModel


@pytest.fixture(scope="module", params=["byte", "spm"])
def lm(request: Any, tmp_path_factory: pytest.TempPathFactory) -> DealLM:
    return DealLM(tiny(request.param, tmp_path_factory.mktemp("tiny")))


def test_greedy(lm: DealLM) -> None:
    ids = lm.tok_encode("The cat")
    expected = lm.lm.generate(ids, max_new_tokens=10).text
    assert write(lm, "The cat") == expected
    assert write(lm, "The cat", max_new_tokens=10, max_gen_toks=None) == expected
    assert len(expected) > 6
    for n in range(1, 5):
        stop = expected[n : n + 3]
        assert (
            write(lm, "The cat", until=["never", stop, ""]) == expected.split(stop)[0]
        )
    assert write(lm, "The cat", until=expected[2]) == expected.split(expected[2])[0]


def test_a_special_token_ends_a_text(lm: DealLM) -> None:
    expected = lm.lm.generate(lm.tok_encode("The cat"), max_new_tokens=10)
    token = lm.tokenizer.bos_token_id
    special = lm.tok_decode(token, skip_special_tokens=False)
    assert token in stops_and_ends(lm.tokenizer, [special])[1]
    assert stops_and_ends(lm.tokenizer, [special, "\n"])[0] == [special, "\n"]
    assert write(lm, "The cat", until=[special]) == expected.text


def test_contexts_are_cut_on_the_left(lm: DealLM) -> None:
    long = "The cat sat on a couch. " * 30
    ids = lm.tok_encode(long)[-(lm.max_length - 10) :]
    assert write(lm, long) == lm.lm.generate(ids, max_new_tokens=10).text
    prefix = lm.tok_encode("") or [lm.prefix_token_id]
    assert write(lm, "") == lm.lm.generate(prefix, max_new_tokens=10).text


def test_identical_requests_are_written_once(lm: DealLM) -> None:
    request = ("The cat", {"until": ["\n"], "max_gen_toks": 6})
    before = lm.lm.n_forward_tokens
    [one] = lm.generate_until([instance(*request)], disable_tqdm=True)
    cost = lm.lm.n_forward_tokens - before
    many = lm.generate_until([instance(*request)] * 20, disable_tqdm=True)
    assert many == [one] * 20
    assert lm.lm.n_forward_tokens - before == 2 * cost


def test_sampling(lm: DealLM) -> None:
    settings = {"do_sample": True, "temperature": 1.5, "max_gen_toks": 12}

    def draw(n: int, **more: Any) -> list[str]:
        requests = [instance("The cat", settings | more) for _ in range(n)]
        return lm.generate_until(requests, disable_tqdm=True)

    texts = draw(8)
    assert len(set(texts)) > 4  # repetitions are draws of their own
    assert draw(8) == texts and draw(3) == texts[:3]
    assert draw(8, seed=1) != texts
    greedy = write(lm, "The cat", max_gen_toks=12)
    assert draw(2, top_k=1) == [greedy] * 2
    assert draw(1, do_sample=False) == [greedy]
    assert draw(1, temperature=0.0) == [greedy]
    assert write(lm, "The cat", temperature=1.5, max_gen_toks=12) == texts[0]


def test_beams(lm: DealLM) -> None:
    ids = lm.tok_encode("The cat")
    expected = lm.lm.generate(ids, max_new_tokens=10, num_beams=3, length_penalty=0.5)
    assert write(lm, "The cat", num_beams=3, length_penalty=0.5) == expected.text


def test_search(lm: DealLM) -> None:
    ids = lm.tok_encode("The cat")
    greedy, words = write(lm, "The cat"), []
    for seed in range(20):  # a word that takes another path
        other = deal.Sampling(temperature=9.0, top_k=4, seed=seed)
        drawn = lm.lm.generate(ids, max_new_tokens=3, sampling=other).text
        words = words or [w for w in drawn.split()[:1] if w not in greedy]
    options: dict[str, Any] = {"top_k": 4, "lookahead": 5, "reward_weight": 99.0}
    expected = lm.lm.generate(
        ids,
        max_new_tokens=10,
        rewards=Keywords(words),
        search=deal.Search(**options, mode="naive", commit=2),
    )
    for spec in (f"Keywords({words!r})", 'Keywords(doc["words"])'):
        text = write(
            lm,
            "The cat",
            doc={"words": words},
            rewards=spec,
            search_mode="naive",
            commit=2,
            **options,
        )
        assert text == expected.text
    assert greedy != expected.text


def test_best_of_n(lm: DealLM) -> None:
    texts = []
    for n in (1, 40):
        texts.append(
            write(
                lm,
                "The cat",
                do_sample=True,
                temperature=4.0,
                rewards='Keywords(["tree", "play", "sun", "big"])',
                best_of_n=n,
            )
        )
    reward = Keywords(["tree", "play", "sun", "big"])
    low, high = reward.score(texts)
    assert high > low


def test_a_cache_cannot_tell_rows_of_one_prompt_apart(
    lm: DealLM, tmp_path: Path
) -> None:
    from lm_eval.api.model import CacheHook, CachingLM

    given = {"rewards": 'Keywords(doc["words"])', "top_k": 3, "max_gen_toks": 4}
    rows = [{"words": ["cat"]}, {"words": ["sun"]}]
    one, other = (instance("The", given, doc=row) for row in rows)
    texts = lm.generate_until([one, other], disable_tqdm=True)
    cached = CachingLM(lm, str(tmp_path / "cache.db"))
    try:
        with pytest.raises(ValueError, match="use_cache: .*two rows with 'The'"):
            cached.generate_until([one, other])
        assert cached.generate_until([one, one]) == [texts[0]] * 2  # a repeat
    finally:
        lm.set_cache_hook(CacheHook(None))


def test_a_cache_does_not_outlive_the_code_of_a_reward(
    lm: DealLM, tmp_path: Path
) -> None:
    from lm_eval.api.model import CacheHook, CachingLM

    file = tmp_path / "judge.py"
    code = "def f(completions, **kw): return [1.0 * t.count({!r}) for t in completions]"
    file.write_text(code.format("e"))
    given = {"rewards": f"'{file}:f'-0.1*Length(max=3)", "top_k": 3, "max_gen_toks": 4}
    plain = {"max_gen_toks": 2}
    rows = [instance("The", given, doc=row) for row in ({"i": 0}, {"i": 1})]
    name = str(tmp_path / "cache.db")
    try:
        first = CachingLM(lm, name)
        with pytest.raises(ValueError, match="use_cache: .*two rows with 'The'"):
            first.generate_until(rows)
        texts = first.generate_until(rows[:1])
        assert CachingLM(lm, name).generate_until(rows[:1]) == texts
        file.write_text(code.format("a"))
        with pytest.raises(ValueError, match="use_cache: .*judge.py as it was"):
            first.generate_until([instance("A", given, doc={})])
        with pytest.raises(ValueError, match="delete the cache"):
            CachingLM(lm, name)
        file.write_text(code.format("e"))
        assert CachingLM(lm, name).generate_until(rows[:1]) == texts
        file.unlink()
        with pytest.raises(ValueError, match="judge.py as it was"):
            CachingLM(lm, name)
        assert CachingLM(lm, name + "2").generate_until([instance("A", plain)])
    finally:
        lm.set_cache_hook(CacheHook(None))


def test_python_rewards_get_the_row(lm: DealLM, tmp_path: Any) -> None:
    (tmp_path / "mine.py").write_text(
        "def letters(completions, doc, **kwargs):\n"
        "    return [c.count(d['letter']) for c, d in zip(completions, doc)]\n"
    )
    settings = {"rewards": f"{tmp_path}/mine.py:letters", "reward_weight": 20.0}
    requests = [
        instance("The cat", settings | {"max_gen_toks": 10}, doc={"letter": letter})
        for letter in "aeo"
    ]
    texts = lm.generate_until(requests, disable_tqdm=True)
    counts = [[text.count(letter) for letter in "aeo"] for text in texts]
    for i in range(3):
        assert counts[i][i] == max(row[i] for row in counts)
    assert len(set(texts)) == 3


@pytest.mark.parametrize(
    "settings, error, what",
    [
        ({"beam_width": 3}, ValueError, "expected only .*num_beams.*got beam_width"),
        ({"lookahead": 3}, ValueError, "lookahead is a setting of a search"),
        ({"best_of_n": 3}, ValueError, "best_of_n is a setting of a search"),
        ({"max_gen_toks": 64}, ValueError, "max_gen_toks: expected 1 to 63"),
        ({"max_gen_toks": 0}, ValueError, "max_gen_toks: expected 1 to 63"),
        ({"until": [3]}, TypeError, "until: expected strings"),
        ({"top_p": 2.0, "do_sample": True}, ValueError, "top_p"),
        ({"rewards": "Keywords("}, ValueError, "never closed"),
        ({"rewards": "Length(max=3)", "search_mode": "x"}, ValueError, "mode"),
        (
            {"rewards": "Length(max=3)", "best_of_n": 3, "lookahead": 2},
            ValueError,
            "takes no other setting",
        ),
        (
            {"rewards": "Length(max=3)", "do_sample": True, "temperature": 1.0},
            ValueError,
            "a search draws nothing",
        ),
    ],
)
def test_bad_settings(lm: DealLM, settings: Any, error: Any, what: str) -> None:
    with pytest.raises(error, match=what):
        write(lm, "The cat", **settings)


def test_settings_are_a_mapping(lm: DealLM) -> None:
    with pytest.raises(TypeError, match="gen_kwargs: expected a mapping"):
        lm.generate_until([instance("The cat", "until")], disable_tqdm=True)


@pytest.mark.parametrize("size", [2, 5, "auto"])
def test_batches(lm: DealLM, size: int | str) -> None:
    """Each text is the one of its request alone, whatever is asked with it."""
    many = DealLM(lm.lm, batch_size=size)
    settings: list[dict[str, Any]] = [
        {},
        {"do_sample": True, "temperature": 1.0, "seed": 3},
        {"rewards": 'Keywords(["dog", "sun"])', "lookahead": 3},
        {"num_beams": 2},
        {"max_gen_toks": 3},
    ]
    contexts = ["The cat", "The cat sat", "Rain", "The cat"]
    requests = [
        instance(context, {"until": ["\n"], "max_gen_toks": 6} | given)
        for context in contexts
        for given in settings
    ]
    told: list[tuple[Any, str]] = []
    hook: Any = many.cache_hook
    hook.add_partial = lambda name, args, text: told.append((args, text))
    expected = lm.generate_until(requests, disable_tqdm=True)
    assert many.generate_until(requests, disable_tqdm=True) == expected
    assert len(told) == len(requests)
    for args, text in told:
        found = [t for r, t in zip(requests, expected, strict=True) if r.args == args]
        assert text in found


def test_heads_of_other_layers_for_every_row(lm: DealLM, tmp_path: Any) -> None:
    model, n_embd = lm.lm, lm.lm.hparams.n_embd
    settings = {"rewards": "RewardModel(path=doc['head'])", "max_gen_toks": 6}
    settings |= {"lookahead": 3, "top_k": 3}
    docs = []
    for i, layers in enumerate([(0,), (-1,), (0, 1)]):
        path = tmp_path / f"{i}.safetensors"
        weight = np.linspace(-1, 1, n_embd * len(layers), dtype=np.float32)
        RewardModel(weight, layers=layers, model=model).save(path)
        docs.append({"head": str(path)})
    requests = [instance(f"The cat {i}", settings, doc=docs[i % 3]) for i in range(9)]
    alone = [lm.generate_until([r], disable_tqdm=True)[0] for r in requests]
    assert lm.generate_until(requests, disable_tqdm=True) == alone
