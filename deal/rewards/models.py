"""Rewards that ask a model of the engine: a head on another one, fluency, contrast.

Each keeps a trie of its own over the texts that it was asked about, so that of a text
which continues an earlier one, as the rollouts of a search do, only the new tokens are
evaluated. What it scores does not depend on what it keeps.
"""

from __future__ import annotations

import functools
import math
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from deal import _core
from deal._states import residual_taps
from deal.controls import ControlSet, in_force
from deal.rewards._arguments import engine_model
from deal.rewards.base import Reward
from deal.rewards.heads import Head
from deal.rewards.python import PythonReward
from deal.rewards.reward_model import RewardModel
from deal.settings import check_float, check_int

_CACHE_TOKENS = 2048
_N_PROMPT_MAX = 64  # encoded prompts that are remembered

Messages = Sequence[Mapping[str, Any]]
Context = tuple[str, bool]  # a text, and whether its special tokens are written out


class Fluency(PythonReward):
    """Mean log-prob of the completion's tokens under a model, at most 0.

    A guard against text that a reward likes and no one would write.

    Parameters
    ----------
    model : deal.Model
        The one that generates, or another, whose tokenizer then cuts the text.
    floor : float, optional
        Less than 0. Scores below count as this, so that one odd word does not decide,
        and the range is known: a search prunes by it.
    cache_tokens : int, default=2048
        Most tokens whose KV cells are kept for later calls.
    name : str, default="fluency"

    Notes
    -----
    The score is the natural log-prob of the completion, given the prompt, by the number
    of its tokens; an end token is none of them. An empty completion scores 0. With
    ``lm.chat`` the model's own chat template writes the prompt, else it is the text.
    """

    def __init__(
        self,
        model: Any,
        *,
        floor: float | None = None,
        cache_tokens: int = _CACHE_TOKENS,
        name: str = "fluency",
    ) -> None:
        low = -math.inf
        if floor is not None:
            low = check_float("floor", floor, "less than 0", lambda x: x < 0)
        scorer = _Fluency(_Reading(model, cache_tokens), low)
        super().__init__(scorer, range=(low, 0.0), name=name)
        self.floor = floor


class Contrast(PythonReward):
    """Log-prob of the completion under one prompt minus that under another.

    What a model finds more likely when it is told to be good than when it is not: a
    reward without a reward model.

    Parameters
    ----------
    model : deal.Model
        The one that generates, or another.
    prompt : str, list of messages or callable
        The prompt that asks for what is wanted. ``{prompt}`` in it stands for the
        request's own; messages are written with the model's chat template. A callable
        makes a text or messages of the prompt.
    other : str, list of messages or callable, default="{prompt}"
        What it is compared with.
    per_token : bool, default=False
        Divide by the number of tokens.
    cache_tokens : int, default=2048
        Most tokens whose KV cells are kept for later calls.
    name : str, default="contrast"

    Examples
    --------
    >>> kind = Contrast(lm, "Answer in a kind way.\\n{prompt}")
    >>> lm.generate(prompt, rewards=kind)
    """

    def __init__(
        self,
        model: Any,
        prompt: str | Messages | Callable[[str], Any],
        other: str | Messages | Callable[[str], Any] = "{prompt}",
        *,
        per_token: bool = False,
        cache_tokens: int = _CACHE_TOKENS,
        name: str = "contrast",
    ) -> None:
        for key, value in (("prompt", prompt), ("other", other)):
            is_list = isinstance(value, Sequence) and len(value) > 0
            if not (callable(value) or isinstance(value, str) or is_list):
                raise TypeError(
                    f"{key}: expected a str, messages or a callable, got {value!r}"
                )
        reading = _Reading(model, cache_tokens)
        super().__init__(_Contrast(reading, prompt, other, per_token), name=name)


