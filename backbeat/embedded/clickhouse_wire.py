"""ClickHouse's HTTP conventions: where the SQL and its settings stand, compression both ways, status codes."""

import gzip
import io
import json
import zlib
from collections.abc import Callable, Mapping
from email.message import Message
from email.parser import BytesParser

import lz4.block  # type: ignore[import-untyped]  # ships no stubs
import lz4.frame  # type: ignore[import-untyped]  # ships no stubs
import zstandard

from backbeat.embedded.clickhouse_query import EngineError, Query, Result, refusal
from backbeat.embedded.clickhouse_sessions import SessionRef

_TRANSPORT = {
    *("query", "query_id", "session_id", "session_timeout", "session_check", "close_session", "user", "password"),
    *("database", "default_format", "compress", "decompress", "wait_end_of_query", "buffer_size", "role", "quota_key"),
    *("client_protocol_version", "stacktrace", "enable_http_compression", "send_progress_in_http_headers"),
    *("http_headers_progress_interval_ms", "http_zlib_compression_level"),
}
_STATUS = {
    400: {6, 25, 26, 27, 36, 38, 41, 53, 62, 68, 72, 117, 167, 168, 223, 321, 456},
    401: {194},
    403: {192, 193, 497, 516},
    404: {16, 46, 47, 50, 56, 60, 63, 73, 81, 115, 147, 216, 372},
    408: {159},
    413: {307},
    501: {48},
    503: {76, 209},
}
_SYNTAX_ERROR, _NOT_IMPLEMENTED, _CANNOT_DECOMPRESS, _TOO_MANY_BYTES = 62, 48, 271, 307
_BLOCK_HEADER = 25  # bytes: a checksum of 16, the method, compressed size with these 9, plain size
_LZ4, _ZSTD = 0x82, 0x90


def read_query(
    method: str, parameters: Mapping[str, str], headers: Mapping[str, str], body: bytes, most: int
) -> Query | None:
    """The statement a request carries, None when it carries none; unpacked, its body has at most `most` bytes.

    Raises EngineError.
    """
    values = dict(parameters)
    if headers.get("content-type", "").startswith("multipart/form-data"):
        values |= _form(headers["content-type"], body)
        body = b""
    if values.get("compress") == "1":
        raise refusal(_NOT_IMPLEMENTED, "NOT_IMPLEMENTED", "compress=1 is not supported; use enable_http_compression=1")
    body = _decoded(body, headers.get("content-encoding", ""), most)
    if values.get("decompress") == "1":
        body = _unframed(body, most)
    text = values.get("query", "").encode()
    text = text + b"\n" + body if text and body else text or body
    if not text.strip():
        return None
    return Query(
        text=text,
        format=values.get("default_format") or headers.get("x-clickhouse-format") or "TabSeparated",
        database=values.get("database") or headers.get("x-clickhouse-database") or "",
        readonly=method != "POST",
        settings={name: value for name, value in values.items() if not _is_transport(name)},
        params={name.removeprefix("param_"): value for name, value in values.items() if name.startswith("param_")},
        session=_session_of(values),
    )


def _session_of(values: Mapping[str, str]) -> SessionRef | None:
    if not values.get("session_id"):
        return None
    try:
        seconds = float(values.get("session_timeout", "60"))
    except ValueError as error:
        raise refusal(27, "CANNOT_PARSE_INPUT_ASSERTION_FAILED", "session_timeout is no number") from error
    check, close = values.get("session_check") == "1", values.get("close_session") == "1"
    return SessionRef(values.get("user", ""), values["session_id"], seconds, check, close)


def too_long(most: int) -> EngineError:
    """The refusal of a request that brings more than its user may."""
    return refusal(_TOO_MANY_BYTES, "TOO_MANY_BYTES", f"a request may have {most} bytes")


def _is_transport(name: str) -> bool:
    return name in _TRANSPORT or name.startswith("param_")


def _form(content_type: str, body: bytes) -> dict[str, str]:
    message = BytesParser().parsebytes(b"Content-Type: " + content_type.encode("latin-1") + b"\r\n\r\n" + body)
    return dict(_field(part) for part in message.walk() if not part.is_multipart())


