"""`python -m myphr.keyholder init | serve | ...`: the keyholder's command line. docs/operations/keyholder.md."""

import argparse
import asyncio
import datetime as dt
import grp
import json
import logging
import os
import signal
import socket
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path

from myphr.crypto import proofs
from myphr.crypto.abe import curve
from myphr.errors import PortalError
from myphr.keyholder import arguments, authorities, identities, links, master, process, setup, vault
from myphr.keyholder.desk import Desk
from myphr.keyholder.server import Server, bind, small_stacks
from myphr.keyholder.store import Store, fact
from myphr.people.keyholder import Keyholder

CALLS = {**identities.CALLS, **authorities.CALLS, **vault.CALLS}


def _now() -> dt.datetime:
    return dt.datetime.now(dt.timezone.utc)


def _init(given: argparse.Namespace) -> None:
    if setup.is_there(given.folder):
        return
    path = given.passphrase_file
    if path is not None and not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        master.write_new(path, f"{master.new_passphrase()}\n".encode())
    root_folder = None if given.without_ca else given.root_folder
    gid = setup.initialise(given.folder, root_folder, master.read_passphrase(path), now=_now(), user=given.user,
                           memory_kib=given.argon2_memory_kib, passes=given.argon2_passes)  # fmt: skip
    print(f"keyholder {gid} is made in {given.folder}")
    if root_folder:
        print(f"the root of its CA lies in {root_folder}: take it away, as the note in there says")


def _serve(given: argparse.Namespace) -> None:
    passphrase = master.read_passphrase(given.passphrase_file)
    listen_tls = _host_port(given.listen_tls) if given.listen_tls else None
    group = grp.getgrnam(given.socket_group).gr_gid if given.socket_group else None
    process.allow_locking()
    listening = bind(given.socket, group=group)
    if given.user:
        process.become(given.user)
    missing = process.harden()
    master.check_folder(given.folder)
    lock = process.alone(given.folder)
    small_stacks()
    curve.self_test()
    key = master.load(given.folder, passphrase)
    del passphrase
    store = Store(given.folder, key)
    with store.read() as db:
        own_ca = db.execute("SELECT 1 FROM issuer").fetchone() is not None
        if not own_ca:
            fact(db, "ca")  # stops the start of one that has neither a CA nor joined one
    desk = Desk(store, CALLS, own_ca=own_ca)
    desk.send = lambda gid, data: links.send(desk, gid, data)
    for what in missing:
        logging.getLogger("keyholder").warning("not had from this system: %s", what)
    asyncio.run(_run(Server(desk), listening, listen_tls))
    store.close()
    lock.close()


async def _run(server: Server, listening: socket.socket, listen_tls: tuple[str, int] | None) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, server.stop.set)
    await server.run(listening, listen_tls, ready=lambda: logging.getLogger("keyholder").info("ready"))


def _host_port(text: str) -> tuple[str, int]:
    host, _, port = arguments.address(text).rpartition(":")
    return host.strip("[]"), int(port)


def _request(given: argparse.Namespace) -> None:
    request = setup.request_to_join(given.folder, master.read_passphrase(given.passphrase_file))
    given.out.write_bytes(request)


def _register(given: argparse.Namespace) -> None:
    client = Keyholder(f"unix:{given.socket}")
    bundle = client.host_register(given.request.read_bytes(), arguments.address(given.address))
    given.out.write_text(json.dumps(bundle, indent=1) + "\n")
    print("registered; fingerprint of the CA's root, to be compared over there:")
    print(setup.fingerprint(proofs.from_base64(bundle["root"])))


def _join(given: argparse.Namespace) -> None:
    passphrase, bundle = master.read_passphrase(given.passphrase_file), json.loads(given.bundle.read_text())
    lock = process.alone(given.folder)
    print("joined; fingerprint of the CA's root, to be compared with the one shown over there:")
    print(setup.join(given.folder, passphrase, bundle, arguments.address(given.ca_address), now=_now()))
    lock.close()


def _operator(given: argparse.Namespace) -> None:
    client = Keyholder(f"unix:{given.socket}")
    (client.operator_dismiss if given.dismiss else client.operator_appoint)(given.gid)


