"""VM sessions: request, start, what the page shows, end.

The web side makes the session's secret, keeps its hash, its envelope to the worker and the manifest sealed under it,
and forgets it. The worker gives the secret to one machine and erases its copy. `run_start` and `run_end` are what the
jobs call: both may be cut off anywhere and run again. Called by web and jobs.
"""

import base64
import dataclasses
import datetime as dt
import hashlib
import json
import logging
import re
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import redis
from sqlmodel import Session, col, select

from myphr.audit.trail import SYSTEM, Actor, record
from myphr.crypto import envelope
from myphr.database import new_id, now
from myphr.errors import (
    AllMachinesInUse,
    FormRefused,
    HypervisorRefused,
    HypervisorUnreachable,
    MachineFailed,
    NotFound,
    PortalError,
    SessionOver,
    ViewerNotInstalled,
)
from myphr.machines import addresses, lease, placement, pool
from myphr.machines.models import Machine, VmSession
from myphr.machines.parts import Parts
from myphr.machines.states import ACTIVE, STARTING, VM_SESSION, StateConflict, move
from myphr.records.models import Item, Study

if TYPE_CHECKING:
    from myphr.people.accounts import Login

CLAIM_FILE = "/run/myphr/claim.json"
REVOKED_CHANNEL = "myphr:revoked"  # as in myphr.sharing.live, which stands above us
ITEMS_MAX = 20_000
TRIES_MAX = 2  # a machine that fails is replaced once
FIREWALL_SETTLES_SECONDS = 12  # Proxmox compiles firewall rules every 10 s: no network before that
ISOLATION_SECONDS_MAX = 10
RESULTS_SECONDS_MAX = 60  # how long an ending session waits for its results to be put into the record
INPUT_KEY = "myphr:input:{}"
RESULTS_KEY = "myphr:results:{}"  # set by the files gateway once the results of an ending session are safe
_CHECK_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")

STAGES = (
    ("requested", "Waiting for a machine"),
    ("starting", "Starting the machine"),
    ("connecting", "Connecting your files"),
    ("opening", "Opening them in the viewer"),
)

log = logging.getLogger(__name__)


# -- asking for one -----------------------------------------------------------------------------------
def request(
    parts: Parts, login: "Login", viewer: Any, item_ids: Sequence[str] | None = None, study_id: str | None = None
) -> VmSession:
    """Ask for a machine that opens these items (or this study) of the signed-in owner with this viewer (a
    `myphr.viewers.catalogue.Viewer`, or anything with its `name` and `template`).

    Raises NotFound for anything that is not the owner's, FormRefused for nothing or too much, AllMachinesInUse,
    ViewerNotInstalled; for an internal viewer also HypervisorUnreachable."""
    from myphr.records import manifest

    _check_viewer(parts, viewer)
    ids, ring = _own_items(parts, login.account.id, item_ids, study_id), login.ring()
    return _request(
        parts, login, viewer, len(ids), study_id, ids[0] if study_id is None and len(ids) == 1 else None,
        lambda secret, id_: manifest.build(parts.database, ring, login.account.id, ids, secret, id_),
    )  # fmt: skip


def request_opened(
    parts: Parts, login: "Login", viewer: Any, items: Sequence[Item], deks: Sequence[bytes],
    details: Sequence[dict[str, Any]], beside: Callable[[Session, VmSession], None],
) -> VmSession:  # fmt: skip
    """As `request`, for files of somebody else whose keys are at hand. `beside` runs in the transaction that makes the
    row, and may refuse by raising."""
    from myphr.records import manifest

    _check_viewer(parts, viewer)
    if not 0 < len(items) <= ITEMS_MAX:
        raise FormRefused("items", reason="there is nothing to open, or too much at once")
    return _request(
        parts, login, viewer, len(items), None, None,
        lambda secret, id_: manifest.seal(items, deks, details, secret, id_), beside,
    )  # fmt: skip


