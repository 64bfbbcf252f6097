"""The piece table: what each token id stands for, ready for the C core.

The numbers are those of ``csrc/tokenizer/vocab.h``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

TEXT, SPECIAL, BYTE, LITERAL = range(4)  # deal_piece_kind
STREAM, RUN, CHAR = range(3)  # deal_byte_rule
KEEP, DROP_ONE, DROP_EACH = range(3)  # deal_leading_space

SPACE = "\u2581"  # stands for a space inside sentencepiece's pieces
_BYTE_PIECE = re.compile(r"<0x(?:[0-9A-Fa-f]{2}|\+[0-9A-Fa-f])>")


@dataclass
class PieceTable:
    """Pieces by id, and the library's rules for joining them.

    Attributes
    ----------
    pieces : list of bytes
    kinds : bytearray
        One of TEXT, SPECIAL, BYTE, LITERAL for each piece.
    byte_rule : int
        STREAM, RUN or CHAR.
    leading_space : int
        KEEP, DROP_ONE or DROP_EACH.
    """

    pieces: list[bytes]
    kinds: bytearray
    byte_rule: int
    leading_space: int

    def __len__(self) -> int:
        return len(self.pieces)

    def pad(self, n_vocab: int) -> None:
        """Add ids that decode to nothing: rows of an embedding without a token."""
        n_missing = n_vocab - len(self.pieces)
        self.pieces.extend([b""] * n_missing)
        self.kinds.extend([SPECIAL] * n_missing)

    def vocab(self) -> Any:
        """The C table, a ``deal._core.Vocab``."""
        from deal import _core

        kinds = bytes(self.kinds)
        return _core.Vocab(self.pieces, kinds, self.byte_rule, self.leading_space)


@lru_cache(maxsize=1)
def byte_of_symbol() -> dict[str, int]:
    """The byte behind each symbol of byte-level BPE.

    Printable Latin-1 characters stand for themselves; the other bytes, in order, for
    the characters from U+0100 on (Radford et al., 2019, the GPT-2 vocabulary).
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    symbols = {chr(byte): byte for byte in printable}
    others = [byte for byte in range(256) if chr(byte) not in symbols]
    symbols.update({chr(0x100 + i): byte for i, byte in enumerate(others)})
    return symbols


def byte_level_bytes(token: str) -> bytes:
    """Bytes of a token of byte-level BPE.

    A token with any character that is no symbol, as added tokens may have, stands for
    its own text as a whole; so the library decodes it.
    """
    symbols = byte_of_symbol()
    try:
        return bytes([symbols[character] for character in token])
    except KeyError:
        return token.encode()


def fallback_byte(token: str) -> int | None:
    """The byte of a piece ``<0xNN>``, as tokenizers reads it; None for other tokens."""
    # A sign is taken as well: the library parses the two characters as a Rust integer.
    return int(token[3:5], 16) if _BYTE_PIECE.fullmatch(token) else None
