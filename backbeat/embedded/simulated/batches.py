"""Batches as both vendors take them, simulated: entries are answered one after the other, over some seconds.

What is not answered when a batch's life is over has expired, and what is not when somebody cancels it is cancelled.
They live in this process' memory only.
"""

import json
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from email.parser import BytesParser
from email.policy import HTTP
from typing import Any, Literal

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from backbeat.embedded.simulated import server, wire_anthropic, wire_chat, wire_openai
from backbeat.embedded.simulated.exchange import BadRequestError, Wire
from shared.clock import monotonic, wall

CANCELLING = 0.2  # seconds that a cancelled batch takes to end
ENDPOINTS: Mapping[str, Wire] = {"/v1/responses": wire_openai, "/v1/chat/completions": wire_chat}

State = Literal["running", "cancelling", "ended", "failed"]
Kind = Literal["succeeded", "errored", "cancelled", "expired"]
Answer = Callable[[Wire, str, str, Any], tuple[int, dict[str, Any]]]  # (wire, batch, custom id, body): status, document


@dataclass(slots=True)
class Job:
    """One batch: its entries by custom id, and how long it may take."""

    id: str
    wire: Wire
    entries: Mapping[str, Any]
    takes: float  # seconds
    lives: float  # seconds
    about: Mapping[str, Any] = field(default_factory=dict)
    problems: Sequence[tuple[int, str]] = ()  # line, what is wrong with it
    created: datetime = field(default_factory=wall)
    started: float = field(default_factory=monotonic)
    cancelled: float | None = None
    results: dict[str, tuple[Kind, int, dict[str, Any]]] = field(default_factory=dict)

    @property
    def _cut(self) -> float:
        return min(self.started + self.lives, self.started + self.lives if self.cancelled is None else self.cancelled)

    @property
    def state(self) -> State:
        """How it stands."""
        if self.problems:
            return "failed"
        late = CANCELLING if self.cancelled is not None else 0.0
        if monotonic() >= min(self.started + self.takes, self._cut + late):
            return "ended"
        return "running" if self.cancelled is None else "cancelling"

    def settle(self, answer: Answer) -> None:
        """Once it has ended: what became of each entry."""
        if self.state != "ended" or self.results:
            return
        for place, (name, body) in enumerate(self.entries.items(), 1):
            if self.started + self.takes * place / len(self.entries) <= self._cut:
                status, document = answer(self.wire, self.id, name, body)
                self.results[name] = ("succeeded" if status == 200 else "errored", status, document)
            else:
                self.results[name] = ("expired" if self.cancelled is None else "cancelled", 0, {})

    def count(self, *kinds: Kind) -> int:
        """How many entries ended in one of these ways."""
        return sum(kind in kinds for kind, _, _ in self.results.values())


