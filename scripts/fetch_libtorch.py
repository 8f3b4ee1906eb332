#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Fetches the pinned LibTorch (libtorch.json) into the download cache and prints its folder.

One for another processor than this machine's goes to a folder of the processor's name in the cache.

Standard library only, Python 3.9 or newer. It asks the package index that pip is configured for, resumes what was cut
off, checks every sha256, and puts the folder in place in one step, so that it is either whole or absent. A second run
fetches nothing; two runs at once wait for each other.
"""
from __future__ import annotations

import argparse
import base64
import fcntl
import fnmatch
import hashlib
import html.parser
import http.client
import json
import os
import pathlib
import platform
import shutil
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile

ATTEMPTS = 6  # without a single byte of progress in between
TIMEOUT_S = 60
STAMP = ".complete"
INDEX_TYPES = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"


class SetupError(Exception):
    """One sentence for the person who runs the script."""


def say(message: str) -> None:
    print(f"==> {message}", file=sys.stderr, flush=True)


def megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count < 10e6 else f"{count / 1e6:.0f} MB"


# --- where pip looks ---------------------------------------------------------------------------


def pip_setting(name: str) -> str:
    """The value of pip's own option `name`: environment first, then its configuration files."""
    value = os.environ.get("PIP_" + name.upper().replace("-", "_"), "")
    if value:
        return value
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "config", "get", f"global.{name}"]
    answer = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
    return answer.stdout.decode().strip() if answer.returncode == 0 else ""


def index_url() -> str:
    url = pip_setting("index-url")
    if not url:
        try:
            from pip._internal.models.index import PyPI

            url = PyPI.simple_url
        except ImportError:
            raise SetupError(
                "no package index is known: install pip for this Python (apt-get install python3-pip), "
                "or name an index with PIP_INDEX_URL"
            ) from None
    return url.rstrip("/") + "/"


def tls_context() -> ssl.SSLContext:
    bundle = pip_setting("cert") or os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("SSL_CERT_FILE")
    if bundle and not os.path.exists(bundle):
        raise SetupError(f"the certificate bundle {bundle} does not exist; mend PIP_CERT, REQUESTS_CA_BUNDLE or SSL_CERT_FILE")
    if bundle and os.path.isdir(bundle):
        return ssl.create_default_context(capath=bundle)
    return ssl.create_default_context(cafile=bundle or None)


# --- HTTP --------------------------------------------------------------------------------------


class Web:
    """GET with the certificates and, on the index's own host, the name and password of its URL."""

    def __init__(self, index: str):
        parts = urllib.parse.urlsplit(index)
        self.host = parts.hostname
        self.index = urllib.parse.urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
        self.authorization = None
        if parts.username:
            pair = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
            self.authorization = "Basic " + base64.b64encode(pair.encode()).decode()
        handlers = [urllib.request.HTTPSHandler(context=tls_context())] if parts.scheme == "https" else []
        self.opener = urllib.request.build_opener(*handlers)

    def open(self, url: str, headers: dict[str, str]):
        request = urllib.request.Request(url, headers={"User-Agent": "halftone-setup", **headers})
        if self.authorization and urllib.parse.urlsplit(url).hostname == self.host:
            request.add_unredirected_header("Authorization", self.authorization)
        return self.opener.open(request, timeout=TIMEOUT_S)


def is_temporary(error: Exception) -> bool:
    if isinstance(error, urllib.error.HTTPError):
        return error.code in (408, 425, 429) or error.code >= 500
    if isinstance(getattr(error, "reason", None), ssl.SSLCertVerificationError):
        return False
    return isinstance(error, (OSError, http.client.HTTPException))


def reason_of(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code} {error.reason}"
    return str(getattr(error, "reason", None) or error or type(error).__name__)


class Retry:
    """Waits 1, 2, 4, ... seconds between failures and gives up after ATTEMPTS of them without progress."""

    def __init__(self, what: str):
        self.what = what
        self.failures = 0

    def failed(self, error: Exception) -> None:
        self.failures += 1
        if not is_temporary(error) or self.failures >= ATTEMPTS:
            raise SetupError(f"cannot fetch {self.what}: {reason_of(error)}; check the network and run again") from None
        wait = float(os.environ.get("HALFTONE_RETRY_S", 2 ** (self.failures - 1)))
        say(f"{self.what}: {reason_of(error)}; trying again in {wait:g} s")
        time.sleep(wait)


class LinkParser(html.parser.HTMLParser):
    """Collects file name -> address from an index page in HTML."""

    def __init__(self):
        super().__init__()
        self.links: dict[str, str] = {}

    def handle_starttag(self, tag, attrs):
        href = dict(attrs).get("href") if tag == "a" else None
        if href:
            path = urllib.parse.urlsplit(href).path
            self.links[urllib.parse.unquote(path.rpartition("/")[2])] = href


