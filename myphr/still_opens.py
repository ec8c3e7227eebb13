"""Do the viewers still open what they claim? Opens our own sample of a format in a machine of its own, as a patient
would open a file: sealed into the store, listed in a manifest, carried by the files gateway, drawn by the viewer. Then
looks at the screen and compares it with the picture that a person looked at when the sample was added. Works for a
system account that nobody can sign in to; no record and no patient is touched. Called by a job and by
`myphr template check`.
"""

import contextlib
import dataclasses
import datetime as dt
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image
from sqlmodel import col, func, select

from myphr.crypto import envelope
from myphr.database import now
from myphr.errors import AllMachinesInUse, HypervisorUnreachable, PortalError, ViewerNotInstalled
from myphr.gateway import screenshot
from myphr.gateway.screen_dial import DialFailed
from myphr.ingest import identify
from myphr.machines import lease, viewer_checks, vm_sessions
from myphr.machines.models import Machine, ViewerCheck, VmSession
from myphr.machines.proxmox import Template
from myphr.machines.states import ACTIVE, VM_SESSION
from myphr.people.models import Account
from myphr.portal import Portal
from myphr.records.filing import SealedFile
from myphr.records.item_writer import ItemWriter
from myphr.records.models import Item
from myphr.viewers import catalogue, samples
from myphr.viewers.catalogue import Viewer
from myphr.viewers.contents import family_of

ACCOUNT_EMAIL = "check-of-the-viewers@localhost.invalid"  # a name that can never receive mail (RFC 2606)
SIZE = (320, 200)  # in which screens are compared: a font's smoothing does not count, a missing line does
DIFFERENT = 24  # of 255: a pixel that differs this much from the empty desk belongs to what was opened
LIKENESS_MIN = 0.95  # a plan without its contours scores 0.91, an error page at most 0.1
LIVE_SECONDS_MAX = 400
LOOK_SECONDS_MAX = 20  # of a screen that does not change any more and is not like before
CHANGING_SECONDS_MAX = 120  # of one that goes on changing: a viewer may draw long after it said that it is ready
TRY_SECONDS_MAX = LIVE_SECONDS_MAX + CHANGING_SECONDS_MAX + 120
CARET_POINTS = 60  # of the compared picture: what blinks in a viewer that has come to rest
AGAIN_DAYS = 7
TURN_SECONDS = 900
SCREENS = Path(samples.__file__).parent / "screens"

log = logging.getLogger(__name__)


# -- what there is to look at ---------------------------------------------------------------------------------------
def claims(viewer: Viewer) -> list[str]:
    """The samples of what this viewer claims, in order."""
    names = []
    for name in samples.names():
        code, _, modality = name.partition(" ")
        if code in viewer.formats and (not modality or _shows(viewer, modality)):
            names.append(name)
    return names


def _shows(viewer: Viewer, modality: str) -> bool:
    """A viewer for all modalities still shows no others than its families of DICOM objects: curves are no images."""
    named = modality in viewer.modalities or "*" in viewer.modalities
    return named and family_of("", modality) in viewer.families | viewer.partly


def reference_path(viewer: str, sample: str) -> Path:
    return SCREENS / f"{viewer}--{sample.replace(' ', '-').lower()}.png"


def tries(template: str | None = None) -> list[tuple[str, str]]:
    """Every viewer and sample that can be looked at: there is a picture of it to compare with."""
    return [
        (viewer.name, sample)
        for viewer in catalogue.load().values()
        if template in (None, viewer.template)
        for sample in claims(viewer)
        if reference_path(viewer.name, sample).is_file()
    ]


# -- looking ----------------------------------------------------------------------------------------------------------
def reference_of(
    desk: Image.Image, screen: Image.Image, shown: tuple[int, int, int, int] | None = None
) -> Image.Image:
    """The picture to compare with later: grey, and transparent where it is the empty desk. `shown` is where the viewer
    shows what it opened (left, top, right, bottom, in pixels of the screen), when that is little beside its buttons:
    the rest is transparent too."""
    if shown is not None:
        desk, whole = screen.copy(), desk
        desk.paste(whole.crop(shown), shown[:2])
    empty, seen = (one.convert("L").resize(SIZE, Image.Resampling.BOX) for one in (desk, screen))
    mask = np.abs(np.asarray(empty, int) - np.asarray(seen, int)) > DIFFERENT
    return Image.merge("LA", (seen, Image.fromarray(np.where(mask, 255, 0).astype(np.uint8))))


def likeness(reference: Image.Image, screen: Image.Image) -> float:
    """How alike, from -1 to 1, where the reference is not the empty desk. A plain screen is like nothing."""
    grey, mask = (np.asarray(band, float) for band in reference.convert("LA").split())
    seen = np.asarray(screen.convert("L").resize(SIZE, Image.Resampling.BOX), float)
    wanted, found = grey[mask > 0], seen[mask > 0]
    if wanted.size < 200 or found.std() < 1 or wanted.std() < 1:
        return 0.0
    return float(np.corrcoef(wanted, found)[0, 1])


