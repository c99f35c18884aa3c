"""People for a demo nobody sits at: scripted approvers who use the command line as people would.

What they decide is fixed by commit of the fixture: most blocking reviews are approved, one is rejected, and one
is left until its deadline. A blocking review of any other repository is approved.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from examples.code_review.fixture import BLOCKING
from shared import clock
from shared.errors import EXIT_TEMPORARY, BackbeatError

REJECTED, IGNORED = BLOCKING[1], BLOCKING[2]
IGNORED_DEADLINE = 20  # seconds; short, so that the demo can wait for it
PEOPLE = ("alice", "bob")
PATIENCE = 60.0  # seconds in which a person tries again what an engine that is away refused


class Approvers:
    """`backbeat approval …` as alice or bob, each with a token file of their own."""

    def __init__(self, environment: Mapping[str, str], tokens: Path, fixture: str) -> None:
        self._environment = {**os.environ, **environment}
        self._tokens = tokens
        self._fixture = fixture
        self._turn = 0
        self._decided: set[str] = set()

    def enrol(self) -> None:
        """Make their tokens; a token that is there from an earlier run is kept."""
        self._tokens.mkdir(parents=True, exist_ok=True, mode=0o700)
        for person in PEOPLE:
            if not self.token(person).exists():
                self._backbeat("token", "create", "--user", person, "--out", str(self.token(person)))

    def token(self, person: str) -> Path:
        """The file that proves who somebody is."""
        return self._tokens / f"{person}.token"

    def decide(self) -> list[str]:
        """Decide what is pending; returns one line of news a decision."""
        news = []
        for request in self.pending():
            number = self._number(request)
            if request["id"] in self._decided or number == IGNORED:
                continue
            self._decided.add(request["id"])
            person = PEOPLE[self._turn % len(PEOPLE)]
            self._turn += 1
            verb, comment = ("reject", "Known, and accepted for now.") if number == REJECTED else ("approve", "Agreed.")
            self._backbeat(
                *("approval", verb, request["id"], "--hash", request["hash"]),
                *("--comment", comment, "--token-file", str(self.token(person))),
            )
            news.append(f"{person} (a script) decided: {verb}  {request['title']}")
        return news

    def pending(self) -> list[dict[str, Any]]:
        """The requests that wait, as `backbeat approval list -o json` shows them."""
        found: list[dict[str, Any]] = json.loads(self._backbeat("approval", "list", "-o", "json"))
        return found

    def _number(self, request: Mapping[str, Any]) -> int | None:
        """The fixture's commit a request is about; None for any other repository."""
        what = str(request["title"]).split(",", 1)[0].removeprefix("Block ")
        repository, _, number = what.rpartition("#")
        return int(number) if repository == self._fixture else None

    def _backbeat(self, *arguments: str) -> str:
        command = [sys.executable, "-m", "backbeat", *arguments]
        patience = clock.monotonic() + PATIENCE
        while True:
            done = subprocess.run(command, env=self._environment, capture_output=True, text=True, check=False)
            if done.returncode != EXIT_TEMPORARY or clock.monotonic() > patience:
                break
        if done.returncode:
            raise BackbeatError(f"`backbeat {' '.join(arguments[:2])}` failed: {done.stderr.strip()}")
        return done.stdout
