"""Tokens: what they look like, what travels instead of them, and what is no token."""

import re
from pathlib import Path
from uuid import UUID

import pytest

from backbeat import tokens
from shared.errors import AuthError

REQUEST = UUID("01a203b6-a07d-7bfb-8827-564de37ba04f")
SHOWN = "ab" * 32


def test_each_token_is_new_and_says_what_it_is() -> None:
    made = {tokens.create() for _ in range(100)}
    assert len(made) == 100
    assert all(re.fullmatch(r"bbt_[0-9a-f]{64}", token) for token in made)


@pytest.mark.parametrize("text", ["", "bbt_", "x" * 68, "bbt_" + "0" * 63, "bbd_" + "0" * 64, "bbt_" + "é" * 64])
def test_what_is_no_token(text: str) -> None:
    with pytest.raises(AuthError, match="not a Backbeat token"):
        tokens.key(text)


def test_what_travels_tells_nothing_of_the_token() -> None:
    token = tokens.create()
    proof = tokens.sign(token, REQUEST, "approve", SHOWN, "fine")
    assert re.fullmatch(r"bbd_[0-9a-f]{16}_[0-9a-f]{64}", proof)
    assert tokens.fingerprint(token) in proof
    assert token.removeprefix("bbt_") not in proof
    assert tokens.key(token).hex() not in proof


def test_a_decision_token_is_good_for_one_decision_on_one_content() -> None:
    token = tokens.create()
    variants = [
        tokens.sign(token, REQUEST, "approve", SHOWN),
        tokens.sign(token, REQUEST, "reject", SHOWN),
        tokens.sign(token, REQUEST, "approve", "cd" * 32),
        tokens.sign(token, REQUEST, "approve", SHOWN, "comment"),
        tokens.sign(token, UUID(int=1), "approve", SHOWN),
        tokens.sign(tokens.create(), REQUEST, "approve", SHOWN),
    ]
    assert len(set(variants)) == len(variants)
    assert tokens.sign(token, REQUEST, "approve", SHOWN) == variants[0]


def test_a_token_is_read_from_a_file(tmp_path: Path) -> None:
    token = tokens.create()
    file = tmp_path / "token"
    file.write_text(f"{token}\n")
    assert tokens.key(tokens.read(file)) == tokens.key(token)
    with pytest.raises(AuthError, match="nobody knows who you are"):
        tokens.read(None)
    with pytest.raises(AuthError, match="cannot be read"):
        tokens.read(tmp_path / "none")
