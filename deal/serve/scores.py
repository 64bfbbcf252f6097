"""Log-probs of the tokens of a text, as OpenAI's two protocols list them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from deal._pieces import SPECIAL
from deal.controls import in_force

_SIZE_MAX = 1 << 28  # bytes of logits at a time


@dataclass(frozen=True)
class TokenScore:
    """A token of a text.

    Attributes
    ----------
    token_id : int
    logprob : float or None
        Natural log; None for the first token of all, which nothing comes before.
    top : list of (int, float)
        The likeliest tokens at its place and their log-probs, best first.
    """

    token_id: int
    logprob: float | None
    top: list[tuple[int, float]]


def token_scores(
    lm: Any, ids: Sequence[int], first: int, n_top: int, check: Callable[[], None]
) -> list[TokenScore]:
    """The tokens ``ids[first:]``, each after all that come before it; `check` is asked
    from time to time, and may raise."""
    scores = [TokenScore(ids[0], None, [])] if first == 0 and ids else []
    places = range(max(first, 1), len(ids))
    for place, row in zip(places, _rows(lm, list(ids), places, check), strict=True):
        row = row - row.max()
        row -= np.log(np.exp(row).sum(dtype=np.float64))
        best = np.argpartition(-row, n_top - 1)[:n_top] if n_top else ()
        top = sorted(((int(i), float(row[i])) for i in best), key=lambda t: (-t[1], t))
        scores.append(TokenScore(ids[place], float(row[ids[place]]), top))
    return scores


def _rows(
    lm: Any, ids: list[int], places: range, check: Callable[[], None]
) -> Iterator[np.ndarray]:
    """Logits for each place; some at a time, as they are large."""
    n = max(1, _SIZE_MAX // (4 * lm.hparams.n_vocab))
    for begin in range(places.start, places.stop, n):
        check()
        end = min(begin + n, places.stop)
        with lm._session() as session:
            yield from session.logits(ids[: end - 1], in_force(lm).core, begin - 1)


def token_bytes(tokenizer: Any, i: int) -> bytes:
    """What a token adds to a text; of a special token, its name."""
    vocab = tokenizer.vocab
    if vocab.kind(i) == SPECIAL:
        return tokenizer.decode([i], skip_special_tokens=False).encode()
    return vocab.piece(i)


def token_text(tokenizer: Any, i: int) -> str:
    """The same as text; parts of characters as ``bytes:\\xe2``."""
    data = token_bytes(tokenizer, i)
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def completion_logprobs(
    tokenizer: Any, scores: Sequence[TokenScore], n_top: int
) -> dict[str, Any]:
    """The field "logprobs" of a choice of /v1/completions."""
    detokenizer = tokenizer.vocab.detokenizer()
    n_character, offsets = 0, []
    for score in scores:
        offsets.append(n_character + len(detokenizer.pending()))
        n_character += len(detokenizer.push(score.token_id))
    top: list[Any] = []
    for score in scores:
        pairs = [*score.top, (score.token_id, score.logprob)]
        found: dict[str, float | None] = {}
        for i, logprob in pairs:  # tokens of one text: the likelier
            found.setdefault(token_text(tokenizer, i), logprob)
        top.append(None if score.logprob is None else found)
    return {
        "tokens": [token_text(tokenizer, score.token_id) for score in scores],
        "token_logprobs": [score.logprob for score in scores],
        "top_logprobs": top if n_top else None,
        "text_offset": offsets,
    }


def chat_logprobs(tokenizer: Any, scores: Sequence[TokenScore]) -> dict[str, Any]:
    """The field "logprobs" of a choice of /v1/chat/completions."""

    def entry(i: int, logprob: float | None) -> dict[str, Any]:
        data = token_bytes(tokenizer, i)
        text = data.decode(errors="replace")
        return {"token": text, "logprob": logprob, "bytes": list(data)}

    content = [
        entry(score.token_id, score.logprob)
        | {"top_logprobs": [entry(*pair) for pair in score.top]}
        for score in scores
    ]
    return {"content": content, "refusal": None}
