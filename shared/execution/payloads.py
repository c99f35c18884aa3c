"""Payloads as their definition reads them: checked field by field, in one form, keyed by what is the same."""

import json
from typing import Any

from pydantic import ValidationError

from shared.definitions import Definition, Orchestration
from shared.errors import InputError
from shared.ids import canonical, key_of

PAYLOAD_CAP = 1_048_576  # bytes, as `backbeat.enqueue` counts them
Row = tuple[bytes, bytes | None]  # a payload as it is stored, and its key


def checked(
    definition: Definition | Orchestration, payload: Any, *, strings: bool = False, complete: bool = False
) -> dict[str, Any]:
    """What was given of the payload, or `complete` with the defaults of today; of `strings` where it is CSV.

    Raises InputError naming the field that is wrong.
    """
    read = definition.input.model_validate_strings if strings else definition.input.model_validate
    try:
        return read(payload).model_dump(mode="json", exclude_unset=not complete)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"]) or "the payload"
        raise InputError(f"{definition.full_name}: {where}: {problem['msg']}", fix="Correct the payload") from error


def prepared(definition: Definition, payload: Any, salt: str = "", *, strings: bool = False) -> Row:
    """A payload as `submit_many` takes it. Raises InputError for whatever `submit` would refuse."""
    value = checked(definition, payload, strings=strings)
    text = canonical_text(definition, value)
    if 2 * len(text) > PAYLOAD_CAP and len(json.dumps(value, ensure_ascii=False).encode()) > PAYLOAD_CAP:
        raise InputError(f"{definition.full_name}: the payload is larger than {PAYLOAD_CAP} bytes")
    return text, key_of(definition.name, definition.version, text, salt) if definition.idempotency else None


def canonical_text(definition: Definition, value: dict[str, Any]) -> bytes:
    """The bytes that keys are made of. Raises InputError for what has no such form."""
    try:
        return canonical(value)
    except ValueError as error:
        what = f"{definition.full_name}: the payload has no canonical form: {error}"
        raise InputError(what, fix="Write NaN and numbers from 2**53 on as strings") from error
