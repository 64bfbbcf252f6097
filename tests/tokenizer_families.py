"""Tokenizers of every family beside the library that each must equal.

The library's side is built here, from the same vocabulary but without deal's code.
"""

from __future__ import annotations

import io
import json
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sentencepiece
import stories260k
import tiny_vocab
import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers

from deal import _core
from deal.tokenizer import Tokenizer

SPACE = "\u2581"

# Written for these tests; what tokenizers trip over, and something of every script.
TEXTS = (
    "",
    " ",
    "\n",
    "The cat sat on a couch.",
    " a leading space",
    "   three leading spaces, and  two   or    more inside ",
    "lines\nand\r\nlines\n\n\nand\ttabs \t\n end\n",
    "It's we've I'LL they'd 'twas don'T",
    "1 22 333 4444 55555, 3.14159 and 1,000,000",
    "caf\u00e9 cafe\u0301 na\u00efve \u00c5ngstr\u00f6m",
    "\u4eca\u65e5\u306f\u4e16\u754c\u3002\u4f60\u597d\uff0c\uff21\uff22\uff23",
    "\u041f\u0440\u0438\u0432\u0435\u0442 \u0645\u0631\u062d\u0628\u0627 \u05e9",
    "\U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1eb\U0001f1f7!",
    "\u00a0no-break\u3000ideographic \u2028line\u2029",
    "\u2581literal \u2581 lower one eighth block\u2581",
    "<0x41> <0xE2> <unk> </s> <s>x</s>y <|im_start|>user\nhi<|im_end|>\n",
    "\ufffd replacement \ufeff mark \x00 null \x7f",
    "def f(x):\n    return x[::-1]  # comment\n\n\tif x != 0: pass",
    "mixedCASE_snake-kebab.dot@at#hash$%^&*()[]{}<>|\\/~`",
)


@dataclass(frozen=True)
class Family:
    """One tokenizer and its twin.

    Attributes
    ----------
    tokenizer : deal.Tokenizer
    encode : callable
        The library's ids of a text, without what goes around it.
    decode : callable
        The library's text of ids, ``skip_special_tokens`` as second argument.
    has_all : bool
        Whether the library can keep special tokens.
    drops_space : bool
        Whether a text loses a leading space.
    """

    tokenizer: Tokenizer
    encode: Callable[[str], list[int]]
    decode: Callable[[list[int], bool], str]
    has_all: bool
    drops_space: bool


def shared(name: str) -> Path | None:
    """A file of the shared models, None where missing."""
    path = stories260k.shared_folder() / "models" / name
    return path if path.is_file() else None


# --- sentencepiece -------------------------------------------------------------------


def processor(proto: bytes) -> Any:
    """The library's own object."""
    made = sentencepiece.SentencePieceProcessor()
    made.LoadFromSerializedProto(proto)
    return made


USER_DEFINED = ("<tool>", f"{SPACE}{SPACE}{SPACE}")  # the library has no test for them


def train_model(**options: Any) -> bytes:
    """A small BPE .model with bytes, made by the library's trainer."""
    text = " ".join(tiny_vocab.WORDS)
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([text, text.title(), *tiny_vocab.WORDS] * 3),
        model_writer=out,
        model_type="bpe",
        vocab_size=420,
        byte_fallback=True,
        normalization_rule_name="identity",
        control_symbols=["<|sep|>", "<|turn|>"],
        user_defined_symbols=list(USER_DEFINED),
        hard_vocab_limit=False,
        num_threads=1,
        minloglevel=2,
        **options,
    )
    return out.getvalue()


