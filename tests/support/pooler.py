"""PgBouncer in transaction mode in front of a test server."""

from pathlib import Path

from backbeat.embedded import ports, postgres, roles
from backbeat.embedded.daemon import Daemon
from tests.support.servers import PASSWORD, Server

PGBOUNCER = Path("/usr/sbin/pgbouncer")  # Debian's package
_SETTINGS = """\
[databases]
* = host=127.0.0.1 port={server_port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {users}
pool_mode = transaction
max_client_conn = 500
default_pool_size = 20
log_connections = 0
log_disconnections = 0
"""


def start(directory: Path, server: Server) -> tuple[Daemon, int]:
    """Start one for this server's databases and wait until it answers; the process and its port."""
    directory.mkdir(mode=0o700, parents=True)
    users, port = directory / "users.txt", ports.find(avoid=[server.port])
    users.write_text(f'"{roles.APP}" "{PASSWORD}"\n"{roles.OWNER}" "{PASSWORD}"\n')
    settings = directory / "pgbouncer.ini"
    settings.write_text(_SETTINGS.format(server_port=server.port, port=port, users=users))
    daemon = Daemon("pgbouncer", directory, directory / "pgbouncer.log")
    # Like PostgreSQL, PgBouncer refuses to be root.
    daemon.start([*postgres._as_somebody(), str(PGBOUNCER), str(settings)])
    url = server.url("postgres", roles.APP).replace(f":{server.port}/", f":{port}/")
    daemon.ready(lambda: postgres.probe(url), within=10.0)
    return daemon, port
