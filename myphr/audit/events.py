"""The events of the audit trail: name, exact fields, and the plain sentence of "Who looked".

A field holds an id, a count, a code or yes/no - never a name, an address, a title or a file name. The page turns
ids into people. `docs/glossary.md` has the words. Called by `trail`; pages call `sentence`.
"""

import dataclasses
import enum
import re
from collections.abc import Mapping

_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
_CODE = re.compile(r"[a-z][a-z0-9.-]{0,47}")
COUNT_MAX = 2**53 - 1  # what every JSON reader keeps exact


class Kind(enum.Enum):
    """What a field may hold."""

    ID = "id"
    ID_OR_NONE = "id or none"
    COUNT = "count"
    CODE = "code"
    FLAG = "yes or no"


@dataclasses.dataclass(frozen=True)
class Event:
    """One declared event. In `sentence`, {who} stands for "You", an e-mail address or "The portal"; {items:file}
    prints a count with its noun. `together` is said instead for a run of them, with {times:file}; an event without it
    always has a line of its own."""

    name: str
    sentence: str
    fields: Mapping[str, Kind] = dataclasses.field(default_factory=dict)
    together: str | None = None

    def check(self, details: Mapping[str, object]) -> None:
        """Raises ValueError for a missing, extra or unfit field."""
        if details.keys() != self.fields.keys():
            raise ValueError(f"{self.name} takes exactly the fields {sorted(self.fields)}")
        for field, kind in self.fields.items():
            if not _fits(kind, details[field]):
                raise ValueError(f"{self.name}: {field} must be: {kind.value}")


def _fits(kind: Kind, value: object) -> bool:
    match kind:
        case Kind.ID:
            return isinstance(value, str) and _ID.fullmatch(value) is not None
        case Kind.ID_OR_NONE:
            return value is None or _fits(Kind.ID, value)
        case Kind.CODE:
            return isinstance(value, str) and _CODE.fullmatch(value) is not None
        case Kind.COUNT:
            return type(value) is int and 0 <= value <= COUNT_MAX
        case Kind.FLAG:
            return isinstance(value, bool)


_LOGIN = {"login_session": Kind.ID}
_VM = {"vm_session": Kind.ID}
_SHARE = {"share": Kind.ID, "vm_session": Kind.ID}
_WATCH = {"vm_session": Kind.ID, "share": Kind.ID_OR_NONE, "access": Kind.CODE}

