"""Whatever is in a history, its commits can be read, and what is not shown is said."""

from pathlib import Path

import pytest

from examples.code_review import history
from examples.code_review.history import Selection, last_commits
from examples.code_review.models import Commit
from shared.errors import InputError
from shared.ids import payload_hash
from tests.support.histories import History


@pytest.fixture
def repository(tmp_path: Path) -> History:
    return History(tmp_path / "a shop")


def last(repository: History) -> Commit:
    return last_commits(repository.path, 1).commits[0]


def test_the_last_commits_oldest_first(repository: History) -> None:
    hashes = [repository.commit(f"Commit {number}", {"a.txt": f"{number}\n"}) for number in range(5)]
    selection = last_commits(repository.path, 3)
    assert [commit.sha for commit in selection.commits] == hashes[2:]
    assert [commit.number for commit in selection.commits] == [3, 4, 5]
    assert selection.notes == ()
    commit = selection.commits[-1]
    assert (commit.repository, commit.subject, commit.notes) == ("local/a-shop", "Commit 4", ())
    assert commit.diff.endswith("@@ -1 +1 @@\n-3\n+4\n")
    assert commit.committed_at.isoformat() == "2026-01-05T09:00:00+00:00"


def test_numbers_stay_as_history_grows(repository: History) -> None:
    repository.commit("One")
    repository.commit("Two")
    before = last(repository)
    repository.commit("Three")
    assert last_commits(repository.path, 2).commits[0] == before


def test_the_first_commit_is_all_it_adds(repository: History) -> None:
    repository.commit("First", {"a.py": "x = 1\n"})
    assert "new file mode" in last(repository).diff
    assert "+x = 1" in last(repository).diff


def test_a_merge_is_what_it_brought_to_the_line(repository: History) -> None:
    repository.commit("Base", {"a.txt": "a\n"})
    repository.git("checkout", "--quiet", "-b", "side")
    repository.commit("Side 1", {"side.txt": "s\n"})
    repository.commit("Side 2", {"side.txt": "s\nt\n"})
    repository.git("checkout", "--quiet", "main")
    repository.commit("Main", {"main.txt": "m\n"})
    repository.git("merge", "--quiet", "--no-ff", "-m", "Merge side", "side")
    commits = last_commits(repository.path, 10).commits
    assert [commit.subject for commit in commits] == ["Base", "Main", "Merge side"]
    assert "side.txt" in commits[-1].diff
    assert "main.txt" not in commits[-1].diff
    assert commits[-1].notes == ("a merge of 2 lines, shown against the first",)


def test_an_empty_commit_has_no_diff(repository: History) -> None:
    repository.commit("Nothing")
    assert (last(repository).diff, last(repository).notes) == ("", ())


def test_a_rename_shows_only_what_changed(repository: History) -> None:
    body = "".join(f"line {number}\n" for number in range(30))
    repository.commit("Old", {"old name.py": body})
    repository.commit("New", {"old name.py": None, "new name.py": body + "one more\n"})
    diff = last(repository).diff
    assert "rename to new name.py" in diff
    assert [line for line in diff.splitlines() if line.startswith(("+", "-")) and line[1:2] not in "+-"] == [
        "+one more"
    ]


def test_a_binary_file_is_named_not_shown(repository: History) -> None:
    repository.commit("Binary", {"logo.png": b"\x89PNG\0\1\2" * 100})
    assert "Binary files /dev/null and b/logo.png differ" in last(repository).diff
    assert last(repository).notes == ("logo.png: binary, not shown",)


def test_text_that_is_not_utf8(repository: History) -> None:
    repository.commit(
        "Grüße", {"latin.py": "name = 'Müller'\n".encode("latin-1"), "fine.py": "name = 'Müller \ufffd'\n"}
    )
    commit = last(repository)
    assert "+name = 'M\ufffdller'" in commit.diff
    assert "+name = 'Müller \ufffd'" in commit.diff
    assert commit.notes == ("latin.py: not UTF-8 throughout",)
    payload_hash(commit.model_dump(mode="json"))


