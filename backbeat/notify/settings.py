"""The `[notify]` table of the settings: where messages go and who hears what."""

import base64
import binascii
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from shared.errors import ConfigError

LOOPBACK = ("127.0.0.1", "::1", "localhost")
SECRET = "whsec_"  # noqa: S105  # what the secrets of Standard Webhooks begin with
EVENTS = Literal["asked", "unloaded", "reminded", "escalated", "changes", "delegated", "stuck", "decided"]


class Channel(BaseModel):
    """What all kinds have. Without `users` and `groups` it takes what is for anybody, without `events` all of them.

    `window_seconds` is how long a message gathers before it leaves; `limit_seconds` how long one attempt may take.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    window_seconds: float = Field(default=0.0, ge=0, le=86_400)
    limit_seconds: float = Field(default=10.0, gt=0, le=60)
    users: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()
    tenants: frozenset[str] = frozenset()
    events: frozenset[EVENTS] = frozenset()


class Webhook(Channel):
    """Standard Webhooks. `secret_file` has a line a secret, each of which signs, so that one can follow another."""

    kind: Literal["webhook"]
    url: str
    secret_file: Path
    secrets: tuple[bytes, ...] = Field(default=(), exclude=True, repr=False)


class Slack(Channel):
    """An incoming webhook as Slack, Mattermost and others have it; its address is its secret."""

    kind: Literal["slack"]
    url_file: Path
    url: str = Field(default="", exclude=True, repr=False)


class Smtp(Channel):
    """Mail, a message a person. `addresses` is a table by user, or a pattern such as "{user}@example.com"."""

    kind: Literal["smtp"]
    window_seconds: float = Field(default=300.0, ge=0, le=86_400)
    host: str
    port: int = 587
    tls: Literal["starttls", "tls", "none"] = "starttls"
    login: str = ""
    password_file: Path | None = None
    password: str = Field(default="", exclude=True, repr=False)
    sender: str
    addresses: dict[str, str] | str

    def address(self, user: str) -> str | None:
        """Where this person's mail goes."""
        if isinstance(self.addresses, str):
            return self.addresses.replace("{user}", user)
        return self.addresses.get(user)


class Settings(BaseModel):
    """All of it. `link` is where a person looks at a request, with {request}; it only navigates."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    link: str = ""
    channels: Mapping[str, Annotated[Webhook | Slack | Smtp, Field(discriminator="kind")]]


def read(table: Mapping[str, Any], source: str) -> Settings:
    """The table, checked, its secrets read from files beside `source`. Raises ConfigError naming the field."""
    if not table:
        raise ConfigError(f"{source} has no [notify]", fix="Add a table [notify.channels.NAME]")
    try:
        named = {name: {**body, "name": name} for name, body in table["channels"].items()}
        settings = TypeAdapter(Settings).validate_python({**table, "channels": named})
    except (ValidationError, TypeError, AttributeError, KeyError) as error:
        raise ConfigError(f"{source}: {_first(error)}", fix="Correct it") from error
    home = Path(source).parent
    return settings.model_copy(update={"channels": {n: _with_secrets(c, home) for n, c in settings.channels.items()}})


def _with_secrets(channel: Webhook | Slack | Smtp, home: Path) -> Webhook | Slack | Smtp:
    where = f"notify.channels.{channel.name}"
    match channel:
        case Webhook():
            _safe(channel.url, f"{where}.url")
            lines = _secret(channel.secret_file, home, where).split()
            return channel.model_copy(update={"secrets": tuple(_key(line, where) for line in lines)})
        case Slack():
            url = _secret(channel.url_file, home, where)
            _safe(url, f"{where}.url_file")
            return channel.model_copy(update={"url": url})
        case Smtp(password_file=None):
            return channel
        case _:
            return channel.model_copy(update={"password": _secret(channel.password_file, home, where)})


def _safe(url: str, where: str) -> None:
    """What is told goes encrypted, unless it stays on this machine."""
    parts = urlsplit(url)
    if not parts.hostname or not (parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK)):
        raise ConfigError(f"{where} is no https address", fix="http is for this machine only")


def _key(text: str, where: str) -> bytes:
    try:
        key = base64.b64decode(text.removeprefix(SECRET), validate=True)
    except binascii.Error:
        key = b""
    if not text.startswith(SECRET) or not 24 <= len(key) <= 64:
        fix = f"{SECRET} and 24 to 64 random bytes in base64, as `echo {SECRET}$(openssl rand -base64 32)` makes it"
        raise ConfigError(f"{where}.secret_file holds what is no secret of Standard Webhooks", fix=fix)
    return key


def _secret(file: Path | None, home: Path, where: str) -> str:
    try:
        found = (home / (file or "")).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{where}: {file} cannot be read: {error}", fix="Create it or correct the path") from error
    if not found:
        raise ConfigError(f"{where}: {file} is empty", fix="Put the secret there")
    return found


def _first(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return "notify.channels must be a table of tables"
    one = error.errors(include_url=False, include_input=False, include_context=False)[0]
    return f"{'.'.join(map(str, ('notify', *one['loc'])))}: {one['msg']}"
