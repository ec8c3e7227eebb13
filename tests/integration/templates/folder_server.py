"""A foreign 9P server (Debian's diod) behind a unix socket, so that the guest agent is tried against more than our own.

diod takes the exported path as attach name: it stands where the session's secret stands with our gateway.
"""

import socket
import subprocess
import threading
from pathlib import Path


class FolderServer:
    """Serves `export` to whoever connects to `path`; one diod per connection."""

    def __init__(self, path: Path, export: Path) -> None:
        self.path, self.export = path, export
        (export / "results").mkdir(parents=True, exist_ok=True)
        (export / "results").chmod(0o777)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen()
        self.children: list[subprocess.Popen[bytes]] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with connection:
                fd = connection.fileno()
                command = ["diod", "-f", "-n", "-N", "-L", "stderr", "-c", "/dev/null", "-e", str(self.export)]
                command += ["-r", str(fd), "-w", str(fd)]
                child = subprocess.Popen(command, pass_fds=(fd,), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                self.children.append(child)

    def drop_connections(self) -> None:
        for child in self.children:
            child.kill()
            child.wait()
        self.children.clear()

    def close(self) -> None:
        self.listener.close()
        self.drop_connections()