def test_a_late_nul_is_text_and_cannot_reach_postgres(repository: History) -> None:
    repository.commit("Nul", {"a.txt": b"fine\n" * 2_000 + b"a\0b\n"})
    commit = last(repository)
    assert "\0" not in commit.model_dump_json()
    assert "+a\ufffdb" in commit.diff


@pytest.mark.parametrize("attributes", ["binary", "-diff", "-text -diff linguist-generated", "diff=hidden"])
@pytest.mark.parametrize("where", [".gitattributes", ".git/info/attributes"])
def test_attributes_hide_no_text(repository: History, attributes: str, where: str) -> None:
    """Bytes decide what is binary: whoever writes the commit also writes its attributes."""
    repository.git("config", "diff.hidden.binary", "true")
    (repository.path / where).parent.mkdir(exist_ok=True)
    (repository.path / where).write_text(f"*.py {attributes}\n*.png diff\n", encoding="utf-8")
    repository.commit("Hide", {"a.py": "x = eval('1')\n", "logo.png": b"\x89PNG\0\1\2"})
    commit = last(repository)
    assert "+x = eval('1')" in commit.diff
    assert commit.notes == ("logo.png: binary, not shown",)


def test_what_is_shown_whole_says_so_and_nothing_else_does(repository: History, tmp_path: Path) -> None:
    repository.commit("Whole", {"a.py": "x = 1\n"})
    assert last(repository).complete
    for name, content in (("b", b"\0\1"), ("long.py", "x" * 500), ("huge.py", "y = 1\n" * 5_000), ("l.py", b"\xff")):
        repository.commit("Not whole", {name: content})
        assert not last(repository).complete, name
    repository.commit("Essay\n\n" + "word " * 5_000, {"a.py": "x = 2\n"})
    assert not last(repository).complete
    assert last(repository).notes == ("the message is cut after 20000 characters",)
    other = History(tmp_path / "other")
    other.commit("One", {"x": "1"})
    repository.git("submodule", "--quiet", "add", str(other.path), "lib")
    repository.git("config", "--file", ".gitmodules", "submodule.lib.ignore", "all")
    repository.commit("Add lib")
    assert "Subproject commit" in last(repository).diff
    assert last(repository).notes == ("lib: a submodule, its content is not shown",)
    assert not last(repository).complete


def test_a_merge_may_be_whole(repository: History) -> None:
    repository.commit("Base")
    repository.git("checkout", "--quiet", "-b", "side")
    repository.commit("Side", {"side.txt": "s\n"})
    repository.git("checkout", "--quiet", "main")
    repository.git("merge", "--quiet", "--no-ff", "-m", "Merge side", "side")
    assert last(repository).notes
    assert last(repository).complete


@pytest.mark.parametrize(
    ("date", "shown"),
    [
        ("1700000000 +9999", "2023-11-14T22:13:20+00:00"),
        ("-5 +0000", "1970-01-01T00:00:00+00:00"),
        ("-62167219200 +0000", "1970-01-01T00:00:00+00:00"),  # the year 0
        ("1700000000", "1970-01-01T00:00:00+00:00"),  # no time zone
        ("yesterday +0000", "1970-01-01T00:00:00+00:00"),
        ("", "1970-01-01T00:00:00+00:00"),
        ("9" * 5_000 + " +0000", "1970-01-01T00:00:00+00:00"),
        ("253402300800 +0000", "2199-12-31T23:59:59+00:00"),
        ("18446744073709551615 +0000", "2199-12-31T23:59:59+00:00"),
    ],
)
def test_whatever_date_a_commit_claims(repository: History, date: str, shown: str) -> None:
    tree = repository.git("write-tree")
    text = f"tree {tree}\nauthor A <a@b> {date}\ncommitter A <a@b> {date}\n\nOdd\n"
    (repository.path / "commit").write_text(text, encoding="utf-8")
    sha = repository.git("hash-object", "-t", "commit", "-w", "--literally", "commit")
    repository.git("update-ref", "refs/heads/main", sha)
    commit = last(repository)
    assert commit.committed_at.isoformat() == shown
    assert bool(commit.notes) is not shown.startswith("2023")
    assert commit.complete


