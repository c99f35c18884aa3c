"""The embedded ClickHouse server, as clickhouse-connect and plain HTTP see it."""

import http.client
import signal
import socket
import subprocess
import threading
import urllib.parse
from base64 import b64encode
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import clickhouse_connect
import lz4.block  # type: ignore[import-untyped]  # ships no stubs
import pytest
import zstandard
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError, OperationalError

from backbeat.clickhouse import session
from backbeat.embedded.clickhouse_engine import split_insert
from tests.support.clickhouse import PASSWORD, Server, ask

BASIC = "Basic " + b64encode(f"tester:{PASSWORD}".encode()).decode()
COLUMNS = "a UInt32, s String, m Map(String, String), d Nullable(Decimal64(9)), t DateTime64(9, 'UTC')"
TABLE = f"CREATE TABLE t ({COLUMNS}) ENGINE = MergeTree ORDER BY a SETTINGS non_replicated_deduplication_window = 100"
ROW = [1, "it's\n`ok`", {"k": "v"}, Decimal("0.000000001"), datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)]


@pytest.fixture
def database(clickhouse_server: Server, empty_clickhouse: str) -> str:
    with session(clickhouse_server.url()) as client:
        client.command(f"CREATE DATABASE {urllib.parse.urlsplit(empty_clickhouse).path.strip('/')}")
    with session(empty_clickhouse) as client:
        client.command(TABLE)
    return empty_clickhouse


def http_request(
    server: Server, query: dict[str, str], body: bytes = b"", method: str = "POST", **headers: str
) -> tuple[int, str, http.client.HTTPMessage]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    given = {"Authorization": BASIC} | {name.replace("_", "-"): value for name, value in headers.items()}
    sent = {name: value for name, value in given.items() if value}
    connection.request(method, "/?" + urllib.parse.urlencode(query), body, sent)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text, answer.headers


@pytest.mark.parametrize("compress", ["lz4", "zstd", "gzip", False])
def test_rows_go_in_and_out_by_every_compression(database: str, compress: str | bool) -> None:
    client = clickhouse_connect.get_client(dsn=database, compress=compress, tz_mode="aware")
    client.insert("t", [ROW, [2, "", {}, None, ROW[4]]], column_names=["a", "s", "m", "d", "t"])
    answer = client.query("SELECT * FROM t ORDER BY a")
    assert list(map(list, answer.result_rows)) == [ROW, [2, "", {}, None, ROW[4]]]
    assert answer.column_names == ("a", "s", "m", "d", "t")
    with client.query_row_block_stream("SELECT number FROM numbers(200000)") as blocks:
        assert sum(len(block) for block in blocks) == 200_000
    client.close()


def test_parameters_commands_raw_inserts_and_data_frames(database: str) -> None:
    with session(database) as client:
        client.raw_insert("t", ["a", "s"], b'7,seven\n8,"e ight"\n', fmt="CSV")
        client.raw_insert("t", ["a"], zstandard.compress(b'{"a":9}\n'), fmt="JSONEachRow", compression="zstd")
        found = client.query(
            "SELECT s FROM t WHERE a >= {low:UInt32} AND s != {no:String} ORDER BY a", {"low": 7, "no": "it's"}
        )
        assert found.result_rows == [("seven",), ("e ight",), ("",)]
        assert client.command("SELECT count() FROM t") == 3
        assert client.query("SELECT a FROM t LIMIT 0").column_names == ("a",)
        assert client.query_df("SELECT a FROM t ORDER BY a")["a"].tolist() == [7, 8, 9]
        long = "x" * 50_000
        assert client.query("SELECT {long:String}", {"long": long}).result_rows == [(long,)]


def test_a_repeated_token_adds_nothing(database: str) -> None:
    with session(database) as client:
        for token in ("one", "one", "two"):
            client.insert("t", [[1, "same"]], ["a", "s"], settings={"insert_deduplication_token": token})
        assert client.command("SELECT count() FROM t") == 2


def test_settings_end_with_their_statement(clickhouse_server: Server) -> None:
    changed = http_request(clickhouse_server, {"query": "SELECT getSetting('max_threads')", "max_threads": "1"})
    after = http_request(clickhouse_server, {"query": "SELECT getSetting('max_threads') != 1"})
    assert (changed[1], after[1]) == ("1\n", "1\n")


@pytest.mark.parametrize(
    ("sql", "code", "status"),
    [
        ("SELECT * FROM nowhere", 60, 404),
        ("SELECT nothing", 47, 404),
        ("SELECT 1 FROM", 62, 400),
        ("INSERT INTO nowhere (a) FORMAT JSONEachRow\n{}", 60, 404),
        ("SELECT throwIf(1)", 395, 500),
    ],
)
def test_errors_are_clickhouses(clickhouse_server: Server, sql: str, code: int, status: int) -> None:
    found, text, headers = http_request(clickhouse_server, {}, sql.encode())
    assert (found, headers["X-ClickHouse-Exception-Code"]) == (status, str(code))
    assert text.startswith(f"Code: {code}. DB::Exception: ")
    assert "(version 2" in text
    client = clickhouse_connect.get_client(dsn=clickhouse_server.url())
    with pytest.raises(DatabaseError) as caught:
        client.command(sql)
    client.close()
    assert caught.value.code == code


