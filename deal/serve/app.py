"""The server's routes: bodies in, objects and events of OpenAI's protocol out."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from deal.model import Model
from deal.rewards import Reward, as_reward
from deal.serve.answers import Answer
from deal.serve.errors import Refused, refused
from deal.serve.jobs import END, Check, Job, Workers
from deal.settings import check_int

_SECONDS_FOR_BODY = 60.0


class _Json(JSONResponse):
    """ASCII alone, as what is quoted from a request may be no valid Unicode."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()


def make_app(
    lm: Model,
    *,
    name: str | None = None,
    api_key: str | None = None,
    parallel: int = 1,
    n_waiting: int = 64,
    rewards: Mapping[str, Any] | None = None,
    max_body: int = 4 << 20,
) -> Any:
    """The server as an ASGI application.

    Parameters
    ----------
    lm : Model
    name : str, optional
        What the model is called in requests. Default: the name of its file.
    api_key : str, optional
        What clients have to show. Default: none.
    parallel : int, default=1
        Requests that run at a time. One search uses all threads of `lm` already.
    n_waiting : int, default=64
        Requests that wait at most; one more gets the status 429.
    rewards : mapping of str to Reward or callable, optional
        Rewards that requests can use by name. With `parallel` above 1, several threads
        call them.
    max_body : int, default=4194304
        Most bytes of a request.

    Returns
    -------
    starlette.applications.Starlette

    Raises
    ------
    ValueError, TypeError
        For a bad argument.
    """
    workers = Workers(
        check_int("parallel", parallel, 1), check_int("n_waiting", n_waiting, 1)
    )
    check_int("max_body", max_body, 1)
    named = {key: as_reward(value) for key, value in (rewards or {}).items()}
    api = _Api(lm, lm.path.name if name is None else name, workers, named, max_body)

    @contextlib.asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        workers.start()
        try:
            yield
        finally:
            await run_in_threadpool(workers.close)

    app: Any = Starlette(
        routes=[
            Route("/health", api.health),
            Route("/v1/models", api.models),
            Route("/v1/models/{name:path}", api.model),
            Route("/v1/completions", api.completions, methods=["POST"]),
            Route("/v1/chat/completions", api.chat, methods=["POST"]),
            Route("/tokenize", api.tokenize, methods=["POST"]),
            Route("/detokenize", api.detokenize, methods=["POST"]),
            Route("/tokenizer_info", api.tokenizer_info),
        ],
        exception_handlers={
            HTTPException: _http_error,
            Refused: _refusal,
            ClientDisconnect: _left,
            Exception: _fault,
        },
        lifespan=lifespan,
    )
    app.state.close = workers.close
    if api_key is not None:
        if not api_key:
            raise ValueError("api_key: expected a non-empty string, got ''")
        app.add_middleware(_KeyCheck, api_key=api_key)
    return app


class _Api:
    """The routes of one model."""

    def __init__(
        self,
        lm: Model,
        name: str,
        workers: Workers,
        names: Mapping[str, Reward],
        max_body: int,
    ) -> None:
        self._lm, self._name, self._workers = lm, name, workers
        self._names, self._max_body = names, max_body
        self._created = int(time.time())

    async def health(self, request: Request) -> Response:
        n_running, n_waiting = self._workers.counts()
        return _Json({"status": "ok", "running": n_running, "waiting": n_waiting})

    async def models(self, request: Request) -> Response:
        return _Json({"object": "list", "data": [self._about()]})

    async def model(self, request: Request) -> Response:
        self._check_model(request.path_params["name"])
        return _Json(self._about())

    def _about(self) -> dict[str, Any]:
        return {
            "id": self._name,
            "object": "model",
            "created": self._created,
            "owned_by": "deal",
            "max_model_len": self._lm.max_length,
        }

    def _check_model(self, name: Any) -> None:
        if name is not None and name != self._name:
            raise Refused(
                f"model: {name!r:.80} is not served here; expected {self._name!r}",
                "model",
                404,
                "model_not_found",
            )

    async def completions(self, request: Request) -> Response:
        return await self._answer(request, is_chat=False)

    async def chat(self, request: Request) -> Response:
        return await self._answer(request, is_chat=True)

    async def _answer(self, request: Request, is_chat: bool) -> Response:
        body = await _read_json(request, self._max_body)
        self._check_model(body.get("model"))

        def objects(check: Check) -> Iterator[dict[str, Any]]:
            args = (self._lm, self._name, body, is_chat, self._names, check)
            yield from Answer(*args).objects()

        job = self._workers.submit(objects)
        try:
            first = await _next_unless_left(job, request)
            if not body.get("stream"):
                await job.next()  # the end
        except BaseException:
            self._workers.cancel(job)
            raise
        if body.get("stream"):
            return _Events(first, job, self._workers)
        return _Json(first)

    # --- the tokenizer, as lm-evaluation-harness asks for it --------------------------

    async def tokenize(self, request: Request) -> Response:
        body = await _read_json(request, self._max_body)
        adds = body.get("add_special_tokens", True) is not False
        encode = self._lm.tokenizer.encode
        ids = await _tried(encode, body.get("prompt"), adds)
        return _Json(
            {"tokens": ids, "count": len(ids), "max_model_len": self._lm.max_length}
        )

    async def detokenize(self, request: Request) -> Response:
        body = await _read_json(request, self._max_body)
        decode = self._lm.tokenizer.decode
        text = await _tried(decode, body.get("tokens"), skip_special_tokens=False)
        return _Json({"prompt": text})

    async def tokenizer_info(self, request: Request) -> Response:
        tokenizer = self._lm.tokenizer
        ids = {"bos": tokenizer.bos_token_id, "eos": tokenizer.eos_token_id}
        texts = {
            f"{kind}_token": None if i is None else tokenizer.decode([i], False)
            for kind, i in ids.items()
        }
        return _Json({**texts, "chat_template": tokenizer.chat_template})