def sentencepiece_metadata(
    library: Any, user_defined: tuple[str, ...] = (), **flags: bool
) -> dict[str, Any]:
    """The keys that a GGUF file made from a .model file has."""
    ids = range(library.get_piece_size())
    kinds = [
        (library.is_unknown, 2),
        (library.is_control, 3),
        (lambda i: library.id_to_piece(i) in user_defined, 4),
        (library.is_unused, 5),
        (library.is_byte, 6),
    ]
    types = [next((kind for test, kind in kinds if test(i)), 1) for i in ids]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [library.id_to_piece(i) for i in ids],
        "tokenizer.ggml.scores": [library.get_score(i) for i in ids],
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.unknown_token_id": library.unk_id(),
        "tokenizer.ggml.bos_token_id": library.bos_id(),
        "tokenizer.ggml.eos_token_id": library.eos_id(),
        **{f"tokenizer.ggml.{name}": value for name, value in flags.items()},
    }


def sentencepiece_family(tokenizer: Tokenizer, library: Any) -> Family:
    """`library` on the pieces between control symbols, which it does not look for."""

    controls = {
        library.id_to_piece(i): i
        for i in range(library.get_piece_size())
        if library.is_control(i)
    }

    def encode(text: str) -> list[int]:
        for token, i in controls.items():
            if token in text:
                before, after = text.split(token, 1)
                return [*encode(before), i, *encode(after)]
        return list(library.encode(text))

    def decode(ids: list[int], skip_special_tokens: bool) -> str:
        assert skip_special_tokens
        return library.decode(ids) if ids else ""

    drops_space = library.decode(["\u2581the"]) == "the"
    return Family(tokenizer, encode, decode, False, drops_space)


def model_family(proto: bytes, folder: Path) -> Family:
    """A .model file in a folder of its own."""
    folder.mkdir()
    (folder / "tokenizer.model").write_bytes(proto)
    return sentencepiece_family(Tokenizer.from_pretrained(folder), processor(proto))


def rebuilt_family(
    proto: bytes, user_defined: tuple[str, ...] = (), **flags: bool
) -> Family:
    """A .model file that went through a GGUF file's keys."""
    library = processor(proto)
    metadata = sentencepiece_metadata(library, user_defined, **flags)
    return sentencepiece_family(Tokenizer.from_gguf(metadata), library)


# --- tokenizers ----------------------------------------------------------------------


def tokenizers_family(tokenizer: Tokenizer, library: Any) -> Family:
    def encode(text: str) -> list[int]:
        return library.encode(text, add_special_tokens=False).ids

    def decode(ids: list[int], skip_special_tokens: bool) -> str:
        return library.decode(ids, skip_special_tokens=skip_special_tokens)

    drops_space = "Strip" in str(library.decoder)
    return Family(tokenizer, encode, decode, True, drops_space)


# Text that byte-level symbols cannot spell, spaces at either end, and one that can.
ADDED = ["<tool call>", " pad ", "\u4e16\u754c", "plain"]


def json_family(library: Any, folder: Path) -> Family:
    """A tokenizer.json that the library wrote."""
    folder.mkdir()
    library.save(str(folder / "tokenizer.json"))
    return tokenizers_family(Tokenizer.from_pretrained(folder), library)


def byte_level_library() -> Any:
    """Byte-level BPE with added tokens, as GPT-2's descendants ship it."""
    v = tiny_vocab.vocabulary("byte")
    ids = {piece: i for i, piece in enumerate(v.pieces)}
    library = tokenizers.Tokenizer(models.BPE(vocab=ids, merges=v.merges))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    library.add_special_tokens([*v.pieces[:3], "<|pad|>", "\u2603 special"])
    library.add_tokens(ADDED)
    return library


