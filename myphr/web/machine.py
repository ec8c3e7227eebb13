"""The page of one VM session: its start in stages, the live screen, who is watching, sharing, the end.

What is polled exists only in the state that needs it, ends by itself and keeps nobody signed in. Real use of the page
does: its script says so now and then (`here`).
"""

import dataclasses
from hashlib import sha256
from typing import Any

import redis
from flask import Blueprint, Response, jsonify, make_response, redirect, request, url_for
from sqlmodel import col, select

from myphr.database import now
from myphr.errors import FormRefused, NotFound, PortalError, SessionOver
from myphr.machines import left_over, vm_sessions
from myphr.machines.vm_sessions import Isolation, VmSessionView
from myphr.records import items as records
from myphr.records import summaries
from myphr.records.items import ItemView
from myphr.records.models import Item
from myphr.records.opening import summary_of
from myphr.sharing import live, shares, tickets, viewing
from myphr.sharing.models import Share
from myphr.sharing.shares import ShareView
from myphr.viewers import catalogue
from myphr.web import suggested
from myphr.web.login import portal, this_login
from myphr.web.policy import SIGNED_IN, SIGNED_IN_POLL, policy
from myphr.web.rendering import render_page, wants_fragment
from myphr.web.words import counted, duration_words, joined

blueprint = Blueprint("machine", __name__, url_prefix="/machine/<uuid:vm_session_id>")

SHARE_SECONDS = (900, 3600, 14_400, 86_400, 604_800)
_CHECK_WORDS = {
    "dns": "Asking for the address of a website", "icmp": "Knocking at other computers (ping)",
    "host": "Talking to the computer it runs on",
    "public": "Reaching the Internet", "ipv6": "Reaching neighbours over IPv6", "neighbours": "Reaching other machines",
    "node": "Talking to the machine room", "gateway": "Asking for other people's files",
}  # fmt: skip


# -- what the page shows --------------------------------------------------------------------------
def _view(vm_session_id: object) -> VmSessionView:
    """The owner's VM session, or NotFound: the one loader of this module."""
    return vm_sessions.view(portal(), this_login().account.id, str(vm_session_id))


def phase_of(view: VmSessionView) -> str:
    """starting, live, ending, ended or failed: which part of the page is shown."""
    return "starting" if view.is_starting else view.state


def _title(view: VmSessionView) -> str:
    """What is open, in the words of the record: "MR scan, head"."""
    login = this_login()
    if owner := viewing.owner_shown(portal().database, view.id):
        return f"{counted(view.items_count, 'file')} of {owner}"
    if view.study_id:
        try:
            # Not the study's page: that opens every item, and a CT has 2,000.
            study, _ = records.load_study(portal().database, login.account.id, view.study_id)
            return summaries.title(summary_of(login.ring(), study))
        except PortalError:  # deleted since: the session goes on without it
            pass
    viewer = catalogue.load().get(view.viewer)
    return f"{counted(view.items_count, 'file')} in {viewer.title if viewer else view.viewer}"


def isolation_sentence(checks: list[Isolation]) -> str:
    """What the check inside this very machine found, honestly: also when something was not blocked."""
    blocked = sum(check.blocked for check in checks)
    if blocked == len(checks):
        return (
            f"This machine could reach nothing but your files: {blocked} of {counted(len(checks), 'attempt')} blocked."
        )
    tried = counted(len(checks), "attempt")
    return f"Only {blocked} of {tried} to reach something else were blocked. Tell the operator before you go on."


@dataclasses.dataclass(frozen=True)
class Warning_:
    sentence: str
    can_keep: bool


def warning_of(view: VmSessionView) -> Warning_ | None:
    """The time that is left when it gets short; more can be had of the idle limit only (WCAG 2.2.1).

    Told in steps of 30 s: a screen reader says each new sentence."""
    if view.warning == "idle":
        left = duration_words(_half_minutes(view.idle_in_seconds))
        return Warning_(
            f"Are you still there? Nothing was touched for a while. The session ends in {left}.", can_keep=True
        )
    if view.warning == "time":
        left = duration_words(_half_minutes(view.ends_in_seconds))
        return Warning_(
            f"The longest time is nearly over: the session ends in {left}. Save what you need to the folder results.",
            can_keep=False,
        )
    return None


