"""`deal` as a model of EleutherAI's lm-evaluation-harness.

Importing this module registers the model type "deal" with the harness::

    deal eval --model_args model=smollm2-135m-instruct,compute=f32 --tasks arc_easy

or, from Python, ``lm_eval.simple_evaluate(model="deal", model_args={...}, ...)``, or
with an instance: ``lm_eval.simple_evaluate(model=DealLM("model.gguf"), ...)``. Texts
are encoded, cut and windowed as the harness' own model type "hf" does it.
"""

from __future__ import annotations

import logging
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

from tqdm import tqdm

from deal._batches import Request
from deal._errors import TokenizerError
from deal._lm_eval_cache import check_files, check_rows
from deal._lm_eval_options import GenerateOptions, read_options
from deal._lm_eval_plan import Plan, Question
from deal._request import GENERATE_DEFAULTS, stops_and_ends
from deal.model import Model, load
from deal.rewards._extras import needed

# First of all: its own models are not found once another one is registered.
needed("lm_eval.models", "lm-eval", "deal.lm_eval")

from lm_eval.api.model import TemplateLM  # noqa: E402
from lm_eval.api.registry import model_registry, register_model  # noqa: E402
from lm_eval.models.utils import normalize_gen_kwargs  # noqa: E402
from lm_eval.utils import (  # noqa: E402
    get_rolling_token_windows,
    make_disjoint_window,
)

__all__ = ["DealLM"]

_logger = logging.getLogger(__name__)

# (context, continuation) as texts, then as token ids
_Request = tuple[Any, list[int], list[int]]


