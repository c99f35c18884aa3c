"""The values of an answer: one small rule for each kind of field, chosen by the field's name.

Everything here is a function of the prompt's `Facts` (and of one finding, inside a list of findings),
so the same prompt always gets the same answer.
"""

import hashlib
import re
from collections.abc import Callable, Sequence
from typing import Any

from backbeat.embedded.simulated import grade, payment
from backbeat.embedded.simulated.rules import Facts, Finding

LABEL = "Simulated: derived from the text by written rules, not by a model."

# Words that speak for an option or a yes, beyond its own name.
SYNONYMS = {
    "billing": ("invoice", "charge", "charged", "refund", "payment", "paid", "price", "subscription"),
    "bug": ("error", "crash", "crashes", "broken", "fails", "exception", "traceback", "wrong"),
    "account": ("login", "password", "email", "profile", "sign", "username"),
    "urgent": ("asap", "immediately", "emergency", "down", "outage", "today", "blocked"),
    "fraud": ("stolen", "chargeback", "suspicious", "unauthorised", "unauthorized", "mismatch"),
    "spam": ("winner", "lottery", "unsubscribe", "viagra", "casino"),
    "positive": ("great", "love", "thanks", "excellent", "happy", "good"),
    "negative": ("bad", "terrible", "angry", "disappointed", "worst", "hate", "refund"),
    "high": ("urgent", "outage", "critical", "severe"),
    "low": ("minor", "cosmetic", "typo"),
}

# For prompts about code: what is the case, and the options that say so, best first.
_BLOCKING = ("request_changes", "reject", "blocking", "block", "fail", "critical", "high", "risky", "ordinary")
_FLAWED = ("comment", "needs_work", "warn", "medium", "moderate", "ordinary", "low")
_CLEAN = ("approve", "accept", "pass", "ok", "ordinary", "low", "none", "info")
_TRIVIAL = ("trivial", "docs", "chore", *_CLEAN)

_LAST_RESORT = ("other", "unknown", "neutral", "none", "normal", "ordinary")
_WORD = re.compile(r"[a-z]{3,}")


def choose(options: Sequence[Any], facts: Facts, finding: Finding | None) -> Any:
    """One of an enumeration's options: the finding's severity, else what diff or payment mean, else keywords."""
    names = {str(option).lower(): option for option in options}
    if finding and finding.severity in names:
        return names[finding.severity]
    for name in _meaning(facts, finding.severity if finding else facts.worst):
        if name in names:
            return names[name]
    words = _words(facts.text)
    score, best = max((sum(map(words.count, _keywords(name))), name) for name in names)
    if score:
        return names[best]
    for name in _LAST_RESORT:
        if name in names:
            return names[name]
    return options[int(_digest(facts.text), 16) % len(options)]


def _meaning(facts: Facts, severity: str | None) -> tuple[str, ...]:
    if not facts.about_code:
        judged = payment.read(facts.text)
        return judged.options if judged else ("trivial",)
    if severity == "critical":
        return _BLOCKING
    if severity in ("major", "minor"):
        return _FLAWED
    return _TRIVIAL if facts.trivial else _CLEAN


def _keywords(name: str) -> tuple[str, ...]:
    return (name, *name.replace("-", "_").split("_"), *SYNONYMS.get(name, ()))


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def yes(name: str, facts: Facts, _finding: Finding | None) -> bool:
    """A boolean: whether something blocks, an answer is right, or the name's words occur in the prompt."""
    if facts.about_code and re.search(r"block|risk|reject|escalat|unsafe", name):
        return facts.worst == "critical"
    if facts.about_code and re.search(r"approv|safe|clean|pass|ok\b", name):
        return facts.worst not in ("major", "critical")
    if name == "correct" and (judged := grade.read(facts.text)) is not None:
        return judged
    words = set(_words(facts.text))
    return any(word in words for part in [name, *name.split("_")] for word in _keywords(part))


