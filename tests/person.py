"""A person at the portal, by plain HTTP: what the fault and secrets tests and the benches need, without a browser.

Posts the very forms the pages show (their tokens included), uploads by tus, and watches a screen over a WebSocket.
The journey in a real browser is tests/e2e.
"""

import base64
import contextlib
import json
import re
import time
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

import requests
from bs4 import BeautifulSoup
from websockets.sync.client import ClientConnection, connect

PASSWORD = "seven blue lanterns over a quiet harbour"
WAIT_SECONDS_MAX = 180
_PHASES = {
    "Getting your viewer ready": "starting", "Tidying up": "ending", "The session has ended": "ended",
    "The viewer did not start": "failed",
}  # fmt: skip


class Person:
    """One browser session at one portal."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.http = requests.Session()
        self.http.headers["User-Agent"] = "Mozilla/5.0 (X11; Linux x86_64) Chrome/120 Safari/537.36"
        self.recovery_code = ""

    # -- pages ------------------------------------------------------------------------------------
    def get(self, path: str) -> BeautifulSoup:
        answer = self.http.get(self._address(path), timeout=60)
        answer.raise_for_status()
        return BeautifulSoup(answer.text, "html.parser")

    def submit(self, page_path: str, action: str, **fields: str) -> requests.Response:
        """Post the form with this action of that page, its hidden fields included."""
        page = self.get(page_path)
        form = next((f for f in page.find_all("form") if urlsplit(f.get("action") or page_path).path == action), None)
        assert form is not None, f"no form {action} on {page_path}"
        values = {
            i["name"]: i.get("value", "")
            for i in form.find_all("input", attrs={"name": True})
            if i.get("type") == "hidden"
        }
        return self.http.post(self._address(action), data=values | fields, timeout=60)

    def _address(self, path: str) -> str:
        return path if path.startswith("http") else self.url + path

    # -- the record -------------------------------------------------------------------------------
    def register(self, email: str, name: str = "Ada Patient", password: str = PASSWORD) -> None:
        answer = self.submit("/register", "/register", email=email, name=name, password=password)
        answer.raise_for_status()
        found = re.search(r"(?:[0-9A-Z]{4}-){5,}[0-9A-Z]{4}", answer.text)
        self.recovery_code = found[0] if found else ""

    def sign_in(self, email: str, password: str = PASSWORD) -> None:
        self.submit("/sign-in", "/sign-in", email=email, password=password).raise_for_status()

    def upload(self, name: str, content: bytes, path: str = "") -> str:
        """Upload one file (tus, creation-with-upload). Returns the upload's address."""
        words = {"filename": name, "relativePath": path or name}
        metadata = ",".join(f"{key} {base64.b64encode(value.encode()).decode()}" for key, value in words.items())
        headers = {"Tus-Resumable": "1.0.0", "Upload-Length": str(len(content)), "Upload-Metadata": metadata,
                   "Content-Type": "application/offset+octet-stream", "Origin": self.url}  # fmt: skip
        answer = self.http.post(f"{self.url}/uploads", data=content, headers=headers, timeout=300)
        answer.raise_for_status()
        assert int(answer.headers["Upload-Offset"]) == len(content)
        return answer.headers["Location"]

    def upload_together(self, files: Mapping[str, bytes]) -> list[dict]:
        """Upload small files by path in one request, as a browser does. Returns what became of each."""
        told = [{"name": path.rsplit("/")[-1], "path": path, "size": len(content)} for path, content in files.items()]
        description = json.dumps(told).encode()
        body = b"".join((len(description).to_bytes(4, "big"), description, *files.values()))
        headers = {"Tus-Resumable": "1.0.0", "Content-Type": "application/vnd.myphr.files", "Origin": self.url}
        answer = self.http.post(f"{self.url}/uploads/together", data=body, headers=headers, timeout=300)
        answer.raise_for_status()
        return answer.json()

    def studies(self) -> list[str]:
        """Addresses of the studies in the record."""
        links = [a["href"] for a in self.get("/record").find_all("a", href=True)]
        return list(dict.fromkeys(link for link in links if re.fullmatch(r"/study/[0-9a-f-]{36}", link)))

    def documents(self) -> list[str]:
        links = [a["href"] for a in self.get("/record").find_all("a", href=True)]
        return list(dict.fromkeys(link for link in links if re.fullmatch(r"/item/[0-9a-f-]{36}", link)))

    # -- a VM session -------------------------------------------------------------------------------
    def open(self, path: str, viewer: str = "probe") -> str:
        """Press Open on a study or file. Returns the path of the VM session's page."""
        data = {"csrf": self._csrf(path), "viewer": viewer}
        answer = self.http.post(f"{self.url}{path}/open", data=data, timeout=60)
        assert answer.ok, BeautifulSoup(answer.text, "html.parser").get_text(" ", strip=True)[:500]
        return urlsplit(answer.url).path

    def phase(self, machine: str) -> str:
        """starting, live, ending, ended or failed, as the page says."""
        page = self.get(machine)
        if page.find(attrs={"data-ticket-url": True}):
            return "live"
        heading = page.find("h1").get_text(strip=True)  # type: ignore[union-attr]
        assert heading in _PHASES, page.get_text(" ", strip=True)[:500]
        return _PHASES[heading]

    def wait_for(self, machine: str, *phases: str) -> str:
        deadline = time.monotonic() + WAIT_SECONDS_MAX
        while (phase := self.phase(machine)) not in phases:
            assert time.monotonic() < deadline, f"{machine} is {phase}, not {phases}"
            time.sleep(0.2)
        return phase

    def end(self, machine: str) -> None:
        self.http.post(f"{self.url}{machine}/end", data={"csrf": self._csrf(machine)}, timeout=60).raise_for_status()

    def _csrf(self, path: str) -> str:
        body = self.get(path).find("body")
        return json.loads(body["data-hx-headers"])["X-CSRF-Token"]  # type: ignore[index,arg-type]

    @contextlib.contextmanager
    def screen(self, ticket_path: str) -> Iterator[ClientConnection]:
        """The live screen over a WebSocket, behind the ticket endpoint (of a machine or of a share)."""
        page = ticket_path.removesuffix("/ticket")
        token = self._csrf(page if page.startswith("/machine") else f"{page}/screen")
        answer = self.http.post(f"{self.url}{ticket_path}", headers={"X-CSRF-Token": token}, timeout=60)
        answer.raise_for_status()
        offer = answer.json()
        with connect(
            offer["url"],
            origin=self.url,
            subprotocols=["myphr.screen.1", f"ticket.{offer['ticket']}"],
            max_size=None,  # type: ignore[arg-type,list-item]
        ) as socket:
            yield socket