class DealLM(TemplateLM):
    """A model of :func:`deal.load` behind the harness' interface.

    Parameters
    ----------
    model : str, path or Model, default="smollm2-135m-instruct"
        What :func:`deal.load` takes, or a model that it has loaded.
    pretrained : str, optional
        Another name of `model`, as other model types of the harness have it.
    compute, threads, max_length, kv_type, kv_budget
        As for :func:`deal.load`; of a loaded model only `max_length` may be given, at
        most its own.
    add_bos_token : bool, optional
        Put the begin token before every text, or do not. Default: as the tokenizer.
    prefix_token_id : int, optional
        What a text without context follows. Default: the begin token, or else the end
        token.
    max_gen_toks : int, default=256
        Longest generated text where a task says nothing, in tokens.
    chat_template_args : mapping, optional
        Further variables for the chat template.
    enable_thinking : bool, optional
        A variable that some chat templates know.
    batch_size : int or str, default="auto"
        Most texts that are generated at a time: at least 1, "auto" or "auto:N"; see
        :meth:`deal.Model.generate`. No result depends on it, and log-likelihoods go in
        batches of tokens that the engine fills itself.
    max_batch_size, device, trust_remote_code : optional
        Accepted and without effect: one process, no device but the processor, and no
        code of a checkpoint is ever run.
    """

    def __init__(
        self,
        model: Any = None,
        *,
        pretrained: Any = None,
        compute: str = "auto",
        threads: int | None = None,
        max_length: int | None = None,
        kv_type: str = "f32",
        kv_budget: int | None = None,
        add_bos_token: bool | None = None,
        prefix_token_id: int | None = None,
        max_gen_toks: int = 256,
        chat_template_args: Mapping[str, Any] | None = None,
        enable_thinking: bool | None = None,
        batch_size: int | str | None = "auto",
        max_batch_size: int | None = None,
        device: str | None = None,
        trust_remote_code: bool | None = None,
    ) -> None:
        super().__init__()
        if model is not None and pretrained is not None:
            raise ValueError(
                f"model: expected it under one name, got model={model!r} and "
                f"pretrained={pretrained!r}"
            )
        model = pretrained if model is None else model
        model = "smollm2-135m-instruct" if model is None else model
        if isinstance(model, Model):
            self.lm = model
        else:
            self.lm = load(
                model,
                compute=compute,
                threads=threads,
                max_length=max_length,
                kv_type=kv_type,
                kv_budget=kv_budget,
            )
        self._name = str(self.lm.path if isinstance(model, Model) else model)
        self._max_length = _at_least_one("max_length", max_length, self.lm.max_length)
        self._max_gen_toks = _at_least_one("max_gen_toks", max_gen_toks, 256)
        if self._max_length > self.lm.max_length:
            raise ValueError(
                f"max_length: expected at most {self.lm.max_length}, the model's, got "
                f"{max_length}"
            )
        self.tokenizer: Any = self.lm.tokenizer
        self._batch_size = _batch_size(batch_size)
        self._add_bos = _flag("add_bos_token", add_bos_token)
        self._prefix = self._checked_prefix(prefix_token_id)
        self._template_args = dict(chat_template_args or {})
        if enable_thinking is not None:
            self._template_args["enable_thinking"] = enable_thinking

    # --- what the harness asks about the model ----------------------------------------

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        if self.tokenizer.eos_token_id is None:
            raise ValueError(f"eot_token_id: the tokenizer of {self._name} has none")
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        """The token before a text without context."""
        return self.eot_token_id if self._prefix is None else self._prefix

    @property
    def max_length(self) -> int:
        """Longest context in tokens."""
        return self._max_length

    @property
    def max_gen_toks(self) -> int:
        """Longest generated text where a task says nothing, in tokens."""
        return self._max_gen_toks

    @property
    def batch_size(self) -> int | str:
        """As given."""
        return self._batch_size

    @property
    def n_at_a_time(self) -> int | None:
        """Most texts that are generated at a time; None: the engine's choice."""
        return self._batch_size if isinstance(self._batch_size, int) else None

    @property
    def tokenizer_name(self) -> str:
        """What the harness keeps requests with a chat template under."""
        return self._name.replace("/", "__")

    def get_model_info(self) -> dict[str, Any]:
        """What the harness writes down beside results."""
        from importlib import metadata

        from deal._info import model_facts

        facts = model_facts(self.lm.path, self.lm)
        return {
            "model_num_parameters": facts["parameters"],
            "model_dtype": self.lm.compute,
            "model_revision": "",
            "model_sha": "",
            "deal_version": metadata.version("deal-lm"),
        }

    # --- texts and tokens -------------------------------------------------------------

    def tok_encode(
        self,
        string: str,
        add_special_tokens: bool | None = None,
        left_truncate_len: int | None = None,
        **kwargs: Any,
    ) -> list[int]:
        """Token ids of a text; of `left_truncate_len`, the last so many.

        Without `add_special_tokens` they are added as `add_bos_token` or else the
        tokenizer says, but not to a text that begins with the prefix token already.
        """
        adds = self._add_bos if add_special_tokens is None else add_special_tokens
        if add_special_tokens is None and string.startswith(self._prefix_text):
            adds = False
        ids = self.tokenizer.encode(string, adds is not False)
        if adds and self._add_bos and not self.tokenizer.add_bos:
            bos = self.tokenizer.bos_token_id
            ids = ids if bos is None else [bos, *ids]
        return ids[-left_truncate_len:] if left_truncate_len else ids

    def tok_decode(self, tokens: Any, skip_special_tokens: bool = True) -> str:
        """Text of token ids."""
        ids = [tokens] if isinstance(tokens, int) else list(tokens)
        return self.tokenizer.decode(ids, skip_special_tokens=skip_special_tokens)

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The prompt of a conversation; where the template refuses a system message,
        without it. Without `add_generation_prompt` the last message is left open, so
        that the model goes on with it."""
        try:
            return self._render(chat_history, add_generation_prompt)
        except TokenizerError:
            rest = [m for m in chat_history if m["role"] != "system"]
            if self.tokenizer.chat_template is None or len(rest) == len(chat_history):
                raise
            _logger.warning("chat template: failed; trying without system messages")
            return self._render(rest, add_generation_prompt)

    def _render(self, chat: list[dict[str, str]], add_generation_prompt: bool) -> str:
        text = self.tokenizer.apply_chat_template(
            chat, add_generation_prompt=add_generation_prompt, **self._template_args
        )
        if add_generation_prompt or not chat:
            return text
        last = chat[-1]["content"]
        begin = text.rfind(last.strip())
        if begin < 0:
            raise ValueError(
                "chat template: the last message is not in the text that it writes, so "
                f"that it cannot be continued: {last!r:.80}"
            )
        is_whole = text.startswith(last.lstrip(), begin)
        return text[: begin + len(last.lstrip() if is_whole else last.strip())]

    @cached_property
    def _prefix_text(self) -> str:
        return self.tok_decode(self.prefix_token_id, skip_special_tokens=False)

    def _checked_prefix(self, given: int | None) -> int | None:
        if given is None:
            bos = self.tokenizer.bos_token_id
            return self.tokenizer.eos_token_id if bos is None else bos
        n_vocab = self.lm.hparams.n_vocab
        if isinstance(given, bool) or not isinstance(given, int):
            raise TypeError(f"prefix_token_id: expected an int, got {given!r}")
        if not 0 <= given < n_vocab:
            raise ValueError(
                f"prefix_token_id: expected 0 to {n_vocab - 1}, got {given}"
            )
        return given

    # --- log-likelihoods --------------------------------------------------------------

    def loglikelihood(
        self, requests: list[Any], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """Log-likelihood of continuations, and whether greedy decoding writes them.

        Where both context and continuation are empty, this is (0.0, True).
        """
        asked = [r for r in requests if tuple(r.args) != ("", "")]
        found = iter(super().loglikelihood(asked, disable_tqdm=disable_tqdm))
        return [
            (0.0, True) if tuple(r.args) == ("", "") else next(found) for r in requests
        ]

    def _loglikelihood_tokens(
        self,
        requests: Sequence[_Request],
        disable_tqdm: bool = False,
        **kwargs: Any,
    ) -> list[tuple[float, bool]]:
        pairs = [self._fitted(*request) for request in requests]

        def done(i: int, logprob: float, is_greedy: bool) -> None:
            if requests[i][0] is not None:
                result = (logprob, is_greedy)
                self.cache_hook.add_partial("loglikelihood", requests[i][0], result)

        return self._score(pairs, done, disable_tqdm)

    def loglikelihood_rolling(
        self, requests: list[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """Log-likelihood of whole texts, of any length, in windows of `max_length`."""
        windows, owners = [], []
        for i, request in enumerate(requests):
            for window in get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            ):
                windows.append(self._fitted(None, *make_disjoint_window(window)))
                owners.append(i)
        missing, sums = Counter(owners), [0.0] * len(requests)

        def done(i_window: int, logprob: float, is_greedy: bool) -> None:
            i = owners[i_window]
            sums[i] += logprob
            missing[i] -= 1
            if missing[i] == 0:
                text = (requests[i].args[0],)
                self.cache_hook.add_partial("loglikelihood_rolling", text, sums[i])

        self._score(windows, done, disable_tqdm)
        return sums

    def _score(
        self,
        pairs: list[tuple[list[int], list[int]]],
        done: Callable[[int, float, bool], None],
        disable_tqdm: bool,
    ) -> list[tuple[float, bool]]:
        with tqdm(
            total=len(pairs), disable=disable_tqdm, desc="Running loglikelihood"
        ) as bar:

            def tell(i: int, logprob: float, is_greedy: bool) -> None:
                done(i, logprob, is_greedy)
                bar.update()

            return self.lm.loglikelihood(pairs, done=tell)

    def _fitted(
        self, texts: Any, context: list[int], continuation: list[int]
    ) -> tuple[list[int], list[int]]:
        """A context of at least one token, cut on the left to what there is room for;
        the last token of all needs none."""
        if texts is not None and texts[1] and not continuation:
            raise ValueError(
                f"continuation {texts[1]!r:.80} has no token of its own after context "
                f"{texts[0][-40:]!r}: the two are one token together"
            )
        if len(continuation) > self.max_length:
            raise ValueError(
                f"continuation: expected at most {self.max_length} tokens (max_length),"
                f" got {len(continuation)}"
            )
        room = self.max_length + 1 - len(continuation)
        if len(context) > room:
            _logger.warning(
                "context of %d tokens: cut on the left to %d", len(context), room
            )
        return context[-room:] or [self.prefix_token_id], continuation

    # --- generation -------------------------------------------------------------------

    def generate_until(
        self, requests: list[Any], disable_tqdm: bool = False
    ) -> list[str]:
        """Texts, by the settings of each request; docs/lm-eval.md lists them."""
        asked: list[GenerateOptions] = [self._options(r.args[1]) for r in requests]
        self._check_cache(requests, asked)
        plan = Plan(self.lm)
        for request, options in zip(requests, asked, strict=True):
            plan.add(request, options)
        texts = [""] * len(requests)
        with tqdm(
            total=len(requests), disable=disable_tqdm, desc="Running generate_until"
        ) as bar:

            def done(i: int, text: str) -> None:
                texts[i] = text
                self.cache_hook.add_partial("generate_until", requests[i].args, text)
                bar.update()

            plan.run(self, done)
        return texts

    def set_cache_hook(self, cache_hook: Any) -> None:
        """Take the harness' cache of answers (``--use_cache``).

        Raises
        ------
        ValueError
            If it has answers of rewards whose file has changed.
        """
        check_files(getattr(cache_hook, "dbdict", None))
        super().set_cache_hook(cache_hook)

    def _check_cache(
        self, requests: Sequence[Any], asked: Sequence[GenerateOptions]
    ) -> None:
        """ValueError where the harness' cache would mix up rows, or rewards."""
        cache = getattr(self.cache_hook, "dbdict", None)
        if cache is not None:
            check_rows(requests, asked)
            specs = {o.spec.text: o.spec for o in asked if o.spec is not None}
            check_files(cache, [x for spec in specs.values() for x in spec.objects])

    def _options(self, given: Any) -> GenerateOptions:
        if not isinstance(given, Mapping):
            raise TypeError(f"gen_kwargs: expected a mapping, got {given!r}")
        kwargs = normalize_gen_kwargs(
            {k: v for k, v in given.items() if v is not None}, self.max_gen_toks
        )
        if "temperature" not in given:
            kwargs.pop("temperature", None)
        options = read_options(kwargs)
        if not 1 <= options.max_gen_toks < self.max_length:
            raise ValueError(
                f"max_gen_toks: expected 1 to {self.max_length - 1} (below max_length),"
                f" got {options.max_gen_toks}"
            )
        return options

    def request_of(self, question: Question) -> Request:
        """What the engine is asked."""
        options, context = question.options, question.context
        ids = self.tok_encode(
            context, left_truncate_len=self.max_length - options.max_gen_toks
        )
        stops, ends = stops_and_ends(self.tokenizer, options.until)
        given = {
            "max_new_tokens": options.max_gen_toks,
            "sampling": question.sampling,
            "stop": stops,
            "eos_token_id": ends,
        }
        return Request(
            self.lm._encode(ids or [self.prefix_token_id]),
            self.lm._options(GENERATE_DEFAULTS | given | question.search),
            {} if options.spec is None else {"doc": question.doc},
        )


