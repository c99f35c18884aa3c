"""`backbeat version`."""

import platform

import click

from backbeat import __version__
from backbeat.cli.output import emit, output_option


@click.command()
@output_option
def version(output: str) -> None:
    """Print the version."""
    if output == "json":
        emit({"backbeat": __version__, "python": platform.python_version()}, output=output)
    else:
        click.echo(f"backbeat {__version__} (Python {platform.python_version()})")
