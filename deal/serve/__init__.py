"""An HTTP server that speaks OpenAI's protocol, with rewards and search per request.

    deal serve smollm2-135m-instruct --port 8000

or, from Python::

    deal.serve.run(deal.serve.make_app(lm, name="smollm2"), port=8000)

Needs the extra ``serve``. See docs/serve.md.
"""

from __future__ import annotations

from typing import Any

from deal.rewards._extras import needed

needed("starlette", "serve", "deal.serve")
needed("uvicorn", "serve", "deal.serve")

from deal.serve.app import make_app  # noqa: E402

__all__ = ["make_app", "run"]

_SECONDS_TO_END = 2  # for requests that are running at a Ctrl-C


def run(app: Any, host: str = "127.0.0.1", port: int = 8000) -> None:
    """Serve until Ctrl-C or SIGTERM; requests that run then are ended.

    Parameters
    ----------
    app : ASGI application
        Of :func:`make_app`.
    host : str, default="127.0.0.1"
        Address to listen at; by default this machine alone.
    port : int, default=8000

    Raises
    ------
    SystemExit
        If the address cannot be had.
    """
    import uvicorn

    uvicorn.Server(
        uvicorn.Config(
            app,
            host=host,
            port=port,
            lifespan="on",
            server_header=False,
            timeout_graceful_shutdown=_SECONDS_TO_END,
        )
    ).run()
