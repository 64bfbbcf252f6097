"""Tiny vocabularies of words: byte-level BPE, and SentencePiece-style BPE.

Both can be written into a GGUF file (`Vocabulary` has its spelling) and as a
tokenizer.json with the same ids.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

WORDS = (
    "the cat sat on a couch and looked at dog who ran to house she said that he "
    "would like some red apple tree water book hand sun child walk play with ball "
    "river stone bird green blue night day we you it is was in of for little big "
    "garden horse table chair window happy"
).split()


@dataclass(frozen=True)
class Vocabulary:
    """Pieces of a vocabulary, in the spelling of its GGUF file."""

    kind: str
    pieces: list[str]
    types: list[int]  # GGUF token types: 1 text, 2 unknown, 3 control, 6 byte
    scores: list[float]
    merges: list[tuple[str, str]]
    n_words: int  # the last `n_words` pieces are whole words


def byte_symbols() -> list[str]:
    """The printable character that GPT-2's byte-level BPE writes for each byte."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    moved = iter(range(256, 512))
    return [chr(b) if b in kept else chr(next(moved)) for b in range(256)]


def vocabulary(kind: str) -> Vocabulary:
    """The tiny byte-level ("byte") or SentencePiece-style ("spm") vocabulary."""
    if kind == "byte":
        head = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
        types = [3, 3, 3]
        letters, space = byte_symbols(), "\u0120"
    else:
        head = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)]
        types = [2, 3, 3] + [6] * 256
        letters = [
            "\u2581",
            *"etaoinhsrldcumwfgypbkvxjqz",
            *".,!?'\"-:;TSAHIW",
            "\u00e9",
        ]
        space = "\u2581"
    merges: list[tuple[str, str]] = []
    made: dict[str, None] = {}
    for word in WORDS:
        left = space
        for letter in word:
            if left + letter not in made:
                made[left + letter] = None
                merges.append((left, letter))
            left += letter
    # Whole words last, so that their rows of the head are one slice. A piece's rank in
    # the merges does not depend on its id, but SentencePiece merges by score.
    whole = [space + word for word in dict.fromkeys(WORDS)]
    parts = [piece for piece in made if piece not in whole]
    pieces = head + letters + parts + whole
    rank = {piece: i for i, piece in enumerate(made)}
    if kind == "byte":
        scores = [0.0] * len(pieces)
    else:
        scores = [0.0] * len(head)
        scores += [-float(len(made) + i) for i in range(len(letters))]
        scores += [-float(rank[piece]) for piece in parts + whole]
    types += [1] * (len(pieces) - len(head))
    return Vocabulary(kind, pieces, types, scores, merges, len(whole))


def tokenizer_json(v: Vocabulary) -> dict[str, Any]:
    """A `tokenizers` file with the same ids as the GGUF vocabulary."""
    is_byte = v.kind == "byte"
    special = [i for i, t in enumerate(v.types) if t in (2, 3)]
    bpe = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None if is_byte else v.pieces[0],
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": not is_byte,
        "byte_fallback": not is_byte,
        "ignore_merges": False,
        "vocab": {piece: i for i, piece in enumerate(v.pieces)},
        "merges": [list(m) for m in v.merges],
    }
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    byte_level["use_regex"] = True
    result: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": i,
                "content": v.pieces[i],
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for i in special
        ],
        "normalizer": None,
        "pre_tokenizer": byte_level if is_byte else None,
        "post_processor": None,
        "decoder": byte_level if is_byte else None,
        "model": bpe,
    }
    if not is_byte:
        space = "\u2581"
        result["normalizer"] = {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": space},
                {"type": "Replace", "pattern": {"String": " "}, "content": space},
            ],
        }
        result["decoder"] = {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": space}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        }
        bos = {"SpecialToken": {"id": "<s>", "type_id": 0}}
        result["post_processor"] = {
            "type": "TemplateProcessing",
            "single": [bos, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [
                bos,
                {"Sequence": {"id": "A", "type_id": 0}},
                {"Sequence": {"id": "B", "type_id": 1}},
            ],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        }
    return result
