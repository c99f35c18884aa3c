"""Git histories made to order."""

import os
import subprocess
from pathlib import Path

_IDENTITY = {f"GIT_{who}_{what}": value for who in ("AUTHOR", "COMMITTER") for what, value in (
    ("NAME", "Test"), ("EMAIL", "test@example.invalid"), ("DATE", "2026-01-05T09:00:00+00:00")
)}  # fmt: skip


class History:
    """A repository in a directory, and the git commands that shape it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        self.git("init", "--quiet", "--initial-branch=main")

    def git(self, *arguments: str) -> str:
        """Run git here, with nobody's configuration but the repository's."""
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
        environment = inherited | _IDENTITY | {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
        command = ["git", "-C", str(self.path), "-c", "protocol.file.allow=always", *arguments]
        return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.strip()

    def commit(self, subject: str, files: dict[str, bytes | str | None] | None = None) -> str:
        """Write or (None) remove files, commit them, and return the hash."""
        for name, content in (files or {}).items():
            path = self.path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if content is None:
                path.unlink()
            else:
                path.write_bytes(content.encode() if isinstance(content, str) else content)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", subject)
        return self.git("rev-parse", "HEAD")
