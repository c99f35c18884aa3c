"""`backbeat migrate`: the schemas of Postgres and, where one is configured, ClickHouse."""

from typing import TYPE_CHECKING, Any

import click

from backbeat.cli.output import emit, output_option, talk

if TYPE_CHECKING:
    from shared.config import Config

_COLUMNS = ("engine", "version", "name", "state", "applied_at")


@click.group()
def migrate() -> None:
    """Bring the database schemas up to date.

    Forward only, one file at a time, each exactly once; two runners at once are safe. Needs the login that owns the
    schema (direct_url), past any transaction pooler.
    """


@migrate.command()
@click.option("--dry-run", is_flag=True, help="Say what would be applied, and apply nothing.")
@click.option("--show-sql", is_flag=True, help="Print the SQL of what is pending first.")
@output_option
def up(dry_run: bool, show_sql: bool, output: str) -> None:
    """Apply what is pending."""
    from backbeat.migrate import pending_sql, postgres_up

    config = _config()
    if show_sql:
        click.echo(pending_sql(config.migrator_url), nl=False)
    applied = [("postgres", label) for label in postgres_up(config.migrator_url, dry_run=dry_run, log=talk)]
    if not dry_run:
        from backbeat.prompt import make_known

        make_known(config.migrator_url)
    if config.clickhouse_url:
        applied += [("clickhouse", label) for label in _clickhouse(config, dry_run=dry_run)]
    if not (show_sql and output == "text"):
        rows = [{"engine": engine, "migration": label} for engine, label in applied]
        emit(rows, output=output, title="would apply" if dry_run else "applied")


@migrate.command()
@output_option
@click.pass_context
def status(ctx: click.Context, output: str) -> None:
    """Show every migration; exits 1 unless all are applied."""
    from backbeat.migrate import postgres_status

    config = _config()
    rows = [{"engine": "postgres", **state._asdict()} for state in postgres_status(config.migrator_url)]
    if config.clickhouse_url:
        from backbeat.migrate_clickhouse import clickhouse_status

        rows += [{"engine": "clickhouse", **state._asdict()} for state in clickhouse_status(config.clickhouse_url)]
    emit(rows, columns=_COLUMNS, output=output)
    ctx.exit(any(row["state"] != "applied" for row in rows))


@migrate.command()
@output_option
def verify(output: str) -> None:
    """Check that Postgres has what the migrations promise, whatever was done to it by hand since."""
    from backbeat.migrate import postgres_verify

    rows: list[dict[str, Any]] = [{"migration": label} for label in postgres_verify(_config().migrator_url)]
    emit(rows, output=output, title="verified")


def _config() -> "Config":
    from shared.config import load
    from shared.errors import ConfigError

    config = load()
    if not config.migrator_url:
        raise ConfigError("direct_url is not set", fix="Set BACKBEAT_DIRECT_URL, or run `backbeat up` here")
    return config


def _clickhouse(config: "Config", *, dry_run: bool) -> list[str]:
    from backbeat.migrate_clickhouse import clickhouse_status, clickhouse_up

    if not dry_run:
        return clickhouse_up(config.clickhouse_url)
    states = clickhouse_status(config.clickhouse_url)
    return [f"{state.version}_{state.name}" for state in states if state.state == "pending"]
