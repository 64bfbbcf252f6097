"""Tokenizers of the ``tokenizers`` library: from tokenizer.json or GGUF."""

from __future__ import annotations

import json
from typing import Any

from deal._errors import ModelFormatError
from deal._gguf_vocab import (
    CONTROL,
    UNKNOWN,
    USER_DEFINED,
    GgufVocab,
    read_strings,
    read_value,
)
from deal._pieces import (
    BYTE,
    DROP_ONE,
    KEEP,
    RUN,
    SPECIAL,
    STREAM,
    TEXT,
    PieceTable,
    byte_level_bytes,
    fallback_byte,
)

# How text is cut before BPE, by the name that GGUF files give it: the regular
# expression (None: the one inside the library, of GPT-2), whether digits stand alone
# before it, whether text is normalised to NFC, whether a whole word in the vocabulary
# needs no merge.
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = (rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}{{1,3}}|{_REST}", False, False, True)
_QWEN2 = (rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}|{_REST}", False, True, False)
_PRE_TOKENIZERS = {
    "gpt-2": (None, False, False, False),
    "smollm": (None, True, False, False),
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "qwen2": _QWEN2,
}


class TokenizersBackend:
    """One ``tokenizers.Tokenizer``.

    Parameters
    ----------
    tokenizer : tokenizers.Tokenizer
    name : str
        Where it came from, for messages.
    prefix, suffix : list of int
        Ids around a text that is encoded with special tokens, besides what the library
        adds itself.
    """

    def __init__(
        self,
        tokenizer: Any,
        name: str,
        prefix: list[int] | None = None,
        suffix: list[int] | None = None,
        uses_post_processor: bool = True,
    ) -> None:
        self._tokenizer = tokenizer
        self._name = name
        self.prefix = prefix or []
        self.suffix = suffix or []
        self.uses_post_processor = uses_post_processor

    @classmethod
    def from_json(cls, data: bytes, name: str) -> TokenizersBackend:
        """Read the bytes of a tokenizer.json."""
        import tokenizers

        try:
            tokenizer = tokenizers.Tokenizer.from_buffer(data)
        except Exception as error:  # the library raises plain Exception
            raise ModelFormatError(f"{name}: {error}") from error
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return cls(tokenizer, name)

    @classmethod
    def from_gguf(cls, vocab: GgufVocab) -> TokenizersBackend:
        """Build byte-level BPE from tokens, merges and the pre-tokenizer's name."""
        from tokenizers import AddedToken, Tokenizer, decoders, models

        pre = read_value(vocab.metadata, "tokenizer.ggml.pre", str)
        if pre not in _PRE_TOKENIZERS:
            raise NotImplementedError(
                f"tokenizer.ggml.pre: expected one of {sorted(_PRE_TOKENIZERS)}, "
                f"got {pre!r}"
            )
        pattern, splits_digits, is_nfc, ignores_merges = _PRE_TOKENIZERS[pre]
        ids = {token: i for i, token in enumerate(vocab.tokens)}
        merges = _read_merges(vocab, ids)
        tokenizer = Tokenizer(
            models.BPE(vocab=ids, merges=merges, ignore_merges=ignores_merges)
        )
        _set_pre_tokenizer(tokenizer, pattern, splits_digits, is_nfc)
        tokenizer.decoder = decoders.ByteLevel()
        added = zip(vocab.tokens, vocab.types, strict=True)
        tokenizer.add_tokens(
            [
                AddedToken(token, special=kind != USER_DEFINED, normalized=False)
                for token, kind in added
                if kind in (UNKNOWN, CONTROL, USER_DEFINED)
            ]
        )
        if tokenizer.get_vocab_size() != len(vocab.tokens):
            raise ModelFormatError(
                f"tokenizer.ggml.tokens: expected {len(vocab.tokens)} tokens, got "
                f"{tokenizer.get_vocab_size()} in the tokenizer built from them"
            )
        return cls(tokenizer, "GGUF vocabulary")

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        special = add_special_tokens and self.uses_post_processor
        ids = self._tokenizer.encode(text, add_special_tokens=special).ids
        return [*self.prefix, *ids, *self.suffix] if add_special_tokens else ids

    def decode_all(self, ids: list[int]) -> str:
        """Text with special tokens in it."""
        return self._tokenizer.decode(ids, skip_special_tokens=False)

    def token_id(self, token: str) -> int | None:
        return self._tokenizer.token_to_id(token)

    def token(self, i_token: int) -> str | None:
        added = self._tokenizer.get_added_tokens_decoder().get(i_token)
        return self._tokenizer.id_to_token(i_token) if added is None else added.content

    def tokens(self) -> dict[int, str]:
        found = {i: token for token, i in self._tokenizer.get_vocab().items()}
        added = self._tokenizer.get_added_tokens_decoder().items()
        return found | {i: token.content for i, token in added}

    def table(self) -> PieceTable:
        """Pieces as the library's decoder has them.

        Raises
        ------
        NotImplementedError
            For a decoder whose text is not a join of pieces.
        """
        spec = json.loads(self._tokenizer.to_str())
        tokens = self._tokenizer.get_vocab(with_added_tokens=True)
        n_vocab = max(tokens.values(), default=-1) + 1
        if n_vocab == 0:
            raise ModelFormatError(
                f"{self._name}: expected at least one token, got none"
            )
        decoder = _Decoder(spec.get("decoder"), self._name)
        table = PieceTable([], bytearray(), decoder.byte_rule, decoder.leading_space)
        table.pad(n_vocab)
        special = {
            token["content"] for token in spec["added_tokens"] if token["special"]
        }
        for i in tokens.values():
            # Not the key: some releases decode an added token from its normalised text.
            token = self._tokenizer.id_to_token(i)
            table.pieces[i], kind = decoder.piece(token)
            table.kinds[i] = SPECIAL if token in special else kind
        return table