async def _tried(call: Any, *args: Any, **kwargs: Any) -> Any:
    try:
        return await run_in_threadpool(call, *args, **kwargs)
    except (ValueError, TypeError, OverflowError) as error:
        raise refused(error) from error


async def _next_unless_left(job: Job, request: Request) -> Any:
    """A job's next item; ClientDisconnect where the client leaves before it comes."""
    item = asyncio.ensure_future(job.next())
    left = asyncio.ensure_future(request.receive())  # after the body, nothing else
    try:
        await asyncio.wait({item, left}, return_when=asyncio.FIRST_COMPLETED)
        if not item.done():
            raise ClientDisconnect
        return item.result()
    finally:
        for task in (item, left):
            task.cancel()


class _Events(StreamingResponse):
    """Server-sent events, one an item of a job, which ends with them."""

    def __init__(self, first: Any, job: Job, workers: Workers) -> None:
        super().__init__(
            self._lines(first, job),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-cache"},
        )
        self._job, self._workers = job, workers

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:  # also where the client has left
            self._workers.cancel(self._job)

    @staticmethod
    async def _lines(item: Any, job: Job) -> AsyncIterator[str]:
        try:
            while item is not END:
                yield _event(item)
                item = await job.next()
        except Refused as error:
            yield _event(error.body())
        else:
            yield "data: [DONE]\n\n"


def _event(item: Any) -> str:
    return f"data: {json.dumps(item, allow_nan=False, separators=(',', ':'))}\n\n"


# --- bodies --------------------------------------------------------------------------


async def _read_json(request: Request, size_max: int) -> dict[str, Any]:
    """The object that a request's body is."""
    try:
        data = await asyncio.wait_for(_read(request, size_max), _SECONDS_FOR_BODY)
    except asyncio.TimeoutError:
        raise Refused("the body did not come in time", status=408) from None
    try:
        body = json.loads(data, parse_constant=_no_number)
    except RecursionError:
        raise Refused("body: JSON: it is nested too deep") from None
    except ValueError as error:
        raise Refused(f"body: expected JSON: {error}") from None
    if not isinstance(body, dict):
        raise Refused(f"body: expected a JSON object, got {type(body).__name__}")
    return body


async def _read(request: Request, size_max: int) -> bytes:
    data = bytearray()
    said = request.headers.get("content-length", "")
    too_large = Refused(f"body: expected at most {size_max} bytes", status=413)
    if said.isdecimal() and int(said[:20]) > size_max:
        raise too_large
    async for chunk in request.stream():
        data += chunk
        if len(data) > size_max:
            raise too_large
    return bytes(data)


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number of JSON")


# --- errors --------------------------------------------------------------------------


async def _refusal(request: Request, error: Any) -> Response:
    headers = {"Retry-After": "1"} if error.status in (429, 503) else None
    return _Json(error.body(), error.status, headers)


async def _http_error(request: Request, error: Any) -> Response:
    what = Refused(f"{request.url.path:.80}: {error.detail}", status=error.status_code)
    return _Json(what.body(), error.status_code, error.headers)


async def _left(request: Request, error: Exception) -> Response:
    return Response(status_code=400)  # to nobody


async def _fault(request: Request, error: Exception) -> Response:
    return _Json(Refused("internal error", status=500).body(), 500)


class _KeyCheck:
    """Lets requests through that show the key; /health needs none."""

    def __init__(self, app: Any, api_key: str) -> None:
        self._app = app
        self._wanted = b"Bearer " + api_key.encode()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"] != "/health":
            shown = dict(scope["headers"]).get(b"authorization", b"")
            if not hmac.compare_digest(shown, self._wanted):
                error = Refused(
                    "api key: missing or wrong", None, 401, "invalid_api_key"
                )
                headers = {"WWW-Authenticate": "Bearer"}
                response = _Json(error.body(), 401, headers)
                await response(scope, receive, send)
                return
        await self._app(scope, receive, send)
