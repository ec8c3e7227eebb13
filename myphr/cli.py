"""The operator's command line: `myphr init | up | doctor | worker | template | audit | identify | pacs ...`.

Thin: parses, calls one function, prints plain words. Settings come from the environment (`MYPHR_*`).
"""

import argparse
import asyncio
import functools
import json
import os
import pwd
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from myphr.errors import ConfigurationError, PortalError
from myphr.settings import Settings, load

KEYHOLDER_USER = "myphr-keys"


def init(settings: Settings) -> None:
    """Folders, keys and database of one installation. Safe to run again; runs pending migrations."""
    from myphr.migrations import upgrade
    from myphr.people.service_keys import ServiceKeys

    os.umask(0o077)
    settings.home.mkdir(parents=True, exist_ok=True)
    # Others may pass through, to reach the folder sockets of the machines' user; nobody else may list anything.
    settings.home.chmod(0o711)
    settings.run_dir.mkdir(exist_ok=True)
    settings.run_dir.chmod(0o711)
    for name in ("db", "keys", "log", "spool", "store", "outbox", "templates"):
        (settings.home / name).mkdir(mode=0o700, exist_ok=True)
    if ServiceKeys.exist(settings.keys_dir):
        ServiceKeys.load(settings.keys_dir)  # one that is missing, damaged or open to others stops the start
    else:
        ServiceKeys.create(settings.keys_dir)
    upgrade(settings.database_url)