def _request(
    parts: Parts, login: "Login", viewer: Any, items_count: int, study_id: str | None, item_id: str | None,
    manifest_of: Callable[[bytes, str], bytes], beside: Callable[[Session, VmSession], None] | None = None,
) -> VmSession:  # fmt: skip
    with parts.database.write() as db:
        placement.check_room(db, parts.settings)  # before the work of building the manifest
    account_id = login.account.id
    vm_session = VmSession(
        id=new_id(), account_id=account_id, viewer=viewer.name, template=viewer.template, study_id=study_id,
        item_id=item_id, state=VM_SESSION.first, items_count=items_count, owner_public_key=login.ring().public_key,
    )  # fmt: skip
    secret = secrets.token_urlsafe(32).encode()  # 32 random bytes as 43 characters: what the guest will present
    vm_session.secret_sha256 = secret_sha256(secret)
    vm_session.secret_for_worker = envelope.seal_to(
        parts.keys.worker.public, secret, context=envelope.context_for("vm-secret", vm_session.id)
    )
    vm_session.sealed_manifest = manifest_of(secret, vm_session.id)
    with parts.database.write() as db:
        placement.check_room(db, parts.settings)
        db.add(vm_session)
        if beside is not None:
            db.flush()
            beside(db, vm_session)
        record(
            db, "vm-session-requested", account_id=account_id, actor=Actor("patient", account_id),
            vm_session=vm_session.id, viewer=vm_session.viewer, items=items_count,
        )  # fmt: skip
    enqueue_start(parts, vm_session.id)
    return vm_session


def _check_viewer(parts: Parts, viewer: Any) -> None:
    """Raises ViewerNotInstalled, HypervisorUnreachable.

    The hypervisor is asked about internal viewers only: those need not be published. For all others its answer would
    hold up each press of Open; should one be missing all the same, the start fails with the same sentence."""
    from myphr.viewers import catalogue

    known = catalogue.load().get(viewer.name)
    if known is None or known.template != viewer.template:
        raise ViewerNotInstalled("not in the catalogue")
    if known.internal:
        parts.hypervisor.find_template(known.template)


def secret_sha256(secret: bytes) -> str:
    """Hex, of the 43 characters as the guest presents them."""
    return hashlib.sha256(secret).hexdigest()


def _own_items(parts: Parts, account_id: str, item_ids: Sequence[str] | None, study_id: str | None) -> list[str]:
    if (item_ids is None) == (study_id is None):
        raise FormRefused("items or study", reason="choose files or a study")
    with parts.database.read() as db:
        own = select(Item.id).where(Item.account_id == account_id, col(Item.deleted_at).is_(None))
        if study_id is not None:
            study = db.get(Study, study_id)
            if study is None or study.account_id != account_id or study.deleted_at is not None:
                raise NotFound(f"study {study_id}")
            ids = list(db.exec(own.where(Item.study_id == study_id).order_by(col(Item.created_at))).all())
        else:
            wanted = list(dict.fromkeys(item_ids or ()))
            if len(wanted) > ITEMS_MAX:
                raise FormRefused("too many items", reason=f"choose at most {ITEMS_MAX:,} files")
            found: set[str] = set()
            for start in range(0, len(wanted), 500):  # a database takes only so many parameters at once
                found.update(db.exec(own.where(col(Item.id).in_(wanted[start : start + 500]))).all())
            if len(found) != len(wanted):
                raise NotFound("an item that is not the owner's")
            ids = wanted
    if not ids:
        raise FormRefused("no items", reason="choose at least one file")
    if len(ids) > ITEMS_MAX:
        raise FormRefused("too many items", reason=f"choose at most {ITEMS_MAX:,} files")
    return ids


def enqueue_start(parts: Parts, vm_session_id: str, function: str = "jobs.machines.start_vm_session") -> None:
    parts.queue.enqueue(function, vm_session_id, seconds_max=TRIES_MAX * parts.settings.start_seconds_max + 120)


# -- looking at one -----------------------------------------------------------------------------------
@dataclasses.dataclass(frozen=True)
class Stage:
    name: str
    sentence: str
    progress: str  # done, now, later


@dataclasses.dataclass(frozen=True)
class Isolation:
    """One way out that the guest tried."""

    check: str
    blocked: bool


@dataclasses.dataclass(frozen=True)
class VmSessionView:
    """What a page shows of a VM session. `ends_in_seconds` and `idle_in_seconds` count down to the hard limit and to
    the end for want of input; `warning` is "idle" or "time" when one of them is near."""

    id: str
    account_id: str
    viewer: str
    study_id: str | None
    item_id: str | None
    state: str
    stage: str
    stages: list[Stage]
    items_count: int
    is_starting: bool
    is_over: bool
    second_try: bool
    ends_in_seconds: int | None
    idle_in_seconds: int | None
    warning: str | None
    isolation: list[Isolation]
    failure: str | None
    message: str | None  # the plain sentence of a failure or of the end
    end_reason: str | None
    created_at: dt.datetime
    live_at: dt.datetime | None
    ended_at: dt.datetime | None


