"""What a running stack tells the workers: `backbeat.toml`."""

import json
from collections.abc import Collection

from backbeat.embedded import files, postgres, roles
from backbeat.embedded.site import Site

_HEAD = "# Written by `backbeat up`, which overwrites it; a BACKBEAT_* variable overrides a line. It holds passwords.\n"


def database_url(site: Site, user: str) -> str:
    """A login of the stack's database: `roles.OWNER`, `roles.APP` or `roles.PEOPLE`."""
    port = site.port("postgres")
    return postgres.dsn(site.home("postgres"), port, user=user, password=site.secret(user), database=roles.DATABASE)


def clickhouse_url(site: Site) -> str:
    """The stack's ClickHouse, as who writes it."""
    return f"http://backbeat:{site.secret('clickhouse')}@127.0.0.1:{site.port('clickhouse')}/backbeat"


def analyst_url(site: Site) -> str:
    """The stack's ClickHouse, as who only reads it."""
    return f"http://analyst:{site.secret('analyst')}@127.0.0.1:{site.port('clickhouse')}/backbeat"


def write(site: Site, engines: Collection[str]) -> None:
    """Write the settings that reach these engines, mode 0600."""
    values: dict[str, str] = {}
    if "postgres" in engines:
        values["database_url"] = database_url(site, roles.APP)
        values["direct_url"] = database_url(site, roles.OWNER)
        values["operator_url"] = database_url(site, roles.PEOPLE)
    if "temporal" in engines:
        values["temporal_address"] = f"127.0.0.1:{site.port('temporal')}"
        values["temporal_namespace"] = "default"
    if "clickhouse" in engines:
        values["clickhouse_url"] = clickhouse_url(site)
        values["analyst_url"] = analyst_url(site)
        values["telemetry"] = "spool"
        values["spool_dir"] = str(site.directory / "spool")
    if "recorder" in engines:
        values["github_api"] = f"http://127.0.0.1:{site.port('recorder')}"
        values["github_token_file"] = str(site.secret_file("github"))
    text = _HEAD + "".join(f"{key} = {_string(value)}\n" for key, value in values.items())
    if "provider" in engines:
        root = f"http://127.0.0.1:{site.port('provider')}"
        for vendor, base in (("anthropic", f"{root}/anthropic"), ("openai", f"{root}/openai/v1")):
            text += f"\n[providers.{vendor}]\nbase_url = {_string(base)}\nsimulated = true\n"
    files.write(site.config, text, 0o600)


def _string(value: str) -> str:
    """A TOML basic string; JSON's escapes are a part of TOML's, save that DEL must be escaped too."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