def test_rows_that_do_not_parse_are_refused_whole(database: str) -> None:
    with session(database) as client:
        with pytest.raises(DatabaseError) as caught:
            client.raw_insert("t", ["a"], b'{"a":1}\n{"a":"x"}\n', fmt="JSONEachRow")
        assert caught.value.code == 27
        assert client.command("SELECT count() FROM t") == 0


def test_a_view_that_fails_fails_the_insert(database: str) -> None:
    """What is acknowledged reached every table; a fact that is missing for good would be seen by nobody."""
    with session(database) as client:
        client.command("CREATE TABLE facts (a UInt32) ENGINE = MergeTree ORDER BY a")
        client.command("CREATE MATERIALIZED VIEW mv TO facts AS SELECT a + throwIf(a = 13) AS a FROM t")
        client.insert("t", [[12, "x"]], ["a", "s"])
        inserts: list[Callable[[], object]] = [
            lambda: client.insert("t", [[13, "x"]], ["a", "s"]),
            lambda: client.raw_insert("t", ["a"], b'{"a":13}\n', fmt="JSONEachRow"),
            lambda: client.command("INSERT INTO t (a) VALUES (13)"),
        ]
        for insert in inserts:
            with pytest.raises(DatabaseError, match="while pushing to view") as caught:
                insert()
            assert caught.value.code == 395
        assert client.query("SELECT a FROM facts").result_rows == [(12,)]


