"""What the simulated reviewer finds, rule by rule, and what it leaves alone."""

import json
from typing import Any

import pytest

from backbeat.embedded.simulated import rules, tokens
from backbeat.embedded.simulated.diff import parse
from backbeat.embedded.simulated.rules import LINE_RULES, Finding


def diff(path: str, added: list[str], removed: list[str] = [], start: int = 10) -> str:  # noqa: B006
    """A one-hunk diff after one line of context."""
    lines = [
        f"diff --git a/{path} b/{path}",
        "index 0000000..1111111 100644",
        f"--- a/{path}",
        f"+++ b/{path}",
        f"@@ -{start},{len(removed) + 1} +{start},{len(added) + 1} @@ def context():",
        " context",
        *(f"-{line}" for line in removed),
        *(f"+{line}" for line in added),
    ]
    return "\n".join(lines) + "\n"


def found(text: str) -> set[tuple[str, str, int]]:
    return {(one.rule, one.severity, one.line) for one in rules.read(text).findings}


@pytest.mark.parametrize(
    ("rule", "line"),
    [
        ("credential", 'PASSWORD = "correct-horse"'),
        ("credential", "api_key: 'abcdefgh12345678'"),
        ("credential", '    "aws_secret": "abcdefgh",'),
        ("credential", "-----BEGIN RSA PRIVATE KEY-----"),
        ("sql-from-strings", "db.execute(f\"SELECT * FROM t WHERE a = '{a}'\")"),
        ("sql-from-strings", 'db.execute("DELETE FROM t WHERE a = " + a)'),
        ("sql-from-strings", "db.execute('UPDATE t SET a = %s' % a)"),
        ("sql-from-strings", '"insert into t values ({})".format(a)'),
        ("eval", "value = eval(text)"),
        ("eval", "    exec(code)"),
        ("shell", "subprocess.run(command, shell=True)"),
        ("shell", "os.system('ls ' + path)"),
        ("tls-off", "httpx.get(url, verify=False)"),
        ("conflict-marker", "<<<<<<< HEAD"),
        ("bare-except", "    except:"),
        ("bare-except", "except BaseException:"),
        ("bare-except", "except Exception: pass"),
        ("mutable-default", "def f(a, b=[]):"),
        ("mutable-default", "async def f(a={}):"),
        ("unsafe-load", "pickle.loads(body)"),
        ("unsafe-load", "yaml.load(text)"),
        ("debug-print", "    print(value)"),
        ("debug-print", "breakpoint()"),
        ("todo", "x = 1  # TODO: later"),
    ],
)
def test_a_line_rule_finds_its_defect_and_no_other(rule: str, line: str) -> None:
    severity = next(one.severity for one in LINE_RULES if one.name == rule)
    assert found(diff("shop/a.py", [line])) == {(rule, severity, 11)}


def test_every_line_rule_is_tried_above() -> None:
    marks: Any = test_a_line_rule_finds_its_defect_and_no_other.pytestmark  # type: ignore[attr-defined]  # pytest's
    assert {case[0] for case in marks[0].args[1]} == {rule.name for rule in LINE_RULES}


@pytest.mark.parametrize(
    "line",
    [
        "password = read_secret('smtp')",
        'password = ""',
        "token = os.environ['TOKEN']",
        'db.execute("SELECT * FROM t WHERE a = ?", (a,))',
        'f"please select a seat, {name}"',
        "ast.literal_eval(text)",
        "re.compile(text).exec_module(x)",
        "subprocess.run(['ls', path])",
        "except ValueError:",
        "except Exception as error:",
        "def f(a=None, b=()):",
        "yaml.load(text, Loader=SafeLoader)",
        "pprint(value)",
        "todo = []",
        "=======",
    ],
)
def test_what_is_fine_stays_unremarked(line: str) -> None:
    assert found(diff("shop/a.py", [line])) == set()


def test_only_added_lines_of_programs_count() -> None:
    assert found(diff("shop/a.py", ["x = 1"], removed=["eval(x)"])) == set()
    assert found(diff("README.md", ["Never write eval(x)."])) == set()
    assert found("eval(x)\n+eval(x)\n") == set()


def test_nothing_is_worse_than_minor_in_a_test() -> None:
    assert found(diff("tests/test_a.py", ['PASSWORD = "correct-horse"'])) == {("credential", "minor", 11)}


