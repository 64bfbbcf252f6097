"""Text of tokens in plain Python, as the tokenizers' libraries decode them."""

from __future__ import annotations

from collections.abc import Sequence

TEXT, SPECIAL, BYTE, LITERAL = range(4)  # kinds of pieces
STREAM, RUN, CHAR = range(3)  # what becomes of bytes that are not UTF-8


def decode_run(run: bytes, byte_rule: int) -> str:
    """A run of byte pieces: as a whole, or character by character."""
    if byte_rule == RUN:
        try:
            return run.decode()
        except UnicodeDecodeError:
            return "\ufffd" * len(run)
    text = ""
    while run:
        for size in (1, 2, 3, 4):
            try:
                character, n = run[:size].decode(), size
                break
            except UnicodeDecodeError:
                character, n = "\ufffd", 1
        text, run = text + character, run[n:]
    return text


def decode(
    pieces: Sequence[tuple[int, bytes]], byte_rule: int, tokens: Sequence[int]
) -> str:
    """Text of the tokens as the tokenizer's library decodes them."""
    chosen = [pieces[t] for t in tokens]
    if byte_rule != CHAR:
        chosen = [(kind, piece) for kind, piece in chosen if kind != SPECIAL]
    if byte_rule == STREAM:
        return b"".join(piece for _, piece in chosen).decode(errors="replace")
    text, run = "", b""
    for kind, piece in chosen:
        if kind == BYTE:
            run += piece
            continue
        text += decode_run(run, byte_rule)
        text += "" if kind == SPECIAL else piece.decode(errors="replace")
        run = b""
    return text + decode_run(run, byte_rule)
