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

import uvicorn  # noqa: E402
from starlette.concurrency import run_in_threadpool  # noqa: E402

from deal.serve.app import make_app  # noqa: E402

__all__ = ["make_app", "run"]

_SECONDS_TO_END = 2  # for connections, once what runs is ended


class _Server(uvicorn.Server):
    async def shutdown(self, *args: Any, **kwargs: Any) -> None:
        """What runs and waits is answered with 503, before connections are closed."""
        app: Any = self.config.app
        await run_in_threadpool(app.state.close)
        await super().shutdown(*args, **kwargs)


def run(app: Any, host: str = "127.0.0.1", port: int = 8000) -> None:
    """Serve until Ctrl-C or SIGTERM; requests that run then are ended.

    Parameters
    ----------
    app : starlette.applications.Starlette
        Of :func:`make_app`.
    host : str, default="127.0.0.1"
        Address to listen at; by default this machine alone.
    port : int, default=8000

    Raises
    ------
    SystemExit
        If the address cannot be had.
    """
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        lifespan="on",
        server_header=False,
        timeout_graceful_shutdown=_SECONDS_TO_END,
    )
    _Server(config).run()
