"""The keyholder's folder and its master key, which seals every secret in the store.

The master key lies in `master.sealed` under the start-up passphrase (Argon2id: docs/formats/envelope.md, "Ring under a
password"). A wrong passphrase, a foreign file mode or owner stops the start. Called by the command line.
"""

import os
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path

from myphr.crypto.envelope import context_for, derive, unwrap, wrap
from myphr.crypto.passwords import unwrap_ring, wrap_ring
from myphr.errors import ConfigurationError, EnvelopeError

CREDENTIAL = "myphr-keyholder-passphrase"
PASSPHRASE_BYTES_MAX = 4096
PASSPHRASE_CHARACTERS_MIN = 16
MASTER_FILE = "master.sealed"
_CONTEXT = b"myphr/keyholder-master/1"


class MasterKey:
    """Seals and opens what the store keeps. Each secret is bound to its kind and id, so rows cannot be exchanged."""

    def __init__(self, key: bytes) -> None:
        self._key = derive(key, "myphr/keyholder-store/1")

    def __repr__(self) -> str:
        return "MasterKey()"

    def seal(self, kind: str, name: str, secret: bytes) -> bytes:
        return wrap(self._key, secret, context=context_for(f"keyholder-{kind}", name))

    def open(self, kind: str, name: str, sealed: bytes) -> bytes:
        """Raises EnvelopeError for a row that was changed or moved."""
        return unwrap(self._key, sealed, context=context_for(f"keyholder-{kind}", name))


def new_passphrase() -> str:
    """160 random bits as 32 letters and digits: what `init` writes where no passphrase is given."""
    return "".join(secrets.choice("abcdefghijklmnopqrstuvwxyz234567") for _ in range(32))


def read_passphrase(path: Path | None, environ: Mapping[str, str] = os.environ) -> str:
    """From a file of mode 0600 or stricter, else from the systemd credential `myphr-keyholder-passphrase`.

    Raises ConfigurationError if there is neither, or others may read it."""
    if path is None:
        if "CREDENTIALS_DIRECTORY" not in environ:
            raise ConfigurationError("no passphrase: give --passphrase-file or a systemd credential " + CREDENTIAL)
        path = Path(environ["CREDENTIALS_DIRECTORY"]) / CREDENTIAL
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise ConfigurationError(f"the passphrase file {path.name} cannot be read: {error.strerror}") from None
    with open(handle, "rb", buffering=0) as file:
        found = os.fstat(handle)
        # systemd's credentials are 0440 and of root; anybody else's reading right is refused.
        loose = found.st_mode & (0o037 if path.name == CREDENTIAL else 0o077)
        if not stat.S_ISREG(found.st_mode) or loose or found.st_uid not in (0, os.geteuid()):
            raise ConfigurationError(f"the passphrase file {path.name} must be of this user, with mode 0600")
        content = file.read(PASSPHRASE_BYTES_MAX + 1) or b""
    try:
        text = content.decode().strip("\r\n")
    except UnicodeDecodeError:
        raise ConfigurationError(f"the passphrase file {path.name} is not text") from None
    if len(content) > PASSPHRASE_BYTES_MAX or len(text) < PASSPHRASE_CHARACTERS_MIN:
        raise ConfigurationError(f"the passphrase needs {PASSPHRASE_CHARACTERS_MIN} characters at least")
    return text


def create(folder: Path, passphrase: str, *, memory_kib: int, passes: int) -> MasterKey:
    """A new master key, written sealed into `folder`. Raises FileExistsError if there is one."""
    key = secrets.token_bytes(32)
    sealed = wrap_ring(passphrase, key, memory_kib=memory_kib, passes=passes, context=_CONTEXT)
    write_new(folder / MASTER_FILE, sealed)
    return MasterKey(key)


def load(folder: Path, passphrase: str) -> MasterKey:
    """Raises ConfigurationError for a wrong passphrase or a folder that is not the keyholder's alone."""
    check_folder(folder)
    try:
        sealed = (folder / MASTER_FILE).read_bytes()
    except FileNotFoundError:
        raise ConfigurationError("the keyholder was never set up here: run `myphr init`") from None
    try:
        return MasterKey(unwrap_ring(passphrase, sealed, context=_CONTEXT))
    except EnvelopeError:
        raise ConfigurationError("the passphrase does not open the keyholder's keys: it is not the right one") from None


def change_passphrase(folder: Path, old: str, new: str, *, memory_kib: int, passes: int) -> None:
    """The same master key under another passphrase. A crash leaves the old or the new file, never half of one."""
    load(folder, old)
    key = unwrap_ring(old, (folder / MASTER_FILE).read_bytes(), context=_CONTEXT)
    draft = folder / (MASTER_FILE + ".new")
    draft.unlink(missing_ok=True)
    write_new(draft, wrap_ring(new, key, memory_kib=memory_kib, passes=passes, context=_CONTEXT))
    owner = os.stat(folder)
    os.chown(draft, owner.st_uid, owner.st_gid)  # root may do this for the keyholder's user
    draft.replace(folder / MASTER_FILE)
    sync(folder)


def check_folder(folder: Path) -> None:
    """Raises ConfigurationError unless `folder` is a folder of this user with mode 0700."""
    try:
        found = os.lstat(folder)
    except FileNotFoundError:
        raise ConfigurationError("the keyholder was never set up here: run `myphr init`") from None
    except OSError as error:
        raise ConfigurationError(f"the keyholder's folder cannot be reached: {error.strerror}") from None
    if not stat.S_ISDIR(found.st_mode) or stat.S_IMODE(found.st_mode) & 0o077 or os.geteuid() not in (0, found.st_uid):
        raise ConfigurationError("the keyholder's folder must be of its own user, with mode 0700")


def write_new(path: Path, content: bytes) -> None:
    """A new file of mode 0600, on disk when this returns. Raises FileExistsError."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(handle, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(handle)
    sync(path.parent)


def sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
