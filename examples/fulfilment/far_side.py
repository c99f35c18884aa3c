"""The shop's services, simulated: keep what they are sent in a file, and deduplicate nothing.

python -m examples.fulfilment.far_side --port 8083 --log shop.jsonl

An order with a line of the SKU "undeliverable" is refused when it should be shipped.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from backbeat.embedded.simulated import server
from backbeat.embedded.simulated.log import JsonLog, read
from shared.clock import sleep


def application(path: Path) -> Starlette:
    """One endpoint a kind of write. While `<log>.hold` names a kind, its writes are kept and never answered."""
    log, kept = JsonLog(path, durable=True), list(read(path))
    hold = path.with_suffix(".hold")

    async def create(request: Request) -> Response:
        kind, body = request.path_params["kind"], json.loads(await request.body())
        if kind == "ship" and any(line["sku"] == "undeliverable" for line in body["lines"]):
            return JSONResponse({"error": "nobody goes there"}, 422, headers=server.SIMULATED)
        entry: dict[str, Any] = {"id": f"sim_{kind}_{len(kept) + 1}", "kind": kind, **body}
        log.write(entry)
        kept.append(entry)
        while hold.exists() and hold.read_text(encoding="utf-8") == kind:
            await sleep(0.05)
        return JSONResponse(entry, headers=server.SIMULATED)

    async def listing(request: Request) -> Response:
        wanted = request.path_params["kind"], request.query_params.get("reference")
        found = [one for one in kept if (one["kind"], one["reference"]) == wanted]
        return JSONResponse(found, headers=server.SIMULATED)

    return Starlette(routes=[Route("/{kind}", create, methods=["POST"]), Route("/{kind}", listing, methods=["GET"])])


def main(argv: Sequence[str] | None = None) -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--log", type=Path, required=True)
    given = parser.parse_args(argv)
    server.serve(application(given.log), given.port, "shop")


if __name__ == "__main__":
    sys.exit(server.run(main))