_ERRORS: dict[str, type[PortalError]] = {
    error.code: error
    for error in (AllMachinesInUse, MachineFailed, HypervisorUnreachable, HypervisorRefused, ViewerNotInstalled)
}
_END_SENTENCES = {
    "owner": "You ended this session. Its machine was destroyed; files saved in it are in your record.",
    "idle": "This session ended because nothing was done in it for a while. Files saved in it are in your record.",
    "time": "This session reached its longest time and ended. Files saved in it are in your record.",
    "failure": "The machine stopped by itself. Files saved before that are in your record. Please open them again.",
    "withdrawn": "This session ended because what it showed is no longer shared with you.",
    "account": "This session ended because the account was closed or signed out everywhere.",
}


def own(parts: Parts, account_id: str, vm_session_id: str) -> VmSession:
    """The owner's VM session. Raises NotFound for anybody else's."""
    with parts.database.read() as db:
        vm_session = db.get(VmSession, vm_session_id)
    if vm_session is None or vm_session.account_id != account_id:
        raise NotFound(f"VM session {vm_session_id}")
    return vm_session


def view(parts: Parts, account_id: str, vm_session_id: str) -> VmSessionView:
    """What the owner's page shows. Raises NotFound. Changes nothing: polling it keeps nobody signed in."""
    return view_of(parts, own(parts, account_id, vm_session_id))


def view_of(parts: Parts, vm_session: VmSession) -> VmSessionView:
    """The view of a row that the caller may see."""
    moment = now()
    names = [name for name, _ in STAGES]
    at = names.index(vm_session.state) if vm_session.state in names else len(names)
    failed = vm_session.state == "failed"
    stages = [
        Stage(name, sentence, "done" if place < at and not failed else "now" if place == at else "later")
        for place, (name, sentence) in enumerate(STAGES)
    ]
    ends_in = idle_in = warning = None
    if vm_session.state == "live":
        if vm_session.ends_at:
            ends_in = max(0, int((vm_session.ends_at - moment).total_seconds()))
        idle_in = max(0, int((idle_end(parts, vm_session) - moment).total_seconds()))
        limit = parts.settings.idle_warning_seconds
        if ends_in is not None and ends_in <= limit and ends_in <= idle_in:
            warning = "time"
        elif idle_in <= limit:
            warning = "idle"
    message = None
    if failed:
        message = _ERRORS.get(vm_session.failure or "", MachineFailed).sentence
    elif vm_session.state in ("ending", "ended"):
        message = _END_SENTENCES.get(vm_session.end_reason or "", SessionOver.sentence)
    return VmSessionView(
        id=vm_session.id, account_id=vm_session.account_id, viewer=vm_session.viewer, study_id=vm_session.study_id,
        item_id=vm_session.item_id,
        state=vm_session.state, stage=dict(STAGES).get(vm_session.state, ""), stages=stages,
        items_count=vm_session.items_count, is_starting=vm_session.state in STARTING,
        is_over=vm_session.state in ("ending", *VM_SESSION.final), second_try=vm_session.tries > 0,
        ends_in_seconds=ends_in, idle_in_seconds=idle_in, warning=warning,
        isolation=[Isolation(**entry) for entry in json.loads(vm_session.isolation or "[]")],
        failure=vm_session.failure, message=message, end_reason=vm_session.end_reason,
        created_at=vm_session.created_at, live_at=vm_session.live_at, ended_at=vm_session.ended_at,
    )  # fmt: skip


def last_input_at(parts: Parts, vm_session: VmSession) -> dt.datetime:
    """The newest of what the database and the screen gateway know."""
    known = vm_session.last_input_at or vm_session.live_at or vm_session.created_at
    try:
        text = parts.redis.get(INPUT_KEY.format(vm_session.id))
        seen = dt.datetime.fromtimestamp(float(text), dt.UTC) if text else known  # type: ignore[arg-type]
    except (redis.exceptions.RedisError, ValueError, OverflowError, OSError):
        return known
    return max(known, min(seen, now()))


def idle_end(parts: Parts, vm_session: VmSession) -> dt.datetime:
    return last_input_at(parts, vm_session) + dt.timedelta(seconds=parts.settings.idle_seconds_max)


