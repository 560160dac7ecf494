"""Make the pictures in docs/images from real runs: the terminal during `headstart fit`, the top of its report, and the service's page.

    python docs/make_images.py FOLDER [--name NAME]

FOLDER holds labelled images, as for `headstart fit`; `cats_dogs` was used for the pictures in the README. The page shows photographs that
come with scikit-learn. Needs the extras serve and dev, Chromium, a Chinese font, and a system with pseudo-terminals.
"""

from __future__ import annotations

import argparse
import io
import os
import pty
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text
from run_examples import prepare

IMAGES = Path(__file__).parent / "images"
COLUMNS = 106
THEME = TerminalTheme(
    (22, 27, 34),
    (230, 237, 243),
    [(72, 79, 88), (255, 123, 114), (63, 185, 80), (210, 153, 34), (88, 166, 255), (188, 140, 255), (57, 197, 207), (177, 186, 196)],
    [(110, 118, 129), (255, 161, 152), (86, 211, 100), (227, 179, 65), (121, 192, 255), (210, 168, 255), (86, 212, 221), (240, 246, 252)],
)


def on_a_terminal(command: list[str], folder: Path) -> str:
    """Return what a command writes to standard output when that is a terminal, escape sequences included."""
    leader, follower = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor", "COLUMNS": str(COLUMNS)}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', '')}"
    running = subprocess.Popen(command, cwd=folder, env=environment, stdin=follower, stdout=follower, stderr=subprocess.PIPE)
    os.close(follower)
    printed = b""
    while True:
        try:
            piece = os.read(leader, 65536)
        except OSError:  # how Linux says that the other end is closed
            break
        if not piece:
            break
        printed += piece
    errors = running.communicate()[1]
    if running.returncode:
        raise SystemExit(f"{' '.join(command)}: {errors.decode()}")
    return printed.decode().replace("\r\n", "\n")


def chromium() -> str:
    """The browser."""
    browser = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)
    if browser is None:
        raise SystemExit("Chromium is needed to make the pictures.")
    return browser


def photograph(page: Path, picture: Path, *, width: int, height: int, scale: float = 1.5) -> None:
    """Write a picture of an HTML or SVG file as Chromium shows it."""
    browser = chromium()
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--force-device-scale-factor={scale}"]
    size = f"--window-size={width},{height}"
    subprocess.run([browser, *options, size, f"--screenshot={picture}", page.as_uri()], check=True, capture_output=True, timeout=120)


def _smaller(picture: Path) -> None:
    """Reduce a screenshot to a palette: a third of the bytes, and no difference to be seen."""
    from PIL import Image

    with Image.open(picture) as image:
        image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(picture, optimize=True)


def terminal(text: Text, picture: Path, *, title: str) -> None:
    """Write a picture of a terminal with a text in it."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(text)
    svg = console.export_svg(title=title, theme=THEME)
    width, height = (float(number) for number in svg.partition('viewBox="0 0 ')[2].partition('"')[0].split())
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "terminal.html"
        page.write_text(f"<!doctype html><body style='margin:0;background:#fff'><style>svg{{display:block}}</style>{svg}", encoding="utf-8")
        photograph(page, picture, width=1000, height=round(1000 * height / width))
    _smaller(picture)


def served(run: Path, images: list[Path], picture: Path) -> None:
    """Write a picture of the page of the service, to which some images were given; the last one is open and has its heat map."""
    from playwright.sync_api import sync_playwright

    command = [sys.executable, "-m", "headstart", "serve", str(run), "--port", "0"]
    service = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert service.stdout is not None
    address = service.stdout.readline().split("http://")[1].split()[0]
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1000, "height": 1130}, device_scale_factor=1.5, locale="en")
            page.goto(f"http://{address}")
            for image in images:
                page.set_input_files("input[type=file]", image)
                page.wait_for_selector(f"#status:has-text('{image.name}')", state="attached")
                page.wait_for_timeout(500)
            page.click("[data-act=heat]")
            page.wait_for_selector("img.heat")
            page.wait_for_timeout(500)
            page.evaluate("scrollTo(0, 0)")
            page.screenshot(path=picture)
    finally:
        service.terminate()
        service.wait()
    _smaller(picture)


def main() -> None:
    """Fit, predict, and take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--name", help="what to call the data; the folder's name by default")
    options = parser.parse_args()
    name = options.name or options.folder.resolve().name
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        os.environ["HEADSTART_CACHE"] = str(folder / "cache")
        subprocess.run([sys.executable, "-c", _CONVERT], check=True)
        (folder / name).symlink_to(options.folder.resolve())
        tested = sorted((options.folder / "test").rglob("*.jp*g"))
        some = [f"{name}/{path.relative_to(options.folder)}" for path in (tested[0], tested[len(tested) // 2 + 1])]
        shown = Text()
        for command in (["headstart", "fit", name], ["headstart", "predict", f"runs/{name}", *some]):
            shown.append("$ ", style="bold cyan").append(" ".join(command), style="bold").append("\n")
            shown.append_text(Text.from_ansi(on_a_terminal(command, folder).rstrip()))
            shown.append("\n\n")
        shown.rstrip()
        shown.append("\n")  # else the picture ends in the middle of the last line
        print(shown.plain)
        terminal(shown, IMAGES / "fit.png", title="headstart")
        photograph(folder / "runs" / name / "report.html", IMAGES / "report.png", width=1000, height=880)
        _smaller(IMAGES / "report.png")
        prepare(folder)
        on_a_terminal(["headstart", "fit", "photos", "-q"], folder)
        images = ("scans/zero/writer0_0.png", "new_photos/flower00.jpg", "new_photos/temple00.jpg")
        served(folder / "runs" / "photos", [folder / image for image in images], IMAGES / "page.png")


_CONVERT = (
    "from headstart import load_backbone; from headstart.files import cache_folder; "
    "load_backbone(cache=cache_folder(), announce=lambda message: None)"
)

if __name__ == "__main__":
    main()