def files_of_page(body: bytes, content_type: str) -> dict[str, str]:
    if "json" in content_type:
        return {entry["filename"]: entry["url"] for entry in json.loads(body)["files"]}
    parser = LinkParser()
    parser.feed(body.decode("utf-8", "replace"))
    return parser.links


def address_of(web: Web, file_name: str) -> str:
    project = file_name.split("-")[0].replace("_", "-").lower()
    page = urllib.parse.urljoin(web.index, project + "/")
    retry = Retry(f"the index page of {project}")
    while True:
        try:
            with web.open(page, {"Accept": INDEX_TYPES}) as answer:
                links = files_of_page(answer.read(), answer.headers.get("Content-Type", ""))
                base = answer.geturl()
            break
        except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
            retry.failed(error)
    if file_name not in links:
        raise SetupError(f"the package index does not offer {file_name}; name another index with PIP_INDEX_URL")
    return urllib.parse.urldefrag(urllib.parse.urljoin(base, links[file_name]))[0]


class Progress:
    """One line that is rewritten on a terminal; a line every 25 % of a big file elsewhere."""

    def __init__(self, file_name: str, total: int):
        self.name, self.total, self.shown = " ".join(file_name.split("-")[:2]), total, -1
        self.started, self.first = time.monotonic(), None
        self.terminal = sys.stderr.isatty()

    def show(self, done: int) -> None:
        self.first = done if self.first is None else self.first
        share = 100 * done // max(self.total, 1)
        step = share if self.terminal else share // 25 * 25
        if step == self.shown or (not self.terminal and self.total < 50e6):
            return
        self.shown = step
        rate = (done - self.first) / max(time.monotonic() - self.started, 1e-3)
        line = f"    {self.name}  {step:3d} % of {megabytes(self.total)}, {megabytes(int(rate))}/s "
        print(("\r" if self.terminal else "") + line, end="" if self.terminal else "\n", file=sys.stderr, flush=True)

    def end(self) -> None:
        if self.terminal:
            print(file=sys.stderr)


def receive(answer, part: pathlib.Path, name: str) -> None:
    """Appends one answer to `part`, or replaces it when the server does not know ranges."""
    done = part.stat().st_size if answer.status == 206 and part.exists() else 0
    total = done + int(answer.headers.get("Content-Length") or 0)
    progress = Progress(name, total)
    with open(part, "ab" if answer.status == 206 else "wb") as out:
        while True:
            block = answer.read(1 << 20)
            if not block:
                break
            out.write(block)
            done += len(block)
            progress.show(done)
    progress.end()
    if done < total:
        raise ConnectionError(f"cut off after {megabytes(done)} of {megabytes(total)}")


def download(web: Web, url: str, part: pathlib.Path, name: str) -> None:
    retry = Retry(name)
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            with web.open(url, {"Range": f"bytes={before}-"} if before else {}) as answer:
                receive(answer, part, name)
            return
        except urllib.error.HTTPError as error:
            if error.code == 416:  # all there already, or longer than the file: the checksum decides
                return
            retry.failed(error)
        except (OSError, http.client.HTTPException) as error:
            if getattr(error, "errno", None) in (28, 122):
                raise SetupError(f"the disk is full: {part}; make room and run again") from None
            if part.exists() and part.stat().st_size > before:
                retry.failures = 0
            retry.failed(error)