def byte_fallback_library(strips: bool) -> Any:
    """Llama-2's kind of tokenizer.json; without the Strip, Gemma's."""
    v = tiny_vocab.vocabulary("spm")
    ids = {piece: i for i, piece in enumerate(v.pieces)}
    library = tokenizers.Tokenizer(
        models.BPE(
            vocab=ids,
            merges=v.merges,
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    steps = [normalizers.Prepend(SPACE)] if strips else []
    library.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE)])
    last = [decoders.Strip(" ", 1, 0)] if strips else []
    library.decoder = decoders.Sequence(
        [
            decoders.Replace(SPACE, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            *last,
        ]
    )
    library.add_special_tokens(
        [AddedToken(t, special=True, normalized=False) for t in (*v.pieces[:3], "</x>")]
    )
    raw = [f"{SPACE}x", "<0xZZ>", "<0x+7>", "<0x\u00e9>"]
    library.add_tokens([AddedToken(t, normalized=False) for t in raw])
    library.add_tokens(ADDED)  # whose normalised text counts
    library.add_special_tokens([AddedToken("<y z>", special=True, normalized=True)])
    return library


PRE_TOKENIZERS = ("gpt-2", "smollm", "llama-bpe", "qwen2")


def byte_metadata(
    pieces: list[str], merges: list[tuple[str, str]], pre: str, types: list[int]
) -> dict[str, Any]:
    """The keys of a GGUF file with byte-level BPE."""
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": pieces,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": [" ".join(merge) for merge in merges],
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.add_bos_token": False,
    }


def split_pattern(digits: str) -> str:
    """The regular expression of Llama 3's and Qwen2's tokenizer.json."""
    return (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|" + digits + r"|"
        r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )


def pre_tokenizer_spec(pre: str) -> dict[str, Any]:
    """``pre_tokenizer`` as the tokenizer.json of a model of that name has it."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    if pre in ("gpt-2", "smollm"):
        byte_level["use_regex"] = True
        digits = {"type": "Digits", "individual_digits": True}
        steps = [digits, byte_level] if pre == "smollm" else [byte_level]
        return {"type": "Sequence", "pretokenizers": steps}
    byte_level["use_regex"] = False
    digits = r"\p{N}" if pre == "qwen2" else r"\p{N}{1,3}"
    split = {"type": "Split", "pattern": {"Regex": split_pattern(digits)}}
    split |= {"behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [split, byte_level]}


def library_of_metadata(metadata: dict[str, Any]) -> Any:
    """The library's tokenizer, from a tokenizer.json spelt out."""
    pre = metadata["tokenizer.ggml.pre"]
    pieces = list(metadata["tokenizer.ggml.tokens"])
    types = [int(kind) for kind in metadata["tokenizer.ggml.token_type"]]
    flags = {"single_word": False, "lstrip": False, "rstrip": False}
    spec = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": i, "content": piece, **flags, "normalized": False}
            | {"special": types[i] == 3}
            for i, piece in enumerate(pieces)
            if types[i] in (3, 4)
        ],
        "normalizer": {"type": "NFC"} if pre == "qwen2" else None,
        "pre_tokenizer": pre_tokenizer_spec(pre),
        "post_processor": None,
        "decoder": {
            "type": "ByteLevel",
            "add_prefix_space": True,
            "trim_offsets": True,
            "use_regex": True,
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": pre == "llama-bpe",
            "vocab": {piece: i for i, piece in enumerate(pieces)},
            "merges": [m.split(" ") for m in metadata["tokenizer.ggml.merges"]],
        },
    }
    return tokenizers.Tokenizer.from_str(json.dumps(spec))


def gguf_family(metadata: dict[str, Any]) -> Family:
    return tokenizers_family(
        Tokenizer.from_gguf(metadata), library_of_metadata(metadata)
    )


def tiny_gguf_metadata(pre: str) -> dict[str, Any]:
    v = tiny_vocab.vocabulary("byte")
    added = [*ADDED, "<|tool|>"]
    types = v.types + [4] * len(ADDED) + [3]
    return byte_metadata(v.pieces + added, v.merges, pre, types)


# --- all of them ---------------------------------------------------------------------