def from_model(
    model: Any,
    head: Any,
    *,
    text: str | Callable[[str, str], Any] = "prompt+completion",
    bias: float = 0.0,
    layers: Sequence[int] = (-1,),
    pooling: str = "last",
    sigmoid: bool = True,
    cache_tokens: int = _CACHE_TOKENS,
    name: str = "reward_model",
) -> Reward:
    """A head over the hidden states of another engine model as a reward.

    For a reward model with another tokenizer than the model that generates: completions
    are cut into its own tokens. Where both are the same model, ``RewardModel`` alone
    reads the states that the search evaluates anyway.

    Parameters
    ----------
    model : deal.Model
    head : RewardModel, Classifier or array_like of float, shape (n_layers * n_embd,)
        Those that are heads bring bias, layers and pooling along.
    text : {"prompt+completion", "completion", "chat"} or callable
        What the model reads. "chat" writes the prompt as the user's turn of the model's
        chat template, with the completion after it; with ``lm.chat`` its messages are
        written so in either case. "completion" is the text without the prompt. A
        callable makes of (prompt, completion) a pair (what comes before, what is
        scored).
    bias, layers, pooling
        Of a head that is an array, as for :class:`RewardModel`.
    sigmoid : bool, default=True
        Of an array: the score is the sigmoid, in (0, 1). False: the linear form itself,
        whose range is not known.
    cache_tokens : int, default=2048
        Most tokens whose KV cells are kept for later calls.
    name : str, default="reward_model"

    Returns
    -------
    Reward

    Raises
    ------
    ValueError
        For a head that does not fit the model.
    """
    engine_model("model", model)
    texts = ("prompt+completion", "completion", "chat")
    if not callable(text) and text not in texts:
        raise ValueError(f"text: expected a callable or one of {texts}, got {text!r}")
    if isinstance(head, Head):
        if (bias, tuple(layers), pooling, sigmoid) != (0.0, (-1,), "last", True):
            raise ValueError("head: a head has its own bias, layers and pooling")
        if head.n_embd != model.hparams.n_embd:
            raise ValueError(
                f"head: expected {model.hparams.n_embd} features a layer (the model's "
                f"n_embd), got {head.n_embd}"
            )
    else:
        head = RewardModel(head, bias, layers=layers, pooling=pooling, model=model)
    taps = residual_taps(head.layers, model.hparams.n_layer)
    scorer = _Head(_Reading(model, cache_tokens, taps), head, text, sigmoid)
    return PythonReward(scorer, range=(0.0, 1.0) if sigmoid else None, name=name)


# --- texts and tokens ----------------------------------------------------------------


def _close(reader: Any, session: Any) -> None:
    reader.close()
    session.__exit__(None, None, None)


class _Reading:
    """A model's tokenizer and a reader of its own, for the controls in force.

    Safe to use from several threads, one after the other.
    """

    def __init__(
        self, model: Any, cache_tokens: int, taps: Sequence[tuple[int, int]] = ()
    ) -> None:
        if not hasattr(model, "_session"):
            raise TypeError(f"model: expected a deal.Model, got {model!r}")
        self.model = model
        self._n_keep = check_int("cache_tokens", cache_tokens, 0, 2**31 - 1)
        self._taps = list(taps)
        self._lock = threading.RLock()
        self._reader: Any = None
        self._controls: ControlSet | None = None  # those of the reader
        self._finalizer: Any = None
        self._prompts: dict[tuple[str, bool], list[int]] = {}

    def logprobs(self, pairs: Sequence[tuple[list[int], int]]) -> list[float]:
        """Summed log-probs of the tokens after the first n of each (ids, n)."""
        order = sorted(range(len(pairs)), key=lambda i: pairs[i][0])
        with self._lock:
            found = self._open().logprobs(
                [pairs[i][0] for i in order], [pairs[i][1] for i in order]
            )
        sums = [0.0] * len(pairs)
        for i, value in zip(order, found, strict=True):
            sums[i] = value
        return sums

    def states(self, pairs: Sequence[tuple[list[int], int]], pooling: str) -> Any:
        """Pooled states (n, n_taps * n_embd) of what follows the first n tokens."""
        order = sorted(range(len(pairs)), key=lambda i: pairs[i][0])
        rows = [pairs[i] for i in order]
        begins = [
            len(ids) - 1 if pooling == "last" else min(n, len(ids) - 1)
            for ids, n in rows
        ]
        with self._lock:
            found = self._open().states(
                [ids for ids, _ in rows], begins, [n for _, n in rows]
            )
        states = np.empty_like(found)
        states[order] = found
        return states

    def _open(self) -> Any:
        """The reader; another one where other controls are in force."""
        found = in_force(self.model)
        controls = found if found.rows else None
        if self._reader is not None and controls is self._controls:
            return self._reader
        if self._finalizer is not None:
            self._finalizer()
            self._reader = self._finalizer = None
        core = None
        if controls is not None or self._taps:
            rows = [] if controls is None else controls.rows
            core = _core.Controls(self.model._core, rows, self._taps)
        session = self.model._session()
        reader = _core.Reader(session.__enter__(), core, self._n_keep)
        self._reader, self._controls = reader, controls
        self._finalizer = weakref.finalize(self, _close, reader, session)
        return reader

    def context(self, prompt: str, messages: Messages | None) -> Context:
        """What comes before the completion."""
        if messages is not None and self.model.tokenizer.chat_template is not None:
            return self.chat(messages)
        return prompt, messages is not None

    def chat(self, messages: Messages) -> Context:
        return self.model.tokenizer.apply_chat_template(messages), True

    def encode(self, context: Context, completion: str) -> tuple[list[int], int]:
        """Ids of both, cut as one text where that leaves the context's as they are."""
        text, has_special = context
        tokenizer = self.model.tokenizer
        before = self._prompts.get(context)
        if before is None:
            before = tokenizer.encode(text, add_special_tokens=not has_special)
            if not before:  # something must predict the first token
                start = (tokenizer.bos_token_id, tokenizer.eos_token_id)
                before = [i for i in start if i is not None][:1]
            if not before:
                raise ValueError("prompt: expected at least one token, got none")
            if len(self._prompts) >= _N_PROMPT_MAX:
                self._prompts.clear()
            self._prompts[context] = before
        joint = tokenizer.encode(text + completion, add_special_tokens=not has_special)
        n = len(before)
        if joint[:n] == before:
            return joint, n
        return before + tokenizer.encode(completion, add_special_tokens=False), n