class Batches:
    """The batches of both vendors, each taking `takes` seconds and living for `lives`."""

    def __init__(self, answer: Answer, takes: float, lives: float) -> None:
        self._answer, self._takes, self._lives = answer, takes, lives
        self._jobs: dict[str, Job] = {}
        self._files: dict[str, str] = {}

    def submit_messages(self, raw: bytes) -> Job:
        """Anthropic's: entries with their parameters. Raises BadRequestError."""
        entries = _named((one["custom_id"], one["params"]) for one in json.loads(raw)["requests"])
        return self._add(
            Job(f"sim_msgbatch_{secrets.token_hex(10)}", wire_anthropic, entries, self._takes, self._lives)
        )

    def submit_file(self, raw: bytes) -> Job:
        """OpenAI's: a file that was uploaded before, checked as a whole. Raises BadRequestError."""
        given = json.loads(raw)
        if given.get("input_file_id") not in self._files or given.get("endpoint") not in ENDPOINTS:
            raise BadRequestError("No such input file, or no such endpoint")
        wire = ENDPOINTS[given["endpoint"]]
        lines = [json.loads(line) for line in self._files[given["input_file_id"]].splitlines()]
        problems = []
        for number, line in enumerate(lines, 1):
            try:
                wire.parse(line["body"])
            except BadRequestError as problem:
                problems.append((number, str(problem)))
        entries = _named((line["custom_id"], line["body"]) for line in lines)
        job = Job(f"sim_batch_{secrets.token_hex(10)}", wire, entries, self._takes, self._lives, given, problems)
        return self._add(job)

    def _add(self, job: Job) -> Job:
        self._jobs[job.id] = job
        return job

    def document(self, job: Job, base: str) -> dict[str, Any]:
        """A batch as its vendor shows it; `base` is where this server is reached."""
        job.settle(self._answer)
        return _message_batch(job, base) if job.wire is wire_anthropic else self._file_batch(job)

    def routes(self) -> list[Route]:
        """Everything but the submission, which is a request as any other is."""
        found = []
        for root, cursor in (("/anthropic/v1/messages", "after_id"), ("/openai/v1", "after")):
            for path in (root, root[root.index("/v1") :]):
                found += [
                    Route(f"{path}/batches", self._list(cursor)),
                    Route(f"{path}/batches/{{id}}", self._show),
                    Route(f"{path}/batches/{{id}}/cancel", self._cancel, methods=["POST"]),
                    Route(f"{path}/batches/{{id}}/results", self._results),
                ]
        for path in ("/openai/v1/files", "/v1/files"):
            found += [Route(path, self._upload, methods=["POST"]), Route(f"{path}/{{id}}/content", self._content)]
        return found

    def _list(self, cursor: str) -> Callable[[Request], Any]:
        async def listing(request: Request) -> Response:
            anthropic = cursor == "after_id"
            jobs = [job for job in reversed(self._jobs.values()) if (job.wire is wire_anthropic) == anthropic]
            limit, after = int(request.query_params.get("limit", 20)), request.query_params.get(cursor)
            at = 1 + [job.id for job in jobs].index(after) if after else 0
            page = [self.document(job, _base(request)) for job in jobs[at : at + limit]]
            ends = {"first_id": page[0]["id"], "last_id": page[-1]["id"]} if page else {}
            body = {"object": "list", "data": page, "has_more": len(jobs) > at + limit, **ends}
            return JSONResponse(body, headers=server.SIMULATED)

        return listing

    async def _show(self, request: Request) -> Response:
        job = self._jobs.get(request.path_params["id"])
        if job is None:
            wire = wire_anthropic if "messages" in request.url.path else wire_openai
            return JSONResponse(wire.error(404, "", "No such batch", "sim_req"), 404, server.SIMULATED)
        return JSONResponse(self.document(job, _base(request)), headers=server.SIMULATED)

    async def _cancel(self, request: Request) -> Response:
        job = self._jobs.get(request.path_params["id"])
        if job is not None and job.state == "running":
            job.cancelled = monotonic()
        return await self._show(request)

    async def _results(self, request: Request) -> Response:
        """Anthropic's, in no order that a caller could rely on."""
        job = self._jobs[request.path_params["id"]]
        lines = [{"custom_id": name, "result": _result(*found)} for name, found in reversed(job.results.items())]
        return _lines(lines)

    async def _upload(self, request: Request) -> Response:
        head = f"content-type: {request.headers['content-type']}\r\n\r\n".encode()
        form = BytesParser(policy=HTTP).parsebytes(head + await request.body())
        parts: dict[Any, Any] = {one.get_param("name", header="content-disposition"): one for one in form.iter_parts()}
        name = f"sim_file_{secrets.token_hex(10)}"
        self._files[name] = parts["file"].get_payload(decode=True).decode()
        about = {"object": "file", "bytes": len(self._files[name]), "filename": parts["file"].get_filename()}
        made = {"id": name, **about, "created_at": int(wall().timestamp()), "purpose": "batch", "status": "processed"}
        return JSONResponse(made, headers=server.SIMULATED)

    async def _content(self, request: Request) -> Response:
        """OpenAI's results: a batch's two files are named after it."""
        which, _, job = request.path_params["id"].partition("-")
        found = self._jobs[job].results.items()
        good = which == "output"
        return _lines([_line(name, *one) for name, one in found if (one[0] == "succeeded") == good])

    def _file_batch(self, job: Job) -> dict[str, Any]:
        at, state = int(job.created.timestamp()), job.state
        status = {"running": "in_progress", "ended": "completed"}.get(state, state)
        if state == "ended" and job.cancelled is not None:
            status = "cancelled"
        elif job.count("expired"):
            status = "expired"
        kinds: tuple[tuple[str, tuple[Kind, ...]], ...] = (
            ("output", ("succeeded",)),
            ("error", ("errored", "expired", "cancelled")),
        )
        files = {f"{which}_file_id": f"{which}-{job.id}" for which, kind in kinds if job.count(*kind)}
        errors = [{"code": "invalid_request", "line": line, "message": what} for line, what in job.problems]
        return {
            "id": job.id,
            "object": "batch",
            "endpoint": job.about["endpoint"],
            "completion_window": job.about["completion_window"],
            "input_file_id": job.about["input_file_id"],
            "metadata": job.about.get("metadata"),
            "status": status,
            "created_at": at,
            "expires_at": at + int(job.lives),
            "errors": {"object": "list", "data": errors} if errors else None,
            "output_file_id": None,
            "error_file_id": None,
            **files,
            "request_counts": {
                "total": len(job.entries),
                "completed": job.count("succeeded"),
                "failed": job.count("errored"),
            },
        }


