"""Tokenizers of the ``sentencepiece`` library: from a .model file or a GGUF vocabulary.

The library takes a serialised protocol buffer, ``sentencepiece.ModelProto``
(sentencepiece_model.proto in its source). The few fields that matter are read and
written here, so that no protobuf package is needed.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from deal import _gguf_vocab as gguf
from deal._errors import ModelFormatError
from deal._gguf_vocab import GgufVocab, read_numbers
from deal._pieces import (
    BYTE,
    CHAR,
    DROP_EACH,
    DROP_ONE,
    KEEP,
    LITERAL,
    SPACE,
    SPECIAL,
    TEXT,
    PieceTable,
)

# Field numbers: ModelProto, then those of its messages.
_PIECES, _TRAINER, _NORMALIZER, _DENORMALIZER = 1, 2, 3, 5
_PIECE_TEXT, _PIECE_SCORE, _PIECE_TYPE = 1, 2, 3
_MODEL_TYPE, _VOCAB_SIZE, _SUFFIX_SPACE, _BYTE_FALLBACK = 3, 4, 24, 35
_UNK_SURFACE, _UNK_PIECE = 44, 45
_NAME, _CHARSMAP, _DUMMY_PREFIX, _REMOVE_EXTRA, _ESCAPE = 1, 2, 3, 4, 5
_MODEL_BPE = 2


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _field(number: int, value: int | float | str | bytes) -> bytes:
    """One field on the wire: varint, fixed32 for float, or length-delimited."""
    if isinstance(value, float):
        return _varint(number << 3 | 5) + struct.pack("<f", value)
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    data = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Fields of a message that the library has parsed already, so well formed."""
    at = 0
    while at < len(data):
        tag, at = _read_varint(data, at)
        if tag & 7 == 0:
            value, at = _read_varint(data, at)
            yield tag >> 3, value
            continue
        size = {1: 8, 5: 4}.get(tag & 7)
        if size is None:
            size, at = _read_varint(data, at)
        yield tag >> 3, data[at : at + size]
        at += size


@dataclass(frozen=True)
class _Spec:
    """What a model says of decoding, with the defaults of the .proto."""

    unk_surface: bytes = b" \xe2\x81\x87 "
    adds_dummy_prefix: bool = True
    removes_extra_spaces: bool = True
    puts_space_last: bool = False
    denormalizes: bool = False

    @classmethod
    def read(cls, proto: bytes) -> _Spec:
        found: dict[str, Any] = {}
        for number, value in _fields(proto):
            if number not in (_TRAINER, _NORMALIZER, _DENORMALIZER):
                continue
            assert isinstance(value, bytes)
            for inner, x in _fields(value):
                if (number, inner) == (_TRAINER, _UNK_SURFACE):
                    found["unk_surface"] = x
                elif (number, inner) == (_TRAINER, _SUFFIX_SPACE):
                    found["puts_space_last"] = bool(x)
                elif (number, inner) == (_NORMALIZER, _DUMMY_PREFIX):
                    found["adds_dummy_prefix"] = bool(x)
                elif (number, inner) == (_NORMALIZER, _REMOVE_EXTRA):
                    found["removes_extra_spaces"] = bool(x)
                elif (number, inner) == (_DENORMALIZER, _CHARSMAP):
                    found["denormalizes"] = bool(x)
        return cls(**found)


