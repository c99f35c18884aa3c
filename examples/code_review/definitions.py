"""The tasks: sort a commit, review it, and post the review once, after a person agreed where it blocks."""

import asyncio
from typing import TypeVar

from pydantic import BaseModel

from backbeat import Context, Escalate, bounded_loop, effect, single_shot
from examples.code_review import prompts
from examples.code_review.diffs import grouped, split
from examples.code_review.github import SETTLE, TIMEOUT, find_review, post_review, review_request
from examples.code_review.models import (
    SEVERITIES,
    Comments,
    Commit,
    CommitKind,
    Concerns,
    Finding,
    Kind,
    Review,
    Severity,
    Summary,
    Synthesis,
    Verdict,
)

T = TypeVar("T", bound=BaseModel)

BLOCKS_FROM: Severity = "critical"
APPROVERS = ("alice", "bob")
MOST_GROUPS = 3  # of files that are commented on together, so that a review is at most seven calls

commit_kind = single_shot(
    "commit_kind",
    version=1,
    input=Commit,
    output=CommitKind,
    tier="small",
    system=prompts.KIND,
    prompt=prompts.KIND_PROMPT,
    max_output_tokens=100,
)


async def review(ctx: Context, commit: Commit) -> Review | Escalate:
    """Review one commit in one call if it is trivial, else in three to seven."""
    if (reason := await _trivial(ctx, commit)) is not None:
        result = _review(commit, "trivial", Synthesis(verdict="approve", body=f"Nothing to review: {reason}."), [])
    else:
        result = await _ordinary(ctx, commit)
    request = review_request(commit, result)
    if not _blocks(result):
        await ctx.effect("post", "github_review", request)
        return result
    approval = {
        "effect": "github_review",
        "request": request,
        "title": f"Block {commit.repository}#{commit.number}, {commit.subject[:200]}: {result.severity}",
        "deadline_seconds": commit.decide_within,
        "policy": {"approvers": list(APPROVERS)},
    }
    return ctx.escalate("approve_effect", approval, result=result)


async def _trivial(ctx: Context, commit: Commit) -> str | None:
    """Why a commit is trivial, or None. Nobody may call trivial what was not shown whole: it may be anything."""
    if not commit.complete:
        return None
    kind: CommitKind = await ctx.run(commit_kind, commit)
    return kind.reason if kind.kind == "trivial" else None


async def _ordinary(ctx: Context, commit: Commit) -> Review:
    groups = grouped(split(commit.diff), MOST_GROUPS)
    summed, design, lines = await asyncio.gather(
        _ask(ctx, "summary", Summary, prompts.summary(commit), most=500),
        _ask(ctx, "concerns", Concerns, prompts.concerns(commit), tier="large"),
        asyncio.gather(
            *(
                _ask(ctx, f"comments:{number}", Comments, prompts.comments(commit, group))
                for number, group in enumerate(groups, 1)
            )
        ),
    )
    findings = _merged([*design.concerns, *(one for some in lines for one in some.comments)])
    written = await _ask(ctx, "synthesis", Synthesis, prompts.synthesis(commit, summed, findings), most=2000)
    return _review(commit, "ordinary", written, findings)


async def _ask(ctx: Context, key: str, output: type[T], prompt: str, *, tier: str = "medium", most: int = 1500) -> T:
    system = prompts.HANDBOOK
    return await ctx.llm(key, output=output, system=system, prompt=prompt, tier=tier, max_output_tokens=most)


def _merged(findings: list[Finding]) -> list[Finding]:
    """Each finding once, worst first."""
    return sorted(set(findings), key=lambda one: (-one.weight, one.path, one.line, one.message))


def _review(commit: Commit, kind: Kind, written: Synthesis, findings: list[Finding]) -> Review:
    """The findings decide whether the review blocks, and only what was shown whole is approved.

    The model finds the words.
    """
    severity = findings[0].severity if findings else None
    verdict: Verdict = "approve" if written.verdict == "approve" and commit.complete else "comment"
    result = Review(
        repository=commit.repository,
        number=commit.number,
        sha=commit.sha,
        kind=kind,
        verdict=verdict,
        severity=severity,
        findings=findings,
        body=written.body,
    )
    return result.model_copy(update={"verdict": "request_changes"}) if _blocks(result) else result


def _blocks(result: Review) -> bool:
    return result.severity is not None and SEVERITIES.index(result.severity) >= SEVERITIES.index(BLOCKS_FROM)


code_review = bounded_loop("code_review", version=1, input=Commit, output=Review, tier="large", run=review)
github_review = effect("github_review", perform=post_review, read_back=find_review, timeout=TIMEOUT, settle=SETTLE)