def _half_minutes(seconds: int | None) -> int:
    return -(-(seconds or 0) // 30) * 30


def left_words(seconds: int) -> str:
    """Whole minutes, so that the words change once a minute."""
    return duration_words(-(-seconds // 60) * 60)


def _watching(view: VmSessionView, lines: list[ShareView]) -> str:
    """Who sees this screen now, in one sentence."""
    try:
        watchers = live.presence(portal().redis, view.id)
    except redis.RedisError:
        return "Who is watching is not known at the moment."
    emails = {line.share.id: line.share.email for line in lines}
    mine = f"owner:{this_login().login_session.id}"
    others = []
    for watcher in watchers:
        if watcher.grant.startswith("owner:"):
            others += ["you on another device"] if watcher.grant != mine else []
        else:
            who = emails.get(watcher.grant.partition(":")[2], "a caregiver")
            others.append(f"{who} (can use it)" if watcher.access == "control" else who)
    words = joined(list(dict.fromkeys(others)))
    return f"Watching now: you and {words}." if words else "Only you are watching."


def _results(view: VmSessionView) -> list[ItemView]:
    """What this session saved into the record."""
    login = this_login()
    with portal().database.read() as db:
        ids = db.exec(
            select(Item.id).where(
                Item.account_id == login.account.id,
                Item.source == "result",
                Item.source_id == view.id,
                col(Item.deleted_at).is_(None),
            )
        ).all()
    return [records.item_view(portal().database, login.ring(), login.account.id, item_id) for item_id in ids]


def _left_over(view: VmSessionView) -> bool:
    """Whether results of this session still wait: then they are asked for now, while their owner is here."""
    if not left_over.has_spool(left_over.spool_of(portal()), view.id):
        return False
    left_over.bring_in(portal(), this_login().account.id, this_login().ring())
    return True


def _again(view: VmSessionView) -> dict[str, str]:
    """`again`: where to ask for the same once more; `choose`: its page, with the other viewers. Both empty when it was
    deleted meanwhile, or was a choice of several files."""
    account_id = this_login().account.id
    try:
        if view.study_id:
            records.load_study(portal().database, account_id, view.study_id)
            return {name: url_for(f"study.{page}", study_id=view.study_id)
                    for name, page in (("again", "open_study"), ("choose", "study"))}  # fmt: skip
        if view.item_id:
            records.load_item(portal().database, account_id, view.item_id)
            return {name: url_for(f"study.{page}", item_id=view.item_id)
                    for name, page in (("again", "open_item"), ("choose", "item"))}  # fmt: skip
    except NotFound:
        pass
    return {"again": "", "choose": ""}


def _context(view: VmSessionView) -> dict[str, Any]:
    phase = phase_of(view)
    context: dict[str, Any] = {"view": view, "phase": phase, "title_words": _title(view)}
    context["question"] = suggested.question(view)
    if phase == "live":
        context |= {**_checked_context(view), **_watch_context(view), **_sharing_context(view)}
        context["owner_shown"] = viewing.owner_shown(portal().database, view.id)
    elif phase in ("starting", "ending"):
        context["seen"] = _seen_of(view)
    else:
        context |= {"results": _results(view) if phase == "ended" else [], **_again(view)}
        context["left_over"] = phase == "ended" and _left_over(view)
    return context


def _checked_context(view: VmSessionView) -> dict[str, Any]:
    return {"isolation": isolation_sentence(view.isolation) if view.isolation else None, "check_words": _CHECK_WORDS}


def _watch_context(view: VmSessionView) -> dict[str, Any]:
    """What changes while the screen is live: who is watching, who may look, how much time is left."""
    lines = shares.list_for(portal(), this_login(), view.id)
    watching, warning = _watching(view, lines), warning_of(view)
    rows = [line for line in lines if line.is_open and line.share.expires_at > now()]
    told = [(line.share.id, line.share.access, share_words(line)) for line in rows]
    left = left_words(view.ends_in_seconds) if view.ends_in_seconds is not None else None
    seen = sha256(repr((watching, warning, left, told)).encode()).hexdigest()[:16]
    return {
        "watching": watching, "warning": warning, "left": left, "seen": seen,
        "share_rows": rows, "share_words": share_words,
    }  # fmt: skip


def _seen_of(view: VmSessionView) -> str:
    """What a page in one of the waiting phases has told already: it is not told again."""
    return f"{phase_of(view)}.{view.state}.{int(view.second_try)}"


@blueprint.get("")
@policy(SIGNED_IN)
def machine(vm_session_id: object) -> Response:
    view = _view(vm_session_id)
    return render_page("machine/machine.html", **_context(view))


# -- polled ---------------------------------------------------------------------------------------
def _whole_page_again(view: VmSessionView) -> Response:
    """The state has changed: htmx loads the page of the new one, which does not poll this any more."""
    if not wants_fragment():
        return redirect(url_for("machine.machine", vm_session_id=view.id), 303)  # type: ignore[return-value]
    answer = make_response("", 200)
    answer.headers["HX-Redirect"] = url_for("machine.machine", vm_session_id=view.id)
    return answer


def _nothing_new() -> Response:
    """htmx swaps nothing and asks again: the focus stays where it is and a screen reader stays quiet."""
    return Response(status=204)


@blueprint.get("/progress")
@policy(SIGNED_IN_POLL)
def progress(vm_session_id: object) -> Response:
    """Stages of the start, or the wait for the end."""
    view = _view(vm_session_id)
    phase, seen = phase_of(view), request.args.get("seen", "")
    if phase not in ("starting", "ending") or not wants_fragment() or seen.partition(".")[0] not in ("", phase):
        return _whole_page_again(view)
    if seen == _seen_of(view):
        return _nothing_new()
    return render_page(f"machine/{phase}_progress.html", view=view, seen=_seen_of(view))


@blueprint.get("/watch")
@policy(SIGNED_IN_POLL)
def watch(vm_session_id: object) -> Response:
    """Who is watching and how much time is left, while the screen is live."""
    view = _view(vm_session_id)
    if phase_of(view) != "live" or not wants_fragment():
        return _whole_page_again(view)
    context = _watch_context(view)
    if context["seen"] == request.args.get("seen"):
        return _nothing_new()
    return render_page("machine/watch_news.html", view=view, **context)


@blueprint.get("/checked")
@policy(SIGNED_IN_POLL)
def checked(vm_session_id: object) -> Response:
    """What the check inside the machine found: asked for until it is known."""
    view = _view(vm_session_id)
    if phase_of(view) != "live" or not wants_fragment():
        return _whole_page_again(view)
    if not view.isolation:
        return Response(status=204)  # nothing new: htmx leaves the page as it is and asks again
    return render_page("machine/checked.html", view=view, **_checked_context(view))


# -- the screen -----------------------------------------------------------------------------------
@blueprint.post("/ticket")
@policy(SIGNED_IN)
def ticket(vm_session_id: object) -> Response:
    """A one-use ticket for the screen gateway, which asks the database again before it lets anybody in."""
    view = _view(vm_session_id)
    if view.is_over:
        raise SessionOver
    text = tickets.issue(
        portal().keys.ticket_key,
        vm_session_id=view.id,
        grant=f"owner:{this_login().login_session.id}",
        access="control",
        now=now(),
    )
    return jsonify({"url": portal().settings.screen_url, "ticket": text})


@blueprint.post("/here")
@policy(SIGNED_IN)
def here(vm_session_id: object) -> Response:
    """The page's script saw a key, a touch or the mouse: the person is here, so the login session goes on."""
    _view(vm_session_id)
    return Response(status=204)


@blueprint.post("/keep")
@policy(SIGNED_IN)
def keep(vm_session_id: object) -> Response:
    """ "Keep going": counts as input."""
    vm_sessions.stay(portal(), this_login().account.id, str(vm_session_id))
    view = _view(vm_session_id)
    if not wants_fragment():
        return _whole_page_again(view)
    return render_page("machine/watch_news.html", view=view, **_watch_context(view))


@blueprint.post("/end")
@policy(SIGNED_IN)
def end(vm_session_id: object) -> Response:
    view = _view(vm_session_id)
    vm_sessions.end(portal(), view.id, "owner")
    return _whole_page_again(view)


# -- sharing --------------------------------------------------------------------------------------
@dataclasses.dataclass(frozen=True)
class ShareForm:
    """What the Share panel asks for, with what it starts from: look only, one hour, passcode on."""

    email: str = ""
    access: str = "view"
    seconds: int = 3600
    passcode: bool = True

    @classmethod
    def sent(cls) -> "ShareForm":
        """The form of this request. Raises FormRefused for what no form of ours sends."""
        access = request.form.get("access", "")
        seconds = request.form.get("seconds", type=int)
        if access not in ("view", "control"):
            raise FormRefused(reason="choose what they may do")
        if seconds not in SHARE_SECONDS or seconds > portal().settings.share_seconds_max:
            raise FormRefused(reason="choose for how long")
        return cls(request.form.get("email", "").strip(), access, seconds, "passcode" in request.form)


@dataclasses.dataclass(frozen=True)
class JustShared:
    """Shown once, in the answer to the form: the passcode stands nowhere else."""

    share: Share
    passcode: str | None


def share_words(line: ShareView) -> str:
    """Where this share stands, in one sentence."""
    if line.watching:
        return "Watching now."
    if line.share.first_opened_at:
        return "They have opened it and are not watching now."
    if line.mail == "failed":
        return "The mail could not be sent. Check the address, stop this one and share again."
    return "Not opened yet." if line.mail == "sent" else "The mail is on its way."


def _sharing_context(
    view: VmSessionView,
    form: ShareForm | None = None,
    error: PortalError | None = None,
    shared: JustShared | None = None,
) -> dict[str, Any]:
    limit = portal().settings.share_seconds_max
    return {
        "view": view, "form": form or ShareForm(), "error": error, "shared": shared,
        "durations": [seconds for seconds in SHARE_SECONDS if seconds <= limit],
    }  # fmt: skip


def _sharing(view: VmSessionView, status: int = 200, **context: Any) -> Response:
    if wants_fragment():
        answer = render_page("machine/sharing.html", **(_watch_context(view) | _sharing_context(view, **context)))
        return answer  # htmx shows a refused form as well as a good one: the status stays 200
    return render_page("machine/machine.html", status=status, **(_context(view) | _sharing_context(view, **context)))


@blueprint.post("/share")
@policy(SIGNED_IN)
def share(vm_session_id: object) -> Response:
    view = _view(vm_session_id)
    if phase_of(view) != "live":
        raise SessionOver
    try:
        form = ShareForm.sent()
        made, _link, passcode = shares.create(
            portal(), this_login(), view.id, form.email, form.access, form.seconds, form.passcode
        )
    except FormRefused as error:
        typed = ShareForm(email=request.form.get("email", ""), passcode="passcode" in request.form)
        return _sharing(view, error.status, form=typed, error=error)
    return _sharing(view, shared=JustShared(made, passcode))


@blueprint.post("/share/<uuid:share_id>/withdraw")
@policy(SIGNED_IN)
def withdraw(vm_session_id: object, share_id: object) -> Response:
    """ "Stop sharing": the row first, then the news that closes open screens."""
    view = _view(vm_session_id)
    shares.withdraw(portal(), this_login(), str(share_id))
    return _sharing(view) if wants_fragment() else _whole_page_again(view)
