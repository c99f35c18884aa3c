"""Anthropic's Messages API with one answer, after the seconds that the path names: /<label>/<seconds>/v1/messages.

As little work as can be, so that whoever asks is what is measured. GET /<label> tells of the calls with that label:
how many were answered and how many seconds slots were busy between two moments, how many are open, and were at most.
"""

import asyncio
import json
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

_MESSAGE = {
    "id": "sim_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-haiku-4-5",
    "content": [{"type": "text", "text": '{"category": "billing", "urgent": false}'}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {"input_tokens": 60, "output_tokens": 14},
}


def _http(body: bytes) -> bytes:
    head = (
        f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nrequest-id: sim_1\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


_ANSWER = _http(json.dumps(_MESSAGE).encode())


@dataclass
class Label:
    """The calls of one contestant; spans are (began, ended) of `time.monotonic`, which all processes share."""

    open: set["Talk"] = field(default_factory=set)
    most: int = 0
    spans: list[tuple[float, float]] = field(default_factory=list)

    def told(self, since: float, until: float) -> dict[str, float]:
        """What there is to say of the time between two moments."""
        now = time.monotonic()
        busy = [*self.spans, *((talk.began, now) for talk in self.open)]
        return {
            "answered": sum(since <= ended < until for _, ended in self.spans),
            "open": len(self.open),
            "most": self.most,
            "first": min((began for began, _ in busy), default=0.0),
            "busy": sum(max(min(ended, until) - max(began, since), 0.0) for began, ended in busy),
        }


LABELS: dict[str, Label] = defaultdict(Label)


class Talk(asyncio.Protocol):
    """One connection, one request at a time, as the SDKs use it."""

    def __init__(self) -> None:
        self._buffer, self._needed, self.began = b"", 0, 0.0
        self._label: Label | None = None
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._needed:
            head, found, _ = self._buffer.partition(b"\r\n\r\n")
            if not found:
                return
            length = next((line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), b":0")
            self._needed = len(head) + 4 + int(length.partition(b":")[2])
        if len(self._buffer) >= self._needed:
            path, self._buffer, self._needed = self._buffer.split(b" ", 2)[1].decode(), b"", 0
            self._asked(path)

    def _asked(self, path: str) -> None:
        at = urlsplit(path)
        name, _, rest = at.path.strip("/").partition("/")
        label = LABELS[name]
        if not rest:
            window = {key: float(value) for key, (value,) in parse_qs(at.query).items()}
            told = label.told(window.get("since", 0.0), window.get("until", float("inf")))
            self._transport.write(_http(json.dumps(told).encode()))
            return
        self._label, self.began = label, time.monotonic()
        label.open.add(self)
        label.most = max(label.most, len(label.open))
        asyncio.get_running_loop().call_later(float(rest.partition("/")[0]), self._answer, self.began)

    def _answer(self, began: float) -> None:
        if self._label and self.began == began:
            self._ended()
            self._transport.write(_ANSWER)

    def connection_lost(self, _error: Exception | None) -> None:
        self._ended()

    def _ended(self) -> None:
        if self._label:
            self._label.open.discard(self)
            self._label.spans.append((self.began, time.monotonic()))
            self._label = None


async def main() -> None:
    """Serve on a free port, which the first line on stdout names, until killed."""
    server = await asyncio.get_running_loop().create_server(Talk, "127.0.0.1", 0, backlog=2048)
    sys.stdout.write(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
