"""DICOMweb for the patient's own apps, the parts of an image (DICOM PS3.18, 10.4): frames, bulk data, rendered.

Only the parts' own bytes are opened, a piece at a time, and given out as they are stored; nothing is decoded here.
Knows HTTP; `ingest.dicom_frames` knows where in a file they stand, `dicom_web_out` what the app's key opens.
"""

import contextlib
import re
import secrets
import threading
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from flask import Blueprint, Response, g, request
from werkzeug.http import parse_list_header, parse_options_header

from myphr.errors import NotAcceptable, NotFound, PortalError, TooManySenders
from myphr.ingest.dicom_file import DicomFile, NotDicom, ReadAt
from myphr.ingest.dicom_frames import EXPLICIT_LE, OCTETS, PIXELS, Frames, NoSuchFrame, NotByFrames
from myphr.ingest.dicom_whole_header import bulk_of
from myphr.ingest.reading import capped
from myphr.records import readings
from myphr.records.items import OpenItem, open_item
from myphr.records.reading import media_type_of
from myphr.sharing.app_keys import Reader
from myphr.web.dicom_web_out import PIECE_BYTES, one_instance, tell_error
from myphr.web.login import portal
from myphr.web.policy import APP, policy
from myphr.web.senders import streams

FRAMES_MAX = 1000  # of one request
_LIST = re.compile(r"[0-9]{1,9}(,[0-9]{1,9})*")
_TAG = re.compile(r"[0-9A-Fa-f]{8}")
_UNQUOTED = re.compile(r'=([^\s",;]+)')  # many an app writes type=application/octet-stream
_INSTANCE = "/studies/<study_uid>/series/<series_uid>/instances/<instance_uid>"

blueprint = Blueprint("dicom_web_parts", __name__, url_prefix="/dicom-web")
blueprint.register_error_handler(PortalError, tell_error)

_drawing = threading.Semaphore(1)  # a reader takes up to 300 MiB and 8 s: one at a time in this process

Pieces = list[tuple[int, int]]  # (start, length) in the file


class Form(NamedTuple):
    """How the parts go out."""

    several: bool  # as multipart/related
    kind: str


@blueprint.get(_INSTANCE + "/frames/<numbers>")
@policy(APP)
def frames(study_uid: str, series_uid: str, instance_uid: str, numbers: str) -> Response:
    if not _LIST.fullmatch(numbers) or numbers.count(",") >= FRAMES_MAX:
        return Response(f"numbers with commas between them, {FRAMES_MAX} at most\n", 400, mimetype="text/plain")
    with opened(study_uid, series_uid, instance_uid) as (item, under_way):
        try:
            found = Frames(DicomFile(item.read_at, item.plain_bytes))
            pieces = [found.pieces(int(one)) for one in numbers.split(",")]
        except (NoSuchFrame, NotDicom):
            raise NotFound("frame") from None
        except NotByFrames:
            raise NotAcceptable() from None
        form = form_wanted(found.media_type, found.syntax, len(pieces))
        return given(item, form, pieces, under_way)


@blueprint.get(_INSTANCE + "/rendered")
@policy(APP)
def rendered(study_uid: str, series_uid: str, instance_uid: str) -> Response:
    """The picture that the owner's pages show, of a film one of its frames; else one drawn now."""
    one = one_instance(study_uid, series_uid, instance_uid)
    picture = readings.preview_of(portal().database, one.item.id, one.dek)
    if picture is None:
        with opened(study_uid, series_uid, instance_uid) as (item, _):
            picture = _drawn(item.plain_bytes, item.read_at)
    return _picture(picture)


@blueprint.get(_INSTANCE + "/frames/<numbers>/rendered")
@policy(APP)
def rendered_frame(study_uid: str, series_uid: str, instance_uid: str, numbers: str) -> Response:
    if not _LIST.fullmatch(numbers) or "," in numbers:
        return Response("one frame at a time is drawn\n", 400, mimetype="text/plain")
    with opened(study_uid, series_uid, instance_uid) as (item, _):
        try:
            alone = Frames(DicomFile(item.read_at, item.plain_bytes)).alone(int(numbers))
            return _picture(_drawn(alone.size, alone.read_at))
        except (NoSuchFrame, NotDicom):
            raise NotFound("frame") from None
        except NotByFrames:
            raise NotAcceptable() from None


def _drawn(size: int, read_at: ReadAt) -> bytes:
    """Drawn in a process of its own that is limited in every way: no file is decoded here. Raises NotAcceptable where
    nothing can be drawn, TooManySenders."""
    if not _drawing.acquire(blocking=False):
        raise TooManySenders()
    try:
        with capped.Reader() as reader:
            found = reader.read("dicom", size, read_at)
    except capped.ReaderGone:
        raise TooManySenders() from None
    finally:
        _drawing.release()
    if found is None or not found.preview:
        raise NotAcceptable()
    return found.preview


