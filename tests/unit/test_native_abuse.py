"""Scorers of third parties that get something wrong: a clear error, and no crash."""

from __future__ import annotations

import ctypes
import dataclasses
import gc
import math
import sys
from collections.abc import Callable
from typing import Any

import pytest
from ctypes_scorer import NAME, DealReward, Scorer, get_pointer, new_capsule, set_name
from generation import PROMPT
from tiny_model import TinyConfig, make_tiny, write_gguf

import deal
from deal import _core
from deal.rewards import Native

SEARCH = deal.Search(top_k=4, lookahead=5, reward_weight=3.0, mode="exact")
MODES = ["naive", "exact", "segment"]
SIZE = ctypes.sizeof(DealReward)


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> deal.Model:
    path = tmp_path_factory.mktemp("abuse") / "tiny.gguf"
    write_gguf(make_tiny(TinyConfig(seed=0)), path)
    return deal.load(path, compute="f32", threads=2)


def run(lm: deal.Model, reward: Any, mode: str = "exact", check: bool = False) -> Any:
    search = deal.Search(
        top_k=4,
        lookahead=5,
        mode=mode,
        reward_weight=1.0 if mode == "segment" else 3.0,
        check_rewards=check,
    )
    return lm.generate(PROMPT, rewards=reward, search=search, max_new_tokens=12)


def everything(scorer: Scorer, **members: Any) -> Any:
    """All that a search and a person can ask of it, by hand."""
    capsule = scorer.capsule(**members)  # which outlives an error
    state = _core.RewardState(capsule, "p", token_size_max=4)
    state.bounds(2)
    copy = state.fork()
    copy.advance(b"banana", 5)
    copy.bounds(1)
    return state.score(), copy.score(True)


def test_the_mirror_is_the_header(lm: deal.Model) -> None:
    ours = _core.keywords([["a"]])
    head = DealReward.from_address(get_pointer(ours, NAME))
    assert (head.abi_version, head.struct_size) == (1, SIZE)
    assert (head.low, head.high) == (0.0, 1.0) and head.score and head.bounds
    for is_texts in (False, True):
        scorer = Scorer(is_texts)
        assert everything(scorer) == (0.0, 0.3)
        results = [run(lm, scorer.capsule(), mode) for mode in MODES]
        assert results[0].token_ids == results[1].token_ids
        assert results[0].reward == min(10, results[0].text.count("a")) / 10
        assert deal.rewards.check(scorer.capsule(), ["banana", "an apple"]) == ()
        gc.collect()
        assert scorer.n_live == 0


# --- what is refused -----------------------------------------------------------------

FORM = "expected init, advance and score, or score_texts alone"
HIDDEN = "hidden states: expected n_hidden_layers and n_embd"
TEXTS = Scorer(is_texts=True)
REFUSED: list[tuple[str, Scorer, dict[str, Any], str]] = [
    ("older", Scorer(), {"abi_version": 0}, "abi_version: expected 1, got 0; rebuild"),
    ("newer", Scorer(), {"abi_version": 2}, "abi_version: expected 1, got 2; rebuild"),
    ("noise", Scorer(), {"abi_version": 2**32 - 1}, "abi_version.*4294967295"),
    ("no size", Scorer(), {"struct_size": 0}, f"struct_size: expected {SIZE}, got 0"),
    ("shorter", Scorer(), {"struct_size": SIZE - 8}, "struct_size.*rebuild"),
    ("longer", Scorer(), {"struct_size": SIZE + 8}, "struct_size.*rebuild"),
    ("size is noise", Scorer(), {"struct_size": 2**32 - 1}, "struct_size"),
    ("no name", Scorer(), {"name": None}, "name: expected a name, got NULL"),
    ("empty name", Scorer(), {"name": b""}, "name: expected a non-empty"),
    ("low NaN", Scorer(), {"low": math.nan}, "low <= high, got nan and 1"),
    ("high NaN", Scorer(), {"high": math.nan}, "low <= high, got 0 and nan"),
    ("low > high", Scorer(), {"low": 2.0}, "low <= high, got 2 and 1"),
    ("no init", Scorer(), {"init": None}, FORM),
    ("no advance", Scorer(), {"advance": None}, FORM),
    ("no score", Scorer(), {"score": None}, FORM),
    ("no score_texts", TEXTS, {"score_texts": None}, FORM),
    ("both forms", Scorer(), {"score_texts": TEXTS.score_texts}, FORM),
    ("fork on texts", TEXTS, {"fork": Scorer().fork}, FORM),
    ("drop on texts", TEXTS, {"drop": Scorer().drop}, FORM),
    ("bounds on texts", TEXTS, {"bounds": Scorer().bounds}, FORM),
    ("bounds_texts", Scorer(), {"bounds_texts": TEXTS.bounds_texts}, "expected NULL"),
    ("text alone", Scorer(), {"is_text_alone": 1}, "is_text_alone: expected 0"),
    ("observe alone", Scorer(), {"observe": lambda *_: 0}, HIDDEN),
    ("hidden alone", Scorer(), {"n_hidden_layers": 1, "n_embd": 64}, HIDDEN),
    ("hidden < 0", Scorer(), {"n_hidden_layers": -1, "observe": lambda *_: 0}, HIDDEN),
    ("hidden on texts", TEXTS, {"n_hidden_layers": 1, "n_embd": 64}, HIDDEN),
]


