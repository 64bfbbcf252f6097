"""A model that generates."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from deal import _batches, _core, _fingerprint, _rollouts
from deal import controls as _controls
from deal._progress import progress_bar
from deal._request import (
    GENERATE_DEFAULTS,
    GenerateKwargs,
    Options,
    Prompt,
    aligned,
    is_batch,
    is_chats,
    is_messages,
    known,
    make_options,
    rows_of,
    start,
)
from deal._scoring import Scoring
from deal.generation import Generation
from deal.settings import Sampling, Search, check_int
from deal.stream import Stream
from deal.tokenizer import Tokenizer

if TYPE_CHECKING:
    from typing_extensions import Unpack

KV_TYPES = {"f32": 0, "f16": 1}  # deal_kv_type

Message = Mapping[str, Any]


@dataclass(frozen=True)
class HParams:
    """Hyper-parameters of a checkpoint, named as in csrc/model/hparams.h."""

    n_vocab: int
    n_embd: int
    n_layer: int
    n_head: int
    n_head_kv: int
    head_dim: int
    n_ff: int
    n_ctx_train: int
    norm_eps: float
    is_tied: bool
    has_qk_norm: bool
    has_post_norm: bool
    norm_base: float
    activation: int
    embd_scale: float
    attn_scale: float
    attn_softcap: float
    final_softcap: float
    n_swa: int
    swa_begin: int
    swa_period: int
    rope_dim: int
    rope_base: float
    rope_base_local: float
    rope_pairing: int
    rope_scaling: int
    rope_factor: float
    rope_low_freq_factor: float
    rope_high_freq_factor: float
    rope_n_ctx_orig: int


class Model(Scoring):
    """A language model ready to generate; made by :func:`deal.load`.

    Safe to use from several Python threads: every running request has a session, and so
    a KV cache, of its own.

    Attributes
    ----------
    tokenizer : Tokenizer
    hparams : HParams
    architecture : str
        As the checkpoint calls it, such as "llama" or "qwen3".
    path : Path
    compute : {"int8", "f32"}
    threads : int
    max_length : int
        Longest context in tokens, prompt included.
    kv_type : {"f32", "f16"}
    kv_budget : int or None
        Most bytes of KV cells of one request.
    """

    def __init__(
        self,
        core: Any,
        tokenizer: Tokenizer,
        hparams: HParams,
        path: Path,
        compute: str,
        threads: int,
        max_length: int,
        architecture: str,
        kv_type: str = "f32",
        kv_budget: int | None = None,
    ) -> None:
        self._core = core
        self.tokenizer = tokenizer
        self.hparams = hparams
        self.path = path
        self.compute = compute
        self.threads = threads
        self.max_length = max_length
        self.architecture = architecture
        self.kv_type = kv_type
        self.kv_budget = kv_budget
        self._sessions: list[Any] = []
        self._idle: list[Any] = []  # sessions that no request holds
        self._lock = threading.Lock()

    fingerprint = cached_property(_fingerprint.fingerprint)

    def __repr__(self) -> str:
        return (
            f"deal.Model({self.path.name!r}, compute={self.compute!r}, "
            f"threads={self.threads}, max_length={self.max_length})"
        )

    def __copy__(self) -> Model:
        return self  # weights are shared, also by a copy of settings that name a model

    def __deepcopy__(self, memo: Any) -> Model:
        return self

    def __reduce__(self) -> Any:
        raise TypeError(
            "deal.Model: weights in memory do not pickle; load the model where it is "
            "needed"
        )

    @contextmanager
    def _session(self) -> Iterator[Any]:
        with self._lock:
            session = self._idle.pop() if self._idle else None
        if session is None:
            session = _core.Session(
                self._core,
                self.max_length,
                self.threads,
                KV_TYPES[self.kv_type],
                self.kv_budget or 0,
            )
            with self._lock:
                self._sessions.append(session)
        try:
            yield session
        finally:
            with self._lock:
                self._idle.append(session)

    @property
    def n_forward_tokens(self) -> int:
        """Tokens evaluated so far, by all requests; a measure of cost."""
        with self._lock:
            return sum(session.n_forward_tokens for session in self._sessions)

    @property
    def kv_size(self) -> int:
        """Bytes of KV cells held now, by running requests and by idle sessions.

        A request gives its cells back at its end, but for the last few pages, which
        are kept for the next one: those of 512 tokens at most.
        """
        with self._lock:
            return sum(session.kv_size for session in self._sessions)

    def controls(
        self, controls: Sequence[_controls.Control] | None
    ) -> AbstractContextManager[None]:
        """Edit what the model computes, inside a ``with`` block.

        Every request to this model that is made inside, in this thread (and asyncio
        task), runs with the controls: generate, chat, stream, logprob, logits, hidden
        and head_outputs; also those that rewards make. See :mod:`deal.controls`.

        Parameters
        ----------
        controls : list of AddResidual, MapHead or EditFinal, or None
            Edits of one site run in the order of the list. Inside another block they
            come after that block's; None: inside, no controls are in force.

        Returns
        -------
        context manager

        Raises
        ------
        ValueError, TypeError
            On entering, for a control that does not fit the model.
        """
        return _controls.enter(self, controls)

    # --- generation ------------------------------------------------------------------

    @overload
    def generate(
        self,
        prompt: str | Sequence[int],
        *,
        num_return_sequences: Literal[1] = 1,
        **options: Unpack[GenerateKwargs],
    ) -> Generation: ...

    @overload
    def generate(
        self,
        prompt: list[str] | tuple[str, ...] | Sequence[Sequence[int]],
        *,
        num_return_sequences: Literal[1] = 1,
        **options: Unpack[GenerateKwargs],
    ) -> list[Generation]: ...

    @overload
    def generate(
        self,
        prompt: Prompt | Sequence[Prompt],
        *,
        num_return_sequences: int = 1,
        **options: Unpack[GenerateKwargs],
    ) -> Any: ...

    def generate(
        self,
        prompt: Prompt | Sequence[Prompt],
        *,
        max_new_tokens: int = 64,
        sampling: Sampling | None = None,
        num_beams: int = 1,
        length_penalty: float = 1.0,
        rewards: Any = None,
        search: Search | None = None,
        num_return_sequences: int = 1,
        stop: str | Sequence[str] | None = None,
        eos_token_id: int | Sequence[int] | None = None,
        constraint: Any = None,
        reward_kwargs: Mapping[str, Any] | None = None,
        batch_size: int | Literal["auto"] = "auto",
        progress: bool = False,
    ) -> Any:
        """Generate a completion of a prompt, or of each of several.

        Greedy by default; `sampling` draws; ``num_beams > 1`` is beam search as in
        transformers; `rewards` makes it a DeAL search with the settings `search`.

        Parameters
        ----------
        prompt : str, token ids, or a list of either
            Text is encoded with the model's special tokens; ids are taken as they are.
        max_new_tokens : int, default=64
            At least 1. Also ended by the context (`max_length`).
        sampling : Sampling, optional
        num_beams : int, default=1
            With rewards and no `search`: DeAL with that many beams.
        length_penalty : float, default=1.0
            Beam search ranks by ``logprob / n_tokens ** length_penalty``.
        rewards : Reward or callable, optional
            What good text is; higher is better. See :mod:`deal.rewards`. With
            `sampling` and no `search` they do not steer: the results only report
            them.
        search : Search, optional
            Settings of the DeAL search. Default with rewards: ``Search()``.
        num_return_sequences : int, default=1
            More than 1 needs sampling, or as many beams.
        stop : str or list of str, optional
            Strings that end the text; cut from it.
        eos_token_id : int or list of int, optional
            End tokens instead of the model's own; ``[]`` for none.
        constraint : Regex, JsonSchema or Grammar of deal.rewards, optional
            The form that the text must have: no token that it forbids is taken, by
            candidates, rollouts or draws. Also a capsule of ``<deal/constraint.h>``, or
            an object whose ``matcher(tokenizer)`` has the methods of llguidance's
            LLMatcher. See docs/constraints.md.
        reward_kwargs : mapping, optional
            Keyword arguments for Python rewards; for a list of prompts, lists of as
            many values (a data set's columns, as in TRL).
        batch_size : int or "auto", default="auto"
            Most prompts at a time. Their searches run on threads of their own and share
            forward passes; each finds what it finds alone, bit for bit. "auto": as many
            as fill a pass and fit into `kv_budget`, or 1 GiB of KV cells; one where a
            reward is not a native one of deal's, as then several threads call it.
        progress : bool, default=False
            Show a progress bar over the prompts.

        Returns
        -------
        Generation, or list
            One prompt: a `Generation`, or a list of `num_return_sequences`. A list of
            prompts: a list of those.

        Raises
        ------
        ValueError
            For an empty prompt or a bad setting.
        ContextLengthError
            If a prompt leaves no room for a token.
        KVBudgetError
            If the request needs more KV cells than `kv_budget` has room for, or those
            of ``search.rollout_model`` more than that one's.
        RewardError
            If a reward returns something else than its declaration says. What a Python
            reward raises itself goes through unchanged.
        ConstraintError
            If a constraint fails, or says something that it cannot.
        """
        options = self._options(locals())
        if not is_batch(prompt):
            kwargs = dict(reward_kwargs or {})
            return self._generate_all([prompt], options, [kwargs], progress)[0]
        rows = rows_of(reward_kwargs, len(prompt))
        return self._generate_all(list(prompt), options, rows, progress, batch_size)

    def chat(
        self,
        messages: Any,
        *,
        align: str | None = None,
        batch_size: int | Literal["auto"] = "auto",
        progress: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Generate the assistant's next message; keywords as in :meth:`generate`.

        Parameters
        ----------
        messages : list of dict, or list of such lists
            ``{"role": ..., "content": ...}``, rendered with the model's chat template.
            Python rewards that accept it get them as the keyword ``messages``.
        align : str, optional
            The paper's alignment prompt p_a (start-state adaptation, section 3.1), such
            as "Be harmless and helpful.": a system message, or the beginning of the one
            that is there; of the user's first one where the template writes no system
            messages. Rewards see it in ``prompts`` and ``messages``.

        Returns
        -------
        Generation, or list
            As :meth:`generate`.
        """
        several = is_chats(messages)
        chats = aligned(messages if several else [messages], align, self.tokenizer)
        prompts = [self.tokenizer.apply_chat_template(chat) for chat in chats]
        columns = kwargs.pop("reward_kwargs", None)
        rows = rows_of(columns, len(chats)) if several else [dict(columns or {})]
        rows = [{"messages": list(c)} | row for c, row in zip(chats, rows, strict=True)]
        options = self._options(GENERATE_DEFAULTS | known(kwargs))
        results = self._generate_all(
            prompts, options, rows, progress, batch_size, is_chat=True
        )
        return results if several else results[0]

    def stream(self, prompt: Any, **kwargs: Any) -> Stream:
        """Generate piece by piece; keywords as in :meth:`generate`.

        Parameters
        ----------
        prompt : str, token ids, or list of messages
            Messages are rendered with the chat template.

        Returns
        -------
        Stream
            An iterator over pieces of text. They never split a character, join to the
            generation's text and are final: with several beams the whole text comes
            last. ``.generation`` holds the result after the last piece.
        """
        row = dict(kwargs.pop("reward_kwargs", None) or {})
        is_chat = is_messages(prompt)
        if is_chat:
            row = {"messages": list(prompt)} | row
            prompt = self.tokenizer.apply_chat_template(prompt)
        elif is_batch(prompt):
            raise TypeError("prompt: expected one prompt to stream, got several")
        options = self._options(GENERATE_DEFAULTS | known(kwargs))
        return Stream(self, self._encode(prompt, is_chat), options, row)

    # --- inside ----------------------------------------------------------------------

    def _options(self, given: Mapping[str, Any]) -> Options:
        ends = self.tokenizer.eos_token_ids
        options = make_options(given, self.hparams.n_vocab, self.max_length, ends)
        return _rollouts.checked(self, options, given["eos_token_id"] is not None)

    def _encode(self, prompt: Prompt, is_chat: bool = False) -> tuple[list[int], str]:
        if isinstance(prompt, str):
            ids = self.tokenizer.encode(prompt, add_special_tokens=not is_chat)
            text = prompt
        else:
            if isinstance(prompt, (bytes, Mapping)) or not hasattr(prompt, "__len__"):
                raise TypeError(f"prompt: expected str or token ids, got {prompt!r}")
            n_vocab = self.hparams.n_vocab
            ids = [check_int("prompt", token, 0, n_vocab - 1) for token in prompt]
            text = self.tokenizer.decode(ids)
        if not ids:
            raise ValueError("prompt: expected at least one token, got an empty prompt")
        return ids, text

    def _start(
        self,
        sessions: Any,
        prompt: tuple[Sequence[int], str],
        options: Options,
        row: dict,
        controls: Any,
        recalls: Sequence[Any] = (None, None),
    ) -> Any:
        return start(sessions, self.tokenizer, prompt, options, row, controls, recalls)

    def _generate_all(
        self,
        prompts: list[Any],
        options: Options,
        rows: list[dict[str, Any]],
        progress: bool,
        batch_size: int | Literal["auto"] = "auto",
        is_chat: bool = False,
    ) -> list[Any]:
        size = _batches.checked_size(batch_size)
        requests = [
            _batches.Request(self._encode(prompt, is_chat), options, row)
            for prompt, row in zip(prompts, rows, strict=True)
        ]
        with progress_bar(len(requests), "generate", progress) as bar:
            results = _batches.generate_all(
                self, requests, size, lambda i, found: bar.update()
            )
        is_single = options.params["n_return"] == 1
        return [found[0] if is_single else found for found in results]


def __getattr__(name: str) -> Any:
    if name == "load":  # `deal.load` by its longer name; loading needs this module
        from deal._load import load

        return load
    raise AttributeError(f"module 'deal.model' has no attribute {name!r}")
