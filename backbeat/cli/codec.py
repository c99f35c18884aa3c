"""`backbeat codec`: show encrypted payloads in Temporal's own pages."""

import click

from backbeat.cli.output import talk


@click.command()
@click.option("--port", type=click.IntRange(0, 65535), default=8088, show_default=True, help="0: any that is free.")
@click.option("--origin", default="http://localhost:8233", show_default=True, help="Whose pages may ask.")
def codec(port: int, origin: str) -> None:
    """Show encrypted payloads in Temporal's own pages.

    Serves a codec endpoint on loopback until interrupted. It decrypts with the keys of BACKBEAT_PAYLOAD_KEYS_FILE for
    whoever can reach it: name it in the settings of Temporal's pages, or as `temporal --codec-endpoint`.
    """
    from backbeat.codec_endpoint import serve
    from shared.config import load
    from shared.errors import ConfigError

    keys = load().payload_keys_file
    if keys is None:
        raise ConfigError("payload_keys_file is not set", fix="Set BACKBEAT_PAYLOAD_KEYS_FILE")
    serve(keys, port, origin, lambda found: talk(f"codec endpoint at http://127.0.0.1:{found}"))
