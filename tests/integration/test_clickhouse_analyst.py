"""The embedded ClickHouse's analyst, what ends a statement before its time, and sessions."""

import http.client
import threading
import time
import urllib.parse
from pathlib import Path
from typing import Any

import clickhouse_connect
import pytest
import zstandard
from clickhouse_connect.driver.exceptions import DatabaseError

from backbeat.clickhouse import session
from tests.support.clickhouse import ANALYST_PASSWORD, PASSWORD, Server, ask

LONG = "SELECT count() FROM numbers(1000000000) WHERE NOT ignore(repeat(toString(number), 300))"


@pytest.fixture
def database(clickhouse_server: Server, empty_clickhouse: str) -> str:
    """A database with one table `t` of a thousand rows; its name."""
    name = urllib.parse.urlsplit(empty_clickhouse).path.strip("/")
    with session(clickhouse_server.url()) as client:
        client.command(f"CREATE DATABASE {name}")
        client.command(f"CREATE TABLE {name}.t (a UInt32, s String) ENGINE = MergeTree ORDER BY a")
        client.command(f"INSERT INTO {name}.t SELECT number, toString(number) FROM numbers(1000)")
    return name


def send(server: Server, query: dict[str, str], body: bytes, who: str = "analyst", **headers: str) -> tuple[int, str]:
    connection = open_request(server, query, body, who, **headers)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return int(answer.getheader("X-ClickHouse-Exception-Code") or 0), text


def open_request(
    server: Server, query: dict[str, str], body: bytes, who: str, **headers: str
) -> http.client.HTTPConnection:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=15)
    key = ANALYST_PASSWORD if who == "analyst" else PASSWORD
    login = {"X-ClickHouse-User": who, "X-ClickHouse-Key": key}
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request("POST", "/?" + urllib.parse.urlencode(query), body, login | given)
    return connection


def test_an_analyst_reads_with_clickhouse_connect(clickhouse_server: Server, database: str) -> None:
    client = clickhouse_connect.get_client(dsn=clickhouse_server.analyst_url(database), compress="zstd")
    assert client.query("SELECT max(a) FROM t WHERE s != {no:String}", {"no": "9'\n\\9"}).result_rows == [(999,)]
    assert client.query_df("SELECT a FROM t ORDER BY a LIMIT 2")["a"].tolist() == [0, 1]
    assert client.query_arrow("SELECT a FROM t").num_rows == 1000
    with client.query_row_block_stream("SELECT number FROM numbers(200000)") as blocks:
        assert sum(len(block) for block in blocks) == 200_000
    assert client.command("SELECT currentDatabase() -- which") == database
    tables = client.query("SHOW TABLES").result_rows
    assert tables == client.query("SELECT name FROM system.tables WHERE database = currentDatabase()").result_rows
    assert client.query("SELECT s FROM {t:Identifier} WHERE a IN (SELECT 3)", {"t": "t"}).result_rows == [("3",)]
    assert client.query("DESCRIBE TABLE t").result_rows[0][:2] == ("a", "UInt32")
    assert client.query("EXPLAIN SELECT 1").row_count
    client.close()


def forbidden(database: str, secret: Path, out: Path) -> dict[str, set[int]]:
    """Statements and the codes that refuse them."""
    return {
        "INSERT INTO t VALUES (1, '')": {497},
        "CREATE TABLE u (a Int8) ENGINE = Memory": {497},
        "CREATE TEMPORARY TABLE u (a Int8)": {497},
        "ALTER TABLE t DELETE WHERE 1": {497},
        "DROP TABLE t": {497},
        "SET max_execution_time = 0": {497},
        "KILL QUERY WHERE 1": {497},
        "SYSTEM SHUTDOWN": {497},
        "USE system": {497},
        f"EXISTS TABLE `{secret}`": {497},
        f"SELECT file('{secret}')": {497},
        f"SELECT `\\x66ile`('{secret}')": {497},
        f"SELECT $$ ' $$, file /* */ # x\n ('{secret}'), ' '": {497},
        f"SELECT arrayMap(x -> FILE(x), ['{secret}'])": {497},
        f"WITH (SELECT * FROM file('{secret}', 'LineAsString')) AS x SELECT x": {497},
        f"SELECT * FROM default.`{secret}`": {164},
        f"DESCRIBE file('{secret}')": {497},
        "DESCRIBE url('http://127.0.0.1:1/')": {497},
        "SELECT * FROM url('http://127.0.0.1:1/', 'CSV', 'a Int8')": {497},
        "SELECT * FROM remote('127.0.0.1:1', system.one)": {497},
        "SELECT * FROM s3('http://127.0.0.1:1/a.csv')": {497},
        "SELECT * FROM python('os')": {497},
        "SELECT * FROM executable('id', 'CSV', 'a String')": {497},
        "SELECT * FROM merge('system', 'processes')": {497},
        "SELECT query FROM system.processes": {497},
        "SELECT 1 IN (system.users)": {497},
        f"SELECT 1 INTO OUTFILE '{out}'": {497},
        f"SHOW TABLES INTO OUTFILE '{out}'": {497},
        "SELECT 1 SETTINGS max_execution_time = 0": {164},
        "SELECT 1 SETTINGS readonly = 0": {164},
        "SELECT 1; SELECT 2": {62},
        f"SELECT 1; SELECT file('{secret}')": {62},
        "SELEC 1": {62},
        "SELECT nothing": {47},
        f"SELECT 1 FROM {database}.nowhere": {60},
    }