def stay(parts: Parts, account_id: str, vm_session_id: str) -> None:
    """The owner pressed "I am still here": counts as input. Raises NotFound, SessionOver."""
    vm_session = own(parts, account_id, vm_session_id)
    if vm_session.state != "live":
        raise SessionOver("not live")
    parts.redis.set(INPUT_KEY.format(vm_session_id), int(time.time()), ex=parts.settings.session_seconds_max)


def active(parts: Parts, account_id: str) -> list[VmSession]:
    """The owner's VM sessions that are not over, oldest first."""
    with parts.database.read() as db:
        query = select(VmSession).where(VmSession.account_id == account_id, col(VmSession.state).in_(ACTIVE))
        return list(db.exec(query.order_by(col(VmSession.created_at))).all())


# -- starting -----------------------------------------------------------------------------------------
def run_start(parts: Parts, vm_session_id: str) -> None:
    """From whatever state this VM session is in to live, or to a failure that says what to do. Safe to run twice,
    beside itself, and after a kill -9 at any point."""
    try:
        with lease.hold(parts.redis, "vm-session", vm_session_id, wait_seconds=1) as mine:
            _Start(parts, vm_session_id, mine).run()
    except lease.LeaseTaken:
        return


class _Start:
    def __init__(self, parts: Parts, vm_session_id: str, mine: lease.Lease) -> None:
        self.parts = parts
        self.id = vm_session_id
        self._lease = mine
        self._state = ""
        self._looked = 0.0

    def run(self) -> None:
        steps = {
            "requested": self._assign, "starting": self._bring_up, "connecting": self._connect,
            "opening": self._open, "live": self._watch_isolation,
        }  # fmt: skip
        while True:
            vm_session = self._load()
            if vm_session is None or vm_session.state not in steps:
                return
            self._state = vm_session.state
            last = vm_session.state == "live"
            try:
                steps[vm_session.state](vm_session)
            except lease.LeaseLost:
                return
            except StateConflict:
                # The owner ended it, or another worker was faster: look again, a little later if nothing changed.
                time.sleep(0.05)
            except HypervisorUnreachable as error:
                # It may be coming back (localpve is being restarted): this machine is not to blame yet.
                if last or self._seconds_left(vm_session) <= 0:
                    self._fail(vm_session, error)
                else:
                    self._tick()
                    time.sleep(0.5)
            except (MachineFailed, HypervisorRefused, AllMachinesInUse) as error:
                self._fail(vm_session, error)
            if last:
                return

    def _load(self) -> VmSession | None:
        with self.parts.database.read() as db:
            return db.get(VmSession, self.id)

    def _seconds_left(self, vm_session: VmSession) -> float:
        age = (now() - vm_session.created_at).total_seconds()
        return self.parts.settings.start_seconds_max * (vm_session.tries + 1) - age

    def _tick(self) -> None:
        """Called in every wait: keeps the lease, and notices within a second that the owner gave up."""
        self._lease()
        if time.monotonic() - self._looked > 1:
            self._looked = time.monotonic()
            vm_session = self._load()
            if vm_session is None or vm_session.state != self._state:
                raise StateConflict("changed while waiting")

    def _wait(self, vm_session: VmSession, seconds: float) -> None:
        self._tick()
        if self._seconds_left(vm_session) <= 0:
            raise MachineFailed(f"not ready in time in {vm_session.state}")
        time.sleep(seconds)

    def _assign(self, vm_session: VmSession) -> None:
        template = None
        while True:
            with self.parts.database.write() as db:
                machine = placement.assign(db, self.parts.settings, vm_session, template)
            if machine is not None:
                return
            if template is None:
                # Only a cold start needs the hypervisor here; a warm one is claimed without asking it.
                template = self.parts.hypervisor.find_template(vm_session.template)
                continue
            self._destroy_given_up()
            self._tick()
            if self._seconds_left(vm_session) <= 0:
                raise AllMachinesInUse("no room in time")
            time.sleep(0.2)

    def _destroy_given_up(self) -> None:
        """A pool machine that makes room is destroyed by this worker if no other takes it: both may be waiting."""
        with self.parts.database.read() as db:
            going = db.exec(
                select(Machine.id).where(Machine.state == "destroying").order_by(col(Machine.changed_at))
            ).all()
        for machine_id in going:
            self._tick()
            try:
                pool.run_destroy(self.parts, machine_id)
            except (HypervisorUnreachable, HypervisorRefused):
                continue  # the sweep goes on with it

    def _machine(self, vm_session: VmSession) -> Machine:
        with self.parts.database.read() as db:
            machine = db.get(Machine, vm_session.machine_id) if vm_session.machine_id else None
        if machine is None:
            raise MachineFailed("no machine")
        return machine

    def _bring_up(self, vm_session: VmSession) -> None:
        machine = self._machine(vm_session)
        deadline = time.monotonic() + max(0.0, self._seconds_left(vm_session))
        try:
            machine = pool.bring_up(self.parts, machine.id, self._tick, deadline)
        except StateConflict:
            if self._machine(vm_session).state in ("destroying", "destroyed"):
                raise MachineFailed("the machine was told to go") from None
            raise
        with self.parts.database.write() as db:
            if machine.state == "warm":
                move(db, machine, "claim", only_if=[placement.spoken_for_by(vm_session.id)])
            move(db, vm_session, "claim")
            record(
                db, "vm-session-started", account_id=vm_session.account_id, actor=SYSTEM,
                vm_session=vm_session.id, machine=machine.id,
            )  # fmt: skip
        pool.tell(self.parts, machine.id)
        self.parts.queue.enqueue("jobs.machines.refill_pool")

    def _connect(self, vm_session: VmSession) -> None:
        machine = self._machine(vm_session)
        self._plug_network(vm_session, machine)
        if vm_session.secret_for_worker is None:
            raise MachineFailed("the secret is gone")
        hypervisor = self.parts.hypervisor
        # Written again after a crash: the guest takes the first and throws away every other.
        hypervisor.write_file(machine.vmid, CLAIM_FILE, claim(self.parts, vm_session, machine), node=machine.node)
        for status in self._statuses(vm_session, machine):
            if status["state"] in ("mounted", "opening", "ready"):
                with self.parts.database.write() as db:
                    move(db, vm_session, "mounted", secret_for_worker=None)
                return

    def _plug_network(self, vm_session: VmSession, machine: Machine) -> None:
        if not self.parts.settings.guest_network:
            return
        settled = (machine.booted_at or now()) + dt.timedelta(seconds=FIREWALL_SETTLES_SECONDS)
        while now() < settled:
            self._wait(vm_session, 0.2)
        self.parts.hypervisor.plug_network(machine.vmid, node=machine.node)

    def _open(self, vm_session: VmSession) -> None:
        machine = self._machine(vm_session)
        for status in self._statuses(vm_session, machine):
            if status["state"] == "ready":
                moment = now()
                with self.parts.database.write() as db:
                    move(
                        db, vm_session, "ready", live_at=moment, last_input_at=moment,
                        ends_at=moment + dt.timedelta(seconds=self.parts.settings.session_seconds_max),
                    )  # fmt: skip
                    account_id = vm_session.account_id
                    record(db, "vm-session-live", account_id=account_id, actor=SYSTEM, vm_session=vm_session.id)
                return

    def _statuses(self, vm_session: VmSession, machine: Machine) -> Iterator[dict]:
        """What the guest says, again and again until the caller is content or the time is up."""
        pause = 0.05
        while True:
            status = pool.read_status(self.parts, machine)
            if status is not None:
                if status["state"] == "failed":
                    raise MachineFailed(f"the guest reports {_error_code(status)}")
                yield status
            self._wait(vm_session, pause)
            pause = min(pause * 1.4, 0.25)  # the patient is looking

    def _watch_isolation(self, vm_session: VmSession) -> None:
        """The guest tries its ways out beside the opening, so the report comes a little after the picture."""
        if vm_session.isolation is not None:
            return
        machine = self._machine(vm_session)
        deadline = time.monotonic() + ISOLATION_SECONDS_MAX
        while time.monotonic() < deadline:
            status = pool.read_status(self.parts, machine)
            found = parse_isolation(status or {})
            if found:
                self._keep_isolation(vm_session, found)
                return
            self._tick()
            time.sleep(0.3)

    def _keep_isolation(self, vm_session: VmSession, found: list[Isolation]) -> None:
        with self.parts.database.write() as db:
            row = db.get(VmSession, vm_session.id)
            if row is None or row.isolation is not None:
                return
            row.isolation = json.dumps([dataclasses.asdict(entry) for entry in found])
            db.add(row)
            record(
                db, "isolation-checked", account_id=row.account_id, actor=Actor("machine", row.machine_id),
                vm_session=row.id, checks=len(found), blocked=sum(entry.blocked for entry in found),
            )  # fmt: skip
        open_ways = [entry.check for entry in found if not entry.blocked]
        if open_ways:
            # Not kept quiet: a machine that can reach something else must not go on with a patient's files.
            log.error("VM session %s is not isolated: %s", vm_session.id, ", ".join(open_ways))
            end(self.parts, vm_session.id, "failure")

    def _fail(self, vm_session: VmSession, error: PortalError) -> None:
        log.warning("VM session %s, %s: %s %s", self.id, vm_session.state, error.code, error.detail)
        if vm_session.state == "live":
            return  # the sweep decides what becomes of a live one
        machine_id = vm_session.machine_id
        again = (
            vm_session.tries + 1 < TRIES_MAX
            and vm_session.secret_for_worker is not None
            and vm_session.state in VM_SESSION.states_of("retry")
        )
        try:
            with self.parts.database.write() as db:
                if again:
                    move(db, vm_session, "retry", tries=vm_session.tries + 1, machine_id=None)
                else:
                    fail(db, vm_session, error.code)
                if machine_id:
                    _let_go(db, machine_id, error.code)
        except StateConflict:
            return  # the owner ended it in the same moment
        if machine_id:
            self.parts.queue.enqueue("jobs.machines.destroy_machine", machine_id)


