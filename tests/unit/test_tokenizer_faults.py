"""Tokenizers from bad data and with bad arguments: errors name the thing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_vocab
import tokenizer_families as families

import deal
from deal import _core
from deal.tokenizer import Tokenizer

KEY = "tokenizer.ggml."


def byte_metadata(**changes: Any) -> dict[str, Any]:
    v = tiny_vocab.vocabulary("byte")
    metadata = families.byte_metadata(v.pieces, v.merges, "gpt-2", v.types)
    return metadata | {KEY + name: value for name, value in changes.items()}


def spm_metadata(**changes: Any) -> dict[str, Any]:
    v = tiny_vocab.vocabulary("spm")
    metadata = {
        KEY + "model": "llama",
        KEY + "tokens": list(v.pieces),
        KEY + "scores": list(v.scores),
        KEY + "token_type": list(v.types),
    }
    return metadata | {KEY + name: value for name, value in changes.items()}


@pytest.fixture(scope="module", params=["byte", "spm"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    is_byte = request.param == "byte"
    return Tokenizer.from_gguf(byte_metadata() if is_byte else spm_metadata())


# --- arguments -----------------------------------------------------------------------


@pytest.mark.parametrize("text", [b"the", None, 5, ["the"], bytearray(b"x")])
def test_text_of_another_type(tokenizer: Tokenizer, text: Any) -> None:
    with pytest.raises(TypeError, match=f"expected a str, got {type(text).__name__}"):
        tokenizer.encode(text)


@pytest.mark.parametrize("text, at", [("\ud800", 0), ("ab\udfff", 2), ("\udc80x", 0)])
def test_lone_surrogates(tokenizer: Tokenizer, text: str, at: int) -> None:
    with pytest.raises(ValueError, match=f"lone surrogate at {at}"):
        tokenizer.encode(text)


@pytest.mark.parametrize("skips", [True, False])
@pytest.mark.parametrize("off", [0, 1, 2**31, 2**32, 2**63, 2**70])
def test_id_out_of_range(tokenizer: Tokenizer, off: int, skips: bool) -> None:
    n = len(tokenizer)
    for bad in (n + off, -1 - off):
        with pytest.raises(
            ValueError, match=rf"0 to {n - 1} .*got {bad}$|\[1\]: {bad} is no"
        ):
            tokenizer.decode([3, bad], skip_special_tokens=skips)
        detokenizer = tokenizer.vocab.detokenizer()
        for call in (detokenizer.push, tokenizer.vocab.piece, tokenizer.vocab.kind):
            with pytest.raises(ValueError, match=f"0 to {n - 1} .*of {n}.*got {bad}$"):
                call(bad)
        assert detokenizer.pending() == ""


@pytest.mark.parametrize(
    "ids",
    ["the", b"\x01", 5, None, [1.5], ["1"], [None], [[1]], np.array([1.0]),
     np.zeros((2, 2), np.int32)],
)  # fmt: skip
def test_ids_of_another_type(tokenizer: Tokenizer, ids: Any) -> None:
    for skips in (True, False):
        with pytest.raises((TypeError, ValueError), match="ids|token id"):
            tokenizer.decode(ids, skip_special_tokens=skips)


@pytest.mark.parametrize("token", [1.0, "1", None, b"1"])
def test_push_of_another_type(tokenizer: Tokenizer, token: Any) -> None:
    with pytest.raises(TypeError, match="token id: expected an integer, got"):
        tokenizer.vocab.detokenizer().push(token)


@pytest.mark.parametrize(
    "pieces, kinds, rules, error, what",
    [
        ([b"a", "b"], b"\0\0", (0, 0), TypeError, r"pieces\[1\]: .* bytes, got str"),
        ([b"a"], b"\0\0", (0, 0), ValueError, "each of 1 pieces, got 2"),
        ([], b"", (0, 0), ValueError, "at least 1 piece, got 0"),
        ([b"a"], b"\4", (0, 0), deal.ModelFormatError, r"kind\[0\]: .* got 4"),
        ([b"ab"], b"\2", (1, 0), deal.ModelFormatError, "byte piece 0: expected 1"),
        ([b"a"], b"\0", (3, 0), ValueError, "byte_rule: expected 0 to 2, got 3"),
        ([b"a"], b"\0", (0, 2), ValueError, "leading_space: expected 0 to 1 .*got 2"),
    ],
)
def test_piece_table(
    pieces: Any, kinds: bytes, rules: tuple[int, int], error: Any, what: str
) -> None:
    with pytest.raises(error, match=what):
        _core.Vocab(pieces, kinds, *rules)


# --- GGUF ----------------------------------------------------------------------------

TOKENS = tiny_vocab.vocabulary("byte").pieces
TYPES = tiny_vocab.vocabulary("byte").types
SPM = tiny_vocab.vocabulary("spm")
FORMAT, UNSUPPORTED = deal.ModelFormatError, NotImplementedError


@pytest.mark.parametrize(
    "changes, error, what",
    [
        ({"model": "bert"}, UNSUPPORTED, "expected 'gpt2' or 'llama', got 'bert'"),
        ({"model": None}, UNSUPPORTED, "model: .* got None"),
        ({"model": 5}, FORMAT, "model: expected a string, got int 5"),
        ({"pre": "deepseek-llm"}, UNSUPPORTED, "pre: .*'smollm'.* got 'deepseek-llm'"),
        ({"pre": None}, UNSUPPORTED, "pre: expected one of .*, got None"),
        ({"pre": 1}, FORMAT, "pre: expected a string"),
        ({"tokens": None}, FORMAT, "tokens: expected an array of strings, got none"),
        ({"tokens": []}, FORMAT, "tokens: expected at least one token"),
        ({"tokens": "abc"}, FORMAT, "tokens: expected an array of strings, got str"),
        ({"tokens": np.arange(3)}, FORMAT, "tokens: .* got an array of int64"),
        ({"tokens": [*TOKENS[:-1], "\udc80"]}, FORMAT, r"tokens\[\d+\]: .*UTF-8"),
        ({"tokens": [*TOKENS[:-1], "!"]}, FORMAT, "token once, got '!' as 36 and 419"),
        ({"merges": None}, FORMAT, "merges: expected an array of strings, got none"),
        ({"merges": ["ab"]}, FORMAT, r"merges\[0\]: expected two pieces .* got 'ab'"),
        ({"merges": ["a b c"]}, FORMAT, r"merges\[0\]: expected two pieces"),
        ({"merges": [" a"]}, FORMAT, r"merges\[0\]: expected two pieces"),
        ({"merges": ["q z"]}, FORMAT, r"merges\[0\]: .*'qz' is none"),
        ({"merges": [1]}, FORMAT, "merges: .* strings, got a list of int"),
        ({"token_type": TYPES[1:]}, FORMAT, "token_type: expected .*, got [0-9]+$"),
        ({"token_type": [0, *TYPES[1:]]}, FORMAT, r"token_type\[0\]: .* 1 to 6, got 0"),
        ({"token_type": [7, *TYPES[1:]]}, FORMAT, r"token_type\[0\]: .* 1 to 6, got 7"),
        ({"token_type": "x"}, FORMAT, "token_type: expected [0-9]+ integers"),
        ({"bos_token_id": len(TOKENS)}, FORMAT, f"bos_token_id: .* got {len(TOKENS)}"),
        ({"eos_token_id": -1}, FORMAT, "eos_token_id: expected 0 to .*, got -1"),
        ({"eos_token_id": "2"}, FORMAT, "eos_token_id: expected an integer"),
        ({"add_bos_token": 1}, FORMAT, "add_bos_token: expected a bool, got int 1"),
    ],
)  # fmt: skip
def test_byte_level_gguf(changes: dict[str, Any], error: Any, what: str) -> None:
    with pytest.raises(error, match=what):
        Tokenizer.from_gguf(byte_metadata(**changes))


@pytest.mark.parametrize(
    "changes, what",
    [
        ({"scores": None}, "scores: expected [0-9]+ floats.*, got none"),
        ({"scores": SPM.scores[1:]}, "scores: expected [0-9]+ floats.*, got [0-9]+"),
        ({"scores": ["x"] * len(SPM.scores)}, "scores: .* got a list of str"),
        ({"token_type": [1, *SPM.types[1:]]}, "one unknown token .*got 0"),
        ({"token_type": [2, 2, *SPM.types[2:]]}, "one unknown token .*got 2"),
        ({"token_type": [*SPM.types[:3], 1, *SPM.types[4:]]}, "256 byte .*got 255"),
        ({"tokens": ["", *SPM.pieces[1:]]}, "GGUF vocabulary: "),
        ({"tokens": [*SPM.pieces[:3], "<0xG0>", *SPM.pieces[4:]]}, "GGUF vocabulary: "),
        ({"tokens": [*SPM.pieces[:-1], "a"]}, "every token once, got 'a'"),
        ({"remove_extra_whitespaces": 0}, "remove_extra_whitespaces: expected a bool"),
    ],
)  # fmt: skip
def test_llama_gguf(changes: dict[str, Any], what: str) -> None:
    with pytest.raises(FORMAT, match=what):
        Tokenizer.from_gguf(spm_metadata(**changes))


# --- folders -------------------------------------------------------------------------


def test_folder_without_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="tokenizer.json or tokenizer.model"):
        Tokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b"[]", b"\xff\xfe"])
def test_damaged_tokenizer_json(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(FORMAT, match="tokenizer.json: "):
        Tokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\x0a\xff\xff\xff\xff"])
def test_damaged_model_file(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(content)
    with pytest.raises(FORMAT, match="tokenizer.model: "):
        Tokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "decoder, named",
    [
        (None, "null"),
        ({"type": "WordPiece", "prefix": "##", "cleanup": True}, "WordPiece"),
        ({"type": "Metaspace", "replacement": "_", "prepend_scheme": "always",
          "split": True}, "Metaspace"),
        ({"type": "Strip", "content": " ", "start": 1, "stop": 0}, "Strip"),
        ({"type": "Sequence", "decoders": [{"type": "Fuse"},
          {"type": "Strip", "content": " ", "start": 0, "stop": 1}]}, "Strip"),
        ({"type": "Replace", "pattern": {"Regex": "a+"}, "content": "b"}, "Regex"),
    ],
)  # fmt: skip
def test_unknown_decoders(decoder: Any, named: str, tmp_path: Path) -> None:
    spec = tiny_vocab.tokenizer_json(SPM)
    spec["decoder"] = decoder
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
    with pytest.raises(UNSUPPORTED, match=f"decoder: expected .*{named}"):
        Tokenizer.from_pretrained(tmp_path)


def test_more_tokens_than_rows(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps(tiny_vocab.tokenizer_json(SPM)))
    n = len(SPM.pieces)
    with pytest.raises(FORMAT, match=f"at most {n - 1} tokens .*got {n}"):
        Tokenizer.from_pretrained(tmp_path, n_vocab=n - 1)