class SentencePieceBackend:
    """One ``SentencePieceProcessor``, and special tokens that it does not look for.

    Parameters
    ----------
    proto : bytes
        A serialised ModelProto.
    name : str
        Where it came from, for messages.
    added : dict of str to (int, bool)
        Tokens beyond the model's own: id, and whether it is special.
    """

    def __init__(
        self, proto: bytes, name: str, added: dict[str, tuple[int, bool]] | None = None
    ) -> None:
        import sentencepiece

        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(proto)
        except Exception as error:  # RuntimeError, or OSError in older wheels
            raise ModelFormatError(f"{name}: {error}") from error
        self._name = name
        self._spec = _Spec.read(proto)
        self._refuse_unknown()
        self._n_model = self._processor.get_piece_size()
        self._added = {
            token: (i, is_special)
            for token, (i, is_special) in (added or {}).items()
            if i >= self._n_model
        }
        self.prefix: list[int] = []
        self.suffix: list[int] = []
        self._all: Any = None

        # The library never finds control symbols in text; they are cut out before it.
        self._cut = {
            self._processor.id_to_piece(i): i
            for i in range(self._n_model)
            if self._processor.is_control(i)
        }
        self._cut.update({token: i for token, (i, _) in self._added.items()})
        longest_first = sorted((t for t in self._cut if t), key=len, reverse=True)
        self._cutter = re.compile("(" + "|".join(map(re.escape, longest_first)) + ")")

    def _refuse_unknown(self) -> None:
        if self._spec.puts_space_last:
            raise NotImplementedError(
                f"{self._name}: treat_whitespace_as_suffix: expected false, got true"
            )
        if self._spec.denormalizes:
            raise NotImplementedError(
                f"{self._name}: denormalizer_spec: expected none, got a character map"
            )

    @classmethod
    def from_gguf(cls, vocab: GgufVocab) -> SentencePieceBackend:
        """Rebuild the model from tokens, scores and types."""
        key = "tokenizer.ggml.scores"
        scores = read_numbers(vocab.metadata, key, float, len(vocab.tokens))
        types = list(vocab.types)
        i_unk = vocab.token_id("unknown_token_id")
        if gguf.UNKNOWN not in types and i_unk is not None:
            types[i_unk] = gguf.UNKNOWN
        for kind, name, allowed in (
            (gguf.UNKNOWN, "one unknown token", (1,)),
            (gguf.BYTE, "no or 256 byte tokens", (0, 256)),
        ):
            if types.count(kind) not in allowed:
                raise ModelFormatError(
                    f"tokenizer.ggml.token_type: expected {name} (type {kind}), got "
                    f"{types.count(kind)}"
                )
        spaces = (
            vocab.flag("add_space_prefix", True),
            vocab.flag("remove_extra_whitespaces", False),
        )
        proto = build_proto(vocab.tokens, scores, types, *spaces)
        return cls(proto, "GGUF vocabulary")

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        ids = list(self.prefix) if add_special_tokens else []
        parts = self._cutter.split(text) if self._cut else [text]
        for i, part in enumerate(parts):
            if i % 2:
                ids.append(self._cut[part])
            elif part:
                ids.extend(self._processor.encode(part, out_type=int))
        return ids + self.suffix if add_special_tokens else ids

    def decode_all(self, ids: list[int]) -> str:
        """Text with special tokens in it."""
        if self._all is None:
            table = self.table()
            for token, i in self._cut.items():
                table.pieces[i], table.kinds[i] = token.encode(), LITERAL
            self._all = table.vocab()
        # Ids past the table have no text.
        return self._all.decode([i for i in ids if i < len(self._all)])

    def token_id(self, token: str) -> int | None:
        if token in self._cut:
            return self._cut[token]
        i = self._processor.piece_to_id(token)
        return i if self._processor.id_to_piece(i) == token else None

    def token(self, i_token: int) -> str | None:
        if i_token < self._n_model:
            return self._processor.id_to_piece(i_token)
        return next((t for t, (i, _) in self._added.items() if i == i_token), None)

    def tokens(self) -> dict[int, str]:
        pieces = map(self._processor.id_to_piece, range(self._n_model))
        return {i: token for token, (i, _) in self._added.items()} | dict(
            enumerate(pieces)
        )

    def table(self) -> PieceTable:
        """Pieces as the library decodes them."""
        leading_space = KEEP
        if self._spec.removes_extra_spaces:
            leading_space = DROP_EACH
        elif self._spec.adds_dummy_prefix:
            leading_space = DROP_ONE
        table = PieceTable([], bytearray(), CHAR, leading_space)
        for i in range(self._n_model):
            piece, kind = self._piece(i)
            table.pieces.append(piece)
            table.kinds.append(kind)
        table.pad(max([self._n_model, *(i + 1 for i, _ in self._added.values())]))
        for token, (i, is_special) in self._added.items():
            table.pieces[i] = token.encode()
            table.kinds[i] = SPECIAL if is_special else LITERAL
        return table

    def _piece(self, i: int) -> tuple[bytes, int]:
        processor = self._processor
        piece = processor.id_to_piece(i)
        if processor.is_control(i):
            return piece.encode(), SPECIAL
        if processor.is_unknown(i):
            return self._spec.unk_surface, LITERAL
        if processor.is_byte(i):
            return bytes([int(piece[3:5], 16)]), BYTE
        # Only U+2581 is dropped from the start of a text, a real space is not.
        kind = LITERAL if piece.startswith(" ") else TEXT
        return piece.replace(SPACE, " ").encode(), kind


def build_proto(
    tokens: Iterable[str],
    scores: Iterable[float],
    types: list[int],
    adds_dummy_prefix: bool,
    removes_extra_spaces: bool,
) -> bytes:
    """A ModelProto of sentencepiece's BPE; GGUF's token types are the library's own."""
    out = []
    unk_piece = ""
    for token, score, kind in zip(tokens, scores, types, strict=True):
        if kind == gguf.UNKNOWN:
            unk_piece = token
        piece = _field(_PIECE_TEXT, token) + _field(_PIECE_SCORE, float(score))
        out.append(_field(_PIECES, piece + _field(_PIECE_TYPE, kind)))
    trainer = _field(_MODEL_TYPE, _MODEL_BPE) + _field(_VOCAB_SIZE, len(types))
    trainer += _field(_BYTE_FALLBACK, int(gguf.BYTE in types))
    trainer += _field(_UNK_PIECE, unk_piece)
    normalizer = _field(_NAME, "identity") + _field(_CHARSMAP, b"")
    normalizer += _field(_DUMMY_PREFIX, int(adds_dummy_prefix))
    normalizer += _field(_REMOVE_EXTRA, int(removes_extra_spaces))
    normalizer += _field(_ESCAPE, 1)
    out += [_field(_TRAINER, trainer), _field(_NORMALIZER, normalizer)]
    return b"".join(out)
