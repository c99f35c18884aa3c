"""What goes into a review, what each model call must answer, and what comes out."""

import re
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

Severity = Literal["info", "minor", "major", "critical"]
SEVERITIES: tuple[Severity, ...] = ("info", "minor", "major", "critical")
Kind = Literal["trivial", "ordinary"]
Verdict = Literal["approve", "comment", "request_changes"]
_REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,38}/(?!\.+$)[A-Za-z0-9._-]{1,100}")


class Commit(BaseModel):
    """One commit to review: the payload of a task.

    `number` stands for the pull request: the commit's place on its branch, counted from the first one.
    `notes` say what a reader of the diff must know; `complete` says that it leaves nothing of the change out.
    `decide_within` is how long approvers have, in seconds.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    repository: str
    number: int = Field(ge=1)
    sha: str = Field(pattern=r"^[0-9a-f]{40}([0-9a-f]{24})?$")
    subject: str
    message: str
    committed_at: datetime
    notes: tuple[str, ...] = ()
    complete: bool = False
    diff: str
    decide_within: int = 3600

    @field_validator("repository")
    @classmethod
    def _is_owner_and_name(cls, value: str) -> str:
        if not _REPOSITORY.fullmatch(value):
            raise ValueError("is not the owner/name of a repository")
        return value


class CommitKind(BaseModel):
    """Whether a commit needs a review at all."""

    kind: Kind
    reason: str = Field(max_length=200)


class Summary(BaseModel):
    """What a commit does."""

    purpose: str = Field(max_length=800)
    risk: Literal["low", "medium", "high"]


class Finding(BaseModel):
    """One remark. `line` counts in the new file; 0 means the file as a whole."""

    model_config = ConfigDict(frozen=True)

    path: str
    line: int = Field(ge=0)
    severity: Severity
    message: str = Field(max_length=400)

    @property
    def weight(self) -> int:
        """0 for info up to 3 for critical."""
        return SEVERITIES.index(self.severity)


class Concerns(BaseModel):
    """What is wrong with the design of a commit."""

    concerns: list[Finding] = Field(max_length=12)


class Comments(BaseModel):
    """What is wrong with its lines."""

    comments: list[Finding] = Field(max_length=12)


class Synthesis(BaseModel):
    """The review as its author will read it."""

    verdict: Verdict
    body: str = Field(max_length=6000)


class Review(BaseModel):
    """The result of a task. `findings` is sorted, worst first; `severity` is the worst."""

    repository: str
    number: int
    sha: str
    kind: Kind
    verdict: Verdict
    severity: Severity | None
    findings: list[Finding]
    body: str
