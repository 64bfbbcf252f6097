"""Chats as prompts and completions, through a model's chat template, for fitting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

# A text, or the ids that a chat template's is read as.
Prompt = str | tuple[int, ...]
Pair = tuple[Prompt, str, str]
_FIELDS = ("prompt", "chosen", "rejected")
_MARK = "\ue000"  # for private use, by Unicode


def preference(lm: Any, where: str, pair: Any) -> Pair:
    """Prompt, chosen and rejected completion of texts or of lists of messages.

    Parameters
    ----------
    lm : deal.Model
        Whose chat template writes messages.
    where : str
        What errors call the pair.
    pair : (prompt, chosen, rejected) or mapping
        All three texts, or all three lists of messages. Of a mapping of messages the
        prompt may be left out: it is what both chats begin with.

    Raises
    ------
    TypeError, ValueError
        For another pair, a message without role and content, or a chat that the
        template does not write after its prompt.
    """
    prompt, chosen, rejected = _three(where, pair)
    if not isinstance(chosen, (list, tuple)) and not isinstance(prompt, (list, tuple)):
        for name, text in zip(_FIELDS, (prompt, chosen, rejected), strict=True):
            if not isinstance(text, str):
                raise TypeError(
                    f"{where}: {name}: expected str, or lists of messages for all, got "
                    f"{text!r:.80}"
                )
        return prompt, chosen, rejected
    both = [
        _messages(f"{where}: {name}", value)
        for name, value in zip(_FIELDS[1:], (chosen, rejected), strict=True)
    ]
    if prompt is None:
        n = _n_shared(*both)
        if not 0 < n < min(map(len, both)):
            raise ValueError(
                f"{where}: prompt: expected chats that begin with the same messages "
                f"and end with others, got {n} in common"
            )
        before, both = both[0][:n], [messages[n:] for messages in both]
    else:
        before = _messages(f"{where}: prompt", prompt)
    ids, first = written(lm, f"{where}: chosen", before, both[0])
    _, second = written(lm, f"{where}: rejected", before, both[1])
    return ids, first, second


def last_turn(lm: Any, where: str, chat: Any) -> tuple[Prompt, str]:
    """What comes before the last message of a chat, and that message."""
    messages = _messages(where, chat)
    if len(messages) < 2:
        raise ValueError(
            f"{where}: expected at least two messages, of which the last is scored, "
            f"got {len(messages)}"
        )
    return written(lm, where, messages[:-1], messages[-1:])


def written(
    lm: Any, where: str, before: list[Any], after: list[Any]
) -> tuple[tuple[int, ...], str]:
    """Ids of the prompt that `before` makes, as ``lm.chat`` reads it, and the text that
    `after` adds to it, without what closes its last turn."""
    content = after[-1]["content"].rstrip()
    if not content:
        raise ValueError(f"{where}: expected a last message with text, got {after[-1]}")
    tokenizer = lm.tokenizer
    prompt = tokenizer.apply_chat_template(before)
    whole = tokenizer.apply_chat_template(before + after, add_generation_prompt=False)
    # What closes a turn may hold the same letters, as "<|im_end|>" does those of "end".
    marked = [*before, *after[:-1], {**after[-1], "content": content + _MARK}]
    text = tokenizer.apply_chat_template(marked, add_generation_prompt=False)
    text = text.rpartition(_MARK)[0]
    if not whole.startswith(text) or not text.startswith(prompt):
        raise ValueError(
            f"{where}: expected messages that the chat template writes after the "
            f"prompt, an assistant's first, got role {after[0]['role']!r:.80}"
        )
    ids = tokenizer.encode(prompt, add_special_tokens=False)
    return tuple(ids), text[len(prompt) :]


def _three(where: str, pair: Any) -> tuple[Any, Any, Any]:
    """The fields; a prompt of None where a mapping of messages has none."""
    if isinstance(pair, (tuple, list)) and len(pair) == 3:
        return pair[0], pair[1], pair[2]
    if not isinstance(pair, Mapping):
        raise TypeError(
            f"{where}: expected (prompt, chosen, rejected) or a mapping with these "
            f"fields, got {pair!r:.80}"
        )
    is_chat = isinstance(pair.get("chosen"), (list, tuple))
    for name in _FIELDS[1:] if is_chat else _FIELDS:
        if name not in pair:
            raise ValueError(f"{where}: expected a field {name!r}, got none")
    return pair.get("prompt"), pair["chosen"], pair["rejected"]


def _messages(where: str, value: Any) -> list[Any]:
    if not isinstance(value, (list, tuple)) or not value:
        raise TypeError(f"{where}: expected a list of messages, got {value!r:.80}")
    for i, message in enumerate(value):
        fields = message if isinstance(message, Mapping) else {}
        for name in ("role", "content"):
            if not isinstance(fields.get(name), str):
                raise TypeError(
                    f'{where}[{i}]: expected a message {{"role": str, "content": str}}'
                    f", got {message!r:.80}"
                )
    return list(value)


def _n_shared(a: Sequence[Any], b: Sequence[Any]) -> int:
    n = 0
    while n < min(len(a), len(b)) and a[n] == b[n]:
        n += 1
    return n