def init_keyholder(settings: Settings) -> None:
    """The keyholder's folder, passphrase and the root of its CA, unless they are there. In a process of its own, so
    that none of its keys was ever in one of ours. Raises ConfigurationError."""
    if not settings.embedded_keyholder or (settings.home / "keyholder").exists():
        return
    user = _keyholder_user(settings.home)
    done = subprocess.run(
        [sys.executable, "-m", "myphr.keyholder", "init", "--folder", str(settings.home / "keyholder"),
         "--passphrase-file", settings.keyholder_passphrase_file, "--root-folder", str(settings.home / "ca-root"),
         "--argon2-memory-kib", str(settings.argon2_memory_kib), "--argon2-passes", str(settings.argon2_passes),
         *(["--user", user] if user else [])],
        capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        raise ConfigurationError(f"the keyholder could not be made: {done.stderr.strip()[-500:]}")
    print(done.stdout, end="")


def _keyholder_user(home: Path) -> str | None:
    """`myphr-keys`, where we may become it, it exists, and it gets through to the home; else our own user."""
    try:
        pwd.getpwnam(KEYHOLDER_USER)
    except KeyError:
        return None
    open_to_it = all(folder.stat().st_mode & 0o001 for folder in (home, *home.resolve().parents))
    return KEYHOLDER_USER if os.geteuid() == 0 and open_to_it else None


def _publish_templates(settings: Settings) -> None:
    from myphr.machines.templates import publish_all
    from myphr.portal import Portal

    publish_all(Portal(settings), settings.home / "templates", report=print)


def _up(settings: Settings, _arguments: argparse.Namespace) -> int:
    from myphr.supervisor import run

    init(settings)
    init_keyholder(settings)
    asyncio.run(run(settings, before_web=lambda: _publish_templates(settings)))
    return 0


def _init(settings: Settings, _arguments: argparse.Namespace) -> int:
    settings.need_short_home()
    init(settings)
    init_keyholder(settings)
    print(f"ready: {settings.home}")
    return 0


def _worker(settings: Settings, arguments: argparse.Namespace) -> int:
    from myphr.worker import run

    run(settings, scheduler=arguments.scheduler)
    return 0


def _doctor(settings: Settings, _arguments: argparse.Namespace) -> int:
    from myphr.doctor import run
    from myphr.portal import Portal

    checks = run(Portal(settings))
    for check in checks:
        print(f"{'ok  ' if check.ok else 'FAIL'}  {check.name}: {check.sentence}")
        if not check.ok and check.remedy:
            print(f"      what to do: {check.remedy}")
    return 0 if all(check.ok for check in checks) else 1


def _template(settings: Settings, arguments: argparse.Namespace) -> int:
    from myphr.viewers import builder

    if arguments.action == "publish":
        _publish_templates(settings)
        return 0
    if arguments.action == "check":
        return _check_viewers(settings, arguments)
    out = Path(arguments.out) if arguments.out else settings.home / "templates"
    out.mkdir(parents=True, exist_ok=True)
    for name in arguments.names or builder.names():
        builder.build(name, out, report=print)
    return 0


def _check_viewers(settings: Settings, arguments: argparse.Namespace) -> int:
    """Do the viewers of these templates (of all that are published) open our samples? 1 if one does not."""
    from myphr import still_opens
    from myphr.portal import Portal

    parts = Portal(settings)
    names = arguments.names or sorted({template.name for template in parts.hypervisor.templates()})
    keep = Path(arguments.out) if arguments.out else None
    try:
        return 0 if all([still_opens.run(parts, name, print, keep) for name in names]) else 1
    except still_opens.Busy:
        print("myphr: all machines are in use: try again later", file=sys.stderr)
        return 1


def _audit(settings: Settings, arguments: argparse.Namespace) -> int:
    from myphr.audit import trail
    from myphr.portal import Portal
    from myphr.records import deletions

    database = Portal(settings).database
    count = trail.verify(database, trail.read_anchor(settings.home / "audit-head"))
    print(f"audit trail: {count} events, every link of the chain holds")
    if arguments.certificate is not None:
        rows = deletions.check_in(database, json.loads(arguments.certificate.read_bytes()))
        print(f"proof of deletion: it fits itself, and the trail holds its {rows} lines")
    return 0


def _demo_data(settings: Settings, arguments: argparse.Namespace) -> int:
    from myphr.ingest import demo
    from myphr.portal import Portal

    count = demo.load(Portal(settings), arguments.email)
    print(f"{count} sample files are in the record of {arguments.email}")
    return 0


def _read_at(file: BinaryIO, at: int, length: int) -> bytes:
    file.seek(at)
    return file.read(length)


def _identify(_settings: Settings, arguments: argparse.Namespace) -> int:
    """One JSON object a line: what each file is, by its content alone. 1 if one could not be read."""
    from myphr.ingest import identify, second_opinion

    failed = 0
    for path in _files_below(arguments.paths):
        try:
            with path.open("rb") as file:
                found, head = identify.identify_stored(functools.partial(_read_at, file), path.stat().st_size)
        except OSError as error:
            print(json.dumps({"path": str(path), "error": error.strerror or type(error).__name__}))
            failed = 1
            continue
        found = second_opinion.ask(head, found)
        print(json.dumps({
            "path": str(path), "format": found.format, "media_type": found.media_type, "puid": found.puid or None,
            "rule": found.rule, "confidence": found.confidence,
        }), flush=True)  # fmt: skip
    return failed


def _files_below(paths: list[str]) -> Iterator[Path]:
    """The files as named, and those below folders in order; links are not followed out of a folder."""
    for path in map(Path, paths):
        if path.is_dir():
            yield from (one for one in sorted(path.rglob("*")) if one.is_file() and not one.is_symlink())
        else:
            yield path


def _operator(settings: Settings, arguments: argparse.Namespace) -> int:
    from myphr.errors import KeyholderUnavailable
    from myphr.people import accounts
    from myphr.portal import Portal

    try:
        accounts.make_operator(Portal(settings), arguments.email)
    except KeyholderUnavailable:  # the account has become one; only the keyholder's half is left
        print("to register organisations too, run this again while the portal is up")
    print(f"{arguments.email} may see {settings.public_url}/operator")
    return 0


def _pacs(settings: Settings, arguments: argparse.Namespace) -> int:
    """The list of practices' PACS: add, list, echo, remove."""
    from myphr.audit.trail import Actor
    from myphr.ingest.pacs import links, servers
    from myphr.portal import Portal

    parts, operator = Portal(settings), Actor("operator")
    if arguments.action == "add":
        entry = servers.Entry(
            arguments.name, arguments.host, arguments.port, arguments.called_ae, arguments.calling_ae,
            not arguments.plain, arguments.ca.read_text() if arguments.ca else "", arguments.move,
        )  # fmt: skip
        print(f"{servers.add(parts, operator, entry).id} answered, and is on the list")
    elif arguments.action == "list":
        for pacs in servers.offered(parts):
            line = ("TLS" if pacs.tls else "in clear") + (", C-MOVE" if pacs.moves else "")
            print(f"{pacs.id}  {pacs.called_ae}@{pacs.host}:{pacs.port} {line}, as {pacs.calling_ae}, "
                  f"{links.confirmed_count(parts, pacs.id)} connected: {pacs.name}")  # fmt: skip
    elif arguments.action == "echo":
        servers.echo(parts, servers.one(parts, arguments.id))
        print("it answers, and lets this portal in")
    else:
        servers.close(parts, operator, arguments.id)
        print("it is off the list, and nobody is connected with it")
    return 0


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="myphr", description="MyPHRMachines: a personal health record portal")
    commands = parser.add_subparsers(required=True, metavar="command")

    def command(name: str, run, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text)
        added.set_defaults(run=run)
        return added

    command("init", _init, "make folders, keys and database")
    command("up", _up, "start everything and serve until Ctrl+C")
    command("doctor", _doctor, "check the installation and the hypervisor")
    worker = command("worker", _worker, "run one job worker")
    worker.add_argument("--scheduler", action="store_true", help="also run the recurring sweeps")
    template = command("template", _template, "build, publish or check viewer templates")
    template.add_argument("action", choices=("build", "publish", "check"))
    template.add_argument("names", nargs="*", help="template names; none means all")
    template.add_argument("--out", help="folder for the images; with check for the screens that were seen")
    audit = command("audit", _audit, "check the audit trail, and a proof of deletion against it")
    audit.add_argument("action", choices=("verify",))
    audit.add_argument("--certificate", type=Path, metavar="FILE", help="a proof of deletion that somebody kept")
    demo = command("demo-data", _demo_data, "load sample studies into an account")
    demo.add_argument("email", help="e-mail address of the account")

    identify = command("identify", _identify, "say what files are, by their content: one JSON object a line")
    identify.add_argument("paths", nargs="+", metavar="PATH", help="a file, or a folder with all below it")

    operator = command("operator", _operator, "let an account see the operator's page (and no record but its own)")
    operator.add_argument("email", help="e-mail address of the account")

    pacs = command("pacs", _pacs, "the list of practices' PACS that patients fetch images from")
    actions = pacs.add_subparsers(required=True, dest="action", metavar="action")
    added = actions.add_parser("add", help="put one on the list, if it answers")
    for name, text in (("name", "as patients know the practice"), ("host", "name or address"), ("port", "its port"),
                       ("called_ae", "its AE title")):  # fmt: skip
        added.add_argument(name, help=text)
    added.add_argument("--calling-ae", default="MYPHR", help="our AE title there (MYPHR)")
    added.add_argument("--move", action="store_true", help="it sends to our receiver under that title (C-MOVE)")
    added.add_argument("--ca", type=Path, metavar="FILE", help="certificate of its authority, or its own (PEM)")
    added.add_argument("--plain", action="store_true", help="without TLS: this computer, or a VPN (MYPHR_PACS_PLAIN=1)")
    actions.add_parser("list", help="all, with their ids")
    for name, text in (("echo", "ask whether one answers (C-ECHO)"), ("remove", "take one off the list")):
        actions.add_parser(name, help=text).add_argument("id")

    arguments = parser.parse_args(argv)
    try:
        return arguments.run(load(), arguments)
    except ConfigurationError as error:
        print(f"myphr: {error.detail or error.message}", file=sys.stderr)
        return 2
    except PortalError as error:
        print(f"myphr: {error.message} [{error.code}] {error.detail}".rstrip(), file=sys.stderr)
        return 1
