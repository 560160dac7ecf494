"""The web page's files, and a plain list of the routes. Files are read once and found by name: no path of a client is opened."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

PAGE_FOLDER = Path(__file__).parent / "page"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".webmanifest": "application/manifest+json",
}


def page_files(folder: Path = PAGE_FOLDER) -> dict[str, tuple[bytes, str]]:
    """The files of the web page by name, with their content types; empty where it is not installed."""
    if not folder.is_dir():
        return {}
    return {
        file.name: (file.read_bytes(), _TYPES[file.suffix]) for file in sorted(folder.iterdir()) if file.suffix in _TYPES and file.is_file()
    }


def routes_page(document: dict[str, Any]) -> str:
    """The routes of an OpenAPI document as a plain page: the usual ones load their scripts from elsewhere."""
    rows = []
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            told = [operation.get("summary", ""), operation.get("description", "")]
            query = [parameter["name"] for parameter in operation.get("parameters", []) if parameter["in"] == "query"]
            if query:
                told.append("Query: " + ", ".join(query) + ".")
            words = " ".join(html.escape(part) for part in told if part)
            rows.append(f"<dt><code>{html.escape(method.upper())} {html.escape(path)}</code></dt>\n<dd>{words}</dd>")
    title = html.escape(f"{document['info']['title']} {document['info']['version']}")
    return (
        f'<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark"></head>\n'
        f'<body>\n<h1>{title}</h1>\n<p>The same for programs: <a href="openapi.json">openapi.json</a>. '
        '<a href=".">The web page</a>.</p>\n<dl>\n' + "\n".join(rows) + "\n</dl>\n</body>\n</html>\n"
    )