def fail(db: Session, vm_session: VmSession, code: str) -> None:
    """To `failed`, with every secret erased. Raises StateConflict."""
    move(
        db, vm_session, "fail", failure=code, end_reason="failure", ended_at=now(),
        secret_for_worker=None, sealed_manifest=None,
    )  # fmt: skip
    record(
        db, "vm-session-failed", account_id=vm_session.account_id, actor=SYSTEM, vm_session=vm_session.id, failure=code
    )


def _let_go(db: Session, machine_id: str, failure: str | None) -> None:
    machine = db.get(Machine, machine_id)
    if machine is not None and machine.state not in ("destroying", "destroyed"):
        move(db, machine, "give_up", failure=failure)


def _error_code(status: dict) -> str:
    text = status.get("error")
    return text if isinstance(text, str) and _CHECK_NAME.fullmatch(text) else "an unnamed failure"


def parse_isolation(status: dict) -> list[Isolation]:
    """What the guest says it tried, as far as it makes sense: the guest is hostile, the page shows this."""
    found = []
    entries = status.get("isolation")
    for entry in entries[:64] if isinstance(entries, list) else []:
        if isinstance(entry, dict) and isinstance(entry.get("blocked"), bool):
            check = entry.get("check")
            if isinstance(check, str) and _CHECK_NAME.fullmatch(check):
                found.append(Isolation(check, entry["blocked"]))
    return found


