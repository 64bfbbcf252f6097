"""Hard constraints through the API, on tiny models: every text has the form it must
have, in every mode; what goes wrong in a constraint is told.
"""

from __future__ import annotations

import ctypes
import json
import re
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from generation import PROMPT, WORDS, key, python_keywords
from tiny_model import TinyConfig, make_tiny, write_gguf

import deal
from deal import _core, cli
from deal.rewards import Grammar, JsonSchema, Keywords, Regex

pytest.importorskip(
    "llguidance",
    reason="llguidance is not installed; pip install 'deal-lm[constraints]'",
)

SCHEMA = {
    "type": "object",
    "properties": {
        "pet": {"enum": ["cat", "dog", "é日"]},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 2},
    },
    "required": ["pet", "age", "tags"],
    "additionalProperties": False,
}
DATE = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
REWARDS = Keywords(WORDS) + 0.5 * python_keywords
DEAL = {"top_k": 4, "lookahead": 5, "reward_weight": 3.0}
MODES: dict[str, dict[str, Any]] = {
    "greedy": {},
    "sampled": {"sampling": deal.Sampling(temperature=2.0, seed=5)},
    "several": {
        "sampling": deal.Sampling(top_p=0.9, repetition_penalty=1.2),
        "num_return_sequences": 3,
    },
    "beams": {"num_beams": 3, "num_return_sequences": 3},
    "naive": {"rewards": REWARDS, "search": deal.Search(mode="naive", **DEAL)},
    "exact": {"rewards": REWARDS, "search": deal.Search(num_beams=2, **DEAL)},
    "commit": {"rewards": REWARDS, "search": deal.Search(commit=3, **DEAL)},
    "segment": {
        "rewards": REWARDS,
        "search": deal.Search(mode="segment", top_k=3, lookahead=4),
    },
    "drawn segments": {
        "rewards": REWARDS,
        "search": deal.Search(mode="segment", top_k=3, lookahead=4, num_beams=2),
        "sampling": deal.Sampling(temperature=1.5, seed=2),
    },
    "best of n": {
        "rewards": REWARDS,
        "search": deal.Search.best_of_n(4),
        "sampling": deal.Sampling(seed=1),
    },
}


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("hard")
    configs = {
        "byte": TinyConfig(seed=0),
        "spm": TinyConfig(seed=1, vocab="spm"),
        "small": TinyConfig(seed=2, n_layer=1),
    }
    for name, config in configs.items():
        write_gguf(make_tiny(config), folder / f"{name}.gguf")
    return {name: folder / f"{name}.gguf" for name in configs}


@pytest.fixture(scope="module")
def models(paths: dict[str, Path]) -> dict[str, deal.Model]:
    return {
        name: deal.load(path, compute="f32", threads=1) for name, path in paths.items()
    }


@pytest.fixture(scope="module")
def lm(models: dict[str, deal.Model]) -> deal.Model:
    return models["byte"]


def results(found: Any) -> list[deal.Generation]:
    return found if isinstance(found, list) else [found]


def is_json(text: str) -> bool:
    value = json.loads(text)
    assert list(value) == ["pet", "age", "tags"]
    assert value["pet"] in SCHEMA["properties"]["pet"]["enum"]  # type: ignore[index]
    assert type(value["age"]) is int and 0 <= value["age"] <= 120
    return len(value["tags"]) <= 2 and set(value["tags"]) <= {"a", "b"}


FORMS: dict[str, tuple[Any, Any]] = {
    "date": (Regex(DATE), lambda text: re.fullmatch(DATE, text)),
    "words": (
        Regex(r"( (dog|river|日本|é)){1,6}\."),
        lambda text: re.fullmatch(r"( (dog|river|日本|é)){1,6}\.", text),
    ),
    "json": (JsonSchema(SCHEMA, whitespace_flexible=False), is_json),
    "lark": (Grammar('start: "(" start? ")"'), lambda t: t == t[::-1].translate(SWAP)),
}
SWAP = str.maketrans("()", ")(")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("vocab", ["byte", "spm"])
def test_every_text_has_its_form(
    models: dict[str, deal.Model], vocab: str, mode: str, form: str
) -> None:
    constraint, check = FORMS[form]
    lm = models[vocab]
    found = lm.generate(PROMPT, constraint=constraint, max_new_tokens=48, **MODES[mode])
    for r in results(found):
        if r.finish_reason == "length":
            assert constraint.score([r.text.rstrip("\ufffd")]) == [0.5]
        else:
            assert r.finish_reason == "stop" and check(r.text)
            assert r.token_ids[-1] in lm.tokenizer.eos_token_ids
        log_prob = lm.logprob(PROMPT, [list(r.token_ids)])
        assert r.logprob == pytest.approx(log_prob[0], rel=1e-5)  # of the whole model
        if "rewards" in MODES[mode]:
            parts = r.rewards.values()
            assert list(parts)[0] == pytest.approx(Keywords(WORDS).score([r.text])[0])


