# SPDX-License-Identifier: Apache-2.0
"""The Debian packages that a build needs beyond a compiler, CMake and LibTorch: fetched into a folder on a Debian
machine, and unpacked into a prefix on another one, which needs no network, no root and no dpkg."""
from __future__ import annotations

import io
import pathlib
import re
import shutil
import subprocess
import tarfile

from commands import CheckError

LIBRARIES = ["libcli11-dev", "libtomlplusplus-dev", "nlohmann-json3-dev", "libspdlog-dev", "libfmt-dev", "libhwy-dev",
             "libicu-dev", "libre2-dev", "libxxhash-dev", "libprotozero-dev", "zlib1g-dev", "libgloo-dev",
             "libpng-dev", "libfreetype-dev", "libharfbuzz-dev", "libexpat1-dev", "libsndfile1-dev", "libsamplerate0-dev",
             "libgtest-dev", "libgmock-dev", "googletest"]
PROGRAMS = ["pkgconf-bin"]
TEXTS = ["fortunes-zh"]  # what the small models are trained on: real text
TEXT_FOLDER = "usr/share/games/fortunes"
# Every machine with a compiler has these.
TOOLCHAIN = re.compile(r"^(glibc|gcc-\d+|libxcrypt)$")
MOST_BYTES = 60_000_000
STAMP = ".complete"


# --- collecting, on a Debian machine --------------------------------------------------------------


def output_of(command: list[str], folder: pathlib.Path | None = None) -> str:
    answer = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder, check=False)
    if answer.returncode != 0:
        line = (answer.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise CheckError(f"{' '.join(command[:2])} failed: {line}; check the network and run 'apt-get update' as root")
    return answer.stdout


def parse_packages(text: str) -> dict[str, dict[str, str]]:
    """Of apt-cache show: package -> field -> value; the first version of each stands first."""
    packages: dict[str, dict[str, str]] = {}
    for paragraph in text.split("\n\n"):
        fields = dict(re.findall(r"^([A-Za-z-]+): (.*)$", paragraph, re.M))
        if "Package" in fields:
            packages.setdefault(fields["Package"], fields)
    return packages


def needs_of(fields: dict[str, str]) -> list[str]:
    depends = fields.get("Depends", "").split(",") if fields.get("Depends") else []
    return [re.split(r"[\s(:|]", need.strip())[0] for need in depends]


def is_library(fields: dict[str, str]) -> bool:
    source = fields.get("Source", fields["Package"]).split(" ")[0]
    return fields.get("Section", "").split("/")[-1] == "libs" and not TOOLCHAIN.match(source)


def with_libraries(wanted: list[str], show) -> list[str]:
    """`wanted` and the shared libraries below them; show(names) is parse_packages' answer."""
    chosen, asked = list(wanted), set(wanted)
    fresh = show(wanted)
    missing = [name for name in wanted if name not in fresh]
    if missing:
        raise CheckError(f"this machine's apt does not know {', '.join(missing)}; run --collect on Debian 12 or newer")
    while fresh:
        needs = sorted({need for fields in fresh.values() for need in needs_of(fields)} - asked)
        asked.update(needs)
        fresh = {name: fields for name, fields in (show(needs) if needs else {}).items() if is_library(fields)}
        chosen += fresh
    return chosen


def show_packages(names: list[str]) -> dict[str, dict[str, str]]:
    return parse_packages(output_of(["apt-cache", "show", "--no-all-versions", *names]))


def collect(folder: pathlib.Path) -> str:
    """Fetches the packages into `folder`; returns a sentence about them."""
    if not shutil.which("apt-get") or not shutil.which("apt-cache"):
        raise CheckError("--collect needs apt-get and apt-cache: run it on a Debian machine, and carry the folder over")
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.deb"):
        old.unlink()
    names = with_libraries(LIBRARIES + PROGRAMS, show_packages) + TEXTS
    output_of(["apt-get", "download", "-q", *names], folder)
    for file in folder.glob("*%*"):  # apt's way to write the colon of a version
        file.rename(file.with_name(file.name.replace("%3a", ".")))
    files = list(folder.glob("*.deb"))
    size = sum(file.stat().st_size for file in files)
    if len(files) < len(names) or size > MOST_BYTES:
        raise CheckError(f"{folder} holds {len(files)} of {len(names)} packages in {size / 1e6:.0f} MB, "
                         f"{MOST_BYTES / 1e6:.0f} MB is the most; empty it and run --collect again")
    return f"{len(files)} packages, {size / 1e6:.1f} MB, are in {folder}; carry it over and name it with --deps"


# --- unpacking, anywhere --------------------------------------------------------------------------


def members_of(archive: bytes):
    """Names and contents of an ar archive, which a .deb is."""
    if archive[:8] != b"!<arch>\n":
        raise ValueError("no ar archive")
    at = 8
    while at + 60 <= len(archive):
        name, size = archive[at:at + 16].decode().strip().rstrip("/"), int(archive[at + 48:at + 58])
        yield name, archive[at + 60:at + 60 + size]
        at += 60 + size + size % 2


def unpack_by_hand(package: pathlib.Path, prefix: pathlib.Path) -> None:
    data = next(content for name, content in members_of(package.read_bytes()) if name.startswith("data.tar"))
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        safe = {"filter": "tar"} if hasattr(tarfile, "tar_filter") else {}
        tar.extractall(prefix, **safe)


def unpack(package: pathlib.Path, prefix: pathlib.Path) -> None:
    try:
        if shutil.which("dpkg-deb"):
            output_of(["dpkg-deb", "-x", str(package), str(prefix)])
        else:
            unpack_by_hand(package, prefix)
    except (CheckError, OSError, ValueError, StopIteration, EOFError, tarfile.TarError) as error:
        reason = str(error) or type(error).__name__
        raise CheckError(f"cannot unpack {package}: {reason}; collect the folder anew with --collect") from None


def move_pkg_config(prefix: pathlib.Path) -> None:
    """Lets the packages' .pc files say where they are."""
    for file in prefix.glob("usr/**/pkgconfig/*.pc"):
        text = file.read_text(encoding="utf-8")
        file.write_text(re.sub(r"(?:(?<=[=\s])|(?<=-[IL]))/usr(?=[/\s])", str(prefix / "usr"), text), encoding="utf-8")


def unpacked(folder: pathlib.Path, prefix: pathlib.Path) -> pathlib.Path:
    """The packages of `folder`, unpacked into `prefix` unless they are."""
    packages = sorted(folder.glob("*.deb"))
    prefix = prefix.resolve()
    wanted = "\n".join([str(prefix), *(f"{file.name} {file.stat().st_size}" for file in packages)])
    if not packages:
        raise CheckError(f"{folder} has no .deb file; make it with scripts/gpu_check.sh --collect {folder} on a Debian machine")
    stamp = prefix / STAMP
    if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return prefix
    shutil.rmtree(prefix, ignore_errors=True)
    prefix.mkdir(parents=True)
    for package in packages:
        unpack(package, prefix)
    move_pkg_config(prefix)
    stamp.write_text(wanted, encoding="utf-8")
    return prefix


def library_folders(prefix: pathlib.Path) -> list[pathlib.Path]:
    return sorted({file.parent for pattern in ("usr/lib/*/*.so.*", "lib/*/*.so.*") for file in prefix.glob(pattern)})
