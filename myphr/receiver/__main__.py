"""`python -m myphr.receiver`: serves until SIGTERM or SIGINT, as the environment says."""

from myphr.receiver.server import main

if __name__ == "__main__":
    main()
