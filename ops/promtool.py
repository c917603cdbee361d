"""Fetch promtool, which checks the rules: from Debian, hash-checked, once. `make ops-check` calls this."""

from __future__ import annotations

import hashlib
import platform
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

URL = "http://deb.debian.org/debian/pool/main/p/prometheus/promtool_2.53.3+ds1-2_amd64.deb"
SHA256 = "ff27654eacc95abd846d344e91fe4ba3b4f0588a50d606ed1d2f09ad3408722f"
OWN = "or use another promtool, 2.53 or later: make check PROMTOOL=/path/to/promtool"


def fetch(target: Path) -> None:
    """Put promtool at `target`, or end with what is in the way."""
    if (machine := platform.machine()) != "x86_64" or sys.platform != "linux":
        sys.exit(f"promtool is fetched for Linux on x86-64 only, this is {sys.platform} on {machine}; {OWN}")
    if shutil.which("dpkg-deb") is None:
        sys.exit(f"dpkg-deb, which unpacks promtool, is not installed; {OWN}")
    print(f"fetching promtool (15 MB, once): {URL}", flush=True)
    try:
        with urllib.request.urlopen(URL, timeout=60) as answer:
            package = answer.read()
    except (urllib.error.URLError, TimeoutError) as error:
        sys.exit(f"{URL}: {error}; {OWN}")
    if (found := hashlib.sha256(package).hexdigest()) != SHA256:
        sys.exit(f"{URL} has SHA-256 {found}, expected {SHA256}: do not use it; {OWN}")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        archive = Path(scratch) / "promtool.deb"
        archive.write_bytes(package)
        subprocess.run(["dpkg-deb", "-x", archive, scratch], check=True)
        # The last step, so that an interrupted fetch leaves nothing that looks complete.
        (Path(scratch) / "usr/bin/promtool").rename(target)


if __name__ == "__main__":
    fetch(Path(sys.argv[1]))
