# SPDX-License-Identifier: Apache-2.0
"""fetch_libtorch.py against a package index on this machine that can be made to fail."""
import base64
import hashlib
import http.server
import io
import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
import threading
import unittest
import zipfile

SCRIPT = pathlib.Path(__file__).resolve().parents[2] / "scripts" / "fetch_libtorch.py"
WHEEL = "torch-2.15.0-cp311-cp311-linux_x86_64.whl"


def make_wheel() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("torch/lib/libtorch_cpu.so", bytes(range(256)) * 4096)
        archive.writestr("torch/lib/libtorch_cuda.so", b"not wanted")
        archive.writestr("torch/version.py", "version = '2.15.0'\n")
    return buffer.getvalue()


class Index(http.server.ThreadingHTTPServer):
    """Serves one project. `cuts`, `errors`: how many of the next downloads are cut off, or answered with 503."""

    def __init__(self, wheel: bytes):
        super().__init__(("127.0.0.1", 0), Handler)
        self.wheel = wheel
        self.cuts = self.errors = 0
        self.html = self.without_ranges = False
        self.password = None
        self.downloads = []  # the Range header of each
        self.requests = 0


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def answer(self, body: bytes, kind: str, status: int = 200, length=None):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.server.requests += 1
        expected = self.server.password and "Basic " + base64.b64encode(self.server.password.encode()).decode()
        if expected and self.headers.get("Authorization") != expected:
            self.answer(b"", "text/plain", 401)
        elif self.path == "/simple/torch/":
            self.page()
        elif self.path == f"/files/{WHEEL}":
            self.file()
        else:
            self.answer(b"", "text/plain", 404)

    def page(self):
        if self.server.html:
            link = f'<a href="../../files/{WHEEL}#sha256=0">{WHEEL}</a>'
            self.answer(f"<html><body>{link}</body></html>".encode(), "text/html")
        else:
            files = [{"filename": WHEEL, "url": f"../../files/{WHEEL}", "hashes": {}}]
            self.answer(json.dumps({"files": files}).encode(), "application/vnd.pypi.simple.v1+json")

    def file(self):
        wanted = self.headers.get("Range")
        self.server.downloads.append(wanted)
        if self.server.errors > 0:
            self.server.errors -= 1
            self.answer(b"", "text/plain", 503)
            return
        start = int(wanted[6:-1]) if wanted and not self.server.without_ranges else 0
        if start >= len(self.server.wheel):
            self.answer(b"", "text/plain", 416)
            return
        body = self.server.wheel[start:]
        length = len(body)
        if self.server.cuts > 0:
            self.server.cuts -= 1
            body = body[: length // 2]
        self.answer(body, "application/zip", 206 if start else 200, length)


class FetchLibTorch(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = pathlib.Path(folder.name)
        self.wheel = make_wheel()
        self.index = Index(self.wheel)
        threading.Thread(target=self.index.serve_forever, daemon=True).start()
        self.addCleanup(self.index.server_close)
        self.addCleanup(self.index.shutdown)
        self.cache = self.root / "cache"
        self.arch = platform.machine()
        self.library = self.cache / "libtorch-2.15.0" / "torch" / "lib" / "libtorch_cpu.so"
        self.part = self.cache / "downloads" / (WHEEL + ".part")
        self.write_manifest(hashlib.sha256(self.wheel).hexdigest())

    def write_manifest(self, sha256: str, download_bytes: int = 1):
        wheels = [{"file": WHEEL, "sha256": sha256, "take": ["torch/lib/libtorch_cpu.so", "torch/version.py"]}]
        cpu = {"download_bytes": download_bytes, "unpacked_bytes": 1, "wheels": wheels}
        (self.root / "manifest.json").write_text(json.dumps({"version": "2.15.0", self.kind(): cpu}))

    def kind(self) -> str:
        return "cpu" if self.arch == "x86_64" else f"cpu-{self.arch}"

    def start(self, *arguments: str) -> subprocess.Popen:
        user = f"{self.index.password.replace('@', '%40')}@" if self.index.password else ""
        environment = {
            **{key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")},
            "PIP_INDEX_URL": f"http://{user}127.0.0.1:{self.index.server_port}/simple",
            "HALFTONE_RETRY_S": "0",
        }
        command = [sys.executable, str(SCRIPT), "--arch", self.arch, "--cache", str(self.cache), "--manifest", str(self.root / "manifest.json")]
        return subprocess.Popen(
            [*command, *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def fetch(self, *arguments: str):
        process = self.start(*arguments)
        out, err = process.communicate()
        return process.returncode, out, err

    def assert_fetched(self, result):
        code, out, err = result
        self.assertEqual(code, 0, err)
        self.assertEqual(out.strip(), str(self.cache / "libtorch-2.15.0"))
        self.assertEqual(self.library.read_bytes(), bytes(range(256)) * 4096)

    def assert_refused(self, result, text: str):
        code, _, err = result
        self.assertEqual(code, 1, err)
        self.assertIn(text, err)
        self.assertTrue(err.splitlines()[-1].startswith("halftone: error: "), err)
        self.assertNotIn("Traceback", err)
        self.assertFalse(self.library.exists())

    def test_puts_the_chosen_files_in_place_and_keeps_no_wheel(self):
        self.assert_fetched(self.fetch())
        self.assertFalse(self.library.with_name("libtorch_cuda.so").exists())
        self.assertEqual(list((self.cache / "downloads").iterdir()), [])

    def test_second_run_asks_for_nothing(self):
        self.assertEqual(self.fetch("--installed")[0], 1)
        self.assert_fetched(self.fetch())
        before = self.index.requests
        self.assert_fetched(self.fetch())
        self.assert_fetched(self.fetch("--installed"))
        self.assertEqual(self.index.requests, before)

    def test_another_pin_replaces_what_is_there(self):
        self.assert_fetched(self.fetch())
        self.index.wheel += b"\0"  # a zip may be followed by other bytes
        self.write_manifest(hashlib.sha256(self.index.wheel).hexdigest())
        self.assertEqual(self.fetch("--installed")[0], 1)
        self.assert_fetched(self.fetch())

    def test_another_processors_lies_apart(self):
        self.arch = "x86_64" if self.arch == "aarch64" else "aarch64"
        self.write_manifest(hashlib.sha256(self.wheel).hexdigest())
        code, out, err = self.fetch()
        self.assertEqual(code, 0, err)
        self.assertEqual(out.strip(), str(self.cache / self.arch / "libtorch-2.15.0"))
        self.assertFalse(self.library.exists())
        self.assertEqual(self.fetch("--installed")[0], 0)

    def test_refuses_a_processor_without_a_pin(self):
        self.arch = "riscv64"
        self.assert_refused(self.fetch(), "no LibTorch is pinned for Linux on riscv64")
        self.arch = platform.machine()
        self.assert_refused(self.fetch("--cuda"), "no CUDA build of LibTorch is pinned for Linux on")

    def test_reads_an_index_in_html(self):
        self.index.html = True
        self.assert_fetched(self.fetch())

    def test_sends_the_name_and_password_of_the_index(self):
        self.index.password = "me:p@ss"
        self.assert_fetched(self.fetch())

    def test_goes_on_after_cut_connections(self):
        self.index.cuts = 3
        self.assert_fetched(self.fetch())
        self.assertEqual(len(self.index.downloads), 4)
        self.assertEqual(self.index.downloads[1], f"bytes={len(self.wheel) // 2}-")

    def test_resumes_what_an_earlier_run_left(self):
        self.part.parent.mkdir(parents=True)
        self.part.write_bytes(self.wheel[:1000])
        self.assert_fetched(self.fetch())
        self.assertEqual(self.index.downloads, ["bytes=1000-"])

    def test_starts_over_when_the_server_cannot_resume(self):
        self.index.without_ranges = True
        self.part.parent.mkdir(parents=True)
        self.part.write_bytes(b"x" * 1000)
        self.assert_fetched(self.fetch())

    def test_waits_for_a_server_that_is_busy(self):
        self.index.errors = 2
        self.assert_fetched(self.fetch())

    def test_gives_up_on_a_server_that_stays_busy(self):
        self.index.errors = 1000
        self.assert_refused(self.fetch(), "HTTP 503")

    def test_deletes_a_damaged_file_and_the_next_run_mends_it(self):
        self.index.wheel = self.wheel[:500] + b"\xff" + self.wheel[501:]
        self.assert_refused(self.fetch(), "has the sha256")
        self.assertEqual(list((self.cache / "downloads").iterdir()), [])
        self.index.wheel = self.wheel
        self.assert_fetched(self.fetch())

    def test_refuses_a_damaged_part(self):
        self.part.parent.mkdir(parents=True)
        self.part.write_bytes(b"x" * (len(self.wheel) + 5))
        self.assert_refused(self.fetch(), "has the sha256")
        self.assert_fetched(self.fetch())

    def test_names_the_file_that_the_index_lacks(self):
        text = (self.root / "manifest.json").read_text().replace("cp311-cp311", "cp312-cp312")
        (self.root / "manifest.json").write_text(text)
        self.assert_refused(self.fetch(), "does not offer torch-2.15.0-cp312")

    def test_says_how_much_room_is_missing(self):
        self.write_manifest("0", download_bytes=10**18)
        self.assert_refused(self.fetch(), "XDG_CACHE_HOME")

    def test_two_at_once_fetch_once(self):
        processes = [self.start(), self.start()]
        for process in processes:
            out, err = process.communicate()
            self.assert_fetched((process.returncode, out, err))
        self.assertEqual(len(self.index.downloads), 1)


if __name__ == "__main__":
    unittest.main()
