"""The portal's own keys, as files of the operator: none of them opens a patient's item.

Made once by `myphr init`, read at start by every process through the composition root. Missing files, foreign
modes and wrong sizes stop the start with a ConfigurationError; nothing is ever made or repaired silently.
"""

import contextlib
import dataclasses
import os
import secrets
import stat
from pathlib import Path

from myphr.crypto.envelope import PRIVATE_KEY_BYTES, KeyPair, new_key_pair
from myphr.errors import ConfigurationError, EnvelopeError

KEY_BYTES = 32
_SYMMETRIC = ("index", "cookie", "ticket", "passcode")
_WORKER = "worker"


@dataclasses.dataclass(frozen=True, repr=False)
class ServiceKeys:
    """`index_key`: keyed hashes that find duplicates and studies blindly. `cookie_key`: signs what web puts into
    cookies and forms. `ticket_key`: signs screen tickets. `passcode_key`: MACs share passcodes. `worker`: key pair
    to which web seals secrets for jobs."""

    index_key: bytes
    cookie_key: bytes
    ticket_key: bytes
    passcode_key: bytes
    worker: KeyPair

    @staticmethod
    def exist(directory: Path) -> bool:
        """Whether this installation has keys, complete or not."""
        return any(_path(directory, name).exists() for name in (*_SYMMETRIC, _WORKER))

    @classmethod
    def create(cls, directory: Path) -> "ServiceKeys":
        """Makes all keys as files of mode 0600 in `directory` (made with mode 0700 if missing) and loads them.

        Raises ConfigurationError if a key file exists already: to lose the index or worker key is to lose data."""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_directory(directory)
        if cls.exist(directory):
            raise ConfigurationError("service keys exist already; remove them only if no data was ever stored")
        for name in _SYMMETRIC:
            _write_new(_path(directory, name), secrets.token_bytes(KEY_BYTES))
        _write_new(_path(directory, _WORKER), new_key_pair().private)
        handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
        return cls.load(directory)

    @classmethod
    def load(cls, directory: Path) -> "ServiceKeys":
        """The keys in `directory`. Raises ConfigurationError if one is missing, readable by others or damaged."""
        _check_directory(directory)
        index, cookie, ticket, passcode = (_read(_path(directory, name), KEY_BYTES) for name in _SYMMETRIC)
        try:
            worker = KeyPair.from_private(_read(_path(directory, _WORKER), PRIVATE_KEY_BYTES))
        except EnvelopeError:
            raise ConfigurationError("key file worker.key is damaged") from None
        return cls(index, cookie, ticket, passcode, worker)


def _path(directory: Path, name: str) -> Path:
    return directory / f"{name}.key"


def _check_directory(directory: Path) -> None:
    try:
        found = os.lstat(directory)
    except OSError:
        raise ConfigurationError("key directory is missing: run `myphr init`") from None
    if not stat.S_ISDIR(found.st_mode) or stat.S_IMODE(found.st_mode) & 0o077 or found.st_uid != os.geteuid():
        raise ConfigurationError("key directory must be a directory of this user with mode 0700")


def _read(path: Path, size: int) -> bytes:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise ConfigurationError(f"key file {path.name} is missing: run `myphr init`") from None
    except OSError:
        raise ConfigurationError(f"key file {path.name} cannot be read") from None
    with open(handle, "rb", buffering=0) as file:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode) or stat.S_IMODE(found.st_mode) & 0o077 or found.st_uid != os.geteuid():
            raise ConfigurationError(f"key file {path.name} must be a file of this user with mode 0600")
        content = file.read(size + 1)
    if len(content) != size:
        raise ConfigurationError(f"key file {path.name} is damaged")
    return content


def _write_new(path: Path, content: bytes) -> None:
    # Written beside and linked into place: a crash leaves no half key, and an existing one is never replaced.
    draft = path.with_suffix(".new")
    with contextlib.suppress(FileNotFoundError):
        draft.unlink()
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(handle, "wb", buffering=0) as file:
        os.fchmod(handle, 0o600)
        file.write(content)
        os.fsync(handle)
    try:
        os.link(draft, path)
    except FileExistsError:
        raise ConfigurationError("service keys exist already") from None
    finally:
        draft.unlink()
