"""`make bench`: runs every bench, one after the other, so that none disturbs another.

`python -m bench start pages` runs only those named. Each is a module with `main()` that prints its own figures.
"""

import importlib
import os
import platform
import sys
import time

ALL = ("start", "screen", "uploads", "discs", "files", "pages", "abe", "sharing", "identification", "previews",
       "suggestions", "receiving", "fetching", "search", "hostile")  # fmt: skip


def machine() -> str:
    """What these figures were measured on, in one line."""
    with open("/proc/cpuinfo") as lines:
        models = {line.partition(":")[2].strip() for line in lines if line.startswith("model name")}
    processor = f"{os.cpu_count()} cores {', '.join(sorted(models))}"
    return f"{processor}, Linux {platform.release()}, Python {platform.python_version()}"


def main(names: list[str]) -> int:
    unknown = set(names) - set(ALL)
    if unknown:
        print(f"no such bench: {', '.join(sorted(unknown))}; there are {', '.join(ALL)}", file=sys.stderr)
        return 2
    print(f"measured on {machine()}, load {os.getloadavg()[0]:.1f}")
    failed = []
    for name in names or ALL:
        print(f"\n== {name} ==", flush=True)
        started = time.monotonic()
        try:
            importlib.import_module(f"bench.{name}").main()
        except Exception as error:  # one bench that cannot run must not hide the others' figures
            failed.append(name)
            print(f"{name} could not run: {type(error).__name__}: {error}")
        print(f"({time.monotonic() - started:.0f} s)", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