@pytest.mark.parametrize(
    ("scorer", "members", "message"),
    [row[1:] for row in REFUSED],
    ids=[row[0] for row in REFUSED],
)
def test_refused(
    lm: deal.Model, scorer: Scorer, members: dict[str, Any], message: str
) -> None:
    users: list[Callable[[Any], Any]] = [
        Native,
        lambda capsule: deal.rewards.check(capsule, ["a"]),
        lambda capsule: run(lm, capsule),
        lambda capsule: deal.rewards.Keywords(["a"]) + capsule,
    ]
    if message != "name: expected a non-empty":
        users.append(lambda capsule: _core.RewardState(capsule, ""))
    for use in users:
        with pytest.raises(ValueError, match=message):
            use(scorer.capsule(**members))


@pytest.mark.parametrize("name", [None, b"", b"deal.reward.v0", b"deal.reward.v2"])
def test_capsule_of_another_name(lm: deal.Model, name: bytes | None) -> None:
    for use in (Native, lambda c: run(lm, c), lambda c: _core.RewardState(c, "")):
        with pytest.raises(TypeError, match='expected a capsule "deal.reward.v1"'):
            use(Scorer().capsule(name))


def test_capsule_that_is_renamed_later(lm: deal.Model) -> None:
    capsule = Scorer().capsule()
    reward = Native(capsule)
    set_name(capsule, b"deal.reward.v2")
    with pytest.raises(ValueError, match="PyCapsule_GetPointer called with incorrect"):
        run(lm, reward)
    with pytest.raises(TypeError, match="deal.reward.v1"):
        reward.score(["a"])


def test_capsule_that_is_changed_later(lm: deal.Model) -> None:
    capsule = Scorer().capsule()
    reward = Native(capsule)
    DealReward.from_address(get_pointer(capsule, NAME)).struct_size = 8
    with pytest.raises(ValueError, match="struct_size"):
        run(lm, reward)


def test_no_pointer() -> None:
    for thing in (None, 3, "deal.reward.v1", Scorer()):
        with pytest.raises(TypeError, match="expected a capsule"):
            Native(thing)


@pytest.mark.parametrize("size", [2**63, 2**64 - 1, 2**64 - 64])
def test_states_that_no_memory_holds(lm: deal.Model, size: int) -> None:
    for use in (lambda c: run(lm, c), lambda c: _core.RewardState(c, "")):
        with pytest.raises(MemoryError):
            use(Scorer().capsule(state_size=size))


def test_hidden_states_of_another_model(lm: deal.Model) -> None:
    layers = (ctypes.c_int32 * 1)(99)
    asked = {"n_hidden_layers": 1, "hidden_layers": layers, "observe": lambda *_: 0}
    with pytest.raises(ValueError, match="layers: expected -1 to"):
        run(lm, Scorer().capsule(**asked, n_embd=64))
    with pytest.raises(ValueError, match="expected hidden states of 64 features"):
        run(lm, Scorer().capsule(**asked, n_embd=65))


# --- what may be left out ------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["fork", "drop", "bounds", "bounds_texts"])
def test_functions_that_may_be_missing(lm: deal.Model, name: str, mode: str) -> None:
    scorer = Scorer(is_texts=name == "bounds_texts")
    whole = run(lm, scorer.capsule(), mode)
    r = run(lm, scorer.capsule(**{name: None}), mode)
    assert (r.token_ids, r.score) == (whole.token_ids, whole.score)