class Rest:
    """Tells when a screen has come to rest. A busy machine draws slowly, so it is the screen that is asked, not a clock
    that was set beforehand."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.since = seconds, 0.0
        self.last: np.ndarray | None = None

    def reached(self, screen: Image.Image, moment: float) -> bool:
        """With each look: whether nothing but a caret has changed for so many seconds."""
        seen = np.asarray(screen.convert("L").resize(SIZE, Image.Resampling.BOX), int)
        if self.last is None or np.count_nonzero(np.abs(seen - self.last) > DIFFERENT) > CARET_POINTS:
            self.last, self.since = seen, moment
        return moment - self.since >= self.seconds


@dataclasses.dataclass(frozen=True)
class Outcome:
    """`reason` is None when it opened; else a word for operators: not-like-before, a failure's code, busy."""

    viewer: str
    sample: str
    reason: str | None
    likeness: float = 0.0
    screen: Image.Image | None = dataclasses.field(default=None, compare=False, repr=False)

    @property
    def worked(self) -> bool:
        return self.reason is None


class Busy(Exception):
    """No machine is free for this now. Nothing was tried."""


def check(parts: Portal, viewer_name: str, sample: str, reference: Image.Image | None = None) -> Outcome:
    """Opens the sample and looks. Raises Busy when patients need the machines. What it leaves behind when it is cut
    off: a VM session, which the reaper ends, and objects that no item knows, which the sweep of the store deletes."""
    viewer = catalogue.load()[viewer_name]
    if reference is None:
        reference = Image.open(reference_path(viewer_name, sample))
    with contextlib.ExitStack() as undo:
        try:
            vm_session = _open(parts, viewer, samples.of(sample), undo)
        except AllMachinesInUse:
            raise Busy from None
        vm_sessions.run_start(parts, vm_session.id)  # here, or a worker that was faster
        machine, failure = _until_live(parts, vm_session.id)
        if machine is None:
            return Outcome(viewer_name, sample, failure or "not-ready")
        try:
            best, screen = _look(parts, machine, reference)
        except (DialFailed, HypervisorUnreachable) as error:
            log.warning("look at machine %s: %s", machine.id, error)
            return Outcome(viewer_name, sample, "no-screen")
        return Outcome(viewer_name, sample, None if best >= LIKENESS_MIN else "not-like-before", best, screen)


def _look(parts: Portal, machine: Machine, reference: Image.Image) -> tuple[float, Image.Image]:
    """The best likeness that was seen and the last screen: until it is like before, or it has come to rest."""
    best, rest = -1.0, Rest(LOOK_SECONDS_MAX)
    longest = time.monotonic() + CHANGING_SECONDS_MAX
    while True:
        screen = screenshot.take(parts.hypervisor, machine.vmid, node=machine.node)
        best, moment = max(best, likeness(reference, screen)), time.monotonic()
        if best >= LIKENESS_MIN or rest.reached(screen, moment) or moment > longest:
            return best, screen
        time.sleep(0.5)


def _open(parts: Portal, viewer: Viewer, bundle: Mapping[str, bytes], undo: contextlib.ExitStack) -> VmSession:
    """A VM session with these files, which belong to no record."""
    account = _account(parts)
    keys = envelope.new_key_pair()  # what the viewer writes is sealed to it: nobody keeps it
    sealed = []
    for name, content in bundle.items():
        file = _sealed(parts, account.id, name, content, keys.public)
        undo.callback(parts.store.delete, file.object_key)
        sealed.append(file)
    items = [
        Item(
            id=file.item_id, account_id=account.id, object_key=file.object_key, plain_bytes=file.plain_bytes,
            format=file.facts.format, source="upload", sealed_dek=b"", sealed_details=b"", content_key="",
        )
        for file in sealed
    ]  # fmt: skip
    details: list[dict[str, Any]] = [{"name": file.name, "path": file.path} for file in sealed]
    login = cast(Any, _System(account, keys.public))
    vm_session = vm_sessions.request_opened(
        parts, login, viewer, items, [file.dek for file in sealed], details, lambda db, row: None
    )
    undo.callback(_close, parts, vm_session.id)
    return vm_session


def _sealed(parts: Portal, account_id: str, name: str, content: bytes, public_key: bytes) -> SealedFile:
    writer = ItemWriter(
        parts, account_id, owner_public_key=public_key, source="upload", source_id=None, describe=identify.describe
    )
    with writer:
        writer.write(content)
        return writer.seal_up(name)


@dataclasses.dataclass(frozen=True)
class _System:
    """Stands where a signed-in person stands: an account, and a public key for what comes back."""

    account: Account
    public_key: bytes

    def ring(self) -> "_System":
        return self


