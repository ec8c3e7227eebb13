"""`python -m myphr.gateway screen|files`: starts one of the two gateways. They share nothing but this line."""

import sys


def main() -> None:
    which = sys.argv[1] if len(sys.argv) == 2 else ""
    if which == "screen":
        from myphr.gateway.screen import main as start
    elif which == "files":
        from myphr.gateway.files_server import main as start
    else:
        raise SystemExit("usage: python -m myphr.gateway screen|files")
    start()


if __name__ == "__main__":
    main()
