"""What Temporal stores, encrypted: AES-256-GCM under a ring of keys.

The first key of the ring encrypts, every one decrypts, so a ring is rotated by putting a new key before the old ones.
What is not encrypted (a signal sent by hand, a history from before) is left as it is.
"""

import base64
import binascii
import dataclasses
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from google.protobuf.message import DecodeError
from temporalio.api.common.v1 import Payload
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.converter import (
    DataConverter,
    DefaultFailureConverterWithEncodedAttributes,
    ExternalStorage,
    PayloadCodec,
)

from shared.errors import ConfigError
from shared.security.blobs import Blobs

log = logging.getLogger("backbeat.codec")
ENCODING = b"binary/backbeat-aes-gcm"
_NONCE = 12  # bytes


class Codec(PayloadCodec):
    """Encrypts each payload whole, its metadata too; the key's name is bound to the text."""

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        # Here and not above: it cannot be imported twice, as a sandbox does that comes by this module.
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self._keys = {name: AESGCM(key) for name, key in keys.items()}
        self._first = next(iter(keys))

    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Encrypted, under the first key."""
        return [self._sealed(payload) for payload in payloads]

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """As they were; what cannot be opened stays shut, for whoever reads it (docs/decisions/0014)."""
        return [self._opened(one) if one.metadata.get("encoding") == ENCODING else one for one in payloads]

    def _sealed(self, payload: Payload) -> Payload:
        nonce, name = os.urandom(_NONCE), self._first.encode()
        data = nonce + self._keys[self._first].encrypt(nonce, payload.SerializeToString(), name)
        return Payload(metadata={"encoding": ENCODING, "key": name}, data=data)

    def _opened(self, payload: Payload) -> Payload:
        from cryptography.exceptions import InvalidTag

        name = payload.metadata["key"]
        try:
            key = self._keys[name.decode(errors="replace")]
            return Payload.FromString(key.decrypt(payload.data[:_NONCE], payload.data[_NONCE:], name))
        except KeyError:
            log.warning(
                "no payload key is called %r, so a payload stays shut: put it back into the key file, last", name
            )
        except (InvalidTag, ValueError, DecodeError):
            log.warning("a payload stays shut: it is not what key %r encrypted", name)
        return payload


def load_keys(path: Path) -> dict[str, bytes]:
    """The ring in a file: a line a key, `name base64` of 32 bytes, the one that encrypts first. Raises ConfigError."""
    keys: dict[str, bytes] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise ConfigError(f"the payload keys in {path} cannot be read: {error}", fix="Create it") from error
    for number, line in enumerate(lines, 1):
        name, _, text = line.partition(" ")
        if not line.strip():
            continue
        try:
            key = base64.b64decode(text.strip(), validate=True)
        except binascii.Error:
            key = b""
        if len(key) != 32 or name in keys:
            raise ConfigError(f"{path}:{number} is no `name base64` of 32 bytes, or a name again", fix="Correct it")
        keys[name] = key
    if not keys:
        raise ConfigError(f"{path} holds no key", fix="A line a key: name, a blank, 32 bytes in base64")
    return keys


def data_converter(keys_file: Path | None, directory: Path | None = None) -> DataConverter:
    """What every client and worker of one installation uses; failures are encrypted too.

    With a `directory`, payloads of 256 KiB and more lie there, encrypted like the others.
    """
    made = pydantic_data_converter
    if directory is not None:
        if not directory.is_dir():
            raise ConfigError(f"payload_dir {directory} is no directory", fix="Create it where all workers see it")
        made = dataclasses.replace(made, external_storage=ExternalStorage([Blobs(directory)]))
    if keys_file is None:
        return made
    return dataclasses.replace(
        made,
        payload_codec=Codec(load_keys(keys_file)),
        failure_converter_class=DefaultFailureConverterWithEncodedAttributes,
    )