def _forget_host(given: argparse.Namespace) -> None:
    Keyholder(f"unix:{given.socket}").host_forget(given.gid)


def _renew_intermediate(given: argparse.Namespace) -> None:
    passphrase = master.read_passphrase(given.passphrase_file)
    code = sys.stdin.readline() if sys.stdin.isatty() is False else input("code of the root: ")
    lock = process.alone(given.folder)
    setup.renew_intermediate(given.folder, passphrase, given.root_folder, code.strip(), now=_now(),
                             revoke_others=given.revoke_others)  # fmt: skip
    lock.close()
    print("renewed; start the keyholder again")


def _change_passphrase(given: argparse.Namespace) -> None:
    old, new = master.read_passphrase(given.passphrase_file), master.read_passphrase(given.new_passphrase_file)
    master.change_passphrase(given.folder, old, new, memory_kib=given.argon2_memory_kib, passes=given.argon2_passes)


def _backup(given: argparse.Namespace) -> None:
    setup.backup(given.folder, master.read_passphrase(given.passphrase_file), given.out)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m myphr.keyholder", description="The keyholder of MyPHRMachines")
    commands = parser.add_subparsers(required=True, metavar="command")

    def command(name: str, run: Callable[[argparse.Namespace], None], text: str, *, folder: bool = True):
        added = commands.add_parser(name, help=text)
        added.set_defaults(run=run)
        if folder:
            added.add_argument("--folder", type=Path, required=True)
            added.add_argument("--passphrase-file", type=Path, help="else the systemd credential " + master.CREDENTIAL)
        else:
            added.add_argument("--socket", type=Path, required=True)
        return added

    def slow_hash(to: argparse.ArgumentParser) -> None:
        to.add_argument("--argon2-memory-kib", type=int, default=65_536)
        to.add_argument("--argon2-passes", type=int, default=3)

    init = command("init", _init, "make a keyholder, and the passphrase file where there is none")
    init.add_argument("--root-folder", type=Path, help="where the root of its CA is put, to be taken away")
    init.add_argument("--without-ca", action="store_true", help="this one is to join the CA of another host")
    init.add_argument("--user", help="unix user the folder is to belong to")
    slow_hash(init)
    serve = command("serve", _serve, "run")
    serve.add_argument("--socket", type=Path, required=True)
    serve.add_argument("--socket-group", help="unix group that may connect; else only this user and root")
    serve.add_argument("--user", help="unix user to become, when started by root")
    serve.add_argument("--listen-tls", help="host:port for other keyholders")
    request = command("request", _request, "write the request with which this keyholder is registered at a CA's host")
    request.add_argument("--out", type=Path, required=True)
    join = command("join", _join, "take what `register` gave out on the CA's host")
    join.add_argument("--bundle", type=Path, required=True)
    join.add_argument("--ca-address", required=True, help="host:port of the CA's host")
    renew = command("renew-intermediate", _renew_intermediate, "a new intermediate; the root's code is read from input")
    renew.add_argument("--root-folder", type=Path, required=True)
    renew.add_argument("--revoke-others", action="store_true", help="the key of the one before may be stolen")
    change = command("change-passphrase", _change_passphrase, "another start-up passphrase")
    change.add_argument("--new-passphrase-file", type=Path, required=True)
    slow_hash(change)
    command("backup", _backup, "a consistent copy, also while it runs").add_argument("--out", type=Path, required=True)
    register = command("register", _register, "register the keyholder of another host", folder=False)
    for name in ("--request", "--out"):
        register.add_argument(name, type=Path, required=True)
    register.add_argument("--address", required=True, help="host:port at which it listens")
    forget = command("forget-host", _forget_host, "revoke the keyholder of another host", folder=False)
    forget.add_argument("--gid", required=True)
    operator = command("operator", _operator, "make a GID an operator, or no longer", folder=False)
    operator.add_argument("--gid", required=True)
    operator.add_argument("--dismiss", action="store_true")

    given = parser.parse_args(argv)
    os.umask(0o077)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    try:
        given.run(given)
    except PortalError as error:
        print(f"keyholder: {error.detail or error.message}", file=sys.stderr)
        return 1
    except (OSError, ValueError, KeyError, sqlite3.Error) as error:
        print(f"keyholder: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
