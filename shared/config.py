"""Settings, read once at the edge into a frozen object: flag > environment > TOML file > default.

The TOML file is `BACKBEAT_CONFIG`, else `./backbeat.toml`, else `./var/backbeat.toml` (which
`backbeat up` writes). Its keys are the field names of `Config`; `[providers.<name>]` tables configure
vendors. Secrets come from files or the environment only. Nothing else in Backbeat reads `os.environ`.
"""

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from shared.errors import ConfigError

TELEMETRY_MODES = ("spool", "off")


@dataclass(frozen=True, slots=True)
class ProviderConfig:
    """How to reach one vendor. `api_key` is masked in repr; `simulated` labels every result it gives."""

    name: str
    base_url: str | None = None
    api_key: str | None = field(default=None, repr=False)
    simulated: bool = False


@dataclass(frozen=True, slots=True)
class Config:
    """Everything a worker or command may ask of its surroundings."""

    database_url: str = ""
    direct_url: str = ""
    temporal_address: str = ""
    temporal_namespace: str = "default"
    clickhouse_url: str = ""
    definitions: tuple[str, ...] = ()
    telemetry: str = "off"
    spool_dir: Path = Path("var/spool")
    routes_file: Path | None = None
    token_file: Path | None = None
    github_api: str = ""
    github_token_file: Path | None = None
    providers: Mapping[str, ProviderConfig] = field(default_factory=dict)
    source: str = "defaults"

    @property
    def migrator_url(self) -> str:
        """The connection that may hold session state: the direct one, else the ordinary one."""
        return self.direct_url or self.database_url


_ENVIRONMENT = {
    "database_url": "BACKBEAT_DATABASE_URL",
    "direct_url": "BACKBEAT_DIRECT_URL",
    "temporal_address": "BACKBEAT_TEMPORAL_ADDRESS",
    "temporal_namespace": "BACKBEAT_TEMPORAL_NAMESPACE",
    "clickhouse_url": "BACKBEAT_CLICKHOUSE_URL",
    "definitions": "BACKBEAT_DEFINITIONS",
    "telemetry": "BACKBEAT_TELEMETRY",
    "spool_dir": "BACKBEAT_SPOOL_DIR",
    "routes_file": "BACKBEAT_ROUTES_FILE",
    "token_file": "BACKBEAT_TOKEN_FILE",
    "github_api": "BACKBEAT_GITHUB_API",
    "github_token_file": "BACKBEAT_GITHUB_TOKEN_FILE",
}
_PATHS = ("spool_dir", "routes_file", "token_file", "github_token_file")
_VENDOR_KEYS = {"anthropic": "ANTHROPIC", "openai": "OPENAI"}


def load(environ: Mapping[str, str] | None = None, **flags: Any) -> Config:
    """Read the settings. `flags` that are None are ignored. Raises ConfigError naming the file and key."""
    env = os.environ if environ is None else environ
    path = _config_file(env)
    table = _read_toml(path) if path else {}
    raw_providers = table.pop("providers", {})
    unknown = sorted(set(table) - set(_ENVIRONMENT))
    if unknown:
        raise ConfigError(f"{path}: unknown key {unknown[0]!r}", fix=f"Known keys: {', '.join(_ENVIRONMENT)}")
    values: dict[str, Any] = dict(table)
    values.update({key: env[name] for key, name in _ENVIRONMENT.items() if env.get(name)})
    values.update({key: value for key, value in flags.items() if value is not None})
    for key in _PATHS:
        if values.get(key):
            values[key] = Path(values[key])
    if isinstance(values.get("definitions"), str):
        values["definitions"] = tuple(name.strip() for name in values["definitions"].split(",") if name.strip())
    elif "definitions" in values:
        values["definitions"] = tuple(values["definitions"])
    config = replace(Config(source=str(path) if path else "environment"), **values)
    if config.telemetry not in TELEMETRY_MODES:
        raise ConfigError(f"telemetry is {config.telemetry!r}", fix=f"Use one of {', '.join(TELEMETRY_MODES)}")
    return replace(config, providers=_providers(raw_providers, env, path))


def _config_file(env: Mapping[str, str]) -> Path | None:
    named = env.get("BACKBEAT_CONFIG")
    if named:
        if not Path(named).is_file():
            raise ConfigError(f"BACKBEAT_CONFIG names {named}, which is not a file", fix="Correct it or unset it")
        return Path(named)
    return next((path for path in (Path("backbeat.toml"), Path("var/backbeat.toml")) if path.is_file()), None)


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}", fix="Correct the file") from error


def _providers(table: Mapping[str, Any], env: Mapping[str, str], path: Path | None) -> dict[str, ProviderConfig]:
    """A key in the environment means the real vendor, whatever the file says about a simulated one."""
    found: dict[str, ProviderConfig] = {}
    for name, entry in table.items():
        key = _secret(entry.get("api_key_file"), path) or ("simulated" if entry.get("simulated") else None)
        found[name] = ProviderConfig(name, entry.get("base_url"), key, bool(entry.get("simulated")))
    for name, prefix in _VENDOR_KEYS.items():
        key = env.get(f"{prefix}_API_KEY") or _secret(env.get(f"{prefix}_API_KEY_FILE"), None)
        if key:
            found[name] = ProviderConfig(name, env.get(f"{prefix}_BASE_URL"), key)
    return found


def _secret(file: str | None, beside: Path | None) -> str | None:
    if not file:
        return None
    path = Path(file) if Path(file).is_absolute() or beside is None else beside.parent / file
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigError(f"secret file {path} cannot be read: {error}", fix="Create it or correct the path") from error