def test_a_function_of_more_than_forty_lines() -> None:
    def lines(count: int) -> list[str]:
        return ["def f():", *(f"    a{number} = {number}" for number in range(count - 1))]

    tests = diff("tests/test_a.py", ["x = 1"])
    assert found(diff("a.py", lines(40)) + tests) == set()
    assert found(diff("a.py", lines(41)) + tests) == {("long-function", "minor", 11)}
    assert found(diff("a.py", [*lines(41), "x = 1"]) + tests) == {("long-function", "minor", 11)}
    assert found(diff("a.py", [*lines(30), *lines(30)]) + tests) == set()


def test_a_lost_assertion() -> None:
    lost = {("removed-assertion", "major", 0)}
    assert found(diff("tests/test_a.py", ["x = 1"], removed=["    assert x == 1"])) == lost
    assert found(diff("tests/test_a.py", ["    assert x == 2"], removed=["    assert x == 1"])) == set()
    assert found(diff("shop/a.py", ["x = 1"], removed=["    assert x == 1"])) == set()


def test_new_behaviour_without_a_test() -> None:
    ten = [f"x{number} = {number}" for number in range(10)]
    assert found(diff("a.py", ten)) == {("missing-tests", "minor", 0)}
    assert found(diff("a.py", ten[:9])) == set()
    assert found(diff("a.py", ten) + diff("tests/test_a.py", ["y = 1"])) == set()


def test_many_programs_at_once() -> None:
    assert found("".join(diff(f"m{number}.py", ["x = 1"]) for number in range(10))) == {
        ("wide-change", "info", 0),
        ("missing-tests", "minor", 0),
    }


@pytest.mark.parametrize(
    ("text", "trivial"),
    [
        (diff("README.md", ["More words."], removed=["Words."]), True),
        (diff("docs/guide.rst", ["More."]) + diff("LICENSE", ["2026"]), True),
        (diff("a.py", ["    x = 1"], removed=["  x = 1"]), True),
        ("diff --git a/a.py b/b.py\nsimilarity index 100%\nrename from a.py\nrename to b.py\n", True),
        ("diff --git a/a.sh b/a.sh\nold mode 100644\nnew mode 100755\n", True),
        ("", True),
        (diff("a.py", ["x = 2"], removed=["x = 1"]), False),
        (diff("README.md", ["More."]) + diff("a.py", ["x = 1"]), False),
        ("diff --git a/a.png b/a.png\nBinary files a/a.png and b/a.png differ\n", False),
        ("diff --git a/l b/l\n--- a/l\n+++ b/l\n@@ -1 +1 @@\n-Subproject commit a\n+Subproject commit b\n", False),
    ],
)
def test_what_is_trivial(text: str, trivial: bool) -> None:
    assert rules.read(f"Subject\n\n{text}").trivial is trivial


def test_line_numbers_over_several_hunks_and_a_cut() -> None:
    text = "\n".join(
        [
            "Some words before.",
            "diff --git a/a b.py b/a b.py",
            "--- a/a b.py",
            "+++ b/a b.py",
            "@@ -1,2 +1,3 @@",
            " one",
            "+eval(1)",
            "",
            "@@ -50 +51,2 @@",
            "+exec(2)",
            "\\ No newline at end of file",
            " fifty",
            'diff --git "a/q\\"t.py" "b/q\\"t.py"',
            "@@ -1,9 +1,9 @@",
            "+eval(3)",
            "[the rest of this file is not shown]",
            "+eval(4)",
            "</commit>",
            "+eval(5)",
        ]
    )
    lines = [(one.path, one.line) for one in rules.read(text).findings]
    assert lines == [("a b.py", 2), ("a b.py", 51), ('q\\"t.py', 1)]
    assert [file.path for file in parse(text)] == ["a b.py", 'q\\"t.py']


def test_findings_a_prompt_quotes_are_known_again() -> None:
    given = {"path": "a.py", "line": 3, "severity": "major", "message": "Why?"}
    prompt = f"Findings: {json.dumps([given, given])} and {{not json}} and {json.dumps({**given, 'severity': 'bad'})}"
    assert rules.read(prompt).findings == (Finding("quoted", "major", "a.py", 3, "Why?"),)


def test_tokens_are_counted_the_same_way_everywhere() -> None:
    assert [tokens.count(text) for text in ("", "word", "words", "a, b", "übergrößen", "x" * 400)] == [
        0,
        1,
        2,
        3,
        3,
        100,
    ]
    assert tokens.cut("one two, three", 3) == ("one two,", True)
    assert tokens.cut("one two", 3) == ("one two", False)
    assert tokens.boundaries("a b c d e", 2, 2) == [(2, 3), (4, 7)]