@pytest.mark.parametrize("name", ["..git", ".", "ä" * 5, "x" * 200, ".git", "a shop, #7", "two\nlines"])
def test_any_directory_gives_a_repository_name_that_git_hub_could_have(tmp_path: Path, name: str) -> None:
    repository = History(tmp_path / "there" / name)
    repository.commit("One")
    assert last(repository).repository.startswith("local/")


def test_replaced_objects_are_not_believed(repository: History) -> None:
    shown = repository.commit("Shown", {"a.py": "x = 1\n"})
    other = repository.commit("Other", {"a.py": "x = 2\n"})
    repository.git("replace", other, shown)
    assert "+x = 2" in last(repository).diff


def test_nothing_is_fetched(repository: History, tmp_path: Path) -> None:
    """A partial clone names a command that would fetch what is missing; its blobs stay missing."""
    repository.commit("One", {"a.py": "x = 1\n"})
    repository.git("config", "uploadpack.allowFilter", "true")
    clone = tmp_path / "clone"
    repository.git("clone", "--quiet", "--bare", "--filter=blob:none", f"file://{repository.path}", str(clone))
    trap = tmp_path / "trap.sh"
    trap.write_text(f"#!/bin/sh\ntouch '{tmp_path}/sprung'\n", encoding="utf-8")
    trap.chmod(0o755)
    for key, value in (("remote.origin.uploadpack", str(trap)), ("protocol.file.allow", "always")):
        repository.git("-C", str(clone), "config", key, value)
    with pytest.raises(InputError, match="partial clone") as refused:
        last_commits(clone, 1)
    assert refused.value.fix
    assert not (tmp_path / "sprung").exists()


def test_a_message_in_another_encoding_and_with_control_characters(repository: History) -> None:
    repository.git("config", "i18n.logOutputEncoding", "latin1")
    message = repository.path / "message"
    message.write_bytes("Größe\x01\n\nGrößer\n".encode("latin-1"))
    repository.git("-c", "i18n.commitEncoding=latin1", "commit", "--quiet", "--allow-empty", "--file", str(message))
    assert (last(repository).subject, last(repository).message) == ("Größe\x01", "Größe\x01\n\nGrößer")


def test_names_git_would_quote(repository: History) -> None:
    repository.commit("Names", {'a "b" ä.py': "x = eval('1')\n"})
    assert "+x = eval('1')" in last(repository).diff


def test_a_huge_line_and_a_huge_file_are_cut(repository: History) -> None:
    repository.commit("Long", {"long.js": "x" * 10_000 + "\n", "many.py": "y = 1\n" * 20_000})
    commit = last(repository)
    assert max(map(len, commit.diff.splitlines())) <= history.LINE_LIMIT + 1
    assert len(commit.diff) < history.FILE_LIMIT + 2_000
    assert "[the rest of this file is not shown]" in commit.diff
    assert commit.notes[0] == "long.js: lines cut after 400 characters"
    assert "many.py" in commit.notes[1]
    assert "lines not shown" in commit.notes[1]


def test_a_huge_commit_leaves_files_out_and_says_how_many(repository: History) -> None:
    repository.commit("Wide", {f"f{number:02}.py": "z = 1\n" * 2_500 for number in range(10)})
    commit = last(repository)
    assert len(commit.diff) <= history.COMMIT_LIMIT
    shown = commit.diff.count("diff --git")
    assert f"{10 - shown} more file(s) are not shown: the commit is longer than 60000 characters" in commit.notes
    assert 0 < shown < 10


