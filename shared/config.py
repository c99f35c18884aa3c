"""Settings, read once at the edge into a frozen object: flag > environment > TOML file > default.

The TOML file is `BACKBEAT_CONFIG`, else `./backbeat.toml`, else `./var/backbeat.toml` (which
`backbeat up` writes). Its keys are the field names of `Config`; `[providers.<name>]` tables configure
vendors, `[notify]` is for `backbeat notify`. Secrets come from files or the environment only. Nothing
else in Backbeat reads `os.environ`.
"""

import os
import re
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from shared.errors import ConfigError

TELEMETRY_MODES = ("spool", "postgres", "otlp", "off")


@dataclass(frozen=True, slots=True)
class ProviderConfig:
    """How to reach one vendor. `api_key` is masked in repr; `simulated` labels every result it gives.

    `kind` is "compatible" for an endpoint of any name that speaks Chat Completions; the two vendors need none.
    """

    name: str
    base_url: str | None = None
    api_key: str | None = field(default=None, repr=False)
    simulated: bool = False
    kind: str = ""

    @property
    def adapter(self) -> str:
        """Which adapter speaks to it."""
        return self.kind or self.name


@dataclass(frozen=True, slots=True)
class Config:
    """Everything a worker or command may ask of its surroundings."""

    database_url: str = ""
    direct_url: str = ""
    operator_url: str = ""
    temporal_address: str = ""
    temporal_namespace: str = "default"
    temporal_profile: str = ""
    clickhouse_url: str = ""
    analyst_url: str = ""
    definitions: tuple[str, ...] = ()
    prompt_tools: tuple[str, ...] = ()
    telemetry: str = "off"
    capture: str = "off"
    spool_dir: Path = Path("var/spool")
    routes_file: Path | None = None
    token_file: Path | None = None
    payload_keys_file: Path | None = None
    payload_dir: Path | None = None
    metrics_textfile: Path | None = None
    github_api: str = ""
    github_token_file: Path | None = None
    providers: Mapping[str, ProviderConfig] = field(default_factory=dict)
    notify: Mapping[str, Any] = field(default_factory=dict)
    source: str = "defaults"

    @property
    def migrator_url(self) -> str:
        """The connection that may hold session state: the direct one, else the ordinary one."""
        return self.direct_url or self.database_url

    @property
    def operating_url(self) -> str:
        """The connection of people who operate: theirs, else the one that owns everything."""
        return self.operator_url or self.migrator_url

    @property
    def postgres_away(self) -> str:
        """What to do when Postgres does not answer: these settings may be those of a stopped embedded stack."""
        home = Path(self.source).parent
        if "@127.0.0.1:" not in self.database_url or not (home / "stack.json").is_file():
            return "Check database_url and that it runs"
        return "Start it: `backbeat up`" if home == Path("var") else f"Start it: `backbeat up --dir {home}`"


_TABLES = ("providers", "notify", "source")
_ENVIRONMENT = {one.name: f"BACKBEAT_{one.name.upper()}" for one in fields(Config) if one.name not in _TABLES}
_PATHS = tuple(key for key in _ENVIRONMENT if key.endswith(("_dir", "_file", "_textfile")))
_PROVIDER_KEYS = ("base_url", "api_key_file", "simulated", "kind")
_VENDORS = ("anthropic", "openai")


def load(environ: Mapping[str, str] | None = None, **flags: Any) -> Config:
    """Read the settings. `flags` that are None are ignored. Raises ConfigError naming the file and key."""
    env = os.environ if environ is None else environ
    path = _config_file(env)
    table = _read_toml(path) if path else {}
    raw_providers, notify = table.pop("providers", {}), table.pop("notify", {})
    _known(table, _ENVIRONMENT, f"{path}: ")
    values: dict[str, Any] = {key: value for key, value in table.items() if value != ""}
    values.update({key: env[name] for key, name in _ENVIRONMENT.items() if env.get(name)})
    values.update({key: value for key, value in flags.items() if value is not None})
    for key, value in values.items():
        where = f"{path}: " if key in table and value is table[key] else f"{_ENVIRONMENT[key]}: "
        values[key] = _typed(key, value, where)
    config = replace(Config(source=str(path) if path else "environment"), **values)
    modes = [mode.strip() for mode in config.telemetry.split(",")]
    if len(set(modes)) < len(modes) or not set(modes) <= ({*TELEMETRY_MODES[:-1]} if modes[1:] else {*TELEMETRY_MODES}):
        fix = f"Use one of {', '.join(TELEMETRY_MODES)}, or several of the first three with commas"
        raise ConfigError(f"telemetry is {config.telemetry!r}", fix=fix)
    config = replace(config, telemetry=",".join(modes))
    if config.capture not in ("off", "redacted"):
        raise ConfigError(f"capture is {config.capture!r}", fix="Use off or redacted")
    return replace(config, providers=_providers(raw_providers, env, path), notify=notify)


