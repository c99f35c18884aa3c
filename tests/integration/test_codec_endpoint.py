"""`backbeat codec`, asked by the stock command line."""

import base64
import re
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from temporalio.client import Client

from backbeat.embedded import temporal
from shared.security.codec import data_converter
from tests.integration.test_codec import ring
from tests.integration.test_orchestrations import begin, loaded
from tests.support.command import clean_environ, command
from tests.support.databases import Database
from tests.support.temporal import FarSide, Server, environment, finished, working


async def test_the_stock_command_line_reads_through_it(
    database: Database, temporal_server: Server, tmp_path: Path
) -> None:
    keys = ring(tmp_path / "keys", "one")
    client = await Client.connect(temporal_server.address, data_converter=data_converter(keys))
    async with environment(database, FarSide()) as env, working(await loaded(env), client):
        name = (await finished(database, begin(database, "ship", customer="hidden-customer")))["temporal_id"]
    words = [sys.executable, "-m", "backbeat", "codec", "--port", "0"]
    environ = clean_environ(BACKBEAT_PAYLOAD_KEYS_FILE=str(keys))
    with subprocess.Popen(words, cwd=tmp_path, env=environ, stderr=subprocess.PIPE, text=True) as served:  # noqa: ASYNC220
        assert served.stderr
        url = served.stderr.readline().split()[-1]
        show = [str(temporal.binary()), "workflow", "show", "--workflow-id", name, "--output", "json"]
        where = ["--address", temporal_server.address, "--disable-config-file", "--codec-endpoint", url]
        plain = subprocess.run([*show, *where[:3]], capture_output=True, text=True, check=True).stdout  # noqa: ASYNC221
        read = subprocess.run([*show, *where], capture_output=True, text=True, check=True).stdout  # noqa: ASYNC221
        refuses_garbage(url)
        served.terminate()
    assert "hidden-customer" not in contents(plain)
    assert "hidden-customer" in contents(read)


def contents(history: str) -> str:
    """All payloads of a history as the command line prints it."""
    return " ".join(str(base64.b64decode(text)) for text in re.findall(r'"data": "([^"]+)"', history))


def refuses_garbage(url: str) -> None:
    for path, status in (("/decode", "400"), ("/other", "404")):
        with pytest.raises(urllib.error.HTTPError, match=status):
            urllib.request.urlopen(f"{url}{path}", data=b"garbage")


def test_without_keys_it_says_so(tmp_path: Path) -> None:
    assert "payload_keys_file is not set" in command("backbeat", "codec", home=tmp_path).refused(2)
