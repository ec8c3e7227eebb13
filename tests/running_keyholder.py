"""A real keyholder process on a folder of its own, and people who can speak to it.

`with RunningKeyholder(folder) as running: running.client.hello()`. Starts in about half a second: Argon2id is cheap
here. Sockets live in a short folder under /tmp, as a socket's path has room for 107 bytes only.
"""

import dataclasses
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import weakref
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from myphr.crypto import certificates
from myphr.crypto.envelope import KeyPair, new_key_pair, open_with
from myphr.crypto.statements import KeyStatement
from myphr.errors import KeyholderUnavailable
from myphr.people.keyholder import Keyholder, Sealed, Speaker
from myphr.settings import Settings

ROOT = Path(__file__).parents[1]
CHEAP = ("--argon2-memory-kib", "64", "--argon2-passes", "1")


@dataclasses.dataclass
class Somebody:
    """A person with a GID, signing key, HPKE pair and certificate: what a signed-in account has in memory."""

    gid: str
    signing_key: ec.EllipticCurvePrivateKey
    pair: KeyPair
    certificate: bytes

    @property
    def speaker(self) -> Speaker:
        statement = KeyStatement(self.gid, int(time.time()), self.pair.public).sign(self.signing_key)
        return Speaker(self.signing_key, self.certificate, statement)

    def open(self, sealed: Sealed) -> bytes:
        return open_with(self.pair.private, sealed.sealed, context=sealed.context)


def somebody(client: Keyholder) -> Somebody:
    """A new person, registered with the CA behind `client`."""
    gid, key = certificates.new_gid(), certificates.new_signing_key()
    return Somebody(gid, key, new_key_pair(), client.ca_issue(certificates.new_request(key, gid)))


class RunningKeyholder:
    """One keyholder. `options` go to `serve`; with `ca=False` it has to join another one before it starts."""

    def __init__(self, folder: Path, *options: str, ca: bool = True) -> None:
        self.base = folder
        self.folder, self.passphrase_file = folder / "keyholder", folder / "passphrase"
        self.root_folder = folder / "ca-root"
        self.options = list(options)
        self.ca = ca
        self.process: subprocess.Popen | None = None
        sockets = Path(tempfile.mkdtemp(prefix="myphr-kh-"))
        self.socket = sockets / "s"
        self.client = Keyholder(f"unix:{self.socket}")
        self._sockets = weakref.finalize(self, shutil.rmtree, sockets, True)

    @classmethod
    def of_home(cls, settings: Settings) -> "RunningKeyholder":
        """The one that `myphr init` made below this home, where the portal looks for it."""
        running = cls(settings.home)
        running.folder, running.passphrase_file = settings.home / "keyholder", Path(settings.keyholder_passphrase_file)
        running.socket = Path(settings.keyholder_address.removeprefix("unix:"))
        running.client = Keyholder(settings.keyholder_address)
        return running

    @property
    def log(self) -> str:
        return (self.base / "keyholder.log").read_text()

    def command(self, name: str, *words: object, check: bool = True, text: str = "") -> subprocess.CompletedProcess:
        """Run one command of the keyholder on this folder, or over this socket."""
        near = ("--socket", self.socket) if name in ("register", "operator", "forget-host") else (
            "--folder", self.folder, "--passphrase-file", self.passphrase_file)
        done = subprocess.run([sys.executable, "-m", "myphr.keyholder", name, *map(str, (*near, *words))], cwd=ROOT,
                              capture_output=True, text=True, timeout=60, input=text)
        if check and done.returncode:
            raise RuntimeError(f"{name} ended with {done.returncode}: {done.stderr}")
        return done

    def initialise(self, *words: object) -> None:
        self.base.mkdir(parents=True, exist_ok=True)
        ca = ("--root-folder", self.root_folder) if self.ca else ("--without-ca",)
        self.command("init", *ca, *CHEAP, *words)

    def start(self) -> None:
        """Start and wait until it answers. Raises RuntimeError with its log if it ends instead."""
        with open(self.base / "keyholder.log", "ab") as log:
            self.process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", sys.executable, "-m", "myphr.keyholder", "serve",
                 "--folder", self.folder, "--passphrase-file", self.passphrase_file, "--socket", self.socket,
                 *self.options],
                cwd=ROOT, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
            )
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise RuntimeError(f"the keyholder ended with {self.process.returncode}: {self.log}")
            try:
                self.client.hello()
                return
            except KeyholderUnavailable:
                time.sleep(0.02)
        raise TimeoutError(self.log)

    def kill(self) -> None:
        """kill -9"""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise
        return self.process.returncode

    def appoint(self, person: Somebody) -> Somebody:
        self.client.operator_appoint(person.gid)
        return person

    def __enter__(self) -> "RunningKeyholder":
        if not self.folder.exists():
            self.initialise()
        self.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.stop()
        self._sockets()