def _account(parts: Portal) -> Account:
    """The account of these checks: it has no key ring, so nobody can sign in to it, and no items."""
    with parts.database.write() as db:
        account = db.exec(select(Account).where(Account.email == ACCOUNT_EMAIL)).first()
        if account is None:
            account = Account(email=ACCOUNT_EMAIL, name="Check of the viewers")
            db.add(account)
            db.flush()
    return account


def _until_live(parts: Portal, vm_session_id: str) -> tuple[Machine | None, str | None]:
    deadline = time.monotonic() + LIVE_SECONDS_MAX
    while time.monotonic() < deadline:
        with parts.database.read() as db:
            row = db.get(VmSession, vm_session_id)
            machine = db.get(Machine, row.machine_id) if row is not None and row.machine_id else None
        if row is None or row.state in VM_SESSION.final or row.state == "ending":
            return None, row.failure if row is not None else None
        if row.state == "live":
            return machine, None
        time.sleep(0.3)
    return None, "not-ready"


def _close(parts: Portal, vm_session_id: str) -> None:
    vm_sessions.end(parts, vm_session_id, "owner")


# -- which one next -------------------------------------------------------------------------------------------------
def next_try(parts: Portal, templates: list[Template]) -> tuple[str, str, int] | None:
    """Viewer, sample and template's number of the one that was looked at longest ago: never, before its template was
    published anew, or a week ago. None when all are fresh, or when a patient may need the machine."""
    newest = {template.name: template.vmid for template in templates}
    with parts.database.read() as db:
        rows = {(row.viewer, row.sample): row for row in db.exec(select(ViewerCheck)).all()}
        busy = db.exec(select(func.count()).where(col(VmSession.state).in_(ACTIVE))).one()
    if busy or parts.settings.machines_max < 2:
        return None
    old = now() - dt.timedelta(days=AGAIN_DAYS)
    due: list[tuple[dt.datetime, str, str, int]] = []
    for viewer, sample in tries():
        vmid = newest.get(catalogue.load()[viewer].template)
        row = rows.get((viewer, sample))
        if vmid is not None and (row is None or row.template_vmid != vmid or row.looked_at < old):
            due.append((row.looked_at if row else dt.datetime.min.replace(tzinfo=dt.UTC), viewer, sample, vmid))
    return min(due)[1:] if due else None


def is_turn(parts: Portal) -> bool:
    """True once in a quarter of an hour; not in the first one after a start, when people try what is new."""
    key, moment = "myphr:viewer-check:next", time.time()
    last = parts.redis.get(key)
    turn = last is not None and moment >= float(cast(bytes, last))
    if last is None or turn:
        parts.redis.set(key, moment + TURN_SECONDS, ex=TURN_SECONDS * 4)
    return turn


def try_next(parts: Portal) -> Outcome | None:
    """At most one try, of those that are due; nothing while anybody has a machine. Only one at a time, over all
    workers. Safe to run twice: what was cut off is due again."""
    try:
        with _alone(parts):
            chosen = next_try(parts, parts.hypervisor.templates())
            if chosen is None:
                return None
            viewer, sample, vmid = chosen
            return noted(parts, viewer, sample, vmid)
    except (lease.LeaseTaken, Busy):
        return None


def noted(parts: Portal, viewer: str, sample: str, template_vmid: int) -> Outcome:
    """Tries and writes down what came of it. Raises Busy."""
    try:
        outcome = check(parts, viewer, sample)
    except (ViewerNotInstalled, PortalError) as error:
        outcome = Outcome(viewer, sample, error.code)
    viewer_checks.note(parts.database, viewer, sample, template_vmid, outcome.reason)
    if not outcome.worked:
        log.warning("viewer %s does not open %s: %s", viewer, sample, outcome.reason)
    return outcome


@contextlib.contextmanager
def _alone(parts: Portal) -> Iterator[None]:
    """A key in Redis for as long as a try may take: the lease of machines is too short for one."""
    key, seconds = "myphr:viewer-check", TRY_SECONDS_MAX
    if not parts.redis.set(key, 1, nx=True, ex=seconds):
        raise lease.LeaseTaken("another check")
    try:
        yield
    finally:
        parts.redis.delete(key)


def run(parts: Portal, template: str, report: Callable[[str], None], keep: Path | None = None) -> bool:
    """By hand (`myphr template check NAME`): every try of this template; whether all went well. `keep` is a folder for
    the pictures that were seen."""
    published = parts.hypervisor.find_template(template)
    well = True
    for viewer, sample in tries(template):
        outcome = noted(parts, viewer, sample, published.vmid)
        well = well and outcome.worked
        said = "opened" if outcome.worked else f"NOT OPENED, {outcome.reason}"
        report(f"{viewer}: {sample}: {said} (likeness {outcome.likeness:.2f})")
        if keep is not None and outcome.screen is not None:
            outcome.screen.save(keep / reference_path(viewer, sample).name)
    return well