def test_state_without_bytes(lm: deal.Model) -> None:
    scorer = Scorer()
    given: dict[str, Any] = {name: None for name in ("fork", "drop", "bounds")}
    given |= {name: lambda *_: 0 for name in ("init", "advance")}

    def half(_: Any, state: Any, end: int, out: Any, message: Any) -> int:
        out[0] = 0.5
        return 0

    for mode in MODES:
        r = run(lm, scorer.capsule(state_size=0, score=half, **given), mode)
        assert r.reward == 0.5


# --- scores that are none ------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1.5, -0.25, None])
@pytest.mark.parametrize("is_texts", [False, True])
def test_scores_out_of_range(
    lm: deal.Model, value: float | None, is_texts: bool
) -> None:
    class Wild(Scorer):
        def worth(self, n: float) -> float:
            return n / 10 if value is None else value

        def score(self, *given: Any) -> int:
            return 0 if value is None else super().score(*given)  # None: forgotten

        def score_texts(self, *given: Any) -> int:
            return 0 if value is None else super().score_texts(*given)

    scorer = Wild(is_texts)
    shown = "nan" if value is None else f"{value:g}"
    for mode in MODES:
        with pytest.raises(deal.RewardError, match=f'"scorer".*score {shown} for'):
            run(lm, scorer.capsule(**{scorer.names()[-1]: None}), mode)
    with pytest.raises(deal.RewardError, match=f"'scorer'.*{shown}"):
        Native(scorer.capsule()).score(["a"])
    found = deal.rewards.check(scorer.capsule(), ["banana"], n_streams=5)
    assert [v.kind for v in found] == ["score"] and shown in found[0].message
    gc.collect()
    assert scorer.n_live == 0


@pytest.mark.parametrize("mode", ["naive", "exact"])
def test_large_scores_without_a_range(lm: deal.Model, mode: str) -> None:
    class Large(Scorer):
        def worth(self, n: float) -> float:
            return 1.7e308

    capsule = Large().capsule(low=-math.inf, high=math.inf, bounds=None)
    with pytest.raises(deal.RewardError, match="not finite"):
        run(lm, Native(capsule) + Native(capsule), mode)


# --- functions that fail -------------------------------------------------------------


def say(message: Any, how: str) -> int:
    """What a failing function leaves, and what it returns."""
    if how == "message":
        ctypes.memmove(message, b"out of luck\0", 12)
    elif how == "without end":
        ctypes.memset(message, ord("x"), 256)
    elif how == "no text":
        ctypes.memmove(message, b"\xff\xfe\0", 3)
    return {"odd": 7, "raised": -1}.get(how, 1)


HOW = {
    "message": "scorer.*out of luck",
    "silent": "scorer.*without a message",
    "without end": "scorer.*xxxx",
    "no text": "scorer.*\ufffd\ufffd",
    "odd": "scorer.*(expected 0 or 1 from its function, got 7|without a message)",
    "raised": "scorer.*without (an exception|a message)",
}


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize(
    "name",
    ["init", "fork", "advance", "score", "bounds", "score_texts", "bounds_texts"],
)
def test_functions_that_fail(lm: deal.Model, name: str, how: str) -> None:
    scorer = Scorer(is_texts=name.endswith("texts"))
    n_calls = n_good = 0

    def fail(*given: Any) -> int:
        nonlocal n_calls
        n_calls += 1
        return say(given[-1], how) if n_calls > n_good else sound(*given)

    sound = getattr(scorer, name)
    broken = SystemError if how == "raised" else deal.RewardError
    for n in {"init": [0], "score_texts": [0, 1]}.get(name, [0, 1, 9]):
        n_good = n
        for mode, check in [("exact", False), ("naive", True), ("segment", True)]:
            n_calls = 0
            with pytest.raises(broken, match=HOW[how]):
                run(lm, scorer.capsule(**{name: fail}), mode, check)
        gc.collect()
        assert scorer.n_live == 0
    n_calls = n_good = 0
    with pytest.raises(deal.RewardError, match=HOW[how]):
        everything(scorer, **{name: fail})
    assert run(lm, scorer.capsule()).token_ids  # the model stays usable
    gc.collect()
    assert scorer.n_live == 0


@pytest.mark.parametrize("how", HOW)
def test_observe_that_fails(lm: deal.Model, how: str) -> None:
    scorer = Scorer()
    asked = {"n_hidden_layers": 1, "hidden_layers": (ctypes.c_int32 * 1)(-1)}
    for mode in MODES:
        capsule = scorer.capsule(
            **asked, n_embd=64, observe=lambda *given: say(given[-1], how)
        )
        broken = SystemError if how == "raised" else deal.RewardError
        with pytest.raises(broken, match=HOW[how]):
            run(lm, capsule, mode)
    gc.collect()
    assert scorer.n_live == 0


