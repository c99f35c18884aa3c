"""One canonical form and one idempotency key for a payload, in Python and in SQL, by shared vectors and at random."""

import json
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.ids import canonical, idempotency_key
from tests.support import every_postgres
from tests.support.databases import Database
from tests.support.tree import ROOT

VECTORS = json.loads((ROOT / "tests/contract/vectors/idempotency.json").read_text(encoding="utf-8"))
_TRY = """
    CREATE FUNCTION pg_temp.try(p_text text) RETURNS text LANGUAGE plpgsql AS $$
    BEGIN
        RETURN backbeat.canonical(p_text::jsonb);
    EXCEPTION
        WHEN SQLSTATE 'BB003' OR untranslatable_character OR invalid_text_representation THEN RETURN NULL;
    END $$"""
_LIMITS = [2.0**53, 2.0**53 - 1, 1e-6, 1e-7, 9.999999999999999e-7, 5e-324, 1e20, 1e21, 2.0**-20]
_text = st.text(max_size=8) | st.text('aé\0\x1f"\\\ue000\uffff\U00010000\U0010ffff\ud800', max_size=4)
_number = (
    st.integers(-(2**53) - 1, 2**53 + 1)
    | st.integers()
    | st.floats()
    | st.floats(-1, 1)
    | st.sampled_from(_LIMITS).flatmap(lambda x: st.sampled_from([x, -x, x * 3]))
)
_json = st.recursive(
    st.none() | st.booleans() | _number | _text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_text, inner, max_size=4),
    max_leaves=8,
)


def _python(text: str) -> str | None:
    try:
        return canonical(json.loads(text)).decode()
    except ValueError:
        return None


@pytest.mark.parametrize("vector", VECTORS["accepted"], ids=lambda vector: vector["name"])
def test_python_writes_the_vectors(vector: dict[str, Any]) -> None:
    payload = json.loads(vector["payload"])
    assert canonical(payload).decode() == vector["canonical"]
    key = idempotency_key(vector["workflow"], vector["version"], payload, vector["salt"])
    assert key.hex() == vector["key"]


@pytest.mark.parametrize("vector", VECTORS["refused"], ids=lambda vector: vector["name"])
def test_python_refuses_the_others(vector: dict[str, Any]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  what it says is for people
        canonical(json.loads(vector["payload"]))


@every_postgres
def test_sql_writes_the_vectors_and_refuses_the_others(database: Database) -> None:
    key = "backbeat.idempotency_key(%(workflow)s, %(version)s, %(payload)s, %(salt)s)"
    with psycopg.connect(database.worker_url, autocommit=True) as worker:
        # What a producer may have set must not change a key.
        worker.execute("SET extra_float_digits = -10")
        for vector in VECTORS["accepted"]:
            row = worker.execute(f"SELECT backbeat.canonical(%(payload)s), {key}", vector).fetchone()
            assert row == (vector["canonical"], bytes.fromhex(vector["key"])), vector["name"]
        for vector in VECTORS["refused"]:
            with pytest.raises(psycopg.DatabaseError) as refused:
                worker.execute("SELECT backbeat.canonical(%s::jsonb)", [vector["payload"]])
            assert refused.value.sqlstate in ("BB003", "22P05", "22P02"), vector["name"]


@every_postgres
def test_python_and_sql_agree_on_any_json(database: Database) -> None:
    with psycopg.connect(database.direct_worker_url, autocommit=True) as worker:
        worker.execute(_TRY)

        @settings(max_examples=100, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(st.lists(_json, min_size=5, max_size=40))
        def agree(values: list[Any]) -> None:
            texts = [json.dumps(value) for value in values]
            found = worker.execute(
                "SELECT pg_temp.try(t) FROM unnest(%s::text[]) WITH ORDINALITY u(t, n) ORDER BY n", [texts]
            )
            assert [text for (text,) in found.fetchall()] == [_python(text) for text in texts]

        agree()
