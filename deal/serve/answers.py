"""What a thread does for a request, and the objects that it answers with."""

from __future__ import annotations

import itertools
import math
import secrets
import time
from collections.abc import Iterator, Mapping
from typing import Any

from deal import _batches
from deal._errors import ConstraintError, ContextLengthError, KVBudgetError, RewardError
from deal._request import GENERATE_DEFAULTS
from deal.generation import Generation
from deal.rewards import Reward
from deal.serve import scores
from deal.serve.errors import Refused, refused
from deal.serve.fields import read
from deal.serve.jobs import Check
from deal.stream import Stream

# What a request can be to blame for while it runs.
_OF_REQUESTS = (ContextLengthError, KVBudgetError, ConstraintError, RewardError)
_BAD = (ValueError, TypeError, OverflowError, RecursionError, KVBudgetError)


class Answer:
    """The answer to one request.

    Parameters
    ----------
    lm : Model
    name : str
        The model's, in answers.
    body : mapping
        JSON of the request.
    is_chat : bool
    names : mapping of str to Reward
        Rewards that requests can name.
    check : callable
        Raises once nobody waits for the answer any more.

    Raises
    ------
    Refused
        For a request that cannot be honoured.
    """

    def __init__(
        self,
        lm: Any,
        name: str,
        body: Mapping[str, Any],
        is_chat: bool,
        names: Mapping[str, Reward],
        check: Check,
    ) -> None:
        self._lm, self._check = lm, check
        try:
            self.asked = asked = read(body, is_chat, lm, names)
            given = {**asked.options, "max_new_tokens": max(1, asked.n_new_max)}
            options = lm._options(GENERATE_DEFAULTS | given)
            self._requests = [
                self._request(prompt, options) for prompt in asked.prompts
            ]
        except ImportError as error:
            raise Refused(str(error), status=501) from error
        except _BAD as error:
            raise refused(error) from error
        self._kind = "chat.completion" if is_chat else "text_completion"
        prefix = "chatcmpl" if is_chat else "cmpl"
        self._head = {
            "id": f"{prefix}-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": name,
        }

    def _request(self, prompt: Any, options: Any) -> _batches.Request:
        lm, row = self._lm, {}
        if self.asked.is_chat:
            row = {"messages": prompt}
            prompt = lm.tokenizer.apply_chat_template(prompt)
        encoded = lm._encode(prompt, self.asked.is_chat)
        return _batches.Request(encoded, options, row)

    def objects(self) -> Iterator[dict[str, Any]]:
        """The one object of the answer, or the chunks of a stream."""
        try:
            if self.asked.stream:
                yield from self._chunks()
            else:
                yield self._whole()
        except _OF_REQUESTS as error:
            raise refused(error) from error

    # --- all at once ------------------------------------------------------------------

    def _whole(self) -> dict[str, Any]:
        pairs = [
            (request, r)
            for request, results in zip(self._requests, self._found(), strict=True)
            for r in results
        ]
        choices = [self._choice(i, *pair) for i, pair in enumerate(pairs)]
        every = [r for _, r in pairs if r is not None]
        head = {"object": self._kind, **self._head}
        return {**head, "choices": choices, "usage": self._usage(every)}

    def _found(self) -> list[list[Any]]:
        """Results of each prompt; [None] where only the prompt is asked about."""
        if self.asked.n_new_max == 0:
            return [[None] for _ in self._requests]
        if len(self._requests) > 1:
            return list(
                _batches.generate_all(
                    self._lm, self._requests, done=lambda i, found: self._check()
                )
            )
        stream = self._stream(self._requests[0])
        for _ in stream:
            pass
        return [stream.generations]

    def _stream(self, request: _batches.Request) -> Stream:
        row = dict(request.row)
        return Stream(self._lm, request.prompt, request.options, row, self._check)

    def _choice(
        self, i: int, request: _batches.Request, r: Generation | None
    ) -> dict[str, Any]:
        text = "" if r is None else r.text
        choice: dict[str, Any] = {"index": i}
        if self.asked.is_chat:
            choice["message"] = {"role": "assistant", "content": text, "refusal": None}
        else:
            choice["text"] = request.prompt[1] + text if self.asked.echo else text
        choice["logprobs"] = self._logprobs(request, r)
        return choice | self._end(r)

    def _end(self, r: Generation | None) -> dict[str, Any]:
        """Why the text ended and what its search found."""
        is_limit = r is None or r.finish_reason == "length"
        end: dict[str, Any] = {"finish_reason": "length" if is_limit else "stop"}
        if r is not None and self.asked.shows_deal:
            fields = ("reward", "rewards", "score", "logprob", "finish_reason")
            about = {name: getattr(r, name) for name in fields}
            end["deal"] = _finite(about | {"stats": vars(r.stats)})
        return end

    def _logprobs(self, request: _batches.Request, r: Generation | None) -> Any:
        n_top = self.asked.logprobs
        if n_top is None:
            return None
        prompt = list(request.prompt[0])
        ids = [*prompt, *(() if r is None else r.token_ids)]
        first = 0 if self.asked.echo else len(prompt)
        found = scores.token_scores(self._lm, ids, first, n_top, self._check)
        if self.asked.is_chat:
            return _finite(scores.chat_logprobs(self._lm.tokenizer, found))
        table = scores.completion_logprobs(self._lm.tokenizer, found, n_top)
        return _finite(table)

    def _usage(self, results: list[Generation]) -> dict[str, int]:
        n_prompt = sum(len(request.prompt[0]) for request in self._requests)
        n_new = sum(len(r.token_ids) for r in results)
        return {
            "prompt_tokens": n_prompt,
            "completion_tokens": n_new,
            "total_tokens": n_prompt + n_new,
        }

    # --- piece by piece ---------------------------------------------------------------

    def _chunks(self) -> Iterator[dict[str, Any]]:
        results: list[Generation] = []
        for i, request in enumerate(self._requests):
            pieces: Stream | tuple[()] = ()
            if self.asked.n_new_max > 0:
                pieces = self._stream(request)
            first = next(iter(pieces), "")  # up to here, it can still be refused
            if self.asked.is_chat:
                yield self._chunk(i, "", role="assistant")
            elif self.asked.echo:
                yield self._chunk(i, request.prompt[1])
            for piece in itertools.chain([first], pieces):
                if piece:
                    yield self._chunk(i, piece)
            r = pieces.generation if isinstance(pieces, Stream) else None
            results += [] if r is None else [r]
            yield self._chunk(i, None, **self._end(r))
        if self.asked.include_usage:
            yield self._chunks_head() | {"choices": [], "usage": self._usage(results)}

    def _chunks_head(self) -> dict[str, Any]:
        is_chat = self.asked.is_chat
        kind = "chat.completion.chunk" if is_chat else self._kind
        none = {"usage": None} if self.asked.include_usage else {}
        return {"object": kind, **self._head, **none}

    def _chunk(
        self, i: int, text: str | None, role: str | None = None, **end: Any
    ) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": i, "logprobs": None, "finish_reason": None}
        if self.asked.is_chat:
            delta = {} if role is None else {"role": role}
            choice["delta"] = delta if text is None else {**delta, "content": text}
        else:
            choice["text"] = text or ""
        return self._chunks_head() | {"choices": [choice | end]}


def _finite(value: Any) -> Any:
    """`value` with null for the numbers that JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    return [_finite(each) for each in value] if isinstance(value, list) else value
