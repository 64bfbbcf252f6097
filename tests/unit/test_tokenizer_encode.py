"""How text is cut before BPE, by the pre-tokenizer's name, and what goes around it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_vocab
import tokenizer_families as families

from deal.tokenizer import Tokenizer

NAMES = families.PRE_TOKENIZERS
SYMBOLS = tiny_vocab.byte_symbols()


def symbols(text: str) -> str:
    """Text in the printable characters of byte-level BPE."""
    return "".join(SYMBOLS[byte] for byte in text.encode())


def greedy_metadata(text: str, pre: str) -> dict[str, Any]:
    """A vocabulary in which every part of `text` is a token, and may be merged.

    So BPE makes one token of every word that the pre-tokenizer cuts out.
    """
    whole = symbols(text)
    n = len(whole)
    parts = {whole[i:j]: None for i in range(n) for j in range(i + 2, n + 1)}
    merges = [(part[:i], part[i:]) for part in parts for i in range(1, len(part))]
    pieces = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *SYMBOLS, *parts]
    types = [3] * 3 + [1] * (len(pieces) - 3)
    return families.byte_metadata(pieces, merges, pre, types)


# Words as gpt-2, smollm, llama-bpe and qwen2 cut them; one list where all agree. Worked
# out from the regular expressions in the models' tokenizer.json.
SPLITS: list[tuple[str, Any]] = [
    ("the cat sat", ["the", " cat", " sat"]),
    ("  the", [" ", " the"]),
    ("the  cat ", ["the", " ", " cat", " "]),
    ("a   b", ["a", "  ", " b"]),
    ("12345", (["12345"], [*"12345"], ["123", "45"], [*"12345"])),
    (
        "a 1234",
        (
            ["a", " 1234"],
            ["a", " ", *"1234"],
            ["a", " ", "123", "4"],
            ["a", " ", *"1234"],
        ),
    ),
    ("x1y", ["x", "1", "y"]),
    (
        "3.14",
        (["3", ".", "14"], [*"3.14"], ["3", ".", "14"], [*"3.14"]),
    ),
    (
        "\u0663\u0664",  # digits of Arabic
        (["\u0663\u0664"], [*"\u0663\u0664"], ["\u0663\u0664"], [*"\u0663\u0664"]),
    ),
    ("it's", ["it", "'s"]),
    ("IT'S", (["IT", "'", "S"], ["IT", "'", "S"], ["IT", "'S"], ["IT", "'S"])),
    ("we'll've", ["we", "'ll", "'ve"]),
    ("'tis", ["'t", "is"]),
    ("o'er", (["o", "'", "er"], ["o", "'", "er"], ["o", "'er"], ["o", "'er"])),
    (
        "a\r\nb",
        (["a", "\r", "\n", "b"], ["a", "\r", "\n", "b"], ["a", "\r\n", "b"])
        + (["a", "\r\n", "b"],),
    ),
    ("a\n\n b", ["a", "\n\n", " b"]),
    ("a \n b", ["a", " \n", " b"]),
    (
        "end.\n\nx",
        (["end", ".", "\n", "\n", "x"],) * 2 + (["end", ".\n\n", "x"],) * 2,
    ),
    (
        "\tx",
        (["\t", "x"],) * 2 + (["\tx"],) * 2,
    ),
    (
        "(hi)",
        (["(", "hi", ")"],) * 2 + (["(hi", ")"],) * 2,
    ),
    ("hi !!", ["hi", " !!"]),
    ("$5", ["$", "5"]),
    ("\u4eca\u65e5\u306f", ["\u4eca\u65e5\u306f"]),
    (
        "\u4f60\u597d\uff0c\u4e16",
        (["\u4f60\u597d", "\uff0c", "\u4e16"],) * 2
        + (["\u4f60\u597d", "\uff0c\u4e16"],) * 2,
    ),
    ("a\u00a0b", (["a", "\u00a0", "b"],) * 2 + (["a", "\u00a0b"],) * 2),
    ("a_b", (["a", "_", "b"],) * 2 + (["a", "_b"],) * 2),
    ("\U0001f600 x", ["\U0001f600", " x"]),
    ("   ", ["   "]),
    ("x\n", ["x", "\n"]),
]


@pytest.mark.parametrize("i_name", range(4), ids=NAMES)
@pytest.mark.parametrize("text, expected", SPLITS, ids=[ascii(s[0]) for s in SPLITS])
def test_words(text: str, expected: Any, i_name: int) -> None:
    words = expected if isinstance(expected, list) else expected[i_name]
    metadata = greedy_metadata(text, NAMES[i_name])
    tokenizer = Tokenizer.from_gguf(metadata)
    ids = tokenizer.encode(text)
    assert [tokenizer.vocab.piece(i).decode() for i in ids] == words
    assert families.library_of_metadata(metadata).encode(text).ids == ids


@pytest.mark.parametrize("name", NAMES)
def test_a_whole_word_without_merges(name: str) -> None:
    """Llama 3's BPE takes a word of the vocabulary as it is; the others merge."""
    pieces = ["<|endoftext|>", *SYMBOLS, symbols("cat"), symbols(" dog")]
    types = [3] + [1] * (len(pieces) - 1)
    metadata = families.byte_metadata(pieces, [], name, types)
    del metadata["tokenizer.ggml.eos_token_id"]
    ids = Tokenizer.from_gguf(metadata).encode("cat dog")
    assert ids == ([257, 258] if name == "llama-bpe" else [1 + b for b in b"cat dog"])


