"""What the keyholder does to itself as a process: no core dumps, no swap, no foreign eyes, its own unix user.

Called by the command line, before any key is in memory. Linux only, through prctl(2) and mlockall(2).
"""

import ctypes
import fcntl
import os
import pwd
import resource
import signal
from pathlib import Path
from typing import TextIO

from myphr.errors import ConfigurationError

USER = "myphr-keys"
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 1, 4, 38
_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4


def become(name: str) -> None:
    """From root to this unix user for good, with no group but its own. The death of whoever started us still ends us.

    Raises ConfigurationError for an unknown user or without the right to change."""
    try:
        user = pwd.getpwnam(name)
    except KeyError:
        raise ConfigurationError(f"there is no unix user {name}") from None
    if os.geteuid() == user.pw_uid:
        return
    parent = os.getppid()
    try:
        os.setgroups([])
        os.setresgid(user.pw_gid, user.pw_gid, user.pw_gid)
        os.setresuid(user.pw_uid, user.pw_uid, user.pw_uid)
    except PermissionError:
        raise ConfigurationError(f"only root can become {name}") from None
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)  # changing user has taken it away
    if os.getppid() != parent:
        raise ConfigurationError("whoever started the keyholder is gone")


def harden() -> list[str]:
    """No core dump, not to be looked into by the user's other processes, nothing gained by exec, memory not swapped.
    Returns what could not be had, in plain words."""
    missing = []
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for option, value, what in ((_PR_SET_DUMPABLE, 0, "closing memory to others"), (_PR_SET_NO_NEW_PRIVS, 1, "exec")):
        if _prctl(option, value):
            missing.append(what)
    # ONFAULT: without it every thread's whole stack would be locked. With a limit, locking would make a later
    # allocation fail, so it is all or nothing.
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    libc = ctypes.CDLL(None, use_errno=True)
    if soft != resource.RLIM_INFINITY or libc.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT):
        missing.append("locking memory: keep swap off or encrypted")
    return missing


def allow_locking() -> None:
    """Lifts the limit of locked memory, where we may; to be called as root, before `become`."""
    try:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    except (ValueError, OSError):
        pass  # `harden` then says that memory is not locked


def _prctl(option: int, value: int) -> int:
    return ctypes.CDLL(None, use_errno=True).prctl(option, ctypes.c_ulong(value), 0, 0, 0)


def alone(folder: Path) -> TextIO:
    """The lock that one keyholder has on its folder; keep what is returned. Raises ConfigurationError."""
    lock = open(folder / "lock", "w")  # noqa: SIM115 - held for our lifetime
    owner = os.stat(folder)
    if os.geteuid() == 0:  # root may have been first, for the keyholder's user
        os.fchown(lock.fileno(), owner.st_uid, owner.st_gid)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise ConfigurationError("a keyholder is already running on this folder") from None
    return lock
