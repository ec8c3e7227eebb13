"""Loads modules of the guest's viewers by their path: they are no part of the portal."""

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from myphr.viewers import builder


@contextmanager
def guest_module(name: str) -> Iterator[ModuleType]:
    beside = str(builder.GUEST)  # what it imports of its neighbours
    spec = importlib.util.spec_from_file_location(name, builder.GUEST / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their own module up
    sys.path.insert(0, beside)
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(beside)
        del sys.modules[name]