def _message_batch(job: Job, base: str) -> dict[str, Any]:
    state = job.state
    processing = len(job.entries) if state != "ended" else 0
    kinds: tuple[tuple[str, Kind], ...] = (
        ("succeeded", "succeeded"),
        ("errored", "errored"),
        ("canceled", "cancelled"),
        ("expired", "expired"),
    )
    url = f"{base}/anthropic/v1/messages/batches/{job.id}/results"
    return {
        "id": job.id,
        "type": "message_batch",
        "processing_status": {"running": "in_progress", "cancelling": "canceling"}.get(state, "ended"),
        "request_counts": {"processing": processing, **{name: job.count(kind) for name, kind in kinds}},
        "created_at": job.created.isoformat(),
        "expires_at": (job.created + timedelta(seconds=job.lives)).isoformat(),
        "ended_at": wall().isoformat() if state == "ended" else None,
        "cancel_initiated_at": job.created.isoformat() if job.cancelled is not None else None,
        "archived_at": None,
        "results_url": url if state == "ended" else None,
    }


def _result(kind: Kind, _status: int, document: dict[str, Any]) -> dict[str, Any]:
    if kind == "succeeded":
        batch = {**document, "usage": {**document["usage"], "service_tier": "batch"}}
        return {"type": kind, "message": batch}
    if kind == "errored":
        return {"type": kind, "error": document}
    return {"type": "canceled" if kind == "cancelled" else kind}


def _line(name: str, kind: Kind, status: int, document: dict[str, Any]) -> dict[str, Any]:
    response = {"status_code": status, "request_id": f"sim_req_{secrets.token_hex(10)}", "body": document}
    error = {"code": f"batch_{kind}", "message": "This request was not executed"}
    tried = kind in ("succeeded", "errored")
    line = {"response": response, "error": None} if tried else {"response": None, "error": error}
    return {"id": f"sim_batch_req_{secrets.token_hex(8)}", "custom_id": name, **line}


def _named(entries: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, body in entries:
        if not 0 < len(name) <= 64 or not name.replace("-", "").replace("_", "").isalnum() or name in found:
            raise BadRequestError(f"custom_id {name!r} is no proper one, or there twice")
        found[name] = body
    if not found:
        raise BadRequestError("a batch needs a request")
    return found


def _lines(lines: Iterable[Any]) -> Response:
    return PlainTextResponse("".join(f"{json.dumps(line)}\n" for line in lines), headers=server.SIMULATED)


def _base(request: Request) -> str:
    return str(request.base_url).rstrip("/")
