"""Who may let something happen, in typed Python: `Policy(...).data` is what an escalation carries.

Postgres is the arbiter (`backbeat.policy_problem`) and refuses what it does not know; this refuses it earlier, with the
field's name. Pure.
"""

from datetime import timedelta
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, model_validator

_Names = list[Annotated[str, Field(min_length=1)]]
_Span = Annotated[
    timedelta,
    Field(ge=timedelta(seconds=1), le=timedelta(days=366)),
    PlainSerializer(lambda span: int(span.total_seconds()), when_used="always"),
]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Rule(_Strict):
    """So many different people of these users and groups. A person's one approval counts in each rule she fits."""

    approvers: _Names = []
    groups: _Names = []
    needed: Annotated[int, Field(ge=1, le=99)] = 1

    @model_validator(mode="after")
    def _can_be_met(self) -> "Rule":
        if self._lacks():
            raise ValueError("nobody can satisfy it: it needs more approvers than it names")
        return self

    def _lacks(self) -> bool:
        return not self.groups and self.needed > len(set(self.approvers))


class Step(_Strict):
    """From `after` on these people may stand in for anybody."""

    after: _Span
    approvers: _Names = []
    groups: _Names = []

    @model_validator(mode="after")
    def _names_somebody(self) -> "Step":
        if not self.approvers and not self.groups:
            raise ValueError("it names nobody")
        return self


class Policy(Rule):
    """One rule, or `rules` that must all be met; what time does; what is allowed. See docs/how-to/approve.md.

    Spans of a policy with a `calendar` count its hours only; `effect_delay` and `remind_before` are clock time.
    """

    rules: list[Rule] | None = None
    escalate: list[Step] = []
    four_eyes: bool = False
    on_expiry: Literal["reject", "approve"] = "reject"
    remind_every: _Span | None = None
    remind_before: _Span | None = None
    calendar: Annotated[str, Field(min_length=1)] | None = None
    max_rounds: Annotated[int, Field(ge=0, le=99)] = 0
    effect_delay: _Span | None = None
    allow_unsigned_signal: bool = False

    def _lacks(self) -> bool:
        return not self.rules and not self.allow_unsigned_signal and super()._lacks()

    @model_validator(mode="after")
    def _fits_together(self) -> "Policy":
        if self.rules is not None and (not self.rules or self.approvers or self.groups or self.needed != 1):
            raise ValueError("rules stands in place of approvers, groups and needed, and names one at least")
        if self.allow_unsigned_signal and (self.needed != 1 or self.rules or self.four_eyes):
            raise ValueError("allow_unsigned_signal cannot go with a quorum, with rules or with four_eyes")
        return self

    @property
    def data(self) -> dict[str, Any]:
        """JSON, as escalations carry it: what was said, and nothing else."""
        return self.model_dump(mode="json", exclude_defaults=True)