def sha256_of(path: pathlib.Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def fetch_wheel(web: Web, wheel: dict, folder: pathlib.Path) -> pathlib.Path:
    """The path of the checked wheel; downloads it unless it is there."""
    target = folder / wheel["file"]
    part = folder / (wheel["file"] + ".part")
    if not target.exists():
        if part.exists():
            say(f"resuming {wheel['file']} at {megabytes(part.stat().st_size)}")
        download(web, address_of(web, wheel["file"]), part, wheel["file"])
        part.replace(target)
    found = sha256_of(target)
    if found != wheel["sha256"]:
        target.unlink()
        raise SetupError(
            f"{wheel['file']} has the sha256 {found} instead of {wheel['sha256']}; it was deleted, run again to fetch it anew"
        )
    return target


# --- unpacking ---------------------------------------------------------------------------------


def unpack(wheel_path: pathlib.Path, patterns: list[str], folder: pathlib.Path) -> None:
    """Extracts the members that match, with their dates, so that a second fetch does not cause a rebuild."""
    with zipfile.ZipFile(wheel_path) as archive:
        for member in archive.infolist():
            if member.is_dir() or not any(fnmatch.fnmatchcase(member.filename, p) for p in patterns):
                continue
            path = archive.extract(member, folder)
            stamp = time.mktime((*member.date_time, 0, 0, -1))
            os.utime(path, (stamp, stamp))


def stamp_of(wheels: list[dict]) -> str:
    return json.dumps({wheel["file"]: [wheel["sha256"], wheel["take"]] for wheel in wheels}, indent=1, sort_keys=True)


def is_complete(folder: pathlib.Path, wheels: list[dict]) -> bool:
    try:
        return (folder / STAMP).read_text() == stamp_of(wheels)
    except OSError:
        return False


def check_space(cache: pathlib.Path, needed: int) -> None:
    free = shutil.disk_usage(cache).free
    if free < needed:
        raise SetupError(
            f"{cache} has {megabytes(free)} free and LibTorch needs {megabytes(needed)} while it is unpacked; "
            "make room, or name another cache folder with XDG_CACHE_HOME"
        )


def install(cache: pathlib.Path, name: str, selection: dict, keep_downloads: bool) -> int:
    """Puts the folder `name` into the cache; returns the bytes that were fetched for it."""
    wheels = selection["wheels"]
    downloads = cache / "downloads"
    downloads.mkdir(parents=True, exist_ok=True)
    present = sum(path.stat().st_size for path in downloads.iterdir())
    check_space(cache, max(selection["download_bytes"] - present, 0) + selection["unpacked_bytes"])
    web = Web(index_url())
    fresh = cache / f".unpacking-{name}"
    shutil.rmtree(fresh, ignore_errors=True)
    paths = [fetch_wheel(web, wheel, downloads) for wheel in wheels]
    fetched = max(sum(path.stat().st_size for path in paths) - present, 0)
    say(f"unpacking into {cache / name}")
    for wheel, path in zip(wheels, paths):
        unpack(path, wheel["take"], fresh)
    (fresh / STAMP).write_text(stamp_of(wheels))
    shutil.rmtree(cache / name, ignore_errors=True)
    fresh.replace(cache / name)
    if not keep_downloads:
        for path in paths:
            path.unlink()
    return fetched


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default_cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "halftone"
    parser.add_argument("--cuda", action="store_true", help="the CUDA half too (about 2.5 GB)")
    parser.add_argument("--arch", default=platform.machine(), help="processor that it is for; default: this machine's, %(default)s")
    parser.add_argument("--cache", type=pathlib.Path, default=default_cache, help="default: %(default)s")
    parser.add_argument("--manifest", type=pathlib.Path, default=pathlib.Path(__file__).with_name("libtorch.json"))
    parser.add_argument("--keep-downloads", action="store_true", help="keep the wheels after unpacking")
    parser.add_argument("--installed", action="store_true", help="only look: print the folder if it is whole, else exit with 1")
    options = parser.parse_args()

    manifest = json.loads(options.manifest.read_text())
    kind = "cuda" if options.cuda else "cpu"
    selection = manifest.get(kind if options.arch == "x86_64" else f"{kind}-{options.arch}")
    if platform.system() != "Linux" or selection is None:
        raise SetupError(
            f"no {'CUDA build of ' if options.cuda else ''}LibTorch is pinned for {platform.system()} on {options.arch}; "
            "name yours with HALFTONE_LIBTORCH=DIR"
        )
    if options.arch != platform.machine():
        options.cache /= options.arch
    name = f"libtorch-{manifest['version']}" + ("-cuda" if options.cuda else "")
    folder = options.cache / name
    if options.installed:
        if not is_complete(folder, selection["wheels"]):
            return 1
        print(folder)
        return 0
    options.cache.mkdir(parents=True, exist_ok=True)
    with open(options.cache / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            say("another set-up is running; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        if not is_complete(folder, selection["wheels"]):
            started = time.monotonic()
            say(f"fetching LibTorch {manifest['version']} ({megabytes(selection['download_bytes'])}) into {options.cache}")
            fetched = install(options.cache, name, selection, options.keep_downloads)
            if os.environ.get("HALFTONE_FETCH_LOG"):
                with open(os.environ["HALFTONE_FETCH_LOG"], "a", encoding="ascii") as log:
                    print(fetched, file=log)
            say(f"LibTorch {manifest['version']} is in place ({megabytes(fetched)} fetched, {time.monotonic() - started:.0f} s)")
    print(folder)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SetupError as error:
        print(f"halftone: error: {error}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        print(f"halftone: error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("\nhalftone: stopped; run again to go on where it was", file=sys.stderr)
        sys.exit(130)
