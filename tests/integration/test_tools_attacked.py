"""What a model may try with its tools, case by case: each is refused, and nothing was reached."""

import asyncio
import contextlib
import gzip
import os
import socket
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from backbeat.tools.addresses import objection
from backbeat.tools.files import Written, files
from backbeat.tools.http import Page, http
from backbeat.tools.sql import Question, sql
from shared.definitions import Tool
from shared.execution.effects import EffectRefusedError
from shared.execution.tools import ToolError
from tests.support.databases import Database

LOOPBACK = ("127.0.0.1/32",)


@asynccontextmanager
async def site(*pieces: bytes, pause: float = 0.0) -> AsyncIterator[tuple[int, list[bytes]]]:
    """A server that answers every request with these bytes; its port, and the heads of what it was asked."""
    asked: list[bytes] = []
    answering: set[asyncio.Task[Any] | None] = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answering.add(asyncio.current_task())
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            asked.append(await reader.readuntil(b"\r\n\r\n"))
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(pause)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], asked
        for task in answering:
            if task:
                task.cancel()
        await asyncio.gather(*(task for task in answering if task), return_exceptions=True)


def page(body: bytes = b"hello", *headers: str) -> bytes:
    lines = ["HTTP/1.1 200 OK", f"content-length: {len(body)}", "content-type: text/plain", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def to(url: str) -> bytes:
    return f"HTTP/1.1 302 Found\r\nlocation: {url}\r\ncontent-length: 0\r\n\r\n".encode()


def resolving(*answers: str) -> Callable[[str, int], Any]:
    """A resolver that gives each asking the next address, and the last one for ever."""
    left = list(answers)

    async def resolve(_host: str, _port: int) -> list[str]:
        return [left.pop(0) if len(left) > 1 else left[0]]

    return resolve


async def ask(tool: Tool, args: Any) -> Any:
    assert tool.call
    async with asyncio.timeout(tool.timeout):
        return await tool.call(args)


def fetcher(port: int, **options: Any) -> Tool:
    given: dict[str, Any] = {
        "hosts": ["good.test"],
        "ports": [port],
        "inside": LOOPBACK,
        "resolver": resolving("127.0.0.1"),
    }
    return http(**(given | options))


async def test_a_page_is_read_from_the_address_that_was_judged() -> None:
    async with site(page(b"hello \xc3\xa9")) as (port, asked):
        found = await ask(fetcher(port), Page(url=f"http://good.test:{port}/a?b=c#d"))
    assert (found["status"], found["text"]) == (200, "hello é")
    assert asked[0].startswith(b"GET /a?b=c HTTP/1.1\r\n")
    assert f"host: good.test:{port}".encode() in asked[0].lower()


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.0.0.1", "172.16.5.5", "192.168.1.1", "169.254.169.254", "100.100.100.200", "168.63.129.16",
        "0.0.0.0", "192.0.0.192", "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "::1", "::", "fe80::1",
        "fe80::1%eth0", "fd00:ec2::254", "fc00::1", "ff02::1", "::ffff:169.254.169.254", "::ffff:a9fe:a9fe",
        "::169.254.169.254", "64:ff9b::a9fe:a9fe", "64:ff9b::8.8.8.8", "64:ff9b:1::a9fe:a9fe", "2002:a9fe:a9fe::1",
        "2001::a9fe:a9fe", "2001:db8::1", "fec0::1", "rubbish",
    ],
)  # fmt: skip
async def test_an_address_that_is_not_public_is_refused(address: str) -> None:
    assert objection(address)
    with pytest.raises(ToolError, match="which"):
        await ask(http(hosts=["good.test"], resolver=resolving(address)), Page(url="http://good.test/"))


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "::ffff:8.8.8.8"])
def test_a_public_address_is_not(address: str) -> None:
    assert objection(address) is None


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "2130706433", "0x7f000001", "0177.0.0.1", "127.1", "[::1]", "[::ffff:127.0.0.1]", "localhost", "0"],
)
async def test_no_spelling_of_an_inner_address_helps(host: str) -> None:
    """With the system's own resolver, and every host on the list."""
    async with site(page()) as (port, asked):
        with pytest.raises(ToolError, match=r"which|no address"):
            await ask(http(hosts=["*"], ports=[port]), Page(url=f"http://{host}:{port}/"))
    assert asked == []


