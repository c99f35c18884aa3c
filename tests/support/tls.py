"""A certificate authority for one test, and a TLS door before a plain port that lets in who shows a certificate."""

import asyncio
import contextlib
import datetime
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_DAY = datetime.timedelta(days=1)


@dataclass(frozen=True)
class Authority:
    """Certificates for `host` and for a client, as files."""

    home: Path
    host: str = "localhost"

    def __post_init__(self) -> None:
        key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
        name = _name("test authority")
        root = _certificate(name, name, key.public_key(), key, now, host=None)
        self._write("ca.pem", root.public_bytes(serialization.Encoding.PEM))
        for who in ("server", "client"):
            own = ec.generate_private_key(ec.SECP256R1())
            made = _certificate(_name(who), name, own.public_key(), key, now, host=self.host)
            self._write(f"{who}.pem", made.public_bytes(serialization.Encoding.PEM))
            plain = serialization.NoEncryption()
            pkcs8 = serialization.PrivateFormat.PKCS8
            self._write(f"{who}.key", own.private_bytes(serialization.Encoding.PEM, pkcs8, plain))

    def _write(self, name: str, data: bytes) -> None:
        (self.home / name).write_bytes(data)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _certificate(
    subject: x509.Name,
    issuer: x509.Name,
    public: ec.EllipticCurvePublicKey,
    key: ec.EllipticCurvePrivateKey,
    now: datetime.datetime,
    *,
    host: str | None,
) -> x509.Certificate:
    ours = [x509.IPAddress(ip_address("127.0.0.1"))] if host == "localhost" else []
    names = x509.SubjectAlternativeName([x509.DNSName(host or "authority"), *ours])
    made = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(public)
    made = made.serial_number(x509.random_serial_number()).not_valid_before(now - _DAY).not_valid_after(now + _DAY)
    made = made.add_extension(names, critical=False).add_extension(
        x509.BasicConstraints(host is None, None), critical=True
    )
    return made.sign(key, hashes.SHA256())


@asynccontextmanager
async def door(authority: Authority, port: int) -> AsyncIterator[int]:
    """The port of the door."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(authority.home / "ca.pem"))
    context.verify_mode = ssl.CERT_REQUIRED
    context.set_alpn_protocols(["h2"])
    context.load_cert_chain(authority.home / "server.pem", authority.home / "server.key")
    pipes: set[asyncio.Task[None]] = set()

    async def pipe(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65_536):
                sink.write(data)
                await sink.drain()
        except OSError:
            return
        finally:
            sink.close()
            with contextlib.suppress(OSError):
                await sink.wait_closed()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner, outer = await asyncio.open_connection("127.0.0.1", port)
        for one in (pipe(reader, outer), pipe(inner, writer)):
            pipes.add(asyncio.create_task(one))

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in pipes:
            task.cancel()
        await asyncio.gather(*pipes, return_exceptions=True)