def test_an_analyst_reads_tables_and_nothing_else(clickhouse_server: Server, database: str, tmp_path: Path) -> None:
    secret, out = tmp_path / "secret", tmp_path / "out"
    secret.write_text("the secret")
    for sql, codes in forbidden(database, secret, out).items():
        code, text = send(clickhouse_server, {"database": database}, sql.encode())
        assert code in codes, (sql, text)
        assert text.startswith(f"Code: {code}. DB::Exception: "), sql
        assert "the secret" not in text
    assert not out.exists()
    assert send(clickhouse_server, {"database": "system"}, b"SELECT * FROM processes")[0] == 497
    for_table = {"database": database, "param_t": "system.processes"}
    assert send(clickhouse_server, for_table, b"SELECT * FROM {t:Identifier}")[0] == 497
    assert ask(clickhouse_server.url(database), "SELECT count() FROM t") == [(1000,)]
    assert send(clickhouse_server, {}, b"SELECT file('" + str(secret).encode() + b"')", "tester")[1] == "the secret\n"


def test_an_analyst_lowers_its_limits_and_never_raises_them(clickhouse_server: Server) -> None:
    limit = b"SELECT getSetting('max_execution_time')"
    for asked, granted in {"1": "1", "0": "3", "60": "3", "-1": "3", "x": "3"}.items():
        assert send(clickhouse_server, {"max_execution_time": asked}, limit) == (0, granted + "\n")
    assert send(clickhouse_server, {"readonly": "0"}, b"SET max_threads = 1")[0] == 497
    assert send(clickhouse_server, {"allow_ddl": "1"}, b"SELECT 1")[0] == 164
    assert send(clickhouse_server, {"max_execution_time": "1"}, LONG.encode())[0] == 159
    assert send(clickhouse_server, {}, b"SELECT number FROM numbers(200001)")[0] == 396
    assert (
        send(clickhouse_server, {"max_memory_usage": "50000000"}, b"SELECT groupArray(number) FROM numbers(1e9)")[0]
        == 241
    )
    assert send(clickhouse_server, {}, b" " * 2**22 + b"SELECT 1")[0] == 307
    packed = zstandard.compress(b" " * 2**26 + b"SELECT 1")
    assert send(clickhouse_server, {}, packed, Content_Encoding="zstd")[0] == 307
    assert send(clickhouse_server, {"user": "analyst"}, b"SELECT 1", who="tester") == (0, "1\n")


def running(server: Server, marker: str) -> int:
    found = ask(
        server.url(), f"SELECT count() FROM system.processes WHERE query LIKE '%{marker}%' AND query NOT LIKE '%LIKE%'"
    )
    return int(found[0][0])


@pytest.mark.parametrize("who", ["tester", "analyst"])
def test_who_hangs_up_stops_the_statement(clickhouse_server: Server, who: str) -> None:
    seen = 0
    while not seen:  # an analyst's ends by itself after three seconds, perhaps before anybody looked
        request = open_request(clickhouse_server, {}, f"{LONG} AND 'hang up {who}' != ''".encode(), who)
        until = time.monotonic() + 2.5
        while not (seen := running(clickhouse_server, f"hang up {who}")) and time.monotonic() < until:
            pass
        request.close()
    while running(clickhouse_server, f"hang up {who}"):
        pass


