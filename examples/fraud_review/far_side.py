"""The issuer, simulated: keeps every block it is asked for in a file, and deduplicates nothing.

python -m examples.fraud_review.far_side --port 8082 --log blocks.jsonl
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


def application(path: Path) -> Starlette:
    """The two endpoints, over the blocks of a log."""
    log, blocks = JsonLog(path, durable=True), list(read(path))

    async def create(request: Request) -> Response:
        entry: dict[str, Any] = {"id": f"sim_block_{len(blocks) + 1}", **json.loads(await request.body())}
        log.write(entry)
        blocks.append(entry)
        return JSONResponse(entry, headers=server.SIMULATED)

    async def listing(request: Request) -> Response:
        wanted = request.query_params.get("reference")
        return JSONResponse([one for one in blocks if one["reference"] == wanted], headers=server.SIMULATED)

    return Starlette(routes=[Route("/blocks", create, methods=["POST"]), Route("/blocks", listing, methods=["GET"])])


def main(argv: Sequence[str] | None = None) -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--log", type=Path, required=True)
    given = parser.parse_args(argv)
    server.serve(application(given.log), given.port, "issuer")


if __name__ == "__main__":
    sys.exit(server.run(main))