def claim(parts: Parts, vm_session: VmSession, machine: Machine) -> bytes:
    """The claim file (docs/architecture.md, "The claim"). Only the worker's key opens the secret in it."""
    from myphr.viewers import catalogue

    assert vm_session.secret_for_worker is not None
    secret = envelope.open_with(
        parts.keys.worker.private, vm_session.secret_for_worker,
        context=envelope.context_for("vm-secret", vm_session.id),
    )  # fmt: skip
    host, port = addresses.files_address(parts.settings)
    viewer = catalogue.load().get(vm_session.viewer)
    if viewer is None:
        raise MachineFailed("the viewer is not in the catalogue")
    content: dict[str, Any] = {
        "version": 1,
        "vm_session": vm_session.id,
        "clock": int(time.time()),
        "entropy": base64.b64encode(secrets.token_bytes(64)).decode(),
        "files": {"address": host, "port": port, "secret": secret.decode()},
        "viewer": {"name": viewer.name, "command": list(viewer.command)},
        "open": ".",
    }
    guest = addresses.guest_address(parts.settings, machine.vmid)
    if guest is not None:
        content["network"] = {"address": str(guest)}
    return json.dumps(content).encode()


# -- ending -------------------------------------------------------------------------------------------
def end(parts: Parts, vm_session_id: str, reason: str) -> None:
    """Close the screens now and have the machine destroyed. `reason`: owner, idle, time, failure, account; of
    account-closed: nobody waits for results, which no record takes any more.

    Safe to repeat; on a session that is over it does nothing. Raises NotFound for one that never was."""
    for _ in range(5):
        with parts.database.read() as db:
            vm_session = db.get(VmSession, vm_session_id)
        if vm_session is None:
            raise NotFound(f"VM session {vm_session_id}")
        if vm_session.state == "ending" or vm_session.state in VM_SESSION.final:
            break
        try:
            with parts.database.write() as db:
                move(db, vm_session, "end", end_reason=reason)
            break
        except StateConflict:
            continue  # a worker moved it on in the meantime
    else:
        raise StateConflict(f"VM session {vm_session_id} does not hold still")
    if vm_session.state == "ending":
        close_screens(parts, vm_session_id)
        parts.queue.enqueue("jobs.machines.end_vm_session", vm_session_id, seconds_max=300)