_DECLARED = (
    # people
    Event("account-registered", "{who} opened this account."),
    Event("account-closed", "{who} closed this account."),
    Event("signed-in", "{who} signed in.", _LOGIN),
    Event("signed-out", "{who} signed out.", _LOGIN),
    Event("sign-in-failed", "Somebody tried to sign in to this account and did not get in.",
          together="Somebody tried {times:time} to sign in to this account and did not get in."),
    Event("login-session-revoked", "{who} signed out another browser.", _LOGIN),
    Event("password-changed", "{who} changed the password; {login_sessions_ended:other browser} signed out.",
          {"login_sessions_ended": Kind.COUNT}),
    Event("recovered", "{who} set a new password with the recovery code; {login_sessions_ended:browser} signed out.",
          {"login_sessions_ended": Kind.COUNT}),
    Event("recovery-failed", "Somebody tried a recovery code on this account and did not get in.",
          together="Somebody tried recovery codes on this account {times:time} and did not get in."),
    Event("recovery-code-renewed", "{who} made a new recovery code; the old one no longer works."),
    Event("second-step-added", "{who} set up a second step for signing in: {kind}.", {"kind": Kind.CODE}),
    Event("second-step-removed", "{who} removed a second step for signing in: {kind}.", {"kind": Kind.CODE}),
    Event("second-step-failed", "Somebody gave the right password of this account, but not the second step.",
          together="Somebody gave the right password of this account {times:time}, but not the second step."),
    Event("second-step-replaced", "{who} gave the recovery code in place of the second step."),
    Event("certificate-renewed", "{who} renewed the certificate of this account."),
    Event("certificate-revoked", "{who} cancelled the certificate of this account.", {"certificates": Kind.COUNT}),
    Event("identity-revoked", "{who} stopped this account: nobody can sign in to it."),
    Event("identity-given", "{who} gave this account a new identity: its owner can sign in again."),
    Event("authority-created", "{who} registered an organisation.", {"authority": Kind.ID}),
    Event("authority-officer-changed", "{who} named another officer of an organisation.", {"authority": Kind.ID}),
    Event("authority-closed", "{who} closed an organisation.", {"authority": Kind.ID}),
    Event("attribute-granted", "An organisation gave you a role.", {"authority": Kind.ID, "grant": Kind.ID}),
    Event("attribute-taken", "An organisation took a role from you.", {"authority": Kind.ID, "grant": Kind.ID}),
    # record
    Event("item-uploaded", "{who} added a file.", {"item": Kind.ID, "bytes": Kind.COUNT},
          "{who} added {times:file}."),
    Event("items-uploaded", "{who} added {items:file}.", {"items": Kind.COUNT, "bytes": Kind.COUNT}),
    Event("archive-unpacked", "An archive was unpacked: {items:new file}, {duplicates:file} already there.",
          {"archive_task": Kind.ID, "item": Kind.ID, "items": Kind.COUNT, "duplicates": Kind.COUNT}),
    Event("archive-refused", "An archive was kept as it is and not unpacked.",
          {"archive_task": Kind.ID, "item": Kind.ID, "reason": Kind.CODE}),
    Event("item-downloaded", "{who} downloaded a file.", {"item": Kind.ID}, "{who} downloaded {times:file}."),
    Event("item-labelled", "{who} said what kind of file it is.", {"item": Kind.ID},
          "{who} said of {times:file} what they are."),
    Event("item-kind-corrected", "{who} corrected what a file is.", {"item": Kind.ID},
          "{who} corrected what {times:file} are."),
    Event("item-deleted", "{who} deleted a file.", {"item": Kind.ID}, "{who} deleted {times:file}."),
    Event("study-downloaded", "{who} downloaded a study of {items:file}.", {"study": Kind.ID, "items": Kind.COUNT}),
    Event("study-deleted", "{who} deleted a study of {items:file}.", {"study": Kind.ID, "items": Kind.COUNT}),
    Event("study-marked", "{who} said whether a study of {items:file} is sensitive.",
          {"study": Kind.ID, "items": Kind.COUNT, "sensitive": Kind.FLAG}),
    Event("keys-destroyed", "The keys of {items:file} were destroyed for ever.",
          {"deletion": Kind.ID, "items": Kind.COUNT, "proof": Kind.ID}),
    Event("bytes-removed", "The sealed bytes of {objects:deleted file} were removed from storage.",
          {"deletion": Kind.ID, "objects": Kind.COUNT}),
    Event("export-asked", "{who} asked for a copy of everything: {items:file}.",
          {"export": Kind.ID, "items": Kind.COUNT, "bytes": Kind.COUNT}),
    Event("export-ready", "The copy of everything is ready: {items:file}, {missing:file} could not be read.",
          {"export": Kind.ID, "items": Kind.COUNT, "missing": Kind.COUNT}),
    Event("export-failed", "The copy of everything could not be made.", {"export": Kind.ID, "reason": Kind.CODE}),
    Event("export-downloaded", "{who} downloaded everything.", {"export": Kind.ID},
          "{who} downloaded everything, {times:time}."),
    Event("export-removed", "{who} deleted the copy of everything.", {"export": Kind.ID}),
    Event("export-expired", "The copy of everything was deleted after its day.", {"export": Kind.ID}),
    # drop-offs
    Event("drop-off-opened", "{who} let a practice send {files:file} at most.",
          {"drop_off": Kind.ID, "files": Kind.COUNT, "seconds": Kind.COUNT}),
    Event("drop-off-link-opened", "{who} opened the page for sending you files.", {"drop_off": Kind.ID}),
    Event("drop-off-received", "{who} sent a file.", {"drop_off": Kind.ID, "item": Kind.ID, "bytes": Kind.COUNT},
          "{who} sent {times:file}."),
    Event("drop-off-full", "{who} has sent as many files as you agreed to.", {"drop_off": Kind.ID}),
    Event("drop-off-revoked", "{who} stopped a practice from sending files.", {"drop_off": Kind.ID}),
    Event("app-key-made", "{who} let an app read {studies:examination}.",
          {"app_key": Kind.ID, "studies": Kind.COUNT, "seconds": Kind.COUNT}),
    Event("app-key-widened", "{who} signed in, and {items:picture} that had come since were added for an app.",
          {"app_key": Kind.ID, "items": Kind.COUNT}),
    Event("app-key-searched", "{who} looked which pictures there are.", {"app_key": Kind.ID},
          "{who} looked {times:time} which pictures there are."),
    Event("app-key-fetched", "{who} fetched {items:picture}.", {"app_key": Kind.ID, "items": Kind.COUNT},
          "{who} fetched pictures {times:time}."),
    Event("app-key-revoked", "{who} stopped an app from reading pictures.", {"app_key": Kind.ID}),
    Event("app-key-expired", "The time for an app to read pictures ran out.", {"app_key": Kind.ID}),
    Event("drop-off-expired", "The time for a practice to send files ran out.", {"drop_off": Kind.ID}),
    # hospitals asked by FHIR
    Event("hospital-asked", "{who} gave this portal leave to fetch your records from a hospital.", {"fetch": Kind.ID}),
    Event("hospital-fetched", "Your records came from a hospital: {items:file}, {known:entry} you had already.",
          {"fetch": Kind.ID, "items": Kind.COUNT, "known": Kind.COUNT}),
    Event("hospital-failed", "Your records could not be fetched from a hospital, or not all; {items:file} came.",
          {"fetch": Kind.ID, "items": Kind.COUNT, "reason": Kind.CODE}),
    Event("hospital-withdrawn", "{who} stopped fetching records from a hospital; {items:file} had come.",
          {"fetch": Kind.ID, "items": Kind.COUNT}),
    Event("hospital-server-added", "{who} put a hospital on the list.", {"server": Kind.ID}),
    Event("hospital-server-closed", "{who} took a hospital off the list.", {"server": Kind.ID}),
    # providers' PACS
    Event("pacs-added", "{who} put a practice's image archive on the list.", {"pacs": Kind.ID}),
    Event("pacs-removed", "{who} took a practice's image archive off the list.", {"pacs": Kind.ID}),
    Event("pacs-link-asked", "{who} asked to connect your record with a practice's image archive.", {"link": Kind.ID}),
    Event("pacs-link-confirmed", "{who} confirmed who you are in a practice's image archive.", {"link": Kind.ID}),
    Event("pacs-link-expired", "The code for connecting with a practice's image archive ran out.", {"link": Kind.ID}),
    Event("pacs-link-ended", "{who} ended the connection with a practice's image archive.", {"link": Kind.ID}),
    Event("pacs-asked", "{who} had a practice's image archive asked what it has of you.", {"fetch": Kind.ID}),
    Event("pacs-chosen", "{who} chose to fetch {studies:examination} from a practice's image archive.",
          {"fetch": Kind.ID, "studies": Kind.COUNT}),
    Event("pacs-fetched", "Images came from a practice's image archive: {items:file}, {known:file} you had already.",
          {"fetch": Kind.ID, "items": Kind.COUNT, "known": Kind.COUNT}),
    Event("pacs-failed", "Images could not be fetched from a practice's image archive, or not all; {items:file} came.",
          {"fetch": Kind.ID, "items": Kind.COUNT, "reason": Kind.CODE}),
    Event("pacs-withdrawn", "{who} stopped fetching images from a practice's image archive; {items:file} had come.",
          {"fetch": Kind.ID, "items": Kind.COUNT}),
    # machines
    Event("vm-session-requested", "{who} opened {items:file} with the {viewer} viewer.",
          {**_VM, "viewer": Kind.CODE, "items": Kind.COUNT}),
    Event("vm-session-started", "A fresh machine was given to this session.", {**_VM, "machine": Kind.ID}),
    Event("isolation-checked", "The machine tried {checks:way} out; {blocked} of them were blocked.",
          {**_VM, "checks": Kind.COUNT, "blocked": Kind.COUNT}),
    Event("vm-session-live", "The machine showed the files.", _VM),
    Event("vm-session-failed", "The machine did not start.", {**_VM, "failure": Kind.CODE}),
    Event("vm-session-ended", "The session ended.", {**_VM, "reason": Kind.CODE}),
    Event("machine-destroyed", "The machine was destroyed with everything on its disk.", {**_VM, "machine": Kind.ID}),
    Event("results-saved", "{items:file} saved in the machine came into the record.",
          {**_VM, "items": Kind.COUNT, "bytes": Kind.COUNT}),
    Event("folder-refused", "A machine asked for files that are not its own to see, and got none.",
          {"machine": Kind.ID, "reason": Kind.CODE}),
    Event("item-damaged", "A file was found damaged in storage and was not shown.", {**_VM, "item": Kind.ID}),
    # sharing
    Event("share-created", "{who} shared the screen.", {**_SHARE, "access": Kind.CODE, "passcode": Kind.FLAG,
                                                        "seconds": Kind.COUNT}),
    Event("share-mailed", "The link was sent.", {"share": Kind.ID, "mail": Kind.ID}),
    Event("share-mail-failed", "The link could not be sent.", {"share": Kind.ID, "mail": Kind.ID}),
    Event("share-opened", "{who} opened the shared link.", {**_SHARE, "visit": Kind.ID}),
    Event("share-passcode-refused", "Somebody tried a wrong passcode on a shared link; {attempts_left:try} left.",
          {**_SHARE, "attempts_left": Kind.COUNT}),
    Event("share-locked", "A shared link was locked after too many wrong passcodes.", _SHARE),
    Event("share-withdrawn", "{who} stopped sharing the screen.", _SHARE),
    Event("share-expired", "A shared link ran out.", _SHARE),
    Event("share-ended", "A shared link closed with its session.", _SHARE),
    Event("record-shared", "{who} shared {items:file} of the record.",
          {"share": Kind.ID, "preset": Kind.CODE, "items": Kind.COUNT, "people": Kind.COUNT}),
    Event("record-share-withdrawn", "{who} stopped sharing files of the record.", {"share": Kind.ID}),
    Event("record-share-person-removed", "{who} removed a person from a share of the record.",
          {"share": Kind.ID, "person": Kind.ID}),
    Event("record-shared-by-kind", "{who} shared {items:file} of the record by kind, and what comes later of it.",
          {"share": Kind.ID, "person": Kind.ID, "items": Kind.COUNT}),
    Event("record-share-by-kind-ended", "{who} stopped sharing files of the record by kind.",
          {"share": Kind.ID, "person": Kind.ID}),
    Event("shared-record-opened", "{who} looked at {items:file} that you share.",
          {"share": Kind.ID, "items": Kind.COUNT}),
    Event("shared-record-indexed", "{who} can find words of {items:file} that you share: the portal read them for it.",
          {"share": Kind.ID, "items": Kind.COUNT}),
    Event("emergency-opened", "{who} opened your record in an emergency, for {minutes:minute}.",
          {"share": Kind.ID, "opening": Kind.ID, "minutes": Kind.COUNT}),
    Event("screen-watched", "{who} looked at your screen.", _WATCH),
    Event("screen-left", "{who} left your screen.", {**_WATCH, "seconds": Kind.COUNT}),
)

