"""A tool that fetches public web pages, of hosts on a list, and of nothing inside the network it runs in.

Every name is resolved once, its addresses judged, and connected to as they were judged, so one that changes its mind
gains nothing; a redirect is a new request with the same questions. Bytes are counted as they come and as they unfold.
"""

import asyncio
import ipaddress
import socket
import zlib
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from pydantic import BaseModel, ConfigDict, Field

from backbeat.tools.addresses import Network, objection
from backbeat.tools.function import seconds
from shared.definitions import Tool
from shared.execution.tools import ToolError

if TYPE_CHECKING:
    import httpx2

MOST_REDIRECTS = 5
_REDIRECTS = (301, 302, 303, 307, 308)
_PORTS = {"http": 80, "https": 443}
Resolve = Callable[[str, int], Awaitable[list[str]]]


class Page(BaseModel):
    """The arguments of `fetch`."""

    model_config = ConfigDict(extra="forbid")
    url: str = Field(description="An http or https address.", max_length=2000)


async def resolve(host: str, port: int) -> list[str]:
    """The addresses of a host, as the system's resolver says."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


def http(
    *,
    hosts: Sequence[str],
    name: str = "fetch",
    max_bytes: int = 1_000_000,
    timeout: float = 20.0,
    headers: dict[str, str] | None = None,
    ports: Sequence[int] = (80, 443),
    inside: Sequence[str] = (),
    resolver: Resolve = resolve,
) -> Tool:
    """A tool that GETs a page and answers `{url, status, content_type, text}`.

    `hosts` are the names it may ask, `*.example.org` for all below one and `*` for any; `headers` go to all of them.
    `max_bytes` bounds a body, on the wire and unfolded. `inside` are networks that are not public and allowed.
    """
    if not hosts:
        raise ValueError("an http tool needs the hosts it may ask")
    rules = _Rules(tuple(host.lower() for host in hosts), frozenset(ports), max_bytes, headers or {})
    rules.allowed, rules.resolve = tuple(map(ipaddress.ip_network, inside)), resolver

    async def call(page: Page) -> dict[str, Any]:
        return await _fetch(rules, page.url)

    told = f"Read a web page. It may ask these hosts only: {', '.join(hosts)}."
    return Tool(name=name, description=told, args=Page, call=call, timeout=seconds(timeout))


class _Rules:
    allowed: tuple[Network, ...] = ()
    resolve: Resolve

    def __init__(self, hosts: tuple[str, ...], ports: frozenset[int], most: int, headers: dict[str, str]) -> None:
        self.hosts, self.ports, self.most, self.headers = hosts, ports, most, headers

    async def address(self, url: str) -> tuple[str, str, int]:
        """(host, address, port) to ask for a URL. Raises ToolError."""
        try:
            parts = urlsplit(url)
            host, port = (parts.hostname or "").lower().rstrip("."), parts.port or _PORTS.get(parts.scheme, 0)
        except ValueError as error:
            raise ToolError(f"{url!r} is no address: {error}") from error
        if parts.scheme not in _PORTS or not host or not host.isascii() or "@" in parts.netloc:
            raise ToolError(f"{url!r} is not an http address without a login", fix="Give http://host/path")
        if port not in self.ports:
            raise ToolError(f"port {port} may not be asked")
        if not any(rule in ("*", host) or (rule.startswith("*.") and host.endswith(rule[1:])) for rule in self.hosts):
            raise ToolError(f"the host {host!r} is not on the list", fix=f"On it: {', '.join(self.hosts)}")
        try:
            found = await self.resolve(host, port)
        except OSError as error:
            raise ToolError(f"the host {host!r} has no address") from error
        for address in found:
            if why := objection(address, self.allowed):
                raise ToolError(f"{host} is at {address}, which {why}")
        if not found:
            raise ToolError(f"the host {host!r} has no address")
        return host, found[0], port


async def _fetch(rules: _Rules, url: str) -> dict[str, Any]:
    import httpx2

    # No proxies of the environment, and no pool that could hand one host's connection to another.
    alone = httpx2.Limits(max_keepalive_connections=0)
    async with httpx2.AsyncClient(trust_env=False, follow_redirects=False, timeout=None, limits=alone) as client:
        for _ in range(MOST_REDIRECTS + 1):
            host, address, port = await rules.address(url)
            parts = urlsplit(url)
            there = f"[{address}]" if ":" in address else address
            pinned = parts._replace(netloc=f"{there}:{port}", fragment="").geturl()
            shown = host if port == _PORTS[parts.scheme] else f"{host}:{port}"
            headers = {"accept-encoding": "gzip, deflate, identity", **rules.headers, "host": shown}
            asked = client.build_request("GET", pinned, headers=headers, extensions={"sni_hostname": host})
            answer = await client.send(asked, stream=True)
            try:
                if answer.status_code in _REDIRECTS and answer.headers.get("location"):
                    url = urljoin(url, answer.headers["location"])
                    continue
                body = await _body(answer, rules.most)
            finally:
                await answer.aclose()
            kind = answer.headers.get("content-type", "")
            text = body.decode(answer.charset_encoding or "utf-8", errors="replace")
            return {"url": url, "status": answer.status_code, "content_type": kind, "text": text.replace("\0", "")}
    raise ToolError(f"more than {MOST_REDIRECTS} redirects")


async def _body(answer: "httpx2.Response", most: int) -> bytes:
    """What came, unfolded a piece at a time: neither form may be larger than allowed. Raises ToolError."""
    coding = answer.headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("identity", "", "gzip", "x-gzip", "deflate"):
        raise ToolError(f"the page is packed as {coding!r}, which nobody asked for")
    unfold = zlib.decompressobj(47) if coding not in ("identity", "") else None
    body, came = bytearray(), 0
    async for piece in answer.aiter_raw():
        came += len(piece)
        try:
            body += unfold.decompress(piece, most + 1 - len(body)) if unfold else piece
        except zlib.error as error:
            raise ToolError(f"the page does not unpack: {error}") from error
        if came > most or len(body) > most:
            raise ToolError(f"the page is larger than {most} bytes")
    return bytes(body)
