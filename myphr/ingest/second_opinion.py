"""What libmagic says of a file that our own rules do not know: a media type, never a format: no viewer is chosen by it.

Asked through file(1) in a process of its own, which libmagic's makers confine further (seccomp): it reads hostile bytes
in C and must not do that beside anybody's keys. Called by `myphr identify`; not called while an upload streams in.
"""

import dataclasses
import resource
import shutil
import subprocess

from myphr.ingest.formats import Identified

SECONDS_MAX = 5
MEMORY_BYTES_MAX = 512 * 1024 * 1024
# What browsers would run is never passed on, and neither is "I do not know" in its forms.
_NOTHING = ("application/octet-stream", "text/", "inode/", "application/x-empty")


def ask(head: bytes, found: Identified) -> Identified:
    """`found` with libmagic's media type, if our rules knew nothing and libmagic does. Never raises."""
    if found.format != "unknown" or found.rule != "none" or not head or (program := shutil.which("file")) is None:
        return found
    try:
        done = subprocess.run(
            [program, "--brief", "--mime-type", "-"], input=head, capture_output=True, timeout=SECONDS_MAX, check=True,
            preexec_fn=_confined, env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"},
        )  # fmt: skip
    except (subprocess.SubprocessError, OSError):
        return found
    said = done.stdout.decode("ascii", "replace").strip()[:100]
    if "/" not in said or said.startswith(_NOTHING) or not said.isprintable():
        return found
    return dataclasses.replace(found, media_type=said, rule="libmagic")


def _confined() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES_MAX, MEMORY_BYTES_MAX))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS_MAX, SECONDS_MAX))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