@pytest.mark.parametrize("name", NAMES)
def test_normal_form(name: str) -> None:
    """Qwen2 composes characters before anything else, the others leave them."""
    tokenizer = Tokenizer.from_gguf(families.tiny_gguf_metadata(name))
    text = "cafe\u0301"
    expected = "caf\u00e9" if name == "qwen2" else text
    assert tokenizer.decode(tokenizer.encode(text)) == expected


@pytest.mark.parametrize("name", NAMES)
def test_special_tokens_in_text(name: str) -> None:
    tokenizer = Tokenizer.from_gguf(families.tiny_gguf_metadata(name))
    tokens = families.tiny_gguf_metadata(name)["tokenizer.ggml.tokens"]
    i_call = tokens.index("<tool call>")
    ids = tokenizer.encode("<|im_start|>the<tool call><|im_end|> <|im_end")
    assert ids[0] == 1 and ids.count(i_call) == 1 and ids.count(2) == 1
    assert tokenizer.decode(ids) == "the<tool call> <|im_end"
    shown = tokenizer.decode(ids, skip_special_tokens=False)
    assert shown == "<|im_start|>the<tool call><|im_end|> <|im_end"


# --- what goes around a text ---------------------------------------------------------


@pytest.mark.parametrize("adds_bos", [None, False, True])
@pytest.mark.parametrize("adds_eos", [None, False, True])
@pytest.mark.parametrize("kind", ["gpt-2", "llama-bpe", "llama"])
def test_gguf_additions(
    kind: str, adds_bos: bool | None, adds_eos: bool | None
) -> None:
    if kind == "llama":
        metadata = spm_metadata()
        bos, eos = 1, 2
    else:
        metadata = families.tiny_gguf_metadata(kind)
        bos, eos = 0, 2
    for key, value in (("add_bos_token", adds_bos), ("add_eos_token", adds_eos)):
        metadata.pop(f"tokenizer.ggml.{key}", None)
        if value is not None:
            metadata[f"tokenizer.ggml.{key}"] = value
    tokenizer = Tokenizer.from_gguf(metadata)
    has_bos = kind != "gpt-2" if adds_bos is None else adds_bos
    plain = tokenizer.encode("the cat", add_special_tokens=False)
    expected = [bos] * has_bos + plain + [eos] * bool(adds_eos)
    assert plain and tokenizer.encode("the cat") == expected
    assert tokenizer.encode("", False) == []
    assert tokenizer.encode("") == [bos] * has_bos + [eos] * bool(adds_eos)
    assert tokenizer.add_bos == has_bos
    assert tokenizer.decode(expected) == "the cat"


