"""Writes tickets.jsonl: made-up tickets with what is right about them, the same at every run.

python -m examples.support_triage.generate
"""

import json
from pathlib import Path
from random import Random

FILE = Path(__file__).with_name("tickets.jsonl")
SEED, TICKETS = 20261, 240
ABOUT = (
    f"{TICKETS} made-up support tickets, seed {SEED}. Each carries a simulated difficulty between 0 and 1; the "
    "simulated provider gets a part wrong on purpose, by tier: a model whose skill is below it (small 0.82, medium "
    "0.94, large 0.985) reads the subject alone. Figures of the simulator say nothing of real models."
)
BODIES = {
    "billing": (
        "The invoice shows a charge and another charge; one payment should be a refund.",
        "My subscription price went up, and the invoice has a payment that I never made. I want a refund.",
    ),
    "bug": (
        "Export fails with an exception and a traceback, then the page crashes: error 500.",
        "The chart is broken, shows wrong figures, and every second click is an error and crashes the tab.",
    ),
    "account": (
        "My login and password stopped to work after I set a new email in my profile.",
        "I want another username and email on my profile; the password form will not take them at login.",
    ),
    "other": ("Do you have an office in Lisbon that one may visit?", "Which fonts do you use on the new site?"),
}
SUBJECTS = {"billing": "Invoice", "bug": "Export error", "account": "Login", "other": "A question"}
URGENT = " It must work today, we are blocked."


def lines(seed: int = SEED, count: int = TICKETS) -> list[str]:
    """The header, then the tickets."""
    dice, found = Random(seed), [json.dumps({"about": ABOUT})]  # noqa: S311
    for number in range(count):
        category = dice.choice(sorted(BODIES))
        urgent, difficulty = dice.random() < 0.3, dice.random()
        # A hard ticket's subject leads astray; one about nothing in particular would lead every reader so.
        astray = difficulty > 0.8 and category != "other"
        shown = dice.choice(sorted(set(BODIES) - {category})) if astray else category
        body = (
            f"{dice.choice(BODIES[category])}{URGENT * urgent} Ticket {number}. (simulated difficulty {difficulty:.3f})"
        )
        ticket = {"subject": SUBJECTS[shown], "body": body}
        found.append(json.dumps({"input": ticket, "expected": {"category": category, "urgent": urgent}}))
    return found


if __name__ == "__main__":
    FILE.write_text("\n".join(lines()) + "\n", encoding="utf-8")