def test_a_statement_is_killed_by_the_id_its_client_gave(clickhouse_server: Server) -> None:
    answers: list[Any] = []
    query = {"query_id": "mine-1"}
    thread = threading.Thread(target=lambda: answers.append(send(clickhouse_server, query, LONG.encode(), "tester")))
    thread.start()
    kill = "KILL QUERY WHERE query_id = 'mine-1'"
    assert send(clickhouse_server, {}, b"KILL QUERY WHERE query_id = 'mine'", "tester") == (0, "")
    while not send(clickhouse_server, {}, kill.encode(), "tester")[1]:
        pass
    thread.join()
    assert answers[0][0] == 394


def test_a_session_keeps_its_tables_and_settings(clickhouse_server: Server, database: str) -> None:
    mine = {"session_id": "s-1", "session_timeout": "30"}
    tester: dict[str, Any] = {"who": "tester"}
    assert send(clickhouse_server, mine | {"session_check": "1"}, b"SELECT 1", **tester)[0] == 372
    for sql in ("CREATE TEMPORARY TABLE kept (a Int8)", "INSERT INTO kept VALUES (7)", "SET max_block_size = 12345"):
        assert send(clickhouse_server, mine, sql.encode(), **tester) == (0, "")
    look = b"SELECT a, getSetting('max_block_size') FROM kept"
    assert send(clickhouse_server, mine | {"max_threads": "1"}, look, **tester) == (0, "7\t12345\n")
    assert send(clickhouse_server, mine, b"SELECT getSetting('max_threads') = 1", **tester) == (0, "0\n")
    assert send(clickhouse_server, {"session_id": "s-2"}, look, **tester)[0] == 60
    assert send(clickhouse_server, mine, look)[0] == 60  # an analyst has none
    busy = open_request(clickhouse_server, mine, f"{LONG} AND 'busy' != ''".encode(), "tester")
    while not running(clickhouse_server, "busy"):
        pass
    assert send(clickhouse_server, mine, b"SELECT 1", **tester)[0] == 373
    busy.close()
    while send(clickhouse_server, mine, look, **tester) != (0, "7\t12345\n"):
        pass
    assert send(clickhouse_server, mine | {"close_session": "1"}, look, **tester) == (0, "7\t12345\n")
    assert send(clickhouse_server, mine, look, **tester)[0] == 60


def test_an_owner_without_a_password_can_have_no_analyst(clickhouse_server: Server, tmp_path: Path) -> None:
    import subprocess

    command = clickhouse_server.command(path=tmp_path / "other", port=0)
    without = [word for word in command if word not in {"--password-file", str(tmp_path)}]
    del without[without.index("tester") + 1]
    for arguments, said in ((without, "an analyst needs a password"), ([*command, "--limit", "x=1"], "is no limit")):
        tried = subprocess.run(arguments, capture_output=True, text=True, timeout=15)
        assert (tried.returncode, tried.stderr.count("\n")) == (2, 1)
        assert said in tried.stderr


def test_code_of_an_unknown_user_is_no_other(clickhouse_server: Server) -> None:
    with pytest.raises(DatabaseError):
        clickhouse_connect.get_client(dsn=clickhouse_server.analyst_url().replace("analyst:", "nobody:"))


def test_an_analyst_reads_only_its_own_database(tmp_path: Path) -> None:
    """As the grants of deploy/clickhouse/analyst.sql have it on a server."""
    server = Server(tmp_path / "private")
    server.more = ["--analyst-database", "mine"]
    server.start()
    try:
        with session(server.url()) as client:
            for name in ("mine", "other"):
                client.command(f"CREATE DATABASE {name}")
                client.command(f"CREATE TABLE {name}.t ENGINE = MergeTree ORDER BY a AS SELECT 1 AS a, '{name}' AS s")
        for given in ({}, {"database": "mine"}):
            assert send(server, given, b"SELECT s FROM t UNION ALL SELECT s FROM mine.t WHERE s != 'other'") == (
                0,
                "mine\nmine\n",
            )
        named = {"database": "mine", "param_t": "other.t"}
        for sql in (
            *("SELECT * FROM other.t", "SELECT * FROM `other`.t", "SELECT 1 IN other.t", "SHOW TABLES FROM other"),
            *(
                "DESCRIBE other.t",
                "SHOW CREATE TABLE other.t",
                "EXPLAIN SELECT * FROM other.t",
                "SHOW COLUMNS FROM t FROM other",
            ),
            *("SELECT * FROM {t:Identifier}", "WITH x AS (SELECT * FROM other.t) SELECT * FROM x"),
        ):
            code, text = send(server, named, sql.encode())
            assert (code, "other is another database" in text) == (497, True), (sql, text)
        assert send(server, {"database": "other"}, b"SELECT * FROM t")[0] == 497
    finally:
        server.kill()