# --- bounds that are none, and bounds that lie ---------------------------------------


@pytest.mark.parametrize(
    ("ends", "message"),
    [
        ((math.nan, 1.0), "low <= high, got nan and 1"),
        ((0.0, math.nan), "low <= high, got 0 and nan"),
        ((0.75, 0.25), "low <= high, got 0.75 and 0.25"),
        ((2.0, 3.0), r"do not meet \[0, 1\]"),
        ((-math.inf, -1.0), r"do not meet \[0, 1\]"),
    ],
)
@pytest.mark.parametrize("is_texts", [False, True])
def test_bounds_that_are_none(
    lm: deal.Model, ends: tuple[float, float], message: str, is_texts: bool
) -> None:
    class Odd(Scorer):
        def range(self, *given: Any) -> tuple[float, float]:
            return ends

    scorer = Odd(is_texts)
    for mode, check in [("exact", False), ("naive", True), ("exact", True)]:
        with pytest.raises(deal.RewardError, match=f'"scorer".*{message}'):
            run(lm, scorer.capsule(), mode, check)
    assert run(lm, scorer.capsule(), "naive").token_ids  # which never asks
    found = deal.rewards.check(scorer.capsule(), ["banana"], n_streams=5)
    assert [v.kind for v in found] == ["bounds"]


class TooLow(Scorer):
    """Says that tokens bring nothing more."""

    def range(self, n: float, n_left: int, size_max: float) -> tuple[float, float]:
        return 0.0, self.worth(n)


class TooHigh(Scorer):
    """Says that there will be more."""

    def range(self, n: float, n_left: int, size_max: float) -> tuple[float, float]:
        return self.worth(n + 1) if n_left > 1 else 0.0, 1.0


class ShortSighted(Scorer):
    """Right about the whole text, wrong about the rest of a rollout."""

    def range(self, n: float, n_left: int, size_max: float) -> tuple[float, float]:
        return 0.0, 1.0 if n_left > 5 else self.worth(n)


class FarSighted(Scorer):
    """Right about a rollout, wrong about the whole text."""

    def range(self, n: float, n_left: int, size_max: float) -> tuple[float, float]:
        return 0.0, 1.0 if n_left < 7 else self.worth(n + 2)


LIARS = [TooLow, TooHigh, ShortSighted, FarSighted]


@pytest.mark.parametrize("liar", LIARS)
@pytest.mark.parametrize("is_texts", [False, True])
def test_bounds_that_lie(lm: deal.Model, liar: type[Scorer], is_texts: bool) -> None:
    scorer = liar(is_texts)
    side = "below" if liar is TooHigh else "above"
    message = (
        rf'"scorer" \(0\): score [\d.]+ of ".+" is {side} its bound [\d.]+, stated '
        r'after ".*" for \d+ tokens left'
    )
    texts = set()
    for mode in MODES:
        with pytest.raises(deal.RewardError, match=message) as caught:
            run(lm, scorer.capsule(), mode, True)
        texts.add(str(caught.value))
    assert liar is FarSighted or len(texts) <= 2  # naive and exact find the same
    assert run(lm, scorer.capsule(), "naive").token_ids  # unseen without checking
    found = deal.rewards.check(scorer.capsule(), ["banana bandana", "an ape"])
    assert "bounds" in {v.kind for v in found}
    gc.collect()
    assert scorer.n_live == 0


class Slow(Scorer):
    """Says that a text without what it counts will never have any."""

    def range(self, n: float, n_left: int, size_max: float) -> tuple[float, float]:
        return super().range(n, n_left, size_max) if n else (0.0, 0.0)


def test_a_lie_that_prunes(lm: deal.Model) -> None:
    """What exact leaves out it cannot refute; checking mode does."""

    def decode(scorer: Scorer, **given: Any) -> deal.Generation:
        search = dataclasses.replace(SEARCH, top_k=8, reward_weight=40.0, **given)
        return lm.generate(
            PROMPT, rewards=scorer.capsule(), search=search, max_new_tokens=12
        )

    assert decode(Slow()).text != decode(Scorer()).text
    for mode in ("exact", "naive"):
        with pytest.raises(deal.RewardError, match=r"are above 0, stated after \""):
            decode(Slow(), check_rewards=True, mode=mode)
        sound = decode(Scorer(), check_rewards=True, mode=mode)
        assert (sound.text, sound.score) == (
            decode(Scorer()).text,
            decode(Scorer()).score,
        )


