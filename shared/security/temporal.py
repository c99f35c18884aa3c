"""How Temporal is reached: by our own settings, and by a profile of Temporal's where one is named."""

from typing import Any

from temporalio.envconfig import ClientConfig

from shared.config import Config
from shared.errors import ConfigError


def connection(config: Config) -> dict[str, Any]:
    """What `Client.connect` takes: address, namespace, TLS, API key. Our own settings win. Raises ConfigError.

    Without `temporal_profile` nothing of Temporal's own files and variables is read.
    """
    given: dict[str, Any] = {}
    if config.temporal_profile:
        try:
            given.update(ClientConfig.load_client_connect_config(config.temporal_profile))
        except (RuntimeError, ValueError, OSError) as error:
            what = f"temporal_profile {config.temporal_profile!r} cannot be read: {str(error).splitlines()[0]}"
            raise ConfigError(what, fix="Correct it, or TEMPORAL_CONFIG_FILE") from error
    if config.temporal_address:
        given["target_host"] = config.temporal_address
    if config.temporal_namespace != "default" or "namespace" not in given:
        given["namespace"] = config.temporal_namespace
    if "target_host" not in given:
        raise ConfigError("temporal_address is not set", fix="Set BACKBEAT_TEMPORAL_ADDRESS, or run `backbeat up` here")
    return given