def _field(part: Message) -> tuple[str, str]:
    if part.get_filename() is not None:
        raise refusal(_NOT_IMPLEMENTED, "NOT_IMPLEMENTED", "external tables are not supported")
    value = part.get_payload(decode=True)
    name = part.get_param("name", header="content-disposition")
    return str(name), value.decode() if isinstance(value, bytes) else ""


def _decoded(body: bytes, encoding: str, most: int) -> bytes:
    if not encoding or encoding == "identity" or not body:
        return body
    if encoding not in _READERS:
        raise refusal(_NOT_IMPLEMENTED, "NOT_IMPLEMENTED", f"Content-Encoding {encoding} is not supported")
    try:
        plain = _READERS[encoding](body, most + 1)
    except _CORRUPT as error:
        raise refusal(_CANNOT_DECOMPRESS, "CANNOT_DECOMPRESS", f"{encoding}: {error}") from error
    if len(plain) > most:
        raise too_long(most)
    return plain


_CORRUPT = (OSError, RuntimeError, ValueError, EOFError, IndexError, zlib.error, zstandard.ZstdError)


def _inflated(body: bytes, most: int) -> bytes:
    unpacker = zlib.decompressobj()
    plain = unpacker.decompress(body, most)
    if not unpacker.eof and len(plain) < most:
        raise EOFError("incomplete stream")
    return plain


_READERS: dict[str, Callable[[bytes, int], bytes]] = {
    "lz4": lambda body, most: bytes(lz4.frame.LZ4FrameFile(io.BytesIO(body)).read(most)),
    "zstd": lambda body, most: zstandard.ZstdDecompressor().stream_reader(body, read_across_frames=True).read(most),
    "gzip": lambda body, most: gzip.GzipFile(fileobj=io.BytesIO(body)).read(most),
    "deflate": _inflated,
}
_WRITERS: dict[str, Callable[[bytes], bytes]] = {
    "lz4": lz4.frame.compress,
    "zstd": lambda body: zstandard.ZstdCompressor().compress(body),
    "gzip": lambda body: gzip.compress(body, 3),
    "deflate": lambda body: zlib.compress(body, 3),
}


def _unframed(body: bytes, most: int) -> bytes:
    """ClickHouse's own block framing (`decompress=1`); the checksums are not verified."""
    plain = bytearray()
    try:
        while body:
            method = body[16]
            packed, size = int.from_bytes(body[17:21], "little"), int.from_bytes(body[21:_BLOCK_HEADER], "little")
            if len(plain) + size > most:
                raise too_long(most)
            block, body = body[_BLOCK_HEADER : 16 + packed], body[16 + packed :]
            if method == _LZ4:
                block = lz4.block.decompress(block, uncompressed_size=size)
            elif method == _ZSTD:
                block = zstandard.ZstdDecompressor().decompress(block, max_output_size=size)
            plain += block
    except _CORRUPT as error:
        raise refusal(_CANNOT_DECOMPRESS, "CANNOT_DECOMPRESS", f"bad compressed block: {error}") from error
    return bytes(plain)


def compressed(body: bytes, parameters: Mapping[str, str], accepted: str) -> tuple[bytes, str]:
    """The body as the client asked for it, and the name of that encoding ('' for none)."""
    if parameters.get("enable_http_compression") != "1":
        return body, ""
    wanted = [name.split(";")[0].strip() for name in accepted.split(",")]
    encoding = next((name for name in _WRITERS if name in wanted), "")
    return (_WRITERS[encoding](body), encoding) if encoding else (body, "")


def headers_of(result: Result, query_id: str) -> dict[str, str]:
    """What a client reads beside the body: the counts as JSON strings, the format, the time zone of this server."""
    summary = {"read_rows": str(result.read_rows), "written_rows": str(result.written_rows)}
    headers = {
        "X-ClickHouse-Query-Id": query_id,
        "X-ClickHouse-Summary": json.dumps(summary),
        "X-ClickHouse-Timezone": "UTC",
    }
    return headers | ({"X-ClickHouse-Format": result.format} if result.format else {})


def status_of(code: int) -> int:
    """The HTTP status ClickHouse gives to one of its error codes."""
    return next((status for status, codes in _STATUS.items() if code in codes), 500)
