"""A loopback server for the simulated services, whose handlers may cut their own connection."""

import asyncio
import socket
import sys
from collections.abc import Callable
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from shared.errors import BackbeatError, ConfigError

SIMULATED = {"x-simulated": "true"}


class _Protocol(H11Protocol):
    """HTTP/1.1 that shows each request its transport."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        self.app_state = {**self.app_state, "transport": transport}
        super().connection_made(transport)


async def cut(request: Request) -> Response:
    """Cut the connection at once; whatever is returned after it goes nowhere."""
    request.state.transport.abort()
    # The protocol learns of it in the next turn of the loop, and then drops what is sent.
    await asyncio.sleep(0)
    return Response(status_code=500)


class HalfResponse(Response):
    """Sends its headers and half of its body, then cuts the connection."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002  # ASGI's
        """Answer one request."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body[: len(self.body) // 2], "more_body": True})
        scope["state"]["transport"].close()
        await asyncio.sleep(0)


def serve(app: Starlette, port: int, name: str) -> None:
    """Serve on 127.0.0.1 until SIGTERM; port 0 takes a free one, and a line on stdout names it.

    Raises ConfigError when the port is taken.
    """
    try:
        listener = socket.create_server(("127.0.0.1", port), backlog=512)
    except OSError as error:
        raise ConfigError(f"{name}: port {port} cannot be used: {error.strerror}", fix="Choose another") from error
    config = uvicorn.Config(
        app,
        http=_Protocol,
        log_level="error",
        access_log=False,
        lifespan="off",
        server_header=False,
        timeout_graceful_shutdown=1,
    )
    sys.stdout.write(f"{name} (simulated) on http://127.0.0.1:{listener.getsockname()[1]}\n")
    sys.stdout.flush()
    uvicorn.Server(config).run(sockets=[listener])


def run(main: Callable[..., None], *arguments: Any) -> int:
    """Call a service's main and give its exit code; an error for people is one line on stderr."""
    try:
        main(*arguments)
    except BackbeatError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    return 0
