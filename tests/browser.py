"""Finds the browser that the site is tested in, or installs it: `python tests/browser.py`."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
HELP = "the site's tests need Chromium: install it by your package manager, or run `playwright install chromium`"


def find() -> str | None:
    """Path of a Chromium on this machine, the system's or Playwright's own."""
    for name in NAMES:
        if path := shutil.which(name):
            return path
    with sync_playwright() as playwright:
        path = playwright.chromium.executable_path
    return path if Path(path).exists() else None


def install() -> str:
    """The browser, installed where it is missing: through apt as root, else Playwright's own build."""
    if (path := find()) is not None:
        return path
    if shutil.which("apt-get") and os.geteuid() == 0:
        attempts = [["apt-get", "update", "-q"], ["apt-get", "install", "-qy", "--no-install-recommends", "chromium"]]
    else:
        attempts = [[sys.executable, "-m", "playwright", "install", "chromium"]]
    for command in attempts:
        subprocess.run(command, check=False)
    if (path := find()) is None:
        sys.exit(HELP)
    return path


if __name__ == "__main__":
    sys.stdout.write(install() + "\n")
