"""What the tick is measured against, each a process of its own.

    python -m benchmarks.calls.loops bare URL IN_FLIGHT       the SDK in a bare asyncio loop, until killed
    python -m benchmarks.calls.loops serial URL DATABASE SECONDS      the article's worker: one beat of it

Both ask what the task asks, and check the answer by the same model.
"""

import asyncio
import sys
import time
from typing import Any

from anthropic import Anthropic, AsyncAnthropic

from benchmarks.calls.definitions import MODEL, MOST, PROMPT, SYSTEM, Triage
from shared.llm.structured import json_schema

_CLAIM = """
    UPDATE queue SET status = 'running', attempts = attempts + 1 WHERE id IN (
        SELECT id FROM queue WHERE status = 'queued' AND attempts < 3 ORDER BY priority DESC, created_at LIMIT 10
        FOR UPDATE SKIP LOCKED)
    RETURNING id, payload"""
_TABLE = """
    CREATE TABLE queue (id bigserial PRIMARY KEY, payload jsonb, status text DEFAULT 'queued', attempts int DEFAULT 0,
        priority int DEFAULT 0, created_at timestamptz DEFAULT now(), result jsonb, last_error text);
    INSERT INTO queue (payload) SELECT jsonb_build_object('subject', n, 'body', 'a') FROM generate_series(1, 99) n"""


def _asked(subject: str, body: str) -> dict[str, Any]:
    schema = {"format": {"type": "json_schema", "schema": json_schema(Triage)}}
    system = [{"type": "text", "text": SYSTEM, "cache_control": {"type": "ephemeral"}}]
    said = [{"role": "user", "content": PROMPT.format(subject=subject, body=body)}]
    return {"model": MODEL, "max_tokens": MOST, "messages": said, "system": system, "output_config": schema}


async def bare(url: str, in_flight: int) -> None:
    """So many calls at a time, one after the other."""
    client = AsyncAnthropic(api_key="simulated", base_url=url, max_retries=0, open_telemetry=False)

    async def ask(place: int) -> None:
        n = 0
        while True:
            n += 1
            reply = await client.messages.create(**_asked(f"{place} {n}", "You charged me twice."))
            Triage.model_validate_json(reply.content[0].text)

    await asyncio.gather(*(ask(place) for place in range(in_flight)))


def serial(url: str, database: str, seconds: float) -> None:
    """Ten rows a claim, one call after the other, until the budget is used up."""
    import psycopg

    client = Anthropic(api_key="simulated", base_url=url, max_retries=0, open_telemetry=False)
    until = time.monotonic() + seconds
    with psycopg.connect(database, autocommit=True) as db:
        db.execute(_TABLE)
        while rows := db.execute(_CLAIM).fetchall():
            for row, payload in rows:
                if time.monotonic() > until:
                    return
                reply = client.messages.create(**_asked(str(payload["subject"]), payload["body"]))
                result = Triage.model_validate_json(reply.content[0].text).model_dump_json()  # type: ignore[union-attr]
                db.execute("UPDATE queue SET status = 'done', result = %s WHERE id = %s", [result, row])


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["bare", url, in_flight]:
            asyncio.run(bare(url, int(in_flight)))
        case ["serial", url, database, seconds]:
            serial(url, database, float(seconds))
