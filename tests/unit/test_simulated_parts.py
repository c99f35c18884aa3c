"""Prefixes that expire, latencies, and the grammar of faults, without a server."""

import random
from pathlib import Path
from typing import Any

import pytest

from backbeat.embedded.simulated import faults, latency
from backbeat.embedded.simulated.cache import HOUR, LIFE, PrefixStore
from backbeat.embedded.simulated.exchange import Ask, Block
from backbeat.embedded.simulated.faults import Fault
from backbeat.embedded.simulated.log import JsonLog, Totals, read, totals
from shared.errors import ConfigError

LONG = "word " * 2000


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def ask(*blocks: Block, automatic: bool = False) -> Ask:
    return Ask("m", blocks, "", None, "", None, False, 0, automatic)


def used(store: PrefixStore, request: Ask) -> tuple[int, int, int]:
    hit = store.look(request)
    store.keep(hit)
    return hit.read, hit.write, hit.hour_writes


def test_a_prefix_lives_five_minutes_after_its_last_use() -> None:
    clock = Clock()
    store, request = PrefixStore(clock), ask(Block(LONG, LIFE), Block("tail"))
    written = used(store, request)[1]
    assert written > 2000
    for passed, expected in ((LIFE - 1, (written, 0, 0)), (LIFE - 1, (written, 0, 0)), (LIFE, (0, written, 0))):
        clock.now += passed
        assert used(store, request) == expected


def test_an_hour_is_an_hour_and_billed_apart() -> None:
    clock = Clock()
    store, request = PrefixStore(clock), ask(Block(LONG, HOUR), Block("b", LIFE))
    _, write, hour = used(store, request)
    assert 0 < write - hour < 10
    clock.now += LIFE
    assert used(store, request) == (hour, write - hour, 0)
    clock.now += HOUR
    assert used(store, request)[0] == 0


def test_reading_a_shorter_marked_prefix_renews_it() -> None:
    clock = Clock()
    store = PrefixStore(clock)
    short = used(store, ask(Block(LONG, LIFE)))[1]
    for tail in ("one", "two", "three"):
        clock.now += LIFE - 1
        read, write, _ = used(store, ask(Block(LONG), Block(tail * 10, LIFE)))
        assert read == short
        assert write > 0


def test_nothing_is_cached_without_a_mark_or_after_the_last_one() -> None:
    store = PrefixStore(Clock())
    assert used(store, ask(Block(LONG), Block(LONG))) == (0, 0, 0)
    both = used(store, ask(Block(LONG), Block(LONG, LIFE)))[1]
    assert used(store, ask(Block(LONG, LIFE), Block(LONG)))[0] == 0
    assert used(store, ask(Block(LONG), Block(LONG, LIFE)))[0] == both


def test_automatic_prefixes_match_in_steps_of_128_tokens() -> None:
    store = PrefixStore(Clock())
    assert used(store, ask(Block(LONG), automatic=True)) == (0, 1920, 0)
    assert used(store, ask(Block("word " * 1300 + "other " * 700), automatic=True))[0] == 1280
    assert used(store, ask(Block("word " * 1023), automatic=True)) == (0, 0, 0)


def test_latencies() -> None:
    assert latency.parse("0")(0.5, 9, 9) == 0
    assert latency.parse("1.5")(0.9, 9, 9) == 1.5
    assert [latency.parse("0.2-2")(dice, 9, 9) for dice in (0.0, 0.5, 1.0)] == pytest.approx([0.2, 1.1, 2.0])
    real = latency.parse("real")
    assert (real(0.0, 0, 0), real(1.0, 50_000, 4_000), real(1.0, 10**6, 10**6)) == (18.0, 35.0, 35.0)
    assert real(0.5, 50_000, 4_000) > real(0.5, 1_000, 100)
    with pytest.raises(ConfigError):
        latency.parse("quick")
    for nonsense in ("nan", "-1", "2-1", "inf", "0-1e9"):
        with pytest.raises(ConfigError):
            latency.parse(nonsense)


def test_faults_are_read_as_they_are_written() -> None:
    fault = Fault.parse(" 429; retry-after=2;code=ramp_limit_exceeded ")
    assert (fault.status, fault.refuses, fault.settings["retry-after"]) == (429, True, "2")
    assert Fault.parse("502;after=1").refuses is False
    assert Fault.parse("delay=1.5").seconds == 1.5
    for wrong in ("", "299", "delay=long", "disconnect"):
        with pytest.raises(ConfigError):
            Fault.parse(wrong)


@pytest.mark.parametrize("line", ["{", '{"where": {}}', '{"fault": "529", "where": {"call": "("}}', '["529"]'])
def test_a_plan_with_a_mistake_names_its_line(tmp_path: Path, line: str) -> None:
    plan = tmp_path / "plan"
    plan.write_text(f'{{"fault": "529"}}\n{line}\n', encoding="utf-8")
    with pytest.raises(ConfigError, match="line 2"):
        faults.load(str(plan))


def test_rates_add_up() -> None:
    plan, dice = faults.load("0.2 429, 0.5 529"), random.Random(1)
    picked = [plan.pick(None, {}, dice).status for _ in range(4000)]
    assert picked.count(429) / 4000 == pytest.approx(0.2, abs=0.03)
    assert picked.count(529) / 4000 == pytest.approx(0.4, abs=0.03)


def test_totals_count_calls_without_an_end(tmp_path: Path) -> None:
    file = tmp_path / "sub" / "calls.jsonl"
    log = JsonLog(file)
    end: dict[str, Any] = {"event": "end", "billed": True, "input_tokens": 5, "output_tokens": 2}
    for entry in ({"event": "start"}, {"event": "start"}, {"event": "start"}, end, {**end, "billed": False}):
        log.write(entry)
    with file.open("ab") as torn:
        torn.write(b'{"event": "end"')
    assert totals(file) == Totals(calls=3, billed=1, unanswered=1, input_tokens=5, output_tokens=2)
    assert all("at" in entry for entry in read(file))
    assert totals(tmp_path / "none") == Totals()
