"""Rewards made of classifiers and reward models of Hugging Face's transformers.

Their last bits depend on what else was in the batch, as padded batches do there; scores
rounded with `decimals` hardly do.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from deal.rewards._extras import needed
from deal.rewards.base import Reward
from deal.rewards.python import PythonReward
from deal.settings import check_int

_FUNCTIONS = ("softmax", "sigmoid", "none")
_TEXTS = ("completion", "prompt+completion", "pair", "chat")

# (prompt, completion) -> what is scored: a text, a pair of texts, or messages.
Template = str | Callable[[str, str], Any]


def from_pipeline(
    pipe: Any,
    label: str | None = None,
    *,
    text: Template = "completion",
    function_to_apply: str | None = None,
    batch_size: int = 16,
    truncation: bool = True,
    decimals: int | None = None,
    name: str | None = None,
    **kwargs: Any,
) -> Reward:
    """A Hugging Face ``pipeline("text-classification")`` as a reward.

    The score of one label. All texts of a decision go through the pipeline in one call,
    in batches of texts of about one length.

    Parameters
    ----------
    pipe : pipeline, or str
        A string is the model's name, and the pipeline is made of it.
    label : str, optional
        As the model's ``id2label`` names it. Needed where there is more than one.
    text : {"completion", "prompt+completion", "pair"} or callable, default="completion"
        What is classified. "pair" is the prompt and the completion as a pair of texts,
        with the separator that the model knows between them. A callable makes a text,
        or a pair, of (prompt, completion).
    function_to_apply : {"softmax", "sigmoid", "none"}, optional
        Makes scores of logits. Default: "softmax" over the labels, or "sigmoid" for a
        single label and for models of the problem type "multi_label_classification".
        The range is (0, 1), or unknown with "none".
    batch_size : int, default=16
        A pipeline's own default is 1.
    truncation : bool, default=True
        Cut texts that are longer than the model takes, at the side that the pipeline's
        ``tokenizer.truncation_side`` says; without it they are an error there.
    decimals : int, optional
        Round scores, so that a text scores the same in any batch.
    name : str, optional
        Default: the label.
    **kwargs
        Further keywords for each call of the pipeline, such as ``max_length``.

    Returns
    -------
    Reward

    Raises
    ------
    ValueError
        For a label that the model has not; it lists those that it has. For a batch size
        above 1 where the tokenizer has no padding token.
    ImportError
        If transformers is needed and missing: extra ``[hf]``.
    """
    if isinstance(pipe, str):
        transformers = needed("transformers", "hf", "deal.rewards.from_pipeline")
        needed("torch", "hf", "deal.rewards.from_pipeline")
        pipe = transformers.pipeline("text-classification", model=pipe)
    if not callable(pipe):
        raise TypeError(f"pipe: expected a pipeline or its name, got {pipe!r}")
    check_int("batch_size", batch_size, 1)
    tokenizer = getattr(pipe, "tokenizer", None)
    if batch_size > 1 and tokenizer is not None and tokenizer.pad_token_id is None:
        raise ValueError(
            "batch_size: the pipeline's tokenizer has no padding token; set "
            "pipe.tokenizer.pad_token and pipe.model.config.pad_token_id, or "
            "batch_size=1"
        )
    config = getattr(getattr(pipe, "model", None), "config", None)
    labels = _labels_of(config)
    label = _picked_label(label, labels)
    function_to_apply = _picked_function(function_to_apply, config, len(labels))
    if len(labels) == 1 and function_to_apply == "softmax":
        raise ValueError("function_to_apply: softmax of a single label is always 1")
    call = {
        "top_k": None,  # all labels
        "function_to_apply": function_to_apply,
        "batch_size": batch_size,
        "truncation": truncation,
        **kwargs,
    }
    scorer = _Pipeline(pipe, label, _builder(text, _TEXTS[:3]), call, decimals)
    return PythonReward(
        scorer,
        range=None if function_to_apply == "none" else (0.0, 1.0),
        name=label if name is None else name,
    )


def from_transformers(
    model: Any,
    tokenizer: Any = None,
    label: str | int | None = None,
    *,
    text: Template | None = None,
    function_to_apply: str | None = None,
    batch_size: int = 8,
    max_length: int | None = None,
    device: Any = None,
    decimals: int | None = None,
    name: str = "reward_model",
) -> Reward:
    """A sequence-classification model, such as a reward model, as a reward.

    Runs in evaluation mode under ``torch.inference_mode``, which leaves the model's
    weights alone; the model is switched to evaluation mode for good.

    Parameters
    ----------
    model : PreTrainedModel, or str
        With logits (n_texts, n_labels), as ``AutoModelForSequenceClassification`` makes
        it; a string is loaded with that.
    tokenizer : PreTrainedTokenizer, optional
        May be left out where `model` is a string.
    label : str or int, optional
        Name or index of the label that is the score. Needed where there is more than
        one.
    text : {"chat", "prompt+completion", "completion", "pair"} or callable, optional
        What is scored. "chat" writes the conversation with the tokenizer's chat
        template: the messages of ``lm.chat``, or else the prompt as the user's turn,
        and the completion as the assistant's. "pair" is a pair of texts. A callable
        makes a text, a pair or a list of messages of (prompt, completion). Default:
        "chat" where the tokenizer has a template, else "prompt+completion".
    function_to_apply : {"none", "sigmoid", "softmax"}, optional
        Default: for a single label "none", the raw score, whose range is unknown; for
        several "softmax". The range of the others is (0, 1).
    batch_size : int, default=8
        A model without a padding token is asked about one text at a time.
    max_length : int, optional
        Most tokens of a text. Default: what the tokenizer or the model says. Of a chat
        the end is kept, of other texts what ``tokenizer.truncation_side`` says.
    device : torch.device or str, optional
        Where the model is moved to. Default: where it is.
    decimals : int, optional
        Round scores, so that a text scores the same in any batch.
    name : str, default="reward_model"

    Returns
    -------
    Reward

    Raises
    ------
    ValueError
        For a label that the model has not, or "chat" without a template.
    ImportError
        If torch, or for a string transformers, is missing: extra ``[hf]``.
    """
    what = "deal.rewards.from_transformers"
    torch = needed("torch", "hf", what)
    if isinstance(model, str):
        transformers = needed("transformers", "hf", what)
        if tokenizer is None:
            tokenizer = transformers.AutoTokenizer.from_pretrained(model)
        auto = transformers.AutoModelForSequenceClassification
        model = auto.from_pretrained(model)
    if tokenizer is None:
        raise TypeError("tokenizer: expected the model's tokenizer, got None")
    has_template = getattr(tokenizer, "chat_template", None) is not None
    if text is None:
        text = "chat" if has_template else "prompt+completion"
    if text == "chat" and not has_template:
        raise ValueError(
            "text: 'chat' needs tokenizer.chat_template, and it has none; use "
            "'prompt+completion' or a callable"
        )
    labels = _labels_of(model.config)
    if isinstance(label, str) or label is None:
        label = labels.index(_picked_label(label, labels))
    check_int("label", label, 0, len(labels) - 1)
    if function_to_apply is None and len(labels) == 1:
        function_to_apply = "none"
    function = _picked_function(function_to_apply, model.config, len(labels))
    if len(labels) == 1 and function == "softmax":
        raise ValueError("function_to_apply: softmax of a single label is always 1")
    scorer = _Classifier(
        torch=torch,
        model=model.eval() if device is None else model.to(device).eval(),
        tokenizer=tokenizer,
        label=label,
        text=_builder(text, _TEXTS),
        function=function,
        batch_size=check_int("batch_size", batch_size, 1),
        max_length=_max_length(max_length, model, tokenizer),
        decimals=decimals,
    )
    bounded = None if function == "none" else (0.0, 1.0)
    return PythonReward(scorer, range=bounded, name=name)


# --- labels and functions ------------------------------------------------------------


def _labels_of(config: Any) -> list[str]:
    """Names of the labels by index."""
    names = getattr(config, "id2label", None)
    if not names:
        raise TypeError(
            "model: expected a classifier with config.id2label, got a config without"
        )
    return [names[i] for i in sorted(names)]


def _picked_label(label: Any, labels: Sequence[str]) -> str:
    if label is None and len(labels) == 1:
        return labels[0]
    if label not in labels:
        given = "none" if label is None else repr(label)
        raise ValueError(f"label: expected one of {', '.join(labels)}; got {given}")
    return label


def _picked_function(function: str | None, config: Any, n_labels: int) -> str:
    if function is None:
        kind = getattr(config, "problem_type", None)
        is_single = n_labels == 1 or kind == "multi_label_classification"
        return "sigmoid" if is_single else "softmax"
    if function not in _FUNCTIONS:
        raise ValueError(
            f"function_to_apply: expected one of {', '.join(_FUNCTIONS)}, got "
            f"{function!r}"
        )
    return function


def _max_length(given: int | None, model: Any, tokenizer: Any) -> int | None:
    if given is not None:
        return check_int("max_length", given, 1)
    own = getattr(tokenizer, "model_max_length", None)
    if own is not None and own < 10**9:  # without one it is about 10**30
        return int(own)
    return getattr(model.config, "max_position_embeddings", None)


# --- what is scored ------------------------------------------------------------------


def _builder(text: Template, known: Sequence[str]) -> Callable[..., Any]:
    """Makes of (prompt, completion, messages) a str, a pair of them or messages."""
    if callable(text):
        make = text
        return lambda prompt, completion, messages: make(prompt, completion)
    if text not in known:
        raise ValueError(f"text: expected a callable or one of {known}, got {text!r}")
    if text == "completion":
        return lambda prompt, completion, messages: completion
    if text == "pair":
        return lambda prompt, completion, messages: (prompt, completion)
    if text == "chat":
        return _conversation
    return lambda prompt, completion, messages: prompt + completion


def _conversation(prompt: str, completion: str, messages: Any) -> list[dict[str, Any]]:
    before = [{"role": "user", "content": prompt}] if messages is None else messages
    return [*before, {"role": "assistant", "content": completion}]


def _built(
    build: Callable[..., Any],
    completions: Sequence[str],
    prompts: Sequence[str],
    columns: Mapping[str, Any],
) -> list[Any]:
    messages = columns.get("messages") or [None] * len(completions)
    rows = zip(prompts, completions, messages, strict=True)
    return [build(*row) for row in rows]


def _is_pair(item: Any) -> bool:
    return (
        isinstance(item, (tuple, list))
        and len(item) == 2
        and all(isinstance(part, str) for part in item)
    )


def _size(item: Any) -> int:
    return sum(map(len, item)) if _is_pair(item) else len(item)


def _rounded(scores: list[float], decimals: int | None) -> list[float]:
    if decimals is None:
        return scores
    return [round(score, decimals) for score in scores]


# --- scorers -------------------------------------------------------------------------


class _Pipeline:
    def __init__(
        self,
        pipe: Any,
        label: str,
        build: Callable[..., Any],
        call: dict[str, Any],
        decimals: int | None,
    ) -> None:
        self._pipe, self._label = pipe, label
        self._build, self._keywords = build, call
        self._decimals = decimals
        self._lock = threading.Lock()  # fast tokenizers are used by one thread at once

    def __call__(
        self, completions: list[str], prompts: list[str], **columns: Any
    ) -> list[float]:
        texts = _built(self._build, completions, prompts, columns)
        given = list(map(self._given, texts))
        order = sorted(range(len(texts)), key=lambda i: _size(texts[i]))
        with self._lock:
            results = self._pipe([given[i] for i in order], **self._keywords)
        scores = [0.0] * len(texts)
        for i, result in zip(order, results, strict=True):
            scores[i] = self._score_of(result)
        return _rounded(scores, self._decimals)

    @staticmethod
    def _given(text: Any) -> Any:
        if isinstance(text, str):
            return text
        if _is_pair(text):
            return {"text": text[0], "text_pair": text[1]}
        raise TypeError(f"text: expected a str or a pair of them, got {text!r}")

    def _score_of(self, result: list[dict[str, Any]]) -> float:
        for row in result:
            if row["label"] == self._label:
                return float(row["score"])
        labels = ", ".join(str(row["label"]) for row in result)
        raise ValueError(f"label: expected one of {labels}; got {self._label!r}")


class _Classifier:
    def __init__(
        self,
        torch: Any,
        model: Any,
        tokenizer: Any,
        label: int,
        text: Callable[..., Any],
        function: str,
        batch_size: int,
        max_length: int | None,
        decimals: int | None,
    ) -> None:
        self._torch, self._model, self._tokenizer = torch, model, tokenizer
        self._label, self._build, self._function = label, text, function
        self._max_length, self._decimals = max_length, decimals
        # Models that score a text's last token find it by the config's padding token.
        self._pad = getattr(model.config, "pad_token_id", None)
        self._batch_size = 1 if self._pad is None else batch_size
        self._lock = threading.Lock()

    def __call__(
        self, completions: list[str], prompts: list[str], **columns: Any
    ) -> list[float]:
        texts = _built(self._build, completions, prompts, columns)
        with self._lock:
            rows = [self._encoded(text) for text in texts]
            order = sorted(range(len(rows)), key=lambda i: len(rows[i]["input_ids"]))
            scores = [0.0] * len(rows)
            for begin in range(0, len(order), self._batch_size):
                batch = order[begin : begin + self._batch_size]
                found = self._run([rows[i] for i in batch])
                for i, score in zip(batch, found, strict=True):
                    scores[i] = score
        return _rounded(scores, self._decimals)

    def _encoded(self, text: Any) -> dict[str, list[int]]:
        if isinstance(text, str) or _is_pair(text):
            parts = [text] if isinstance(text, str) else list(text)
            row = self._tokenizer(
                *parts,
                truncation=self._max_length is not None,
                max_length=self._max_length,
            )
        elif isinstance(text, list):
            # The template writes the special tokens itself.
            shown = self._tokenizer.apply_chat_template(text, tokenize=False)
            row = self._tokenizer(shown, add_special_tokens=False)
            row = {key: row[key][-(self._max_length or 0) :] for key in row}
        else:
            raise TypeError(
                f"text: expected a str, a pair of them or messages, got {text!r}"
            )
        if len(row["input_ids"]) == 0:
            raise ValueError(f"text: expected at least one token, got {text!r}")
        return {key: list(row[key]) for key in row if key != "attention_mask"}

    def _run(self, rows: list[dict[str, list[int]]]) -> list[float]:
        torch = self._torch
        n = max(len(row["input_ids"]) for row in rows)

        def padded(key: str, fill: int) -> Any:
            return torch.tensor(
                [row[key] + [fill] * (n - len(row[key])) for row in rows]
            )

        given = {
            key: padded(key, (self._pad or 0) if key == "input_ids" else 0)
            for key in rows[0]
        }
        given["attention_mask"] = torch.tensor(
            [[1] * len(r["input_ids"]) + [0] * (n - len(r["input_ids"])) for r in rows]
        )
        with torch.inference_mode():
            device = self._model.device
            given = {key: tensor.to(device) for key, tensor in given.items()}
            logits = self._model(**given).logits.double()
            if self._function == "softmax":
                logits = logits.softmax(-1)
            elif self._function == "sigmoid":
                logits = logits.sigmoid()
            return logits[:, self._label].tolist()
