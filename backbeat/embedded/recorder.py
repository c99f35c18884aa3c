"""The recorder: the endpoints of GitHub that posting a review needs, kept in a file.

    python -m backbeat.embedded.recorder --port 8081 --log reviews.jsonl

    POST /repos/{owner}/{repo}/pulls/{number}/reviews     create-review
    GET  /repos/{owner}/{repo}/pulls/{number}/reviews     list-reviews, oldest first, paged
    GET  /user                                            whose token it is: everybody's is the same user's

Every review is on the disk before it is answered, and is back after a restart. Nothing is deduplicated:
a review posted twice is two reviews, so that whoever promises not to do that can be checked. Any
repository and any pull number from 1 exist. Faults are those of `backbeat.embedded.simulated.faults` that
make sense here: a status, `delay`, `disconnect-before`, `disconnect-after` and `502;after=1`.
"""

import argparse
import json
import random
import sys
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from backbeat.embedded.simulated import faults, server
from backbeat.embedded.simulated.log import JsonLog, read
from shared.clock import sleep, wall
from shared.errors import ConfigError

_STATES = {"APPROVE": "APPROVED", "REQUEST_CHANGES": "CHANGES_REQUESTED", "COMMENT": "COMMENTED", None: "PENDING"}
_MESSAGES = {401: "Bad credentials", 403: "Forbidden", 404: "Not Found", 422: "Unprocessable Entity"}
_USER = {"login": "simulated-reviewer", "id": 1, "type": "Bot"}
_DOCUMENTATION = "https://docs.github.com/rest/pulls/reviews"
_PER_PAGE, _MOST_PER_PAGE = 30, 100

Pull = tuple[str, str, int]


class Recorder:
    """The reviews of every pull request, as the log holds them. `token` None takes any token, but wants one."""

    def __init__(self, path: Path, token: str | None, plan: faults.Plan, seed: int) -> None:
        self._log = JsonLog(path, durable=True)
        self._token, self._plan = token, plan
        self._dice = random.Random(seed)  # noqa: S311  # repeatable, not secret
        self._reviews: dict[Pull, list[dict[str, Any]]] = {}
        self._last = 0
        for entry in read(path):
            self._keep(entry)

    async def create(self, request: Request) -> Response:
        """create-review: 200 with the review, as GitHub answers."""
        raw = await request.body()
        fault = self._fault(request)
        if fault.kind == "disconnect-before":
            return await server.cut(request)
        await sleep(fault.seconds)
        if refusal := self._refused(request, fault):
            return refusal
        try:
            given = json.loads(raw)
        except ValueError:
            return _error(400, "Problems parsing JSON")
        if wrong := _wrong(given):
            return _error(422, "Unprocessable Entity", wrong)
        review = self._record(request, given, fault)
        if fault.kind == "disconnect-after":
            return await server.cut(request)
        if fault.after:
            return _error(fault.status)
        return JSONResponse(review, headers=server.SIMULATED)

    async def listing(self, request: Request) -> Response:
        """list-reviews: one page, and a Link header to the others."""
        fault = self._fault(request)
        if fault.kind.startswith("disconnect"):
            return await server.cut(request)
        await sleep(fault.seconds)
        if refusal := self._refused(request, fault):
            return refusal
        try:
            page = max(1, int(request.query_params.get("page", 1)))
            size = min(max(1, int(request.query_params.get("per_page", _PER_PAGE))), _MOST_PER_PAGE)
        except ValueError:
            return _error(422, "Validation Failed", ["page and per_page are integers"])
        found = self._reviews.get(_pull(request), [])
        headers = {**server.SIMULATED, **_links(request, page, size, len(found))}
        return JSONResponse(found[(page - 1) * size : page * size], headers=headers)

    def _fault(self, request: Request) -> faults.Fault:
        facts = {"method": request.method, "path": request.url.path}
        return self._plan.pick(request.headers.get(faults.HEADER), facts, self._dice)

    def _refused(self, request: Request, fault: faults.Fault) -> Response | None:
        if fault.refuses:
            return _error(fault.status)
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() not in ("bearer", "token") or not token or self._token not in (None, token):
            return _error(401)
        return _error(404) if _pull(request)[2] < 1 else None

    def _record(self, request: Request, given: dict[str, Any], fault: faults.Fault) -> dict[str, Any]:
        owner, repository, number = pull = _pull(request)
        base = str(request.base_url).rstrip("/")
        review = {
            "id": self._last + 1,
            "node_id": f"sim_{self._last + 1}",
            "user": _USER,
            "body": given.get("body") or "",
            "state": _STATES[given.get("event")],
            "commit_id": given.get("commit_id"),
            "html_url": f"{base}/{owner}/{repository}/pull/{number}#pullrequestreview-{self._last + 1}",
            "pull_request_url": f"{base}/repos/{owner}/{repository}/pulls/{number}",
            "author_association": "COLLABORATOR",
            "submitted_at": f"{wall():%Y-%m-%dT%H:%M:%SZ}",
        }
        entry = {"pull": pull, "review": review, "comments": given.get("comments") or [], "fault": fault.text or None}
        self._log.write(entry)
        self._keep(entry)
        return review

    def _keep(self, entry: dict[str, Any]) -> None:
        owner, repository, number = entry["pull"]
        self._reviews.setdefault((owner, repository, number), []).append(entry["review"])
        self._last = max(self._last, entry["review"]["id"])


