"""Ids back to text, and text to ids: equal to the libraries, whole and token by token.

Every family of tokenizers is in ``tests/tokenizer_families.py`` with its library.
"""

from __future__ import annotations

import random

import numpy as np
import pytest
import tokenizer_families as families
from tokenizer_families import Family

N_SEQUENCES = 300
BYTE = 2  # a piece's kind


@pytest.fixture(scope="module", params=families.NAMES)
def family(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Family:
    folder = tmp_path_factory.mktemp("family")
    made = families.make(
        request.param, folder, lambda: request.getfixturevalue("smollm2_path")
    )
    if made is None:
        pytest.skip("needs shared/models; DEAL_SHARED names the shared folder")
    return made


def sequences(family: Family) -> list[list[int]]:
    rng = random.Random(20240)
    made = [families.random_ids(family, rng) for _ in range(N_SEQUENCES)]
    return made + [family.encode(text) for text in families.TEXTS]


def has_bytes(family: Family) -> bool:
    """Whether a token can be part of a character."""
    vocab = family.tokenizer.vocab
    return any(
        vocab.kind(i) == BYTE or b"\xe2" == vocab.piece(i) for i in range(len(vocab))
    )


# --- text to ids ---------------------------------------------------------------------


def test_encode(family: Family) -> None:
    for text in families.TEXTS:
        expected = family.encode(text)
        assert family.tokenizer.encode(text, add_special_tokens=False) == expected


def test_encode_random_text(family: Family) -> None:
    rng = random.Random(77)
    alphabet = [*"".join(families.TEXTS), *" \n's1", "<s>", "</s>", "<|im_end|>"]
    for _ in range(N_SEQUENCES):
        text = "".join(rng.choices(alphabet, k=rng.randint(1, 30)))
        expected = family.encode(text)
        assert family.tokenizer.encode(text, add_special_tokens=False) == expected, text


# --- ids to text ---------------------------------------------------------------------


def test_every_id_alone(family: Family) -> None:
    tokenizer = family.tokenizer
    for i in range(len(tokenizer)):
        assert tokenizer.decode([i]) == family.decode([i], True), i
        if family.has_all:
            shown = tokenizer.decode([i], skip_special_tokens=False)
            assert shown == family.decode([i], False), i


def test_random_sequences(family: Family) -> None:
    tokenizer = family.tokenizer
    n_broken = 0
    for ids in sequences(family):
        expected = family.decode(ids, True)
        assert tokenizer.decode(ids) == expected, ids
        n_broken += "\ufffd" in expected
        if family.has_all:
            shown = tokenizer.decode(ids, skip_special_tokens=False)
            assert shown == family.decode(ids, False), ids
    assert n_broken > 20 or not has_bytes(family), "the sequences are too tame"


def test_kinds_of_sequences(family: Family) -> None:
    ids = family.encode("the cat")
    expected = family.decode(ids, True)
    decode = family.tokenizer.decode
    assert expected == decode(ids) == decode(tuple(ids))
    for dtype in (np.int32, np.int64, np.uint16):
        assert decode(np.array(ids, dtype)) == expected
    assert decode([]) == decode([], skip_special_tokens=False) == ""
    assert decode(np.array([], np.int64)) == ""


# --- one token at a time -------------------------------------------------------------


def test_one_token_at_a_time(family: Family) -> None:
    n_waited = 0
    for ids in sequences(family):
        detokenizer = family.tokenizer.vocab.detokenizer()
        assert detokenizer.pending() == ""
        emitted = ""
        for n, i in enumerate(ids, 1):
            piece = detokenizer.push(i)
            piece.encode()  # whole characters
            emitted += piece
            pending = detokenizer.pending()
            assert emitted + pending == family.decode(ids[:n], True), ids[:n]
            assert pending == detokenizer.pending(), "pending() changes the state"
            n_waited += pending != ""
        assert family.decode(ids, True).startswith(emitted)
    assert n_waited > 20 or not has_bytes(family), "nothing was ever held back"


def test_text_that_goes_on(family: Family) -> None:
    """After a prompt a leading space stays, which decode() alone would drop."""
    vocab = family.tokenizer.vocab
    word = family.encode("the")[-1:]
    before = family.decode(word, True)
    n_spaces = 0
    for ids in sequences(family):
        expected = family.decode(word + ids, True).removeprefix(before)
        assert vocab.decode(ids, continues=True) == expected, ids
        detokenizer = vocab.detokenizer(continues=True)
        emitted = "".join([detokenizer.push(i) for i in ids])
        assert emitted + detokenizer.pending() == expected, ids
        n_spaces += expected != family.decode(ids, True)
    assert n_spaces > 20 or not family.drops_space


def test_characters_wait_for_their_last_byte(family: Family) -> None:
    ids = family.encode("\U0001f600")
    if not has_bytes(family) or len(ids) < 3:
        pytest.skip("the character is in the vocabulary, or cannot be written")
    detokenizer = family.tokenizer.vocab.detokenizer()
    pieces = [detokenizer.push(i) for i in ids]
    text = "".join(pieces) + detokenizer.pending()
    assert text == "\U0001f600" and "\ufffd" not in "".join(pieces)
    assert all(piece.strip() in ("", "\U0001f600") for piece in pieces)