def spm_metadata() -> dict[str, Any]:
    v = tiny_vocab.vocabulary("spm")
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": list(v.pieces),
        "tokenizer.ggml.scores": list(v.scores),
        "tokenizer.ggml.token_type": list(v.types),
    }


def write_folder(folder: Path, config: dict[str, Any], **files: Any) -> Path:
    """A folder with the tiny tokenizer.json, whose own rule adds the begin token."""
    v = tiny_vocab.vocabulary("spm")
    spec = tiny_vocab.tokenizer_json(v)
    contents = {"tokenizer": spec, "tokenizer_config": config, **files}
    for name, value in contents.items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    return folder


NAMED = {"bos_token": "<s>", "eos_token": {"content": "</s>", "special": True}}


@pytest.mark.parametrize(
    "config, bos, eos",
    [
        ({}, True, False),
        ({"add_bos_token": True}, True, False),
        ({"add_bos_token": False}, False, False),
        ({"add_eos_token": True}, True, True),
        ({"add_bos_token": False, "add_eos_token": True}, False, True),
    ],
)
def test_folder_additions(
    config: dict[str, Any], bos: bool, eos: bool, tmp_path: Path
) -> None:
    tokenizer = Tokenizer.from_pretrained(write_folder(tmp_path, NAMED | config))
    plain = tokenizer.encode("the cat", add_special_tokens=False)
    assert tokenizer.encode("the cat") == [1] * bos + plain + [2] * eos
    assert tokenizer.bos_token_id == 1 and tokenizer.eos_token_ids == (2,)


def test_rows_without_a_token(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, NAMED, generation_config={"eos_token_id": [2, 1]})
    n = len(tiny_vocab.vocabulary("spm").pieces)
    tokenizer = Tokenizer.from_pretrained(folder, n_vocab=n + 7)
    assert len(tokenizer) == n + 7 == tokenizer.vocab_size
    assert tokenizer.eos_token_ids == (2, 1)
    for skip in (True, False):
        assert tokenizer.decode([n, n + 6], skip_special_tokens=skip) == ""
        assert tokenizer.decode([n - 1, n + 6], skip_special_tokens=skip) == "happy"
    with pytest.raises(ValueError, match=f"0 to {n + 6}.* got {n + 7}"):
        tokenizer.decode([n + 7])


def test_end_token_by_id_has_its_written_text(tmp_path: Path) -> None:
    """Named in generation_config.json alone, and stored for normalised text."""
    spec = tiny_vocab.tokenizer_json(tiny_vocab.vocabulary("spm"))
    for token in spec["added_tokens"]:
        token["normalized"] = True
    folder = write_folder(
        tmp_path, {}, generation_config={"eos_token_id": 2}, tokenizer=spec
    )
    tokenizer = Tokenizer.from_pretrained(folder)
    assert tokenizer.eos_token_id == 2
    tokenizer.chat_template = "{{ messages[0].content + eos_token }}"
    message = {"role": "user", "content": "hi"}
    assert tokenizer.apply_chat_template([message]) == "hi</s>"


def test_model_file_with_added_tokens(tmp_path: Path) -> None:
    """Ids beyond a .model file's, which the library has never heard of."""
    proto = families.train_model()
    library = families.processor(proto)
    n = library.get_piece_size()
    (tmp_path / "tokenizer.model").write_bytes(proto)
    added = {
        str(n + 1): {"content": "<|user|>", "special": True},
        str(n): {"content": "<think now>", "special": False},
    }
    config = {"added_tokens_decoder": added, "add_bos_token": False}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = Tokenizer.from_pretrained(tmp_path)
    assert len(tokenizer) == n + 2
    ids = tokenizer.encode("<|user|>the cat<think now>")
    assert ids == [n + 1, *library.encode("the cat"), n]
    assert tokenizer.decode(ids) == "the cat<think now>"
    shown = tokenizer.decode(ids, skip_special_tokens=False)
    # The space is the one before the text: there is text before it now.
    assert shown == "<|user|> the cat<think now>"
    assert tokenizer.decode([1, *ids[:1], 2], skip_special_tokens=False) == (
        "<s><|user|></s>"
    )