def number(name: str, facts: Facts, finding: Finding | None) -> float:
    """A number: the finding's line, how many there are, a confidence, or the first number in the prompt."""
    if re.search(r"line|row", name):
        return finding.line if finding else 0
    if re.search(r"count|total|number_of|findings", name):
        return len(facts.findings)
    if re.search(r"confiden|probab|certain", name):
        return 0.75
    if re.search(r"score|risk|severity|rating", name):
        if judged := payment.read(facts.text):
            return judged.risk
        return float(finding.weight if finding else max((one.weight for one in facts.findings), default=0))
    first = re.search(r"-?\d+(?:\.\d+)?", facts.text[:4000])
    return float(first[0]) if first else 0.0


def text(name: str, facts: Facts, finding: Finding | None) -> str:
    """A string, by the field's name; inside a finding its own words come first."""
    for pattern, value in _FINDING_TEXTS if finding else ():
        if re.search(pattern, name):
            return value(finding)
    return next(value(facts) for pattern, value in _TEXTS if re.search(pattern, name))


def overview(facts: Facts) -> str:
    """One or two sentences on what a diff contains, or on the prompt's beginning."""
    if not facts.about_code:
        return excerpt(facts)
    added = sum(len(file.added) for file in facts.files)
    removed = sum(len(file.removed) for file in facts.files)
    worst = f"the worst of {len(facts.findings)} findings is {facts.worst}" if facts.worst else "nothing was found"
    paths = ", ".join(file.path for file in facts.files[:3]) + (" and more" if len(facts.files) > 3 else "")
    changes = f"{added} lines added and {removed} removed in {paths}; " if facts.files else ""
    return f"{changes}{worst}. {LABEL}"


def reason(facts: Facts) -> str:
    """A few words."""
    if judged := payment.read(facts.text):
        return "; ".join(judged.reasons)
    if facts.trivial:
        return "only documentation, names or white space"
    return f"worst finding: {facts.worst}" if facts.worst else "nothing found"


def markdown(facts: Facts) -> str:
    """The findings as a list, as a review would show them."""
    lines = [f"- **{one.severity}** `{one.path}:{one.line}` {one.message}" for one in facts.findings[:12]]
    return "\n".join([overview(facts), *([""] if lines else []), *lines])


def excerpt(facts: Facts) -> str:
    """The first line of the prompt that says something."""
    lines = (line.strip() for line in facts.text.splitlines())
    return next((line[:200] for line in lines if len(_words(line)) > 1), LABEL)


_FINDING_TEXTS: tuple[tuple[str, Callable[[Any], str]], ...] = (
    (r"path|file", lambda one: one.path),
    (r"severity|level", lambda one: one.severity),
    (r"rule|kind|category|type|name|title|id$", lambda one: one.rule),
    (r"", lambda one: one.message),
)
_TEXTS: tuple[tuple[str, Callable[[Facts], str]], ...] = (
    (r"path|file", lambda facts: facts.files[0].path if facts.files else "unknown"),
    (r"body|markdown|report|review", markdown),
    (r"reason|why|rationale", reason),
    (r"title|subject|headline", excerpt),
    (r"summary|purpose|overview|description|explanation|message|answer|response|reply|text", overview),
    (r"", excerpt),
)


def findings_for(name: str, facts: Facts) -> list[Finding]:
    """The findings a list is about: design ones for concerns, line ones for comments, else all."""
    if re.search(r"concern|architect|design|risk", name):
        return [one for one in facts.findings if one.kind == "design"]
    if re.search(r"comment|line", name):
        return [one for one in facts.findings if one.kind == "line"]
    return list(facts.findings)


def keywords(facts: Facts) -> list[str]:
    """The longer words of the prompt, most frequent first."""
    words = [word for word in _words(facts.text[:4000]) if len(word) > 4]
    return sorted(set(words), key=lambda word: (-words.count(word), word)) or ["simulated"]
