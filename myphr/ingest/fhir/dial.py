"""Asking a hospital's server over HTTP, with a bound on everything: bytes, seconds, redirects (none), addresses.

The only module of this package that opens a connection. No proxy and no password of the environment is used; a
certificate that does not fit ends the call; neither an address nor an answer is ever logged. Called by `servers`,
`fetches` and `fetching`.
"""

import dataclasses
import time
from collections.abc import Iterator, Mapping

import requests
import urllib3

from myphr.errors import HospitalRefused
from myphr.ingest.fhir import smart
from myphr.ingest.fhir.reasons import refused

CONNECT_SECONDS = 10
SILENCE_SECONDS = 30  # the longest between two bytes: a large search may need some time to begin
SMALL_BYTES_MAX = 4 * 1024**2  # a CapabilityStatement has 1 MB
SMALL_SECONDS_MAX = 20  # somebody waits before a page
BLOCK_BYTES = 64 * 1024
FHIR_JSON = "application/fhir+json"


@dataclasses.dataclass(frozen=True)
class Answer:
    status: int
    media_type: str
    body: bytes = dataclasses.field(repr=False)
    retry_after: int = 0


class _OneAnswer(requests.Session):
    """Never looks where a redirect leads: requests would read all of its body first, and that has no bound."""

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        return None


class Dial:
    """One connection's worth of calls. `ends_at` (time.monotonic) bounds them all. As a context manager it closes."""

    def __init__(self, *, loopback: bool, ends_at: float) -> None:
        self._loopback = loopback
        self.ends_at = ends_at
        self._http = _OneAnswer()
        self._http.trust_env = False  # no proxy, no .netrc, no other CA list
        self._http.headers.clear()
        self._http.headers["User-Agent"] = "MyPHRMachines"

    def get(self, url: str, *, token: str = "", accept: str = FHIR_JSON, bytes_max: int = SMALL_BYTES_MAX) -> Answer:
        """Raises HospitalRefused: address, unreachable, too-slow, too-large, moved."""
        with Call(self, "GET", url, token, accept) as call:
            return Answer(call.status, call.media_type, b"".join(call.blocks(bytes_max)), call.retry_after)

    def stream(self, url: str, *, token: str, accept: str) -> "Call":
        """An answer of any size: `with` it, look at its status, then take its `blocks`. Raises as `get`."""
        return Call(self, "GET", url, token, accept)

    def post(self, url: str, form: Mapping[str, str]) -> Answer:
        """A form to a token endpoint. Raises as `get`."""
        with Call(self, "POST", url, "", "application/json", form) as call:
            return Answer(call.status, call.media_type, b"".join(call.blocks(SMALL_BYTES_MAX)))

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> "Dial":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Call:
    def __init__(
        self, dial: Dial, method: str, url: str, token: str, accept: str, form: Mapping[str, str] | None = None
    ) -> None:  # fmt: skip
        self._dial = dial
        smart.checked_url(url, loopback=dial._loopback)
        # identity: what is kept is what was sent, and nothing small unpacks to something large
        headers = {"Accept": accept, "Accept-Encoding": "identity"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        left = dial.ends_at - time.monotonic()
        if left <= 0:
            raise refused("too-slow")
        try:
            self._response = dial._http.request(
                method, url, headers=headers, data=form, stream=True, allow_redirects=False,
                timeout=(min(CONNECT_SECONDS, left), min(SILENCE_SECONDS, left)),
            )  # fmt: skip
        except requests.exceptions.Timeout:
            raise refused("too-slow") from None
        except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError, ValueError, OSError):
            raise refused("unreachable") from None  # the exception quotes the address: it goes nowhere
        self.status = self._response.status_code
        self.media_type = self._response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        after = self._response.headers.get("Retry-After", "")
        self.retry_after = int(after) if after.isdecimal() and len(after) < 6 else 0
        if 300 <= self.status < 400:
            self.close()
            raise refused("moved")
        if self._response.headers.get("Content-Encoding", "identity") not in ("", "identity"):
            self.close()
            raise refused("not-records")

    def blocks(self, bytes_max: int) -> Iterator[bytes]:
        """The body. Raises HospitalRefused: too-large, too-slow, unreachable (also for a body that ends early)."""
        size = 0
        stated = self._response.headers.get("Content-Length", "")
        if stated.isdecimal() and int(stated) > bytes_max:
            raise refused("too-large")
        try:
            # read1 hands over what is there: a server that sends a byte a second meets the clock at every byte
            while block := self._response.raw.read1(BLOCK_BYTES):
                size += len(block)
                if size > bytes_max:
                    raise refused("too-large")
                if time.monotonic() > self._dial.ends_at:
                    raise refused("too-slow")
                yield block
        except HospitalRefused:
            raise
        except (TimeoutError, urllib3.exceptions.ReadTimeoutError):
            raise refused("too-slow") from None
        except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError):
            raise refused("unreachable") from None
        if stated.isdecimal() and size < int(stated):
            raise refused("unreachable")

    def close(self) -> None:
        self._response.close()

    def __enter__(self) -> "Call":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