def _read_merges(vocab: GgufVocab, ids: dict[str, int]) -> list[tuple[str, str]]:
    key = "tokenizer.ggml.merges"
    merges = []
    for i, merge in enumerate(read_strings(vocab.metadata, key)):
        left, _, right = merge.partition(" ")
        if not left or not right or " " in right:
            raise ModelFormatError(
                f"{key}[{i}]: expected two pieces with a space between, got {merge!r}"
            )
        for piece in (left, right, left + right):
            if piece not in ids:
                raise ModelFormatError(
                    f"{key}[{i}]: expected pieces of the vocabulary, got {merge!r} "
                    f"({piece!r} is none)"
                )
        merges.append((left, right))
    return merges


def _set_pre_tokenizer(
    tokenizer: Any, pattern: str | None, splits_digits: bool, is_nfc: bool
) -> None:
    from tokenizers import Regex, normalizers, pre_tokenizers

    steps: list[Any] = []
    if splits_digits:
        steps.append(pre_tokenizers.Digits(individual_digits=True))
    if pattern is not None:
        steps.append(pre_tokenizers.Split(Regex(pattern), behavior="isolated"))
    steps.append(
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    if is_nfc:
        tokenizer.normalizer = normalizers.NFC()


class _Decoder:
    """What the decoder of a tokenizer.json does to one token, and to the whole text.

    Taken apart are ByteLevel, and sequences of Replace, ByteFallback, Fuse and Strip of
    one leading space, as Llama's and Gemma's tokenizers have. Anything else is refused.
    """

    def __init__(self, spec: dict[str, Any] | None, name: str) -> None:
        self._name = name
        self._replaces: list[tuple[str, str]] = []
        self._is_byte_level = self._has_bytes = self._is_fused = False
        self.leading_space = KEEP
        steps = [spec]
        if spec is not None and spec["type"] == "Sequence":
            steps = spec["decoders"]
        for step in steps:
            self._add(step)
        self.byte_rule = STREAM if self._is_byte_level else RUN

    def _add(self, step: dict[str, Any] | None) -> None:
        kind = step["type"] if step is not None else None
        if step is None or (self._is_byte_level and kind != "Fuse"):
            self._refuse(step)
        elif kind == "ByteLevel" and not (self._has_bytes or self._is_fused):
            self._is_byte_level = True
        elif kind == "Replace" and not (self._has_bytes or self._is_fused):
            pattern = step["pattern"].get("String")
            if not pattern:
                self._refuse(step)
            self._replaces.append((pattern, step["content"]))
        elif kind == "ByteFallback" and not self._is_fused:
            self._has_bytes = True
        elif kind == "Fuse":
            self._is_fused = True
        elif kind == "Strip" and self._is_fused and step["stop"] == 0:
            # A second one would drop a second space, which the table cannot say.
            if step["content"] != " " or step["start"] != 1 or self.leading_space:
                self._refuse(step)
            self.leading_space = DROP_ONE
        else:
            self._refuse(step)

    def _refuse(self, step: Any) -> None:
        raise NotImplementedError(
            f"{self._name}: decoder: expected ByteLevel, or Replace, ByteFallback, "
            f"Fuse "
            f"and Strip of one leading space, got {json.dumps(step)}"
        )

    def piece(self, token: str) -> tuple[bytes, int]:
        for pattern, content in self._replaces:
            token = token.replace(pattern, content)
        if self._is_byte_level:
            return byte_level_bytes(token), TEXT
        byte = fallback_byte(token) if self._has_bytes else None
        return (token.encode(), TEXT) if byte is None else (bytes([byte]), BYTE)