EVENTS: Mapping[str, Event] = {event.name: event for event in _DECLARED}


class _Count(int):
    """Prints with its noun: format(_Count(2), "file") is "2 files"."""

    def __format__(self, noun: str) -> str:
        if not noun:
            return str(int(self))
        plural = noun[:-1] + "ies" if noun.endswith("y") and noun[-2] not in "aeiou" else noun + "s"
        return f"{int(self):,} {noun if self == 1 else plural}"


def sentence(name: str, details: Mapping[str, object], who: str) -> str:
    """The plain sentence of one event. `who` is what the page shows for the actor: "You", an e-mail address ...

    An event that this version does not know (written by a newer one) is named by its code."""
    event = EVENTS.get(name)
    if event is None:
        return f"{who}: {name.replace('-', ' ')}."
    counted = {key: _Count(value) if type(value) is int else value for key, value in details.items()}
    return _capital(event.sentence.format(who=who, **counted))


def sentence_of_run(name: str, times: int, who: str) -> str:
    """The plain sentence of several events of a kind that has `together`."""
    together = EVENTS[name].together
    assert together is not None
    return _capital(together.format(who=who, times=_Count(times)))


def _capital(text: str) -> str:
    return text[0].upper() + text[1:] if text.startswith(("a ", "the ")) else text
