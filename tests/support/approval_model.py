"""What an approval request should do: one request under any calls, in plain Python and without SQL."""

from dataclasses import dataclass, field
from typing import Any

PEOPLE: dict[str, tuple[str, ...]] = {
    "alice": ("security",),
    "bob": ("security", "finance"),
    "carol": ("finance",),
    "dave": (),
    "erin": ("board",),
}
OPEN = ("pending", "changes")


@dataclass
class Model:
    """Moments are seconds since it was asked. `rights`: whose right is whose, until when."""

    policy: dict[str, Any]
    deadline: float
    requested_by: str | None
    now: float = 0.0
    state: str = "pending"
    revision: int = 1
    content: int = 0  # which of the contents there were is shown
    votes: dict[str, str] = field(default_factory=dict)  # who -> whose right, on this revision
    editors: set[str] = field(default_factory=set)
    rounds: int = 0
    rights: dict[str, tuple[str, float]] = field(default_factory=dict)
    claim: tuple[str, float] | None = None
    effect_after: float = 0.0
    fired: bool = False
    outcomes: list[str] = field(default_factory=list)

    # -- who --------------------------------------------------------------------------------------------------------

    def rules(self) -> list[dict[str, Any]]:
        """Each rule with everybody who may stand in by now."""
        due = [step for step in self.policy.get("escalate", ()) if step["after"] <= self.now]
        more = {name: [who for step in due for who in step.get(name, ())] for name in ("approvers", "groups")}
        return [
            {name: [*rule.get(name, ()), *more[name]] for name in more} | {"needed": rule.get("needed", 1)}
            for rule in self.policy.get("rules") or [self.policy]
        ]

    def fits(self, rule: dict[str, Any], who: str) -> bool:
        """Whether a rule names this person."""
        return who in rule["approvers"] or bool({*PEOPLE[who]} & {*rule["groups"]})

    def holder(self, owner: str) -> str:
        """Who may use this person's right now."""
        to, until = self.rights.get(owner, (owner, float("inf")))
        return to if until > self.now else owner

    def usable(self, who: str) -> list[str]:
        """Whose rights this person may use, her own first."""
        fit = [o for o in PEOPLE if self.holder(o) == who and any(self.fits(rule, o) for rule in self.rules())]
        return sorted(fit, key=lambda owner: owner != who)

    def barred(self, who: str, owner: str) -> bool:
        """Whether four eyes forbid it."""
        return bool(self.policy.get("four_eyes")) and bool({who, owner} & {*self.editors, self.requested_by})

    def enough(self) -> bool:
        """Whether every rule has what it needs."""
        return all(
            sum(self.fits(rule, owner) for owner in self.votes.values()) >= rule["needed"] for rule in self.rules()
        )

    def reachable(self) -> bool:
        """Whether every rule could be met by people there are."""
        return all(
            len(
                {w for w, owner in self.votes.items() if self.fits(rule, owner)}
                | {w for w in PEOPLE for o in self.usable(w) if self.fits(rule, o) and not self.barred(w, o)}
            )
            >= rule["needed"]
            for rule in self.rules()
        )

    # -- what -------------------------------------------------------------------------------------------------------

    def close(self, state: str) -> None:
        """It ends; once, but that an approval may be taken back."""
        self.state = state
        self.outcomes.append(state)

    def verdict(self, who: str, decision: str, content: int) -> str:
        """What Postgres must answer, before anything changes."""
        rights = self.usable(who)
        own = any(self.fits(rule, who) for rule in self.rules())
        if not rights and not (decision == "delegate" and own):
            return "not_eligible"
        if self.state not in OPEN and not (self.state == "approved" and decision in ("revoke", "comment")):
            return "closed"
        if self.state in OPEN and self.now >= self.deadline:
            return "expired"
        if decision in ("approve", "reject", "request_changes", "edit", "revoke") and content != self.content:
            return "stale"
        if decision == "approve" and all(self.barred(who, owner) for owner in rights):
            return "four_eyes"
        if decision == "approve" and self.right(who) is None:
            return "voted"
        if decision in ("approve", "request_changes") and self.state == "changes":
            return "changes"
        if decision == "request_changes" and self.rounds >= self.policy.get("max_rounds", 0):
            return "no_rounds"
        if decision in ("claim", "unclaim") and self.claim and self.claim[1] > self.now and self.claim[0] != who:
            return "claimed"
        if decision == "revoke" and self.state != "approved":
            return "not_approved"
        return "too_late" if decision == "revoke" and self.fired else "accepted"

    def right(self, who: str) -> str | None:
        """The right her approval would use; None when it has been used, or she has voted."""
        free = [o for o in self.usable(who) if not self.barred(who, o) and o not in self.votes.values()]
        return None if who in self.votes or not free else free[0]

    def decide(self, who: str, decision: str, to: str, seconds: float) -> None:
        """An accepted decision."""
        match decision:
            case "approve":
                self.votes[who] = self.right(who) or ""
                if self.enough():
                    self.close("approved")
                    self.effect_after = self.now + self.policy.get("effect_delay", 0)
            case "reject" | "revoke":
                self.close({"reject": "rejected", "revoke": "revoked"}[decision])
            case "request_changes":
                self.state, self.rounds = "changes", self.rounds + 1
            case "edit":
                self.editors.add(who)
                self.revise()
            case "delegate":
                self.rights[who] = (to, self.now + seconds)
            case "claim":
                self.claim = (who, self.now + seconds)
            case "unclaim":
                self.claim = None

    def revise(self) -> None:
        """Another content: nobody has approved it."""
        self.state, self.revision, self.votes = "pending", self.revision + 1, {}
        self.content += 1

    def tick(self) -> None:
        """What time alone does to the state."""
        if self.state in OPEN and self.now >= self.deadline:
            silent = self.policy.get("on_expiry") == "approve" and (self.state, self.revision) == ("pending", 1)
            self.effect_after = self.now + self.policy.get("effect_delay", 0)
            self.close("approved" if silent and self.reachable() else "expired")

    @property
    def may_fire(self) -> bool:
        """Whether its effect may begin."""
        return self.state == "approved" and self.now >= self.effect_after
