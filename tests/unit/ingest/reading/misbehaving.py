"""The reader process with one format more: "python" runs its content. What a taken-over decoder could do, it does."""

import gc
import os
import resource
import sys

from myphr.ingest.reading import child
from myphr.ingest.reading.content import Content
from myphr.records.reading import FullReading, Reading


def connection_of_this_fork():
    import socket

    return next(thing for thing in gc.get_objects() if isinstance(thing, socket.socket) and thing.fileno() >= 0)


def run(content: Content):
    connection = connection_of_this_fork()

    def say(text: str) -> None:
        connection.sendall(child.encode(FullReading(Reading(title=text))))

    names = {"say": say, "os": os, "resource": resource, "child": child, "connection": connection}
    exec(content.data.decode(), names)
    return iter(())


child._decoders = lambda: {"python": run}

if __name__ == "__main__":
    child.main(int(sys.argv[1]))
