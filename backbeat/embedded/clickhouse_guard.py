"""What an analyst may ask: one statement that reads tables of its database, judged by ClickHouse's own parser.

`readonly = 1` alone lets chDB write files (INTO OUTFILE), read them (the function `file`), look at files and
addresses (DESCRIBE), kill the queries of others, and run several statements of which only the first was looked at.
"""

import json
import re
from typing import Any

from backbeat.embedded.clickhouse_query import EngineError, Query, refusal

_ROOTS = {"SelectWithUnionQuery", "ShowTables", "ShowColumns", "ShowFunctions", "ShowIndexes", "DescribeQuery"}
_ROOTS |= {"Explain", "ShowCreateTableQuery"}
_TABLE_FUNCTIONS = {"numbers", "numbers_mt", "zeros", "zeros_mt", "generateseries", "generate_series", "generaterandom"}
_TABLE_FUNCTIONS |= {"null", "values", "view", "format", "primes"}
_OUTSIDE = {
    "file",
    "hascolumnintable",
    "catboostevaluate",
    "showcertificate",
    "getserversetting",
    "getclienthttpheader",
}
_SYSTEM = {"one", "numbers", "tables", "columns", "databases", "functions", "parts", "parts_columns", "formats"}
_SYSTEM |= {"settings", "time_zones", "data_type_families", "table_engines", "table_functions", "keywords"}
_SYSTEM |= {"data_skipping_indices", "aggregate_function_combinators", "collations", "contributors", "licenses"}
_NODE = re.compile(r"^( *)(\w+) ?(.*?)(?: \(alias .*?\))?(?: \(children \d+\))?$")
_TEXT, _WORD = re.compile(r"'(?:[^'\\]|\\.)*'"), re.compile(r"`[^`]+`|\w+")
_ESCAPES = str.maketrans({"\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r", "\0": "\\0"})


def guarded(connection: Any, query: Query) -> str:
    """The one statement of the query, as ClickHouse writes it. Raises EngineError for what is not an analyst's."""
    try:
        text = query.text.decode()
    except UnicodeDecodeError as error:
        raise refusal(62, "SYNTAX_ERROR", "the statement is not UTF-8") from error
    statement = _formatted(connection, text)
    tree = connection.query(f"EXPLAIN AST {statement}", "TSVRaw", params=dict(query.params)).bytes().decode()
    nodes = [match for line in tree.splitlines() if (match := _NODE.match(line))]
    if not nodes or nodes[0][2] not in _ROOTS:
        raise _denied(f"{nodes[0][2] if nodes else 'this'} is not a statement that reads")
    if query.database.lower() == "system":
        raise _denied("the database system is read by its full names")
    if query.only:
        named = {node[3].partition(".")[0] for node in nodes} | {query.database}
        _stays(connection, query.only, named | {word.strip("`") for word in _WORD.findall(_TEXT.sub("", statement))})
    outside = _OUTSIDE | (_names(connection) - _TABLE_FUNCTIONS)
    for node in nodes[1:]:
        _check(len(node[1]), node[2], node[3].lower(), outside)
    return statement


def _formatted(connection: Any, text: str) -> str:
    """Only what is one statement can be written anew; what is none is refused with the place that is wrong."""
    sql = "SELECT formatQuerySingleLine({q:String}) FORMAT JSONCompactEachRow"
    try:
        answer = connection.query(sql, params={"q": text.translate(_ESCAPES)})
    except RuntimeError as error:
        said = str(error).partition("DB::Exception: ")[2].partition(": In scope SELECT formatQuerySingleLine")[0]
        raise refusal(62, "SYNTAX_ERROR", said) from error
    return str(json.loads(answer.bytes())[0])


def _check(depth: int, kind: str, name: str, outside: set[str]) -> None:
    if kind == "Literal" and depth == 1:
        raise _denied("INTO OUTFILE writes a file")
    if kind == "Function" and (name in outside or name.startswith("ai")):
        raise _denied(f"{name} reaches outside of the database")
    if kind in {"Identifier", "TableIdentifier"} and name.startswith("system.") and name[7:] not in _SYSTEM:
        raise _denied(f"{name} is not for analysts")


def _stays(connection: Any, home: str, words: set[str]) -> None:
    """What has the name of another database is refused, whatever it means: no statement that reads needs one."""
    answer = connection.query("SELECT groupArray(name) FROM system.databases FORMAT JSONCompactEachRow")
    others = set(json.loads(answer.bytes())[0]) - {home, "system", "information_schema", "INFORMATION_SCHEMA"}
    if found := others & words:
        raise _denied(f"{min(found)} is another database")


def _names(connection: Any) -> set[str]:
    answer = connection.query("SELECT groupArray(lower(name)) FROM system.table_functions FORMAT JSONCompactEachRow")
    return set(json.loads(answer.bytes())[0])


def _denied(text: str) -> EngineError:
    return refusal(497, "ACCESS_DENIED", f"Not enough privileges: {text}")
