"""How long does the report of a run take, how large is it, and does it ask any network for anything?

    python benchmarks/report.py RUN [--chromium /usr/bin/chromium]

Goals for a run of 6,000 images: 15 s, 5 MB, no request. The last is looked at in headless Chromium, whose own log of the network lists
every address that a page asks for; without Chromium that part is left out.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def requests(page: Path, chromium: str) -> list[str]:
    """Addresses that Chromium asked a network for while it showed the page; those of its own background services are left out."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "net.json"
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", f"--user-data-dir={folder}/profile",
                   f"--log-net-log={log}", "--net-log-capture-mode=Everything", f"--screenshot={folder}/page.png"]  # fmt: skip
        subprocess.run([chromium, *options, page.resolve().as_uri()], check=True, capture_output=True, timeout=120)
        text = log.read_text(encoding="utf-8", errors="replace")
    asked = set(re.findall(r'"url":"(https?://[^"]+)"', text))
    return sorted(url for url in asked if not re.search(r"google|gstatic|gvt1|chromium", url))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--chromium", default=shutil.which("chromium") or "")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "report.html"
        begun = time.perf_counter()
        subprocess.run([sys.executable, "-m", "headstart", "report", str(arguments.run), "--out", str(page), "-q"], check=True)
        print(f"{time.perf_counter() - begun:.1f} s, {page.stat().st_size / 1e6:.2f} MB")
        outside = re.findall(r'(?:src|href)="?(?!data:|#)([^"\s>]+)', page.read_text(encoding="utf-8"))
        print(f"addresses in the page that are not its own: {outside or 'none'}")
        if arguments.chromium:
            print(f"asked for by Chromium: {requests(page, arguments.chromium) or 'nothing'}")


if __name__ == "__main__":
    main()
