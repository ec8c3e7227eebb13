"""`python -m myphr.localpve`: runs the embedded hypervisor until SIGTERM or SIGINT, then ends its machines.

Machines survive its crash, and its orderly end with --keep-machines; the next start finds them.
"""

import argparse
import asyncio
import contextlib
import os
import resource
import signal
from pathlib import Path

from myphr.localpve.qemu import Forward
from myphr.localpve.server import Options, Server


def options_of(arguments: list[str] | None = None) -> tuple[Options, bool]:
    parser = argparse.ArgumentParser(prog="python -m myphr.localpve", description=__doc__)
    parser.add_argument("--home", type=Path, required=True, help="folder of all its state")
    parser.add_argument("--bind", default="127.0.0.1:8006", metavar="HOST:PORT")
    parser.add_argument("--accelerator", choices=("auto", "kvm", "tcg"), default="auto")
    parser.add_argument(
        "--forward", action="append", default=[], type=Forward.parse, metavar="BRIDGE=ADDRESS:PORT=unix:PATH",
        help="the one address that guests on a bridge reach; {vmid} in the path is filled in",
    )  # fmt: skip
    parser.add_argument(
        "--bridge", action="append", default=[], help="a bridge without any forward (vmbr1 always exists)"
    )
    parser.add_argument(
        "--vm-user", help="user that machines run as when started by root (default myphr-vm, else nobody)"
    )
    parser.add_argument("--token-file", type=Path, help="secret of portal@pve!web, read or written (0600)")
    parser.add_argument("--run-dir", type=Path, help="folder of the sockets (short path)")
    parser.add_argument("--node", default="pve")
    parser.add_argument("--no-sealing", action="store_true", help="always boot machines cold")
    parser.add_argument("--unauthorised-seconds", type=float, default=3.0, help="delay of every 401")
    parser.add_argument(
        "--keep-machines",
        action="store_true",
        help="leave machines running at an orderly end (they survive a crash anyway)",
    )
    parser.add_argument("--end-machines", action="store_true", help="end machines at an orderly end (the default)")
    given = parser.parse_args(arguments)
    host, _, port = given.bind.rpartition(":")
    options = Options(
        home=given.home, host=host, port=int(port), node=given.node, accelerator=given.accelerator,
        forwards=tuple(given.forward), bridges=("vmbr1", *given.bridge), vm_user=given.vm_user,
        token_file=given.token_file,
        run_dir=given.run_dir, sealing=not given.no_sealing, unauthorised_seconds=given.unauthorised_seconds,
    )  # fmt: skip
    return options, not given.keep_machines


async def _run(options: Options, end_machines: bool) -> None:
    server = Server(options)
    await server.start()
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    await ended.wait()
    await server.stop(end_machines=end_machines)


def main() -> None:
    options, end_machines = options_of()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # inherited: no dump of a guest's memory ever reaches a disk
    os.umask(0o077)
    with contextlib.suppress(ImportError):
        import uvloop

        uvloop.install()
    asyncio.run(_run(options, end_machines))


if __name__ == "__main__":
    main()
