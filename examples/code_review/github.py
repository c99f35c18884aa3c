"""Posting a review to GitHub once: create-review with our marker in its body, list-reviews to look for it."""

from typing import Any

import httpx2

from backbeat import EffectRefusedError
from examples.code_review.diffs import split
from examples.code_review.models import Commit, Finding, Review
from examples.code_review.wording import fitted, harmless, line, name
from shared.config import Config, load
from shared.errors import UnavailableError

TIMEOUT = 10.0  # seconds
SETTLE = 5.0  # seconds after which a request that GitHub has not carried out will not be
_PAGE = 100
_EVENTS = {"approve": "APPROVE", "comment": "COMMENT", "request_changes": "REQUEST_CHANGES"}
_USER = "/user"
_TOO_MANY = 429
_TIMED_OUT = 408  # like every 5xx, it does not say that nothing was written


def marker(mark: str) -> str:
    """What a review of ours ends with, invisibly, so that it can be found again."""
    return f"<!-- backbeat-effect: {mark} -->"


def review_request(commit: Commit, review: Review) -> dict[str, Any]:
    """Exactly what will be posted, and what approvers are shown. Findings without a line in the diff go to the body."""
    lines = {(patch.path, number) for patch in split(commit.diff) for number in patch.added_lines}
    placed = [one for one in review.findings if (one.path, one.line) in lines]
    loose = [one for one in review.findings if (one.path, one.line) not in lines]
    parts = [harmless(review.body)]
    if loose:
        parts += ["", "Not tied to a line:", *(f"- {name(one.path)}: {_text(one)}" for one in loose)]
    if not commit.complete:
        parts += ["", "This review has not seen all of the change:", *(f"- {line(note)}" for note in commit.notes)]
    return {
        "repository": commit.repository,
        "number": commit.number,
        "commit_id": commit.sha,
        "event": _EVENTS[review.verdict],
        "body": fitted("\n".join(parts)),
        "comments": [{"path": one.path, "line": one.line, "side": "RIGHT", "body": _text(one)} for one in placed],
    }


def _text(finding: Finding) -> str:
    return f"**{finding.severity}** {line(finding.message)}"


async def post_review(request: dict[str, Any], mark: str) -> dict[str, Any]:
    """Create the review, marked with `mark`.

    Raises EffectRefusedError when it was certainly not created, UnavailableError when nobody can know.
    """
    async with _client() as client:
        body = f"{request['body']}\n\n{marker(mark)}"
        content = {**{name: request[name] for name in ("commit_id", "event", "comments")}, "body": body}
        answer = await client.post(_path(request), json=content)
    if answer.is_success:
        return _outcome(request, answer.json())
    if not answer.is_server_error and answer.status_code != _TIMED_OUT:
        raise EffectRefusedError(f"GitHub refused the review of {_name(request)}: {_words(answer)}")
    raise UnavailableError(f"GitHub did not confirm the review of {_name(request)}: {_words(answer)}")


async def find_review(request: dict[str, Any], mark: str) -> dict[str, Any] | None:
    """The review of ours that ends with our marker, or None when every page was read and none does.

    In the middle of a text the marker is a quotation. Raises UnavailableError when GitHub cannot say.
    """
    ours = marker(mark)
    async with _client() as client:
        me, page = await _me(client), 1
        while True:
            answer = await client.get(_path(request), params={"per_page": _PAGE, "page": page})
            if not answer.is_success:
                raise UnavailableError(f"GitHub did not list the reviews of {_name(request)}: {_words(answer)}")
            reviews = answer.json()
            for review in reviews:
                author = (review.get("user") or {}).get("id")
                if (review.get("body") or "").rstrip().endswith(ours) and (me is None or author == me):
                    return _outcome(request, review)
            if len(reviews) < _PAGE:
                return None
            page += 1


async def _me(client: httpx2.AsyncClient) -> int | None:
    """The id of the token's user; None when GitHub does not tell, as it does not tell an app."""
    answer = await client.get(_USER)
    if answer.is_success:
        return int(answer.json()["id"])
    if answer.is_server_error or answer.status_code in (_TIMED_OUT, _TOO_MANY):
        raise UnavailableError(f"GitHub did not say whose token it is: {_words(answer)}")
    return None


def _client() -> httpx2.AsyncClient:
    config = load()
    headers = {
        "Authorization": f"Bearer {_token(config)}",
        "Accept": "application/vnd.github+json",
        "X-GitHub-Api-Version": "2022-11-28",
    }
    return httpx2.AsyncClient(base_url=config.github_api, headers=headers, timeout=TIMEOUT)


def _token(config: Config) -> str:
    """The token, which no message ever names. Nothing is sent without one."""
    if not config.github_api or config.github_token_file is None:
        raise EffectRefusedError(
            "GitHub is not configured", fix="Set BACKBEAT_GITHUB_API and BACKBEAT_GITHUB_TOKEN_FILE"
        )
    try:
        return config.github_token_file.read_text(encoding="utf-8").strip()
    except OSError as error:
        what = f"the GitHub token file {config.github_token_file} cannot be read: {error.strerror}"
        raise EffectRefusedError(what, fix="Create it or correct BACKBEAT_GITHUB_TOKEN_FILE") from error


def _path(request: dict[str, Any]) -> str:
    return f"/repos/{request['repository']}/pulls/{request['number']}/reviews"


def _name(request: dict[str, Any]) -> str:
    return f"{request['repository']}#{request['number']}"


def _words(answer: httpx2.Response) -> str:
    return f"{answer.status_code} {answer.text[:200]}"


def _outcome(request: dict[str, Any], review: dict[str, Any]) -> dict[str, Any]:
    return {"pull": _name(request), "id": review["id"], "state": review["state"], "url": review.get("html_url")}
