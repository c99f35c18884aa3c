"""What may stand in a file of the project, and what must be there."""

import re

import pytest

from backbeat.migration_files import load
from shared.db import pool, queries
from tests.support.tree import ROOT, query_files, tracked

# Written so that this file does not contain what it forbids.
_FOREIGN = re.compile(
    r"(?<![\w.~}])/(wo[r]k|ro[o]t|ho[m]e/(?!user|backbeat|you)\w+)/"
    r"|ba[s]h_jobs|\.li[b]rary/"
    r"|(index-url|registry)\s*[=\"':]+\s*https?:|\"resolved\":\s*\"https?:"
    r"|pytho[n]hosted\.org|pypi\.or[g]/simple|registry\.npm[j]s\.org",
    re.IGNORECASE,
)


def test_no_file_names_a_machine_path_or_a_registry() -> None:
    found = []
    for path in tracked():
        text = path.read_bytes().decode("utf-8", "replace")
        found += [f"{path.relative_to(ROOT)}: {match[0]}" for match in _FOREIGN.finditer(text)]
    assert not found


@pytest.mark.parametrize(
    ("text", "foreign"),
    [
        ("see /wor" + "k/main/x", True),
        ("cd /roo" + "t/.cache", True),
        ("/ho" + "me/alice/x", True),
        ("--index-url" + " = https://mirror.example", True),
        ('"resolved": ' + '"https://mirror.example/a.tgz"', True),
        ("/home/user/backbeat and src/work/x", False),
        ("https://docs.python.org/3/", False),
    ],
)
def test_what_is_foreign(text: str, foreign: bool) -> None:
    assert bool(_FOREIGN.search(text)) is foreign


@pytest.mark.parametrize(("package", "noun"), query_files())
def test_every_query_file_loads(package: str, noun: str) -> None:
    named = queries.load(noun, package)
    assert named
    assert all(query.strip(";") for query in named.values())


def test_every_migration_has_its_proof() -> None:
    assert [each.label for each in load("postgres") if not each.verify.is_file()] == []


def test_the_workers_ask_for_the_last_migration() -> None:
    assert load("postgres")[-1].version == pool.MINIMUM_SCHEMA