def close_screens(parts: Parts, vm_session_id: str) -> None:
    try:
        parts.redis.publish(REVOKED_CHANNEL, f"vm:{vm_session_id}")
    except redis.exceptions.RedisError:
        log.warning("VM session %s: the news of its end is late; gateways ask the database", vm_session_id)


def run_end(parts: Parts, vm_session_id: str) -> None:
    """Results in, secrets erased, machine destroyed, session over. Safe to run twice and after a kill -9 anywhere.

    Raises HypervisorUnreachable or HypervisorRefused when the machine cannot be destroyed now; it is repeated."""
    try:
        with lease.hold(parts.redis, "vm-session", vm_session_id, wait_seconds=2) as mine:
            _run_end(parts, vm_session_id, mine)
    except lease.LeaseTaken:
        return


def _run_end(parts: Parts, vm_session_id: str, mine: lease.Lease) -> None:
    with parts.database.read() as db:
        vm_session = db.get(VmSession, vm_session_id)
    if vm_session is None or vm_session.state != "ending":
        return
    close_screens(parts, vm_session_id)
    machine = None
    if vm_session.machine_id:
        with parts.database.read() as db:
            machine = db.get(Machine, vm_session.machine_id)
    if machine is not None and machine.state == "claimed" and vm_session.end_reason != "account-closed":
        _fetch_results(parts, vm_session, mine)
    if machine is not None:
        with parts.database.write() as db:
            row = db.get(Machine, machine.id)
            if row is not None and row.state == "claimed":
                move(db, row, "release")
            else:
                _let_go(db, machine.id, None)
            # From here on the folder cannot be opened by anybody, however long the destroying takes.
            ending = db.get(VmSession, vm_session_id)
            assert ending is not None
            ending.secret_for_worker = None
            ending.sealed_manifest = None
            db.add(ending)
        pool.run_destroy(parts, machine.id)
        with parts.database.read() as db:
            row = db.get(Machine, machine.id)
        if row is not None and row.state != "destroyed":
            return  # another worker is at it; the sweep comes back to this session
    with parts.database.write() as db:
        move(db, vm_session, "ended", ended_at=now(), secret_for_worker=None, sealed_manifest=None)
        if machine is not None:
            record(
                db, "machine-destroyed", account_id=vm_session.account_id, actor=SYSTEM,
                vm_session=vm_session.id, machine=machine.id,
            )  # fmt: skip
        record(
            db, "vm-session-ended", account_id=vm_session.account_id, actor=SYSTEM,
            vm_session=vm_session.id, reason=vm_session.end_reason or "owner",
        )  # fmt: skip
    try:
        parts.redis.delete(INPUT_KEY.format(vm_session_id))
    except redis.exceptions.RedisError:
        pass  # it runs out by itself
    parts.queue.enqueue("jobs.machines.refill_pool")


def _fetch_results(parts: Parts, vm_session: VmSession, mine: lease.Lease) -> None:
    """Wait, within bounds, until the files gateway says that what the viewer saved is in the record (or lies sealed
    in its spool, where its owner's next sign-in finds it): docs/formats/folder.md."""
    deadline = time.monotonic() + RESULTS_SECONDS_MAX
    while time.monotonic() < deadline:
        try:
            if parts.redis.exists(RESULTS_KEY.format(vm_session.id)):
                return
        except redis.exceptions.RedisError:
            pass  # being restarted: the gateway says it again
        mine()
        time.sleep(0.1)
    log.warning("VM session %s: no word about its results; they stay in the spool", vm_session.id)