@pytest.mark.parametrize("form", ["date", "json", "words"])
def test_exact_is_naive(models: dict[str, deal.Model], form: str) -> None:
    constraint, _ = FORMS[form]
    lm = models["byte"]
    for other in (None, models["small"]):
        for settings in ({}, {"num_beams": 3}, {"commit": 4}, {"skip_above": 0.2}):
            found = []
            for mode in ("naive", "exact"):
                search = deal.Search(
                    mode=mode, rollout_model=other, **(DEAL | settings)
                )
                r = lm.generate(
                    PROMPT,
                    rewards=REWARDS,
                    search=search,
                    constraint=constraint,
                    max_new_tokens=24,
                )
                found.append((*key(r)[:-1], tuple(d.step for d in r.trace)))
            assert found[0] == found[1]


def test_greedy_takes_the_likeliest_token_that_can_match(lm: deal.Model) -> None:
    """Against logits and texts, token by token."""
    form = Regex(r"[a-z ]{3,9}(dog|cat)[.!]")
    r = lm.generate(PROMPT, constraint=form, max_new_tokens=30)
    assert r.finish_reason == "stop"
    ids = lm.tokenizer.encode(PROMPT)
    end = lm.tokenizer.eos_token_ids[0]
    text, taken = "", []
    while not taken or taken[-1] != end:
        logits = lm.logits(ids + taken)
        logits = np.asarray(logits).reshape(-1, lm.hparams.n_vocab)[-1]
        best, best_text = -1, ""
        for token in np.argsort(-logits, kind="stable"):
            longer = lm.tokenizer.decode([*taken, int(token)])
            is_end = int(token) == end and form.score([text]) == [1.0]
            if is_end or (
                longer != text and "\ufffd" not in longer and form.score([longer]) > [0]
            ):
                best, best_text = int(token), longer
                break
        taken.append(best)
        text = text if best == end else best_text
    assert list(r.token_ids) == taken and r.text == text


def test_text_that_is_forced(lm: deal.Model) -> None:
    """Tokens that the form leaves no choice of: their rollouts cost no pass."""
    r = lm.generate(PROMPT, constraint=Regex("the little red house"))
    assert r.text == "the little red house" and r.finish_reason == "stop"
    found = {}
    for mode in ("naive", "exact"):
        search = deal.Search(mode=mode, top_k=1, lookahead=8)
        found[mode] = lm.generate(
            PROMPT,
            constraint=Regex("the little red house"),
            rewards=Keywords(WORDS),
            search=search,
        )
    assert found["naive"].token_ids == found["exact"].token_ids == r.token_ids
    for one in found.values():
        assert one.stats.n_forward_passes == one.stats.n_steps == len(r.token_ids)
    assert found["naive"].stats.n_rollout_tokens > 2 * len(r.token_ids)


def test_stop_strings_end_a_text_before_its_form_does(lm: deal.Model) -> None:
    r = lm.generate(PROMPT, constraint=Regex(DATE), stop="-")
    assert re.fullmatch("[0-9]{4}", r.text) and r.finish_reason == "stop"
    search = deal.Search(mode="segment", top_k=3, lookahead=2)
    r = lm.generate(
        PROMPT, constraint=Regex(DATE), stop="-", rewards=REWARDS, search=search
    )
    assert re.fullmatch("[0-9]{4}", r.text) and r.finish_reason == "stop"


def test_streams_chats_and_lists(lm: deal.Model) -> None:
    constraint = Regex(DATE)
    want = lm.generate(PROMPT, constraint=constraint)
    stream = lm.stream(PROMPT, constraint=constraint)
    assert "".join(stream) == want.text and key(stream.generation) == key(want)
    both = lm.generate([PROMPT, "little"], constraint=constraint)
    assert key(both[0]) == key(want) and re.fullmatch(DATE, both[1].text)


