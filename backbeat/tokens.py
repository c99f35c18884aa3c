"""Who somebody is: random tokens, and the decisions signed with them.

A token proves its bearer, so it never travels: not to Postgres, and not in a Temporal signal, whose
history many may read. What travels is a decision token, which is good for one decision on one content.
The formulas stand in SQL as `backbeat.signer` and `backbeat.create_token`.
"""

import hashlib
import secrets
from pathlib import Path
from typing import Any
from uuid import UUID

from shared.errors import AuthError
from shared.ids import payload_hash

PREFIX = "bbt_"
_LENGTH = len(PREFIX) + 64


def create() -> str:
    """A new token: 32 random bytes. Only its `key` is stored; the token itself is shown once."""
    return PREFIX + secrets.token_hex(32)


def key(token: str) -> bytes:
    """What Postgres keeps of a token (32 bytes). Raises AuthError when the text is no token."""
    text = token.strip()
    if not text.startswith(PREFIX) or len(text) != _LENGTH or not text.isascii():
        raise AuthError("this is not a Backbeat token", fix="Make one with `backbeat token create`")
    return hashlib.sha256(text.encode()).digest()


def fingerprint(token: str) -> str:
    """The public name of a token: 16 hex digits that tell nothing about it."""
    return hashlib.sha256(key(token)).hexdigest()[:16]


def sign(
    token: str, request_id: UUID | None, decision: str, shown_hash: str | None, comment: str = "", body: Any = None
) -> str:
    """A decision token: says that the bearer takes this decision on this content, and nothing else.

    Raises ValueError when the body has no canonical form.
    """
    said = None if body is None else payload_hash(body)
    parts = (request_id, decision, shown_hash, said, comment)
    message = ":".join(str(part) for part in parts if part is not None).encode()
    mac = hashlib.sha256(key(token) + hashlib.sha256(message).digest()).hexdigest()
    return f"bbd_{fingerprint(token)}_{mac}"


def read(path: Path | None) -> str:
    """The token in a file. Raises AuthError when there is none."""
    fix = "Name it with --token-file or BACKBEAT_TOKEN_FILE; `backbeat token create` makes one"
    if path is None:
        raise AuthError("no token: nobody knows who you are", fix=fix)
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise AuthError(f"the token file {path} cannot be read: {error}", fix=fix) from error
