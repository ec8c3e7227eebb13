"""Starts the real screen gateway with a configuration given as JSON, and prints its address when it listens.

The consoles come from the Proxmox-like endpoint in `pve_like.py` ("vncproxy") or, for measurements, are fixed.
"""

import dataclasses
import json
import logging
import resource
import sys
from pathlib import Path

import requests
import uvloop

from myphr.database import Database
from myphr.errors import HypervisorUnreachable
from myphr.gateway import screen


@dataclasses.dataclass(frozen=True)
class Console:
    url: str
    headers: dict[str, str]
    ca_file: str | None
    password: str


class Consoles:
    def __init__(self, config: dict) -> None:
        self.fixed: dict[str, dict] = config.get("fixed", {})
        self.base: str = config.get("base", "")
        self.ca_file: str = config.get("ca_file", "")

    def console(self, vmid: int, *, node: str | None = None) -> Console:
        if str(vmid) in self.fixed:
            return Console(**{"headers": {}, "ca_file": None} | self.fixed[str(vmid)])
        assert node == "pve"
        try:
            answer = requests.get(f"https://{self.base}/vncproxy?vmid={vmid}", verify=self.ca_file, timeout=10)
            answer.raise_for_status()
        except requests.RequestException:
            raise HypervisorUnreachable from None
        data = answer.json()
        url = f"wss://{self.base}/vncwebsocket?port={data['port']}&vncticket={data['ticket']}"
        return Console(url, {"Authorization": "PVEAPIToken=portal@pve!web=secret"}, self.ca_file, data["password"])


def main() -> None:
    config = json.loads(Path(sys.argv[1]).read_text())
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    for name, value in config.get("constants", {}).items():
        assert hasattr(screen, name)
        setattr(screen, name, value)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    sys.setswitchinterval(0.0005)
    parts = screen.Parts(
        database=Database(config["database_url"]), redis_url=config["redis_url"],
        ticket_key=bytes.fromhex(config["ticket_key"]),
        public_url=config["public_url"], consoles=Consoles(config["consoles"]),
    )  # fmt: skip
    uvloop.run(screen.run(parts, "127.0.0.1:0", ready=lambda host, port: print(f"{host}:{port}", flush=True)))


if __name__ == "__main__":
    main()
