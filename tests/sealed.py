"""Run folders that a test has changed, made whole again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from headstart.files import file_digest
from headstart.run.manifest import digest_of as manifest_digest


def seal(folder: Path, entries: dict[str, Any]) -> None:
    """Write the manifest with the digests of the files that are there."""
    files = {file.name: file_digest(file) for file in sorted(folder.iterdir()) if file.name != "manifest.json"}
    manifest = {**entries, "files": files}
    manifest.pop("digest", None)
    (folder / "manifest.json").write_text(json.dumps({**manifest, "digest": manifest_digest(manifest)}), encoding="utf-8")