def _pull(request: Request) -> Pull:
    path = request.path_params
    return path["owner"].lower(), path["repo"].lower(), path["number"]


def _wrong(given: Any) -> list[str]:
    """What GitHub would object to."""
    if not isinstance(given, dict):
        return ["The body is not an object"]
    wrong = []
    event = given.get("event")
    if event not in _STATES:
        wrong.append(f"event is {event!r}, not APPROVE, REQUEST_CHANGES or COMMENT")
    elif event in ("REQUEST_CHANGES", "COMMENT") and not given.get("body"):
        wrong.append(f"body is missing for {event}")
    for comment in given.get("comments") or ():
        placed = isinstance(comment, dict) and comment.get("path") and (comment.get("line") or comment.get("position"))
        if not placed or not comment.get("body"):
            wrong.append("a comment needs path, body and line or position")
    return wrong


def _error(status: int, message: str = "", errors: list[str] | None = None) -> Response:
    body = {"message": message or _MESSAGES.get(status, "Server Error"), "documentation_url": _DOCUMENTATION}
    extra = {"errors": errors} if errors else {}
    return JSONResponse({**body, **extra, "status": str(status)}, status, headers=server.SIMULATED)


def _links(request: Request, page: int, size: int, total: int) -> dict[str, str]:
    last = max(1, -(-total // size))
    pages = {"prev": page - 1, "next": page + 1, "last": last, "first": 1}
    wanted = {name: at for name, at in pages.items() if 1 <= at <= last and at != page}
    links = [f'<{request.url.include_query_params(page=at, per_page=size)}>; rel="{n}"' for n, at in wanted.items()]
    return {"link": ", ".join(links)} if links else {}


async def _health(_request: Request) -> Response:
    return JSONResponse({"status": "ok", "service": "recorder", "simulated": True}, headers=server.SIMULATED)


async def _user(_request: Request) -> Response:
    return JSONResponse(_USER, headers=server.SIMULATED)


async def _not_found(_request: Request, _problem: Exception) -> Response:
    return _error(404)


async def _bad_fault(_request: Request, problem: Exception) -> Response:
    return _error(400, str(problem))


def application(recorder: Recorder) -> Starlette:
    """The routes."""
    path = "/repos/{owner}/{repo}/pulls/{number:int}/reviews"
    routes = [
        Route("/health", _health),
        Route("/user", _user),
        Route(path, recorder.create, methods=["POST"]),
        Route(path, recorder.listing, methods=["GET"]),
    ]
    return Starlette(routes=routes, exception_handlers={ConfigError: _bad_fault, 404: _not_found})


def main(argv: list[str] | None = None) -> None:
    """Run the server until SIGTERM. Raises ConfigError."""
    parser = argparse.ArgumentParser(prog="backbeat.embedded.recorder", description=__doc__)
    parser.add_argument("--port", type=int, required=True, help="on 127.0.0.1; 0 takes a free one")
    parser.add_argument("--log", type=Path, required=True, help="the reviews, JSON lines")
    parser.add_argument("--token-file", type=Path, help="the one token to accept; without it any")
    parser.add_argument("--seed", type=int, default=1, help="of fault rates")
    parser.add_argument("--faults", help="a plan file, or RATE FAULT, RATE FAULT")
    given = parser.parse_args(argv)
    try:
        token = given.token_file.read_text(encoding="utf-8").strip() if given.token_file else None
    except OSError as error:
        raise ConfigError(f"token file {given.token_file} cannot be read: {error.strerror}", fix="Create it") from error
    recorder = Recorder(given.log, token, faults.load(given.faults), given.seed)
    server.serve(application(recorder), given.port, "recorder")


if __name__ == "__main__":
    sys.exit(server.run(main))