SPACE_OPTIONS = [(a, b) for a in (True, False) for b in (True, False)]
TRAINED = {
    f"prefix={int(prefix)},extra={int(extra)}": {
        "add_dummy_prefix": prefix,
        "remove_extra_whitespaces": extra,
    }
    for prefix, extra in SPACE_OPTIONS
}
NAMES = (
    "smollm2",
    "stories260k",
    "mistral .model",
    "mistral gguf",
    "sentencepiece-test .model",
    *(f"trained {options} .model" for options in TRAINED),
    *(f"trained {options} gguf" for options in TRAINED),
    "json byte-level",
    "json byte-fallback",
    "json byte-fallback, no strip",
    *(f"gguf {pre}" for pre in PRE_TOKENIZERS),
)
SHARED_FILES = {
    "mistral": "mistral-tokenizer-v1/tokenizer.model.v1",
    "sentencepiece-test": "sentencepiece-test/test_model.model",
}


def stories_family(path: Path) -> Family:
    """tok512.bin through a GGUF file's keys, and as a .model file."""
    v = stories260k.read_vocabulary(path, 512)
    metadata = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": v.pieces,
        "tokenizer.ggml.scores": v.scores,
        "tokenizer.ggml.token_type": v.types,
    }
    library = processor(model_proto(v.pieces, v.scores, v.types))
    return sentencepiece_family(Tokenizer.from_gguf(metadata), library)


def model_proto(pieces: list[str], scores: list[float], types: list[int]) -> bytes:
    """A ModelProto on the wire, by hand: pieces, then model_type BPE and bytes on."""

    def message(tag: int, body: bytes) -> bytes:
        size = len(body)
        head = [size] if size < 128 else [size & 127 | 128, size >> 7]
        return bytes([tag, *head]) + body

    out = b""
    for piece, score, kind in zip(pieces, scores, types, strict=True):
        body = message(0x0A, piece.encode()) + b"\x15" + struct.pack("<f", score)
        out += message(0x0A, body + bytes([0x18, kind]))
    out += message(0x12, b"\x18\x02" + b"\x98\x02\x01")
    # Neither normalisation nor removal of spaces; a space goes before the text.
    return out + message(0x1A, b"\x0a\x08identity\x18\x01\x20\x00\x28\x01")


def make(name: str, folder: Path, smollm2: Callable[[], Path]) -> Family | None:
    """The family called `name`, or None where its data is missing."""
    kind, _, rest = name.partition(" ")
    folder = folder / "tokenizer"
    if kind == "smollm2":
        return gguf_family(_core.Gguf(smollm2()).metadata)
    if kind == "stories260k":
        path = shared("stories260K/tok512.bin")
        return None if path is None else stories_family(path)
    if kind in SHARED_FILES:
        path = shared(SHARED_FILES[kind])
        if path is None:
            return None
        proto = path.read_bytes()
        return rebuilt_family(proto) if rest == "gguf" else model_family(proto, folder)
    if kind == "trained":
        options = TRAINED[rest.split(" ")[0]]
        proto = train_model(**options)
        if rest.endswith(".model"):
            return model_family(proto, folder)
        return rebuilt_family(
            proto,
            USER_DEFINED,
            add_space_prefix=options["add_dummy_prefix"],
            remove_extra_whitespaces=options["remove_extra_whitespaces"],
        )
    if kind == "gguf":
        return gguf_family(tiny_gguf_metadata(rest))
    if rest == "byte-level":
        return json_family(byte_level_library(), folder)
    return json_family(byte_fallback_library("no strip" not in rest), folder)


def random_ids(family: Family, rng: random.Random, n_max: int = 20) -> list[int]:
    """Ids that mix whole words, broken characters, bytes, special and any tokens."""
    vocab = family.tokenizer.vocab
    n_vocab = len(vocab)
    ids: list[int] = []
    n = rng.randint(1, n_max)
    while len(ids) < n:
        kind = rng.randrange(4)
        if kind == 0:
            ids += [rng.randrange(n_vocab) for _ in range(rng.randint(1, 3))]
        elif kind == 1:  # the first ids: special tokens, bytes or symbols
            ids += [rng.randrange(min(n_vocab, 280)) for _ in range(rng.randint(1, 4))]
        else:
            text = family.encode(rng.choice(TEXTS))
            at = rng.randint(0, len(text))
            ids += text[at : at + rng.randint(1, 6)]
    return ids[:n]