def test_any_bytes_go_through_binary_formats(database: str) -> None:
    text = bytes(range(256)) + b"\n;\n\n-- ' ; SELECT 1;\n"
    size = bytes([len(text) % 128 + 128, len(text) // 128])
    with session(database) as client:
        rows = b"".join(number.to_bytes(4, "little") + size + text for number in range(500))
        client.raw_insert("t", ["a", "s"], rows, fmt="RowBinary", settings={"insert_deduplicate": 0})
        found = client.query("SELECT uniqExact(a), any(hex(s)), uniqExact(s) FROM t").first_row
    assert found == (500, text.hex().upper(), 1)


def test_get_only_reads(clickhouse_server: Server) -> None:
    statement = {"query": "CREATE TABLE default.written (a Int8) ENGINE = Memory"}
    _, text, _ = http_request(clickhouse_server, statement, method="GET")
    assert text.startswith("Code: 164.")
    _, text, _ = http_request(clickhouse_server, statement | {"readonly": "0"}, method="GET")
    assert text.startswith("Code: 164.")
    assert http_request(clickhouse_server, {"query": "SELECT 1"}, method="GET")[1] == "1\n"


def test_only_who_knows_the_password_is_let_in(clickhouse_server: Server) -> None:
    query = {"query": "SELECT 1"}
    status, text, headers = http_request(clickhouse_server, query, Authorization="")
    assert (status, headers["X-ClickHouse-Exception-Code"]) == (401, "194")
    assert headers["WWW-Authenticate"].startswith("Basic")
    wrong = "Basic " + b64encode(b"tester:guess").decode()
    logins: list[dict[str, Any]] = [
        {"Authorization": wrong},
        {"X_ClickHouse_User": "tester", "X_ClickHouse_Key": "guess"},
    ]
    for login in logins:
        status, text, headers = http_request(clickhouse_server, query, **login)
        assert (status, headers["X-ClickHouse-Exception-Code"]) == (403, "516")
        assert PASSWORD not in text
    named: dict[str, Any] = {"Authorization": "", "X_ClickHouse_User": "tester", "X_ClickHouse_Key": PASSWORD}
    assert http_request(clickhouse_server, query, **named)[:2] == (200, "1\n")
    with socket.create_connection(("127.0.0.1", clickhouse_server.port)) as raw:
        raw.sendall(b"GET /ping HTTP/1.0\r\n\r\n")
        assert raw.makefile("rb").read().endswith(b"Ok.\n")


def test_web_pages_and_other_hosts_do_not_reach_it(clickhouse_server: Server) -> None:
    assert http_request(clickhouse_server, {}, b"SELECT 1", Origin="https://example.com")[0] == 403
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", clickhouse_server.port))


def block(method: int, packed: bytes, plain: bytes) -> bytes:
    sizes = (len(packed) + 9).to_bytes(4, "little") + len(plain).to_bytes(4, "little")
    return bytes(16) + bytes([method]) + sizes + packed


def test_clickhouses_own_compressed_blocks_are_read(clickhouse_server: Server) -> None:
    parts = [b"SELECT ", b"4", b"2"]
    body = block(0x02, parts[0], parts[0])
    body += block(0x82, lz4.block.compress(parts[1], store_size=False), parts[1])
    body += block(0x90, zstandard.compress(parts[2]), parts[2])
    assert http_request(clickhouse_server, {"decompress": "1"}, body)[:2] == (200, "42\n")
    assert http_request(clickhouse_server, {"decompress": "1"}, body[:40])[1].startswith("Code: 271.")
    assert http_request(clickhouse_server, {"compress": "1"}, b"SELECT 1")[0] == 501
    for encoding in ("lz4", "zstd", "gzip", "deflate"):
        assert http_request(clickhouse_server, {}, b"SELECT 1", Content_Encoding=encoding)[1].startswith("Code: 271.")
    assert http_request(clickhouse_server, {}, b"SELECT 1", Content_Encoding="br")[0] == 501


@pytest.mark.parametrize(
    ("into", "settings", "name", "rows"),
    [
        ("INSERT INTO t ", "", "CSV", b"\n1\n"),
        ('insert into t (`FORMAT x`, "b") /* FORMAT y */ ', "", "CSV", b" 1"),
        ("INSERT INTO t ", "SETTINGS a = 'FORMAT y' ", "RowBinary", b"\n\n \x00"),
        ("-- INSERT\nINSERT INTO t ", "", "TSV", b""),
    ],
)
def test_statement_and_rows_are_told_apart(into: str, settings: str, name: str, rows: bytes) -> None:
    text = f"{into}{settings}FORMAT {name}".encode() + rows
    assert split_insert(text) == (into, settings, name, rows[1:])


@pytest.mark.parametrize(
    "text", [b"INSERT INTO t VALUES ('FORMAT CSV')", b"INSERT INTO t SELECT 1 FORMAT CSV", b"SELECT 1 FORMAT CSV", b""]
)
def test_other_statements_have_no_rows_behind_them(text: bytes) -> None:
    assert split_insert(text) is None


def test_many_clients_at_once(database: str) -> None:
    def work(number: int) -> int:
        with session(database) as client:
            for batch in range(5):
                client.insert("t", [[number * 100 + batch, "x"]] * 20, ["a", "s"])
                assert client.command("SELECT count() FROM t WHERE intDiv(a, 100) = " + str(number)) == 20 * (batch + 1)
        return 100

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(work, range(8))) == 800
    assert ask(database, "SELECT count() FROM t") == [(800,)]


def test_a_second_owner_is_told_who_the_first_is(clickhouse_server: Server) -> None:
    second = subprocess.run(clickhouse_server.command(port=0), capture_output=True, text=True, timeout=60)
    assert second.returncode == 5
    line = second.stderr.strip().splitlines()[-1]
    assert line.startswith(f"clickhouse: the ClickHouse directory {clickhouse_server.path} is held by process ")
    assert f" {clickhouse_server.process.pid} (" in line
    assert ask(clickhouse_server.url(), "SELECT 1") == [(1,)]


def test_a_taken_port_is_named(clickhouse_server: Server, tmp_path: Any) -> None:
    other = clickhouse_server.command(path=tmp_path / "other")
    second = subprocess.run(other, capture_output=True, text=True, timeout=60)
    assert second.returncode == 5
    assert f"port {clickhouse_server.port} on 127.0.0.1 cannot be taken" in second.stderr
    assert "Traceback" not in second.stderr


def test_sigterm_lets_a_statement_end(private_clickhouse: Server) -> None:
    answers: list[Any] = []
    slow = "SELECT sum(sleepEachRow(0.02)) FROM numbers(250) SETTINGS max_block_size = 1"
    reader = threading.Thread(target=lambda: answers.extend(ask(private_clickhouse.url(), slow)))
    reader.start()
    watch = "SELECT count() FROM system.processes WHERE query LIKE '%sleepEachRow(0.02)%' AND query NOT LIKE '%watch%'"
    with session(private_clickhouse.url()) as client:
        while not client.command(watch + " -- watch"):
            pass
        private_clickhouse.process.send_signal(signal.SIGTERM)
    reader.join()
    assert answers == [(0,)]
    assert private_clickhouse.stop() == 0


def test_what_was_acknowledged_survives_kill_9(private_clickhouse: Server) -> None:
    acknowledged = 0

    def insert_until_the_end(client: Client) -> None:
        nonlocal acknowledged
        while True:
            client.insert("t", [[acknowledged, "x"]] * 100, ["a", "s"], settings={"async_insert": 0})
            acknowledged += 1
            if acknowledged == 3:
                killer.start()

    killer = threading.Timer(0.05, private_clickhouse.process.kill)
    with session(private_clickhouse.url()) as client:
        client.command(TABLE)
        with pytest.raises(OperationalError):
            insert_until_the_end(client)
    killer.join()
    private_clickhouse.kill()
    private_clickhouse.start()
    ((kept, blocks),) = ask(private_clickhouse.url(), "SELECT uniqExact(a), count() FROM t")
    assert acknowledged >= 3
    assert kept in {acknowledged, acknowledged + 1}
    assert blocks == kept * 100