@pytest.mark.parametrize(
    "there",
    ["http://169.254.169.254/latest/meta-data/", "http://[::ffff:a9fe:a9fe]/", "http://2852039166/", "http://evil.test/",
     "file:///etc/passwd", "gopher://good.test/", "http://user@good.test/", "//169.254.169.254/"],
)  # fmt: skip
async def test_a_redirect_is_judged_like_the_first_request(there: str) -> None:
    async with site(to(there)) as (port, asked):
        tool = fetcher(port, hosts=["good.test", "169.254.169.254", "2852039166", "::ffff:a9fe:a9fe"], ports=[port, 80])

        async def resolve(host: str, _port: int) -> list[str]:
            return ["127.0.0.1" if host == "good.test" else "169.254.169.254"]

        tool = http(hosts=["good.test", "169.254.169.254", "2852039166", "::ffff:a9fe:a9fe"], ports=[port, 80],
                    inside=LOOPBACK, resolver=resolve)  # fmt: skip
        with pytest.raises(ToolError):
            await ask(tool, Page(url=f"http://good.test:{port}/"))
    assert len(asked) == 1


async def test_redirects_end() -> None:
    async with site(to("/again")) as (port, asked):
        with pytest.raises(ToolError, match="more than 5 redirects"):
            await ask(fetcher(port), Page(url=f"http://good.test:{port}/"))
    assert len(asked) == 6


async def test_a_name_that_changes_its_mind_gains_nothing() -> None:
    """DNS rebinding: public when it is judged, inner when it is connected to; here there is no second look."""
    async with site(page()) as (port, asked):
        looks: list[str] = []

        async def resolve(host: str, _port: int) -> list[str]:
            looks.append(host)
            return ["127.0.0.1" if len(looks) == 1 else "169.254.169.254"]

        found = await ask(fetcher(port, resolver=resolve), Page(url=f"http://good.test:{port}/"))
        assert (found["text"], looks, len(asked)) == ("hello", ["good.test"], 1)
        with pytest.raises(ToolError, match=r"169\.254\.169\.254, which"):
            await ask(fetcher(port, resolver=resolve), Page(url=f"http://good.test:{port}/"))


async def test_one_inner_address_among_public_ones_is_enough_to_refuse() -> None:
    async def resolve(_host: str, _port: int) -> list[str]:
        return ["8.8.8.8", "10.0.0.1"]

    with pytest.raises(ToolError, match=r"10\.0\.0\.1"):
        await ask(http(hosts=["good.test"], resolver=resolve), Page(url="http://good.test/"))


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://evil.test/", "not on the list"),
        ("http://good.test.evil.test/", "not on the list"),
        ("http://evilgood.test/", "not on the list"),
        ("http://good.test:22/", "port 22"),
        ("http://good.test:99999/", "is no address"),
        ("ftp://good.test/", "not an http address"),
        ("http:///etc/passwd", "not an http address"),
        ("http://good.test\\@evil.test/", "not an http address|not on the list"),
    ],
)
async def test_what_is_not_on_the_list_is_not_even_resolved(url: str, why: str) -> None:
    async def resolve(_host: str, _port: int) -> list[str]:
        raise AssertionError("resolved")

    with pytest.raises(ToolError, match=why):
        await ask(http(hosts=["good.test", "*.good.test"], resolver=resolve), Page(url=url))


@pytest.mark.parametrize(
    "answer",
    [
        page(b"x" * 20_000),
        page(gzip.compress(b"x" * 50_000_000), "content-encoding: gzip"),
        page(zlib.compress(b"x" * 50_000_000), "content-encoding: deflate"),
        page(gzip.compress(b"x" * 20_000), "content-encoding: gzip"),
        b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 20_000,
    ],
)
async def test_a_huge_body_is_refused_however_it_is_packed(answer: bytes) -> None:
    async with site(answer) as (port, _):
        with pytest.raises(ToolError, match="larger than 10000 bytes"):
            await ask(fetcher(port, max_bytes=10_000), Page(url=f"http://good.test:{port}/"))