def _at_least_one(name: str, value: Any, default: int) -> int:
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}: expected an int, got {value!r}")
    if value < 1:
        raise ValueError(f"{name}: expected at least 1, got {value}")
    return value


def _flag(name: str, value: Any) -> bool | None:
    if value is not None and not isinstance(value, bool):
        raise TypeError(f"{name}: expected True or False, got {value!r}")
    return value


def _batch_size(value: Any) -> int | str:
    """As given, checked; a number in a string is a number."""
    text = "auto" if value is None else str(value)
    head, _, tail = text.partition(":")
    if head == "auto" and (not tail or tail.replace(".", "", 1).isdigit()):
        return text
    if text.isdecimal() and int(text) >= 1:
        return int(text)
    raise ValueError(
        f"batch_size: expected a number from 1 on, 'auto' or 'auto:N', got {value!r}"
    )


def main(argv: Sequence[str]) -> None:
    """The harness' command line with the model type "deal", its default.

    Parameters
    ----------
    argv : sequence of str
        Arguments of ``lm-eval``.
    """
    from lm_eval.__main__ import cli_evaluate

    given = list(argv)
    names_model = any(
        a in ("--model", "--config")
        or a.startswith(("--model=", "--config=", "-M", "-C"))
        for a in given
    )
    if len(given) > 1 and given[0] not in ("ls", "validate") and not names_model:
        given += ["--model", "deal"]
        if not any(a.startswith(("--batch_size", "-b")) for a in given):
            given += ["--batch_size", "auto"]  # its own default is one at a time
    before, sys.argv = sys.argv, ["deal eval", *given]
    try:
        cli_evaluate()
    finally:
        sys.argv = before


if "deal" not in model_registry:  # newer versions find it by its entry point
    register_model("deal")(DealLM)