def test_reading_stops(repository: History, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "READ_LIMIT", 5_000)
    repository.commit("Big", {"a.py": "a = 1\n" * 100, "b.py": "b = 1\n" * 50_000})
    commit = last(repository)
    assert "reading stopped after 5000 bytes" in commit.notes
    assert "+a = 1" in commit.diff
    assert len(commit.diff) <= 5_000


def test_many_notes_are_counted(repository: History) -> None:
    repository.commit("Icons", {f"{number}.bin": b"\0\1" for number in range(50)})
    assert len(last(repository).notes) == history.MOST_NOTES + 1
    assert last(repository).notes[-1] == "and 30 notes more"


def test_a_submodule_is_two_hashes(repository: History, tmp_path: Path) -> None:
    other = History(tmp_path / "other")
    first = other.commit("One", {"x": "1"})
    repository.git("submodule", "--quiet", "add", str(other.path), "lib")
    repository.commit("Add lib")
    second = other.commit("Two", {"x": "2"})
    repository.git("-C", "lib", "fetch", "--quiet")
    repository.git("-C", "lib", "checkout", "--quiet", second)
    repository.commit("Move lib")
    assert f"-Subproject commit {first}\n+Subproject commit {second}" in last(repository).diff


def test_what_the_repository_configures_is_not_run(repository: History, tmp_path: Path) -> None:
    trap = tmp_path / "trap.sh"
    trap.write_text(f"#!/bin/sh\ntouch '{tmp_path}/sprung'\n", encoding="utf-8")
    trap.chmod(0o755)
    repository.commit("Base", {".gitattributes": "*.py diff=trap\n", "a.py": "1\n"})
    repository.commit("Change", {"a.py": "2\n"})
    for key in ("diff.external", "diff.trap.command", "diff.trap.textconv", "core.fsmonitor", "core.pager"):
        repository.git("config", key, str(trap))
    repository.git("config", "log.showSignature", "true")
    repository.git("config", "gpg.program", str(trap))
    assert "+2" in last(repository).diff
    assert not (tmp_path / "sprung").exists()


def test_git_variables_of_a_hook_do_not_redirect(
    repository: History, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = History(tmp_path / "other")
    other.commit("Other")
    sha = repository.commit("Mine")
    monkeypatch.setenv("GIT_DIR", str(other.path / ".git"))
    assert last(repository).sha == sha


def test_a_shallow_clone_leaves_its_oldest_out(repository: History, tmp_path: Path) -> None:
    hashes = [repository.commit(f"Commit {number}", {"a.txt": f"{number}\n"}) for number in range(5)]
    clone = tmp_path / "clone"
    repository.git("clone", "--quiet", "--depth=3", f"file://{repository.path}", str(clone))
    selection = last_commits(clone, 5)
    assert [commit.sha for commit in selection.commits] == hashes[3:]
    assert selection.notes == (f"{clone} is a shallow clone: its oldest commits are left out",)


def test_a_bare_repository_and_a_detached_head(repository: History, tmp_path: Path) -> None:
    first = repository.commit("One")
    repository.commit("Two")
    bare = tmp_path / "shop.git"
    repository.git("clone", "--quiet", "--bare", str(repository.path), str(bare))
    assert [commit.repository for commit in last_commits(bare, 5).commits] == ["local/shop"] * 2
    repository.git("checkout", "--quiet", first)
    assert last(repository).sha == first


@pytest.mark.parametrize("name", ["nothing", "file", "empty", "inside"])
def test_a_path_that_is_no_repository(repository: History, tmp_path: Path, name: str) -> None:
    repository.commit("One", {"inside/a.txt": "a"})
    (tmp_path / "file").write_text("x", encoding="utf-8")
    (tmp_path / "empty").mkdir()
    path = repository.path / "inside" if name == "inside" else tmp_path / name
    with pytest.raises(InputError) as refused:
        last_commits(path, 3)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)
    assert refused.value.fix


def test_a_repository_without_commits_says_so(repository: History) -> None:
    assert last_commits(repository.path, 3) == Selection((), (f"{repository.path} has no commit yet",))