@pytest.mark.parametrize(
    ("coding", "why"), [("br", "nobody asked"), ("gzip, gzip", "nobody asked"), ("gzip", "unpack")]
)
async def test_a_body_packed_otherwise_is_refused(coding: str, why: str) -> None:
    async with site(page(b"rubbish", f"content-encoding: {coding}")) as (port, _):
        with pytest.raises(ToolError, match=why):
            await ask(fetcher(port), Page(url=f"http://good.test:{port}/"))


async def test_a_slow_body_is_given_up() -> None:
    drip = [b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n", *[b"x"] * 1000]
    async with site(*drip, pause=0.05) as (port, _):
        with pytest.raises(TimeoutError):
            await ask(fetcher(port, timeout=0.3), Page(url=f"http://good.test:{port}/"))


READER = "TOOL_READER_URL"


@pytest.fixture
def reader(database: Database, monkeypatch: pytest.MonkeyPatch) -> Tool:
    """The tool, on a login that may read one table; `database` has the table."""
    role = f"reader_{database.name}"
    database.sql("CREATE TABLE public.orders AS SELECT n, repeat('x', 10) AS note FROM generate_series(1, 1000) n")
    database.sql(f"CREATE ROLE {role} LOGIN PASSWORD 'test'")
    database.sql(f"GRANT SELECT ON public.orders TO {role}")
    login = psycopg.conninfo.make_conninfo(database.worker_url, user=role, password="test")
    monkeypatch.setenv(READER, login)
    return sql(url=READER, description="Orders.", max_rows=5, max_bytes=5000, timeout=1.0)


async def test_a_question_is_answered_with_few_rows(reader: Tool) -> None:
    found = await ask(reader, Question(query="SELECT n, note FROM orders WHERE n < 3 ORDER BY n -- two\n;"))
    assert found == {"rows": [{"n": 1, "note": "x" * 10}, {"n": 2, "note": "x" * 10}], "more": False}
    found = await ask(reader, Question(query="WITH few AS (SELECT n FROM orders ORDER BY n) SELECT * FROM few"))
    assert (len(found["rows"]), found["more"]) == (5, True)
    found = await ask(reader, Question(query="SELECT repeat('x', 2000000) AS big"))
    assert found == {"rows": [], "more": True}


@pytest.mark.parametrize(
    "query",
    [
        "COPY orders TO PROGRAM 'touch /tmp/owned'",
        "COPY (SELECT 1) TO '/tmp/owned'",
        "SELECT 1; DROP TABLE orders",
        "SELECT 1) AS q) AS r; DROP TABLE orders; --",
        "SELECT 1; COMMIT; CREATE TABLE owned ()",
        "INSERT INTO orders VALUES (0, 'owned') RETURNING n",
        "WITH gone AS (DELETE FROM orders RETURNING n) SELECT * FROM gone",
        "UPDATE orders SET note = 'owned'",
        "SELECT n INTO owned FROM orders",
        "SELECT n FROM orders FOR UPDATE",
        "CREATE TABLE owned AS SELECT 1",
        "DO $$ BEGIN EXECUTE 'DROP TABLE orders'; END $$",
        "SET ROLE postgres",
        "SET TRANSACTION READ WRITE",
        "SELECT set_config('transaction_read_only', 'off', false)",
        "SELECT pg_read_file('/etc/passwd')",
        "SELECT lo_import('/etc/passwd')",
        "SELECT * FROM pg_authid",
        "SELECT * FROM backbeat.api_tokens",
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'postgres'",
        "LISTEN owned",
        "SELECT nextval('owned')",
    ],
)
async def test_what_is_no_question_is_refused(database: Database, reader: Tool, query: str) -> None:
    with pytest.raises(ToolError, match="the database refuses"):
        await ask(reader, Question(query=query))
    assert database.sql("SELECT count(*), min(n), max(note) FROM public.orders") == [(1000, 1, "x" * 10)]
    assert database.sql("SELECT to_regclass('owned')") == [(None,)]


async def test_a_question_that_takes_long_is_ended(reader: Tool) -> None:
    with pytest.raises(ToolError, match="longer than 1 seconds"):
        await ask(reader, Question(query="SELECT pg_sleep(60)"))


@pytest.mark.parametrize("grant", ["INSERT ON public.orders", "CREATE ON DATABASE {name}"])
async def test_a_login_that_may_do_more_is_not_used(database: Database, reader: Tool, grant: str) -> None:
    database.sql(f"GRANT {grant.format(name=database.name)} TO reader_{database.name}")
    with pytest.raises(ToolError, match="the login of this tool may"):
        await ask(reader, Question(query="SELECT 1"))


@pytest.fixture
def box(tmp_path: Path) -> Path:
    """A root with a file in it, beside a secret."""
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (root / "a.txt").write_text("hello")
    (root / "sub" / "b.txt").write_text("there")
    (tmp_path / "secret").write_text("secret")
    (root / "link").symlink_to(tmp_path / "secret")
    (root / "sublink").symlink_to(tmp_path)
    os.link(tmp_path / "secret", root / "hard")
    os.mkfifo(root / "pipe")
    with socket.socket(socket.AF_UNIX) as plug:
        plug.bind(str(root / "plug"))
    return root


def by_name(tools: list[Tool]) -> dict[str, Tool]:
    return {tool.name: tool for tool in tools}


async def test_files_are_listed_and_read(box: Path) -> None:
    tools = by_name(files(box))
    assert list(tools) == ["list_files", "read_file"]
    listed = await ask(tools["list_files"], tools["list_files"].args())
    assert [one["path"] for one in listed] == ["a.txt", "sub"], "links, pipes and what has two names do not show"
    assert await ask(tools["read_file"], tools["read_file"].args(path="sub/b.txt")) == "there"


BAD = ["../secret", "/etc/passwd", "sub/../../secret", "link", "sublink/secret", "hard", "pipe", "plug", "./a.txt", "",
       "sub//b.txt", "a.txt/x", "sub", "a\0b", "/".join("x" * 30), "no.txt", "/dev/zero", "\ud800"]  # fmt: skip


@pytest.mark.parametrize("path", BAD)
async def test_no_path_leads_out_or_to_what_is_no_file(box: Path, path: str) -> None:
    tool = by_name(files(box))["read_file"]
    with pytest.raises(ToolError):
        await ask(tool, tool.args.model_construct(path=path))


@pytest.mark.parametrize("path", [path for path in BAD if path != "no.txt"])
async def test_nothing_is_written_where_nothing_may_be_read(box: Path, path: str) -> None:
    effect = by_name(files(box, write=True))["write_file"].effect
    assert effect
    before = sorted(box.parent.rglob("*"))
    with pytest.raises(EffectRefusedError):
        await effect.perform({"path": path, "text": "owned"}, "m")
    assert (box.parent / "secret").read_text() == "secret"
    assert sorted(box.parent.rglob("*")) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes devices")
async def test_a_device_is_not_read(box: Path) -> None:
    try:
        os.mknod(box / "zero", 0o20666, os.makedev(1, 5))
    except OSError:
        pytest.skip("no devices can be made here")
    tool = by_name(files(box))["read_file"]
    with pytest.raises(ToolError, match="no regular file"):
        await ask(tool, tool.args(path="zero"))


async def test_writes_are_bounded_and_can_be_looked_up(box: Path) -> None:
    effect = by_name(files(box, write=True, max_bytes=100, quota=150))["write_file"].effect
    assert effect
    assert effect.read_back
    assert effect.request is Written
    request = {"path": "new/c.txt", "text": "x" * 90}
    assert await effect.read_back(request, "m") is None
    assert await effect.perform(request, "m") == {"written": "new/c.txt", "bytes": 90}
    assert await effect.read_back(request, "m") == {"written": "new/c.txt", "bytes": 90}
    assert await effect.perform(request, "m"), "what replaces itself takes no more room"
    for text, why in (("x" * 101, "larger than 100"), ("x" * 60, "more than 150 bytes")):
        with pytest.raises(EffectRefusedError, match=why):
            await effect.perform({"path": "d.txt", "text": text}, "n")
    assert [name for _, _, names in os.walk(box) for name in names if name.endswith(".part")] == []
