"""Checking mode: bounds held against scores, in a search and over random streams; and
the example of docs/native-rewards.md, built as its reader would."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from generation import PROMPT, PROMPTS, WORDS, coverage
from tiny_model import TinyConfig, make_tiny, write_gguf

import deal
from deal.rewards import Keywords, Length, check

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "native_reward"
SEARCH = deal.Search(top_k=4, lookahead=5, reward_weight=3.0)
SEARCHES = [
    dataclasses.replace(SEARCH, mode="naive"),
    SEARCH,
    dataclasses.replace(SEARCH, num_beams=3),
    dataclasses.replace(SEARCH, num_beams=2, commit=3, lookahead=4, mode="naive"),
    dataclasses.replace(SEARCH, commit=2, reward_weight=-3.0),
    dataclasses.replace(SEARCH, skip_above=0.3),
    dataclasses.replace(SEARCH, lookahead=0),
    deal.Search(top_k=4, lookahead=5, mode="segment", num_beams=2),
]
TEXTS = ["the dog is happy. A river!", "sun, sun; no window?", "- one\n- two\n\nbye"]


@pytest.fixture(scope="module", params=["byte", "spm"])
def lm(request: Any, tmp_path_factory: pytest.TempPathFactory) -> deal.Model:
    path = tmp_path_factory.mktemp("checking") / "tiny.gguf"
    write_gguf(make_tiny(TinyConfig(seed=0, vocab=request.param)), path)
    return deal.load(path, compute="f32", threads=2)


def sound() -> deal.Reward:
    """Native and Python rewards with bounds, in a formula."""

    def bounds(prompt: str, text: str, tokens_left: int) -> tuple[float, float]:
        return text.count(",") / 99, min(1.0, (text.count(",") + 9 * tokens_left) / 99)

    @deal.reward(range=(0, 1), per_text=True, bounds=bounds)
    def commas(text: str) -> float:
        return min(text.count(","), 99) / 99

    native = Keywords(WORDS) + 0.5 * Length("words", max=6)
    lexicon = deal.rewards.Lexicon({"happy": 2.0, "river": -1.0})
    return deal.rewards.minimum(native, commas + 0.9) * lexicon + commas


def decided(r: deal.Generation) -> tuple[Any, ...]:
    return r.text, r.token_ids, r.logprob, r.rewards, r.score, r.finish_reason


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("stop", [None, ["er", " the", "s a"]])
def test_checking_changes_no_decision(
    lm: deal.Model, search: deal.Search, stop: list[str] | None
) -> None:
    reward = sound()
    checking = dataclasses.replace(search, check_rewards=True)
    for prompt in PROMPTS:
        plain, checked = (
            lm.generate(
                prompt, rewards=reward, search=each, max_new_tokens=16, stop=stop
            )
            for each in (search, checking)
        )
        assert decided(plain) == decided(checked)


def test_checking_asks_for_nothing_that_is_off(lm: deal.Model) -> None:
    asked = []

    def bounds(prompt: str, text: str, tokens_left: int) -> tuple[float, float]:
        asked.append((text, tokens_left))
        return 0.0, 1.0

    reward = deal.reward(
        lambda completions, **_: coverage(completions, WORDS),
        range=(0, 1),
        bounds=bounds,
        name="asked",
    )
    naive = dataclasses.replace(SEARCH, mode="naive")
    lm.generate(PROMPT, rewards=reward, search=naive, max_new_tokens=8)
    assert asked == []
    naive = dataclasses.replace(naive, check_rewards=True)
    lm.generate(PROMPT, rewards=reward, search=naive, max_new_tokens=8)
    assert ("", 8) in asked and ("", 6) in asked  # the request, the first rollouts
    assert len(set(asked)) == len(asked)


def lying(low: float, high: float) -> deal.Reward:
    return deal.reward(
        lambda completions, **_: coverage(completions, ["a", *WORDS]),
        range=(0, 1),
        bounds=lambda prompt, text, tokens_left: (low, high),
        name="liar",
    )


@pytest.mark.parametrize("mode", ["naive", "exact", "segment"])
@pytest.mark.parametrize(
    "around",
    [
        lambda r: r,
        lambda r: Keywords(WORDS) + 0.5 * r,
        lambda r: deal.rewards.minimum(Keywords(WORDS), r),
        lambda r: deal.rewards.maximum(r, Length("words", max=3)),
        lambda r: deal.rewards.product(r, Keywords(WORDS)),
        lambda r: deal.rewards.clip(r, 0.25, 0.5),
        lambda r: deal.rewards.at_least(r, 0.5),
        lambda r: deal.rewards.scheduled(r, [1.0, 0.5]),
        lambda r: -1.0 * r,
    ],
)
@pytest.mark.parametrize("ends", [(0.5, 1.0), (0.0, 0.0)])
def test_lies_within_combinations(
    lm: deal.Model, mode: str, around: Any, ends: tuple[float, float]
) -> None:
    search = deal.Search(top_k=4, lookahead=5, mode=mode, check_rewards=True)
    reward = around(lying(*ends))
    prompt = "little red house"
    message = (
        r'^reward "liar" \(\d\): score [\d.e-]+ of ".+" is (above|below) its bound'
    )
    with pytest.raises(deal.RewardError, match=message):
        lm.generate(prompt, rewards=reward, search=search, max_new_tokens=24)
    found = check(reward, ["a dog by the river", "the window", "no"])
    assert {(v.reward, v.kind) for v in found} == {("liar", "bounds")}


def test_messages_show_texts_whole_and_short(lm: deal.Model) -> None:
    """Long texts are cut at a character, and stay on one line."""

    def bounds(prompt: str, text: str, tokens_left: int) -> tuple[float, float]:
        return (0.0, 0.0) if len(text) > 30 else (0.0, 1.0)

    reward = deal.reward(
        lambda completions, **_: [len(t) / 1000 for t in completions],
        range=(0, 1),
        bounds=bounds,
        name="n" * 80,
    )
    for mode in ("naive", "exact"):
        search = dataclasses.replace(SEARCH, mode=mode, check_rewards=True)
        with pytest.raises(deal.RewardError) as caught:
            lm.generate(PROMPT, rewards=reward, search=search, max_new_tokens=40)
        text = str(caught.value)
        assert text.startswith(f'reward "{"n" * 40}" (0): score 0.0')
        assert re.search(r'after "\.\.\..+" for \d+ tokens left$', text)
        assert "\n" not in text and "\ufffd" not in text.split("after")[0]


# --- deal.rewards.check --------------------------------------------------------------


def test_check_passes_what_is_sound() -> None:
    assert check(sound(), TEXTS, n_streams=30) == ()
    assert check(deal.rewards.Repetition(n=2), TEXTS) == ()
    assert check(Length("tokens", target=5), TEXTS) == ()
    assert check(deal.rewards.Format(bullets=2, no_commas=True), TEXTS) == ()
    head = deal.rewards.RewardModel([0.5, -1.0, 2.0], 0.25, layers=(-1,))
    assert check(head, TEXTS, n_streams=30) == ()
    assert check(lambda completions: [0.0] * len(completions), TEXTS) == ()


def test_check_finds_what_python_does() -> None:
    @deal.reward(range=(0, 1))
    def batchwise(completions: list[str], **kwargs: Any) -> list[float]:
        return [1.0 / len(completions)] * len(completions)

    (one,) = check(batchwise, TEXTS)
    assert one.kind == "batch" and "1.0 alone, 0.333" in one.message

    calls: Iterator[int] = iter(range(10**9))
    counting = deal.reward(lambda text: next(calls), per_text=True, name="counting")
    assert "pure" in {v.kind for v in check(counting, TEXTS)}
    impure = deal.reward(lambda t: next(calls), per_text=True, name="c", pure=False)
    assert check(impure, TEXTS) == ()

    @deal.reward(per_text=True)
    def failing(text: str) -> float:
        return 1 / len(text)

    (one,) = check(failing, TEXTS, n_streams=20)
    assert one.kind == "score" and "ZeroDivisionError" in one.message
    assert one.count == 20

    @deal.reward(range=(0, 1))
    def by_topic(completions: list[str], topic: list[str], **_: Any) -> list[float]:
        return [float(t in c) for c, t in zip(completions, topic, strict=True)]

    assert check(by_topic, TEXTS, reward_kwargs={"topic": "dog"}) == ()
    assert [v.kind for v in check(by_topic, TEXTS)] == ["score"]


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"reward": 3}, TypeError, "expected a deal.Reward"),
        ({"texts": []}, ValueError, "texts: expected a list of at least one"),
        ({"texts": "a"}, ValueError, "texts: expected a list of at least one"),
        ({"texts": [1]}, TypeError, "texts"),
        ({"prompts": []}, ValueError, "prompts: expected a list"),
        ({"n_streams": 0}, ValueError, "n_streams: expected at least 1"),
        ({"token_size_max": 3}, ValueError, "token_size_max: expected 4 to"),
        ({"seed": 0.5}, TypeError, "seed: expected an integer"),
    ],
)
def test_check_refuses(
    given: dict[str, Any], error: type[Exception], message: str
) -> None:
    arguments = {"reward": Keywords(["a"]), "texts": TEXTS} | given
    with pytest.raises(error, match=message):
        check(**arguments)


def test_setting_is_a_bool() -> None:
    with pytest.raises(TypeError, match="check_rewards: expected a bool, got 1"):
        deal.Search(check_rewards=1)  # type: ignore[arg-type]


def test_documented_lie(capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "docs" / "rewards.md").read_text(encoding="utf-8")
    code = text[text.index("## Checking rewards") :]
    exec(code.split("```python\n")[1].split("```")[0], {"deal": deal})
    assert capsys.readouterr().out.startswith("reward 'hopeful': bounds: (0.0, 0.5)")


# --- the example ---------------------------------------------------------------------


def test_docs_show_the_example() -> None:
    text = (ROOT / "docs" / "native-rewards.md").read_text(encoding="utf-8")
    blocks = set(re.findall(r"```\w+\n(.*?)```", text, re.DOTALL))
    shown = [path for path in EXAMPLE.iterdir() if path.is_file()]
    assert sorted(path.name for path in shown) == [
        "few_digits.c", "pyproject.toml", "setup.py",
    ]  # fmt: skip
    for path in shown:
        assert path.read_text(encoding="utf-8") in blocks, path.name


@pytest.fixture(scope="module")
def few_digits(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """The example, built and installed by pip, without the network."""
    folder = tmp_path_factory.mktemp("example")
    shutil.copytree(EXAMPLE, folder / "source")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index"]
    command += ["--disable-pip-version-check", "--no-deps", "--no-build-isolation"]
    command += ["--target", str(folder / "site"), str(folder / "source")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    sys.path.insert(0, str(folder / "site"))
    try:
        import few_digits
    finally:
        sys.path.remove(str(folder / "site"))
    return few_digits


def test_the_example(lm: deal.Model, few_digits: ModuleType) -> None:
    reward = deal.rewards.Native(few_digits.few_digits())
    assert (reward.name, reward.range) == ("few_digits", (0.0, 1.0))
    assert reward.score(["", "in 1999", "0123456789 12"]) == [1.0, 0.6, 0.0]
    assert check(reward, ["in 1999 we were 12", "none", "0123456789"]) == ()
    results = [
        lm.generate(
            PROMPT,
            rewards=-1.0 * reward,
            search=dataclasses.replace(SEARCH, top_k=40, mode=mode, check_rewards=c),
            max_new_tokens=8,
        )
        for mode in ("naive", "exact")
        for c in (False, True)
    ]
    assert len({decided(r)[:3] for r in results}) == 1
    text = results[0].text
    assert results[0].rewards == {
        "few_digits": 1.0 - min(10, len(re.findall("[0-9]", text))) / 10.0
    }