def _picture(picture: bytes) -> Response:
    kind = media_type_of(picture) or OCTETS
    accept = request.accept_mimetypes
    if accept and not accept.best_match([kind]):
        raise NotAcceptable()
    g.app_key.note("app-key-fetched", items=1)
    answer = Response(picture, mimetype=kind)
    answer.headers["Warning"] = '299 - "Not for diagnosis: a small picture; parameters of rendering are not supported"'
    answer.headers["Content-Disposition"] = 'inline; filename="not-for-diagnosis"'
    return answer


@blueprint.get(_INSTANCE + "/bulkdata/<tag>")
@policy(APP)
def bulk(study_uid: str, series_uid: str, instance_uid: str, tag: str) -> Response:
    """A long value that metadata tells by this address; encapsulated pixels as one part for each frame."""
    if not _TAG.fullmatch(tag):
        raise NotFound("value")
    with opened(study_uid, series_uid, instance_uid) as (item, under_way):
        try:
            file = DicomFile(item.read_at, item.plain_bytes)
            if file.deflated or not file.little:
                raise NotAcceptable()  # metadata gives no address of theirs
            value = bulk_of(file, int(tag, 16))
            if value:
                return given(item, form_wanted(OCTETS, EXPLICIT_LE, 1), [[value]], under_way)
            if int(tag, 16) not in PIXELS:
                raise NotFound("value")
            found = Frames(file)
            if found.tag != int(tag, 16):
                raise NotFound("value")
            found.pieces(1), found.pieces(found.count)  # before the answer begins
            parts = (found.pieces(one) for one in range(1, found.count + 1))
            return given(item, form_wanted(found.media_type, found.syntax, found.count), parts, under_way)
        except (NoSuchFrame, NotDicom):
            raise NotFound("value") from None
        except NotByFrames:
            raise NotAcceptable() from None


@contextlib.contextmanager
def opened(study_uid: str, series_uid: str, instance_uid: str) -> Iterator[tuple[OpenItem, contextlib.ExitStack]]:
    """The image, open for this request, and what closes it: after an error here, else with the response that took
    `pop_all` of it. Raises NotFound, TooManySenders."""
    with contextlib.ExitStack() as under_way:
        under_way.enter_context(streams.one(g.app_key.account_id))
        one = one_instance(study_uid, series_uid, instance_uid)
        item = open_item(portal().store, one.item, one.dek)
        under_way.callback(item.close)
        yield item, under_way


def form_wanted(kind: str, syntax: str, parts: int) -> Form:
    """Raises NotAcceptable where the app wants none of what we can give (PS3.18, 8.7.3 to 8.7.5)."""
    accept = _UNQUOTED.sub(r'="\1"', request.headers.get("Accept") or "*/*")
    for offer in parse_list_header(accept):
        media, options = parse_options_header(offer)
        several = media.lower() in ("multipart/related", "*/*")
        inner = (options.get("type", "*/*") if several else media).lower()
        asked = options.get("transfer-syntax", "")
        if asked not in ("", "*", syntax) or not (several or parts == 1):
            continue
        if inner in (kind, "*/*", kind.partition("/")[0] + "/*"):
            return Form(several, f"{kind}; transfer-syntax={syntax}")
        if inner == OCTETS and asked:  # without a syntax, octets are uncompressed ones
            return Form(several, f"{OCTETS}; transfer-syntax={syntax}")
    raise NotAcceptable()


def given(item: OpenItem, form: Form, parts: Iterable[Pieces], under_way: contextlib.ExitStack) -> Response:
    """The parts, noted in "Who looked" before the first of them leaves. Raises AppKeyClosed."""
    reader: Reader = g.app_key
    reader.note("app-key-fetched", items=1)
    if form.several:
        boundary = secrets.token_hex(16)
        kind = f'multipart/related; type="{form.kind.partition(";")[0]}"; boundary={boundary}'
        response = Response(_multipart(item, reader, form.kind, parts, boundary), content_type=kind)
    else:
        [pieces] = parts
        response = Response(_bytes_of(item, reader, pieces), content_type=form.kind)
        response.content_length = sum(length for _, length in pieces)
    response.call_on_close(under_way.pop_all().close)
    return response


def _multipart(item: OpenItem, reader: Reader, kind: str, parts: Iterable[Pieces], boundary: str) -> Iterator[bytes]:
    for pieces in parts:
        length = sum(one for _, one in pieces)
        yield f"--{boundary}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n".encode()
        yield from _bytes_of(item, reader, pieces)
        yield b"\r\n"
    yield f"--{boundary}--\r\n".encode()


def _bytes_of(item: OpenItem, reader: Reader, pieces: Pieces) -> Iterator[bytes]:
    reader.still()  # a key taken back ends the answer with the part before
    for start, length in pieces:
        for at in range(start, start + length, PIECE_BYTES):
            yield item.read_at(at, min(PIECE_BYTES, start + length - at))
