"""docs/errors.md, made from the error classes themselves: `python -m myphr.web.error_reference > docs/errors.md`.

A test compares the page with the classes, so that no error is released without its line.
"""

import importlib
import pkgutil
import sys
from collections.abc import Iterator

import myphr
from myphr.errors import PortalError

_HEAD = """# Errors

Every error that a person may see: a code that never changes, the sentence on the page, the HTTP status. Made from the
classes by `python -m myphr.web.error_reference > docs/errors.md`; a test compares. Words in braces are filled in.

| code | status | sentence | class |
|---|---|---|---|
"""


def error_classes() -> list[type[PortalError]]:
    """All error classes of the project that have a code of their own, wherever they are declared, by code."""
    for module in pkgutil.walk_packages(myphr.__path__, "myphr."):
        # localpve stands alone and raises its own; templates and migrations are no modules to import here
        if not module.name.startswith(
            ("myphr.localpve", "myphr.migrations", "myphr.viewers.templates")
        ) and not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    every: list[type[PortalError]] = [PortalError, *_below(PortalError)]
    found = {kind for kind in every if "code" in vars(kind)}
    return sorted(found, key=lambda kind: (kind.code, kind.__module__))


def _below(kind: type[PortalError]) -> Iterator[type[PortalError]]:
    for child in kind.__subclasses__():
        if child.__module__.startswith("myphr."):
            yield child
            yield from _below(child)


def markdown() -> str:
    lines = [
        f"| `{kind.code}` | {kind.status} | {kind.sentence} | `{kind.__module__}.{kind.__name__}` |"
        for kind in error_classes()
    ]
    return _HEAD + "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(markdown())