# --- what checking finds -------------------------------------------------------------


class Shared(Scorer):
    """Keeps its count beside the states."""

    total = 0.0

    def advance(self, _: Any, state: Any, *given: Any) -> int:
        super().advance(_, state, *given)
        self.total += 0.125
        state[0] += 0.125
        return 0

    def score(self, _: Any, state: Any, end: int, out: Any, message: Any) -> int:
        out[0] = self.total % 1.0
        return 0


class BadCopy(Scorer):
    def fork(self, _: Any, to: Any, state: Any, message: Any) -> int:
        super().fork(_, to, state, message)
        to[0] = 0.0
        return 0


class Moody(Scorer):
    def score(self, _: Any, state: Any, end: int, out: Any, message: Any) -> int:
        self.n_asked = getattr(self, "n_asked", 0) + 1
        out[0] = self.n_asked % 7 / 10.0
        return 0


class TokenWise(Scorer):
    """Sees "an" within a token alone."""

    def count(self, data: bytes) -> float:
        return data.count(b"an")


class Widening(Scorer):
    def range(self, n: float, n_left: int, size_max: float) -> tuple[float, float]:
        low, high = super().range(n, n_left, size_max)
        return (0.0, 1.0) if n_left == 1 else (low, high)


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        ("fork", Shared),
        ("fork", BadCopy),
        ("pure", Moody),
        ("split", TokenWise),
        ("widening", Widening),
    ],
)
def test_what_check_finds(lm: deal.Model, kind: str, wrong: type[Scorer]) -> None:
    scorer = wrong()
    members: dict[str, Any] = {} if wrong is Widening else {"bounds": None}
    reward = Native(scorer.capsule(**members), name="mine")
    found = deal.rewards.check(reward, ["banana bandana"], n_streams=40)
    (one,) = [v for v in found if v.kind == kind]
    assert one.reward == "mine" and one.count > 3
    assert str(one).startswith(f"reward 'mine': {kind}: ")
    for mode in MODES:
        assert run(lm, reward, mode).token_ids  # wrong, and no crash
    gc.collect()
    assert scorer.n_live == 0
    impure = scorer.capsule(**members, is_impure=1)
    assert deal.rewards.check(impure, ["banana bandana"], n_streams=40) == ()


def test_check_is_reproducible() -> None:
    given = {"n_streams": 30, "seed": 3}
    first, again = (
        deal.rewards.check(TooLow().capsule(), ["banana"], **given) for _ in range(2)
    )
    assert first == again and first != ()
    other = deal.rewards.check(TooLow().capsule(), ["banana"], n_streams=30, seed=4)
    assert other != first


# --- life ----------------------------------------------------------------------------


def test_capsule_that_others_drop(lm: deal.Model) -> None:
    scorer = Scorer()
    state = _core.RewardState(scorer.capsule(), "p")
    copy = state.fork()
    del state
    gc.collect()
    copy.advance(b"banana")
    assert copy.score() == 0.3 and scorer.n_destroyed == 0
    del copy
    gc.collect()
    assert (scorer.n_live, scorer.n_destroyed) == (0, 1)

    held = [Native(scorer.capsule())]

    @deal.reward(range=(0, 1))
    def dropping(completions: list[str], **kwargs: Any) -> list[float]:
        held.clear()
        gc.collect()
        return [0.0] * len(completions)

    stream = lm.stream(
        PROMPT, rewards=held[0] + dropping, search=SEARCH, max_new_tokens=12
    )
    text = "".join(stream)
    assert text and held == []
    del stream
    gc.collect()
    assert (scorer.n_live, scorer.n_destroyed) == (0, 2)


def test_stream_that_is_left(lm: deal.Model) -> None:
    scorer = Scorer()
    stream = lm.stream(
        PROMPT, rewards=scorer.capsule(), search=SEARCH, max_new_tokens=12
    )
    next(iter(stream))
    gc.disable()  # no cycle keeps what the search held
    try:
        del stream
        if sys.version_info < (3, 11):  # but that of contextlib's own traceback
            gc.collect()
        assert (scorer.n_live, scorer.n_destroyed) == (0, 1)
    finally:
        gc.enable()


def test_capsule_without_a_destructor(lm: deal.Model) -> None:
    struct = Scorer().struct()
    capsule = new_capsule(ctypes.addressof(struct), NAME, None)
    assert run(lm, capsule).token_ids == run(lm, Scorer().capsule()).token_ids
