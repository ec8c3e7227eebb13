"""`python -m myphr ...`: see myphr.cli."""

import sys

from myphr.cli import main

if __name__ == "__main__":
    sys.exit(main())
