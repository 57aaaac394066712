"""Take README's picture of the front page of the reference runs: `make screenshot`.

It needs a Chromium or Chrome, which is found by its name, or named by $CHROMIUM. The page's digest is kept beside the
picture, so that `reference --check` names a picture that shows an earlier page.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from PIL import Image

from nfstudy.report.reference import FRONT, PICTURE, PICTURED

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
WIDTH, HEIGHT = 1280, 800
SECONDS = 120
COLOURS = 128
"""Of a page of text and few colours; with all of them the file is three times as large."""


def main() -> int:
    """Take the picture; return 2 where there is no browser or no page."""
    browser = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    page = ROOT / "reports" / FRONT
    if not browser or not page.exists():
        missing = f"no browser ({', '.join(NAMES)}, $CHROMIUM)" if not browser else f"no {page.relative_to(ROOT)}"
        print(f"error: {missing}; hint: {'install one' if not browser else 'make reference'}", file=sys.stderr)
        return 2
    picture = ROOT / PICTURE
    options = ["--headless", "--no-sandbox", "--hide-scrollbars", f"--window-size={WIDTH},{HEIGHT}"]
    subprocess.run([browser, *options, f"--screenshot={picture}", page.as_uri()], check=True, timeout=SECONDS)
    with Image.open(picture) as taken:
        small = taken.convert("RGB").quantize(COLOURS)
    small.save(picture, optimize=True)
    (ROOT / PICTURED).write_text(f"{hashlib.sha256(page.read_bytes()).hexdigest()}\n")
    print(f"{PICTURE}: {picture.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