def test_one_constraint_in_several_threads(lm: deal.Model) -> None:
    constraint = JsonSchema(SCHEMA, whitespace_flexible=False)
    want = lm.generate(PROMPT, constraint=constraint, **MODES["exact"])
    found: list[Any] = []

    def generate() -> None:
        r = lm.generate(PROMPT, constraint=constraint, **MODES["exact"])
        found.append(key(r)[:-1])  # what the trace leaves open hangs on the clock

    threads = [threading.Thread(target=generate) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [key(want)[:-1]] * 4


# --- constraints of one's own --------------------------------------------------------


class Letters:
    """A matcher in Python: tokens of certain ids, so many of them."""

    def __init__(self, n_vocab: int, allowed: list[int], n_left: int) -> None:
        self.n_vocab, self.allowed, self.n_left = n_vocab, allowed, n_left

    def deep_copy(self) -> Letters:
        return type(self)(self.n_vocab, self.allowed, self.n_left)

    def consume_token(self, token: int) -> bool:
        self.n_left -= 1
        return token in self.allowed and self.n_left >= 0

    def compute_bitmask(self) -> Any:
        bits = np.zeros((self.n_vocab + 31) // 32 * 32, np.uint8)
        bits[self.allowed if self.n_left else []] = 1
        return np.packbits(bits, bitorder="little").tobytes()

    def is_accepting(self) -> bool:
        return self.n_left == 0


class Own:
    """What `constraint=` takes of a third party."""

    name = "own"

    def __init__(self, kind: Any = Letters, n_left: int = 5, **changes: Any) -> None:
        self.kind = type("Changed", (kind,), changes) if changes else kind
        self.n_left = n_left

    def matcher(self, tokenizer: Any) -> Any:
        self.allowed = [t for w in WORDS for t in tokenizer.encode(w, False)]
        return self.kind(tokenizer.vocab_size, self.allowed, self.n_left)


def test_a_matcher_of_ones_own(lm: deal.Model) -> None:
    for mode in MODES.values():
        own = Own()
        for r in results(lm.generate(PROMPT, constraint=own, **mode)):
            assert len(r.token_ids) == 6 and set(r.token_ids[:5]) <= set(own.allowed)
            assert r.finish_reason == "stop"


def test_dead_ends(lm: deal.Model) -> None:
    """A matcher that forbids everything: the text ends, and its reason says so."""
    for mode in MODES.values():
        own = Own(is_accepting=lambda self: False)
        for r in results(lm.generate(PROMPT, constraint=own, **mode)):
            assert len(r.token_ids) == 6 and r.finish_reason == "dead_end"
        none = Own(n_left=0, is_accepting=lambda self: False)
        for r in results(lm.generate(PROMPT, constraint=none, **mode)):
            assert len(r.token_ids) == 1 and r.finish_reason == "dead_end"
    r = lm.generate(PROMPT, constraint=Own(n_left=0))
    assert (r.text, r.finish_reason) == ("", "stop")


def test_dead_ends_in_a_checkpoint(lm: deal.Model, tmp_path: Path) -> None:
    """A sweep takes them from its file again."""
    own = Own(is_accepting=lambda self: False)

    def sweep() -> Any:
        return deal.sweep(
            lm,
            [PROMPT],
            {"reward_weight": [0.0, 2.0]},
            rewards=deal.rewards.Keywords(WORDS),
            constraint=own,
            checkpoint=tmp_path / "sweep.jsonl",
        )

    first = sweep()
    assert [each.finish_reason for each in first.outcomes] == ["dead_end"] * 2
    assert sweep() == first


def raises(*args: Any) -> Any:
    raise KeyError("my own")


@pytest.mark.parametrize("mode", ["greedy", "beams", "exact", "segment"])
@pytest.mark.parametrize(
    "changes, error, message",
    [
        ({"deep_copy": raises}, KeyError, "my own"),
        ({"consume_token": raises}, KeyError, "my own"),
        ({"compute_bitmask": raises}, KeyError, "my own"),
        ({"is_accepting": raises}, KeyError, "my own"),
        ({"is_error": raises, "get_error": raises}, KeyError, "my own"),
        (
            {"compute_bitmask": lambda self: b"\xff" * 7},
            ValueError,
            r"own: compute_bitmask: expected \d+ bytes for \d+ tokens .*, got 7",
        ),
        (
            {"compute_bitmask": lambda self: [1, 2]},
            TypeError,
            "compute_bitmask: expected bytes, got list",
        ),
        (
            {"consume_token": lambda self, token: False},
            deal.ConstraintError,
            r"own: it does not take token \d+, which its mask allows",
        ),
        (
            {"is_error": lambda self: True, "get_error": lambda self: "too big\nat 1"},
            deal.ConstraintError,
            "constraint own: too big$",
        ),
        (
            {"is_error": lambda self: True, "get_error": lambda self: 3},
            TypeError,
            "get_error: expected a str, got int",
        ),
    ],
)
def test_what_goes_wrong_is_told(
    lm: deal.Model, changes: Any, error: Any, message: str, mode: str
) -> None:
    with pytest.raises(error, match=message):
        lm.generate(PROMPT, constraint=Own(**changes), **MODES[mode])
    assert lm.generate(PROMPT, constraint=Own()).finish_reason == "stop"


def test_bad_guesses_change_nothing(lm: deal.Model) -> None:
    """Tokens that a matcher says will follow are guesses, whatever they are."""
    want = lm.generate(PROMPT, constraint=Own(), **MODES["exact"])
    for guess in ([10**9, -3], [0, 1, 2], list(range(100)), []):
        own = Own(compute_ff_tokens=lambda self, guess=guess: guess)
        found = lm.generate(PROMPT, constraint=own, **MODES["exact"])
        assert (found.token_ids, found.score) == (want.token_ids, want.score)
    bad = Own(compute_ff_tokens=lambda self: ["x"])
    with pytest.raises(TypeError):
        lm.generate(PROMPT, constraint=bad, **MODES["exact"])


@pytest.mark.parametrize("bad", [3, "[0-9]+", Keywords(WORDS), object()])
def test_what_is_no_constraint(lm: deal.Model, bad: Any) -> None:
    with pytest.raises(TypeError, match="constraint: expected a Regex"):
        lm.generate(PROMPT, constraint=bad)


def test_bad_requests(lm: deal.Model) -> None:
    with pytest.raises(ValueError, match="end token; expected at least 1, got none"):
        lm.generate(PROMPT, constraint=Regex("a"), eos_token_id=[])
    with pytest.raises(ValueError, match="strip: .* expected False, got True"):
        lm.generate(PROMPT, constraint=Regex("a", strip=True))
    with pytest.raises(TypeError, match="a matcher with the method deep_copy"):
        lm.generate(PROMPT, constraint=Own(lambda *args: object()))


def test_other_end_tokens(lm: deal.Model) -> None:
    """An end token of the request's own is none of the form's."""
    end = lm.tokenizer.encode("q", False)[0]
    r = lm.generate(PROMPT, constraint=Regex("(the )+"), eos_token_id=end)
    assert r.finish_reason == "length" or r.token_ids[-1] == end
    assert re.fullmatch("(the )+", r.text) or r.finish_reason == "length"


# --- capsules ------------------------------------------------------------------------


def new_capsule(pointer: Any, name: bytes) -> Any:
    new = ctypes.pythonapi.PyCapsule_New
    new.restype = ctypes.py_object
    new.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    return new(pointer, name, None)


def test_capsules(lm: deal.Model) -> None:
    matcher = Regex(DATE).matcher(lm.tokenizer)
    capsule = _core.matcher_constraint("mine", matcher, lm.tokenizer.vocab_size)
    found = lm.generate(PROMPT, constraint=capsule)
    assert key(found) == key(lm.generate(PROMPT, constraint=Regex(DATE)))
    header = (ctypes.c_uint32 * 64)(7, 256)  # another version; nothing else is read
    name = ctypes.c_char_p(b"deal.constraint.v1")
    bad = new_capsule(ctypes.addressof(header), name)
    with pytest.raises(ValueError, match="expected version 1 .*, got version 7"):
        lm.generate(PROMPT, constraint=bad)
    other = ctypes.c_char_p(b"deal.reward.v1")
    with pytest.raises(TypeError, match='"deal.constraint.v1", got deal.reward.v1'):
        lm.generate(PROMPT, constraint=new_capsule(ctypes.addressof(header), other))


def test_header_is_public() -> None:
    header = Path(deal.get_include()) / "deal" / "constraint.h"
    assert "DEAL_CONSTRAINT_CAPSULE" in header.read_text(encoding="utf-8")


# --- command line --------------------------------------------------------------------


def test_command_line(
    paths: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    schema, lark = tmp_path / "schema.json", tmp_path / "form.lark"
    schema.write_text(json.dumps(SCHEMA), encoding="utf-8")
    lark.write_text('start: "yes" | "no"', encoding="utf-8")
    model = ["--model", str(paths["byte"]), "--no-stream", "--threads", "1"]
    run = ["generate", PROMPT, *model, "--max-new-tokens", "60"]
    for option, value, form in (
        ("--regex", DATE, Regex(DATE)),
        ("--json-schema", str(schema), JsonSchema(SCHEMA)),
        ("--grammar", str(lark), Regex("yes|no")),
    ):
        assert cli.main([*run, option, value]) == 0
        assert form.score([capfd.readouterr().out[:-1]])[0] > 0
    assert cli.main([*run, "--regex", "a", "--grammar", str(lark)]) == 2
    assert "give one of" in capfd.readouterr().err
    assert cli.main([*run, "--regex", "("]) == 1
    assert "unclosed group" in capfd.readouterr().err
    assert cli.main([*run, "--grammar", str(tmp_path / "none.lark")]) == 1
