"""Migration files: `NNNN_name.sql` in dbmate's format, forward only, so that stock dbmate can read them too."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from shared.errors import SchemaError

_FILE = re.compile(r"(?P<version>\d{4})_(?P<name>[a-z0-9_]+)\.sql")
_UP = re.compile(r"\s*-- migrate:up(?P<alone> +transaction:false)?[ \t]*\n")


@dataclass(frozen=True, slots=True)
class Migration:
    """One file. `alone` means `transaction:false`; the file `verify` may be absent."""

    version: str
    name: str
    sql: str
    alone: bool
    verify: Path

    @property
    def label(self) -> str:
        """The file's name without its suffix."""
        return f"{self.version}_{self.name}"

    @property
    def checksum(self) -> str:
        """Hex sha256 of the text; the kind of line ends does not count."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


def load(engine: str, directory: Path | None = None) -> list[Migration]:
    """Read the files of `postgres` or `clickhouse`, oldest first; without a directory, those that came with Backbeat.

    Raises SchemaError for a file that is misnamed or malformed, for two of one number, and for none at all.
    """
    packaged = Path(__file__).parent / "_migrations"
    root = packaged if packaged.is_dir() else Path(__file__).parents[1] / "migrations"
    directory = directory or root / engine
    migrations = [_read(path) for path in sorted(directory.glob("*.sql"))]
    if not migrations:
        raise SchemaError(f"no migrations in {directory}", fix="Name the directory that has the NNNN_name.sql files")
    if len({each.version for each in migrations}) < len(migrations):
        raise SchemaError(f"two files in {directory} have one number", fix="Renumber the one not yet applied")
    return migrations


def _read(path: Path) -> Migration:
    sql = path.read_text(encoding="utf-8")
    named, up = _FILE.fullmatch(path.name), _UP.match(sql)
    if not named or not up or "-- migrate:down" in sql:
        fix = "Name it NNNN_name.sql, begin it with `-- migrate:up`, and leave out any down part"
        raise SchemaError(f"{path} is not a forward migration", fix=fix)
    verify = path.parent.parent / "verify" / f"{named['version']}.sql"
    return Migration(named["version"], named["name"], sql, bool(up["alone"]), verify)
