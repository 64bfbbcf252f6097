"""The conversation that ``deal chat`` holds."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from deal._errors import ContextLengthError, KVBudgetError

if TYPE_CHECKING:
    from deal.model import Model


def chat_loop(lm: Model, system: str | None, options: dict[str, Any]) -> None:
    """Answer what is typed, until the input ends."""
    start = [{"role": "system", "content": system}] if system else []
    messages = list(start)
    question = "> " if sys.stdin.isatty() else ""
    while True:
        try:
            text = input(question).strip()
        except EOFError:
            if question:
                print()
            return
        except KeyboardInterrupt:
            print("\n(Ctrl-D leaves)", file=sys.stderr)
            continue
        if text == "/reset":
            messages = list(start)
            continue
        if not text:
            continue
        messages.append({"role": "user", "content": text})
        answer = _answer(lm, messages, options)
        if answer is None:
            messages.pop()
        else:
            messages.append({"role": "assistant", "content": answer})


def _answer(lm: Model, messages: list[dict[str, str]], options: Any) -> str | None:
    """Stream one answer; None where there is no room left for it."""
    pieces: list[str] = []
    try:
        for piece in lm.stream(messages, **options):
            pieces.append(piece)
            sys.stdout.write(piece)
            sys.stdout.flush()
    except KeyboardInterrupt:  # what was said so far stays part of the conversation
        pass
    except (ContextLengthError, KVBudgetError) as error:
        if pieces:
            print()
        text = " ".join(str(error).split())
        print(f"{text} (/reset starts anew)", file=sys.stderr)
        return None
    sys.stdout.write("\n")
    sys.stdout.flush()
    return "".join(pieces)
