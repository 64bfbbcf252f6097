"""A llama.cpp server for the harness' model type "gguf", checked before it is measured.

The model type asks llama-cpp-python's server for the log-probs of a prompt, with
``echo``. The server (0.3.36) leaves the begin token out of its answer but not its row
out of the scores: where it put no begin token before the text, every token gets the
score that it has one place further on, and nothing says so. So the server has to add a
begin token, and so do the others that are compared with it.
"""

from __future__ import annotations

from typing import Any

START = (
    "python -m llama_cpp.server --model FILE --n_ctx 2048 --logits_all true "
    "--kv_overrides tokenizer.ggml.add_bos_token=bool:true"
)
_TEXT = "The cat sat on the mat"
_TIMEOUT = 120  # seconds


def server_version(url: str, lm: Any) -> str:
    """The version of the server, if its answers are of use.

    Parameters
    ----------
    url : str
        Address without a path, ``http://127.0.0.1:8000``.
    lm : DealLM
        The same model, with ``add_bos_token=True``.

    Raises
    ------
    RuntimeError
        If there is no answer, no log-probs, or no begin token before a text.
    """
    import requests

    question = {"prompt": _TEXT, "max_tokens": 1, "logprobs": 1, "echo": True}
    try:
        answer = requests.post(f"{url}/v1/completions", json=question, timeout=_TIMEOUT)
        answer.raise_for_status()
        about = requests.get(f"{url}/openapi.json", timeout=_TIMEOUT)
        about.raise_for_status()
        found = answer.json()
        n_found = found["usage"]["prompt_tokens"]
        has_logprobs = bool(found["choices"][0]["logprobs"]["token_logprobs"])
        version = str(about.json()["info"]["version"])
    except (requests.RequestException, LookupError, TypeError, ValueError) as error:
        raise RuntimeError(
            f"{url}: expected log-probs of a llama.cpp server, started with `{START}`; "
            f"got {error!r:.300}"
        ) from error
    n_expected = len(lm.tok_encode(_TEXT))
    if n_found != n_expected or not has_logprobs:
        raise RuntimeError(
            f"{url}: expected log-probs of {n_expected} tokens of {_TEXT!r}, a begin "
            f"token first, got {n_found}; start the server with `{START}`"
        )
    return version