def _contexts(
    make: Callable[[str, Any], Context],
    prompts: Sequence[str],
    columns: Mapping[str, Any],
) -> list[Context]:
    """What comes before each completion; made once for rows with the same prompt."""
    messages = columns.get("messages") or [None] * len(prompts)
    made: dict[tuple[str, int], Context] = {}
    for prompt, row in zip(prompts, messages, strict=True):
        if (prompt, id(row)) not in made:
            made[prompt, id(row)] = make(prompt, row)
    return [made[p, id(row)] for p, row in zip(prompts, messages, strict=True)]


class _Fluency:
    def __init__(self, reading: _Reading, low: float) -> None:
        self._reading, self._low = reading, low

    def __call__(
        self, completions: list[str], prompts: list[str], **columns: Any
    ) -> list[float]:
        contexts = _contexts(self._reading.context, prompts, columns)
        pairs = list(map(self._reading.encode, contexts, completions))
        sums = self._reading.logprobs(pairs)
        return [
            min(max(value / max(len(ids) - n, 1), self._low), 0.0)
            for value, (ids, n) in zip(sums, pairs, strict=True)
        ]


class _Contrast:
    def __init__(
        self, reading: _Reading, prompt: Any, other: Any, per_token: bool
    ) -> None:
        self._reading = reading
        self._templates = prompt, other
        self._per_token = per_token

    def __call__(
        self, completions: list[str], prompts: list[str], **columns: Any
    ) -> list[float]:
        pairs: list[tuple[list[int], int]] = []
        for template in self._templates:
            make = functools.partial(self._context, template)
            contexts = _contexts(make, prompts, columns)
            pairs += map(self._reading.encode, contexts, completions)
        sums = self._reading.logprobs(pairs)
        if self._per_token:
            n_tokens = [max(len(ids) - n, 1) for ids, n in pairs]
            sums = [value / n for value, n in zip(sums, n_tokens, strict=True)]
        n_text = len(completions)
        return [a - b for a, b in zip(sums[:n_text], sums[n_text:], strict=True)]

    def _context(self, template: Any, prompt: str, messages: Any) -> Context:
        """With the request's prompt in its place."""
        if callable(template):
            made = template(prompt)
        elif template == "{prompt}":
            return self._reading.context(prompt, messages)
        elif isinstance(template, str):
            made = template.replace("{prompt}", prompt)
        else:
            made = [
                {**m, "content": m["content"].replace("{prompt}", prompt)}
                for m in template
            ]
        if isinstance(made, str):
            return made, messages is not None and prompt in made
        return self._reading.chat(made)


class _Head:
    def __init__(self, reading: _Reading, head: Head, text: Any, sigmoid: bool) -> None:
        self._reading, self._head = reading, head
        self._text, self._sigmoid = text, sigmoid

    def __call__(
        self, completions: list[str], prompts: list[str], **columns: Any
    ) -> list[float]:
        reading = self._reading
        if callable(self._text):
            made = list(map(self._made, prompts, completions))
            pairs = [reading.encode((before, False), text) for before, text in made]
        else:
            contexts = _contexts(self._context, prompts, columns)
            pairs = list(map(reading.encode, contexts, completions))
        states = reading.states(pairs, self._head.pooling)
        values = self._head.decision_function(states)
        if self._sigmoid:
            values = 0.5 * (1.0 + np.tanh(0.5 * values))
        return values.tolist()

    def _made(self, prompt: str, completion: str) -> Sequence[str]:
        made = self._text(prompt, completion)
        is_pair = isinstance(made, (tuple, list)) and len(made) == 2
        if not is_pair or not all(isinstance(part, str) for part in made):
            raise TypeError(
                "text: expected a pair (what comes before, what is scored), got "
                f"{made!r}"
            )
        return made

    def _context(self, prompt: str, messages: Any) -> Context:
        if self._text == "completion":
            return "", False
        if self._text == "chat" and messages is None:
            return self._reading.chat([{"role": "user", "content": prompt}])
        return self._reading.context(prompt, messages)