class Screen:
    """A minimal RFB 3.8 client (RFC 6143) over a WebSocket: handshake, one full picture in raw encoding."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self._buffer = b""
        assert self._take(12) == b"RFB 003.008\n"
        socket.send(b"RFB 003.008\n")
        types = self._take(self._take(1)[0])
        assert 1 in types, "the gateway must offer security type None"
        socket.send(b"\x01")
        assert self._take(4) == bytes(4)
        socket.send(b"\x01")
        head = self._take(24)
        self.width, self.height = int.from_bytes(head[0:2], "big"), int.from_bytes(head[2:4], "big")
        self._take(int.from_bytes(head[20:24], "big"))
        # 32 bits a pixel, little endian, red in the third byte: B G R x in memory.
        pixel_format = bytes([32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 16, 8, 0, 0, 0, 0])
        socket.send(bytes([0, 0, 0, 0]) + pixel_format)
        socket.send(bytes([2, 0, 0, 1]) + (0).to_bytes(4, "big"))

    def _take(self, count: int) -> bytes:
        while len(self._buffer) < count:
            message = self.socket.recv(timeout=60)
            self._buffer += message if isinstance(message, bytes) else message.encode()
        taken, self._buffer = self._buffer[:count], self._buffer[count:]
        return taken

    def picture(self) -> bytes:
        """A full picture: width x height x 4 bytes, B G R x."""
        self.socket.send(bytes([3, 0]) + bytes(4) + self.width.to_bytes(2, "big") + self.height.to_bytes(2, "big"))
        frame = bytearray(self.width * self.height * 4)
        covered = 0
        while covered < self.width * self.height:
            kind = self._take(1)[0]
            if kind == 2:  # bell
                continue
            assert kind == 0, f"server message {kind}"
            for _ in range(int.from_bytes(self._take(3)[1:], "big")):
                rect = self._take(12)
                x, y, w, h, encoding = (
                    int.from_bytes(rect[a:b], "big") for a, b in ((0, 2), (2, 4), (4, 6), (6, 8), (8, 12))
                )
                assert encoding == 0
                pixels = self._take(w * h * 4)
                for row in range(h):
                    start = ((y + row) * self.width + x) * 4
                    frame[start : start + w * 4] = pixels[row * w * 4 : (row + 1) * w * 4]
                covered += w * h
        return bytes(frame)
