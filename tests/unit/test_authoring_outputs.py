"""An output that is a JSON Schema: refused where the module stands, checked where a coroutine returns."""

from typing import Any

import pytest
from pydantic import BaseModel

from backbeat import Dead, Succeed, bounded_loop
from shared.errors import DefinitionError
from shared.execution.attempt import outcome_of

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


class Given(BaseModel):
    n: int


async def _run(_ctx: Any, value: Given) -> Any:
    return value


def _made(output: Any) -> Any:
    return bounded_loop("made", version=1, input=Given, output=output, tier="small", run=_run)


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ({"type": "objekt"}, "its output: this is no JSON Schema"),
        ({"type": "object"}, "its output: output has no fixed fields"),
        ({"type": object}, "its output: Object of type type is not JSON serializable"),
        (dict, "its output must be a Pydantic model or a JSON Schema"),
    ],
)
def test_what_cannot_be_an_output(output: Any, said: str) -> None:
    with pytest.raises(DefinitionError, match=rf"{__file__}:\d+: 'made': {said}"):
        _made(output)


def test_what_a_coroutine_returns_must_fit() -> None:
    made = _made(SCHEMA)
    assert outcome_of(made, {"n": 1}) == Succeed({"n": 1})
    assert outcome_of(made, Dead("x", "y")) == Dead("x", "y")
    for wrong in ({"n": "1"}, None, object(), {"n": float("nan")}):
        outcome = outcome_of(made, wrong)
        assert isinstance(outcome, Dead)
        assert outcome.error_class == "wrong_result"
        assert outcome.error.startswith("made@1 returned something else than its schema says: ")
    assert outcome_of(_made(Given), {"n": 1}) == Dead("wrong_result", "made@1 returned dict, not Given or an outcome")
