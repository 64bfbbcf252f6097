"""What a request is refused with."""

from __future__ import annotations

from typing import Any

from deal._errors import ContextLengthError, RewardError

_KINDS = {401: "authentication_error", 429: "rate_limit_error"}

# Fields of a request, where the engine has another name.
_NAMES = {"num_return_sequences:": "n:", "max_new_tokens:": "max_tokens:"}


class Refused(Exception):
    """A request that gets no answer but an error.

    Parameters
    ----------
    message : str
    param : str, optional
        The field that it is about.
    status : int, default=400
        Of HTTP.
    code : str, optional
        What programs tell errors by.
    """

    def __init__(
        self,
        message: str,
        param: str | None = None,
        status: int = 400,
        code: str | None = None,
    ) -> None:
        super().__init__(message)
        self.param = param
        self.status = status
        self.code = code

    def body(self) -> dict[str, Any]:
        """As OpenAI's API has it."""
        other = "server_error" if self.status >= 500 else "invalid_request_error"
        error = {
            "message": str(self),
            "type": _KINDS.get(self.status, other),
            "param": self.param,
            "code": self.code,
        }
        return {"error": error}


def refused(error: Exception) -> Refused:
    """What the engine says about a request that it does not take."""
    text = str(error)
    for ours, theirs in _NAMES.items():
        text = theirs + text.removeprefix(ours) if text.startswith(ours) else text
    if isinstance(error, ContextLengthError):
        return Refused(text, code="context_length_exceeded")
    if isinstance(error, RewardError):  # of a reward that the server was started with
        return Refused(text, "rewards", 500)
    name = text.partition(":")[0]
    return Refused(text, name if name.isidentifier() else None)