def _typed(key: str, value: Any, where: str) -> Any:
    """A setting as `Config` holds it."""
    if key in ("definitions", "prompt_tools"):
        names = value.split(",") if isinstance(value, str) else value
        if not isinstance(names, list | tuple):
            raise _wrong(f"{where}{key}", "a text or a list of texts")
        return tuple(name for each in names if (name := _text(each, f"{where}{key}").strip()))
    if key in _PATHS:
        return Path(_text(os.fspath(value) if isinstance(value, Path) else value, f"{where}{key}", path=True))
    return _text(value, f"{where}{key}")


def _text(value: Any, what: str, *, path: bool = False) -> str:
    """Text that Postgres, URLs and files can bear. A path from the environment may be no UTF-8."""
    if not isinstance(value, str):
        raise _wrong(what, "a text")
    if "\0" in value or (not path and any("\ud800" <= letter <= "\udfff" for letter in value)):
        raise _wrong(what, "UTF-8 text without NUL")
    return value


def _wrong(what: str, wanted: str) -> ConfigError:
    return ConfigError(f"{what} must be {wanted}", fix="Correct it")


def _known(table: Mapping[str, Any], names: Collection[str], where: str) -> None:
    for key in sorted(set(table) - set(names)):
        raise ConfigError(f"{where}unknown key {key!r}", fix=f"Known keys: {', '.join(names)}")


def _config_file(env: Mapping[str, str]) -> Path | None:
    named = env.get("BACKBEAT_CONFIG")
    try:
        if named and not Path(named).is_file():
            raise ConfigError(f"BACKBEAT_CONFIG names {named}, which is not a file", fix="Correct it or unset it")
        places = (Path(named),) if named else (Path("backbeat.toml"), Path("var/backbeat.toml"))
        return next((path for path in places if path.is_file()), None)
    except OSError as error:
        raise ConfigError(f"{error.filename} cannot be read: {error.strerror}", fix="Correct its rights") from error


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read: {error}", fix="Correct the file") from error


def _providers(table: Any, env: Mapping[str, str], path: Path | None) -> dict[str, ProviderConfig]:
    """A key in the environment means the real vendor, whatever the file says about a simulated one."""
    if not isinstance(table, dict):
        raise _wrong(f"{path}: providers", "a table")
    found = {name: _provider(name, entry, path) for name, entry in table.items()}
    for name in {*_VENDORS, *found}:
        prefix = re.sub(r"\W", "_", name.upper())
        key = env.get(f"{prefix}_API_KEY") or _secret(env.get(f"{prefix}_API_KEY_FILE"), None)
        if key and name in _VENDORS:
            base_url = env.get(f"{prefix}_BASE_URL")
            found[name] = ProviderConfig(name, base_url and _text(base_url, f"{prefix}_BASE_URL"), key)
        elif key:
            found[name] = replace(found[name], api_key=key)
    return found


def _provider(name: str, entry: Any, path: Path | None) -> ProviderConfig:
    """One `[providers.<name>]` table."""
    where = f"{path}: providers.{name}"
    if not isinstance(entry, dict):
        raise _wrong(where, "a table")
    _known(entry, _PROVIDER_KEYS, f"{where}: ")
    base_url, file, kind = (
        _text(entry[key], f"{where}.{key}") if key in entry else None for key in ("base_url", "api_key_file", "kind")
    )
    if kind if name in _VENDORS else not (kind == "compatible" and base_url):
        fix = f'Vendors are {" and ".join(_VENDORS)}; any other endpoint needs kind = "compatible" and a base_url'
        raise ConfigError(f"{path}: unknown provider {name!r} of kind {kind!r}", fix=fix)
    simulated = entry.get("simulated", False)
    if not isinstance(simulated, bool):
        raise _wrong(f"{where}.simulated", "true or false")
    key = _secret(file, path) or ("simulated" if simulated else None)
    return ProviderConfig(name, base_url, key, simulated, kind or "")


def _secret(file: str | None, beside: Path | None) -> str | None:
    if not file:
        return None
    path = Path(file) if Path(file).is_absolute() or beside is None else beside.parent / file
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise ConfigError(f"secret file {path} cannot be read: {error}", fix="Create it or correct the path") from error
