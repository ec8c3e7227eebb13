"""DICOMweb for the patient's own apps: QIDO-RS and WADO-RS (DICOM PS3.18, 10.6 and 10.4) with an app key's token.

Images go out as they are stored, chunk by chunk, but for a preamble that holds something: it has no meaning (PS3.10,
7.1) and may be a program. No cookie is looked at, and no CORS header is sent. Knows HTTP; `sharing.app_keys` decides
what may be seen, `records.dicom_json` what matches.
"""

import contextlib
import json
import re
import secrets
from collections.abc import Iterator
from urllib.parse import quote

from flask import Blueprint, Response, g, request

from myphr.errors import ContainerError, NotAcceptable, NotFound, PortalError
from myphr.ingest.dicom_file import DicomFile, NotDicom
from myphr.ingest.dicom_whole_header import whole_header
from myphr.records import dicom_json
from myphr.records.dicom_json import BadQuery
from myphr.records.items import open_item
from myphr.records.store import ObjectStore
from myphr.sharing.app_keys import Instance, Reader
from myphr.web.instance_places import InstancePlaces
from myphr.web.login import portal
from myphr.web.policy import APP, policy
from myphr.web.senders import streams

PIECE_BYTES = 512 * 1024
PREAMBLE_BYTES = 128
JSON_TYPE = "application/dicom+json"
_SYNTAX = re.compile(r'transfer-syntax="?([0-9.]+|\*)"?', re.IGNORECASE)

_places = InstancePlaces()

blueprint = Blueprint("dicom_web_out", __name__, url_prefix="/dicom-web")


# -- QIDO-RS --------------------------------------------------------------------------------------
@blueprint.get("/studies")
@policy(APP)
def studies() -> Response:
    return _search("studies")


@blueprint.get("/series")
@policy(APP)
def all_series() -> Response:
    return _search("series")


@blueprint.get("/instances")
@policy(APP)
def all_instances() -> Response:
    return _search("instances")


@blueprint.get("/studies/<study_uid>/series")
@policy(APP)
def series(study_uid: str) -> Response:
    return _search("series", study_uid)


@blueprint.get("/studies/<study_uid>/instances")
@policy(APP)
def instances_of_study(study_uid: str) -> Response:
    return _search("instances", study_uid)


@blueprint.get("/studies/<study_uid>/series/<series_uid>/instances")
@policy(APP)
def instances(study_uid: str, series_uid: str) -> Response:
    return _search("instances", study_uid, series_uid)


# -- WADO-RS --------------------------------------------------------------------------------------
@blueprint.get("/studies/<study_uid>")
@policy(APP)
def study(study_uid: str) -> Response:
    return _retrieve(study_uid)


@blueprint.get("/studies/<study_uid>/series/<series_uid>")
@policy(APP)
def one_series(study_uid: str, series_uid: str) -> Response:
    return _retrieve(study_uid, series_uid)


@blueprint.get("/studies/<study_uid>/series/<series_uid>/instances/<instance_uid>")
@policy(APP)
def instance(study_uid: str, series_uid: str, instance_uid: str) -> Response:
    return _retrieve(study_uid, series_uid, instance_uid)


@blueprint.get("/studies/<study_uid>/metadata")
@policy(APP)
def study_metadata(study_uid: str) -> Response:
    return _metadata(study_uid)


@blueprint.get("/studies/<study_uid>/series/<series_uid>/metadata")
@policy(APP)
def series_metadata(study_uid: str, series_uid: str) -> Response:
    return _metadata(study_uid, series_uid)


@blueprint.get("/studies/<study_uid>/series/<series_uid>/instances/<instance_uid>/metadata")
@policy(APP)
def instance_metadata(study_uid: str, series_uid: str, instance_uid: str) -> Response:
    return _metadata(study_uid, series_uid, instance_uid)


@blueprint.errorhandler(PortalError)
def tell_error(error: PortalError) -> Response:
    response = Response(error.message + "\n", error.status, mimetype="text/plain")
    response.headers["MyPHR-Error"] = error.code
    if error.status == 401:
        response.headers["WWW-Authenticate"] = 'Bearer realm="MyPHRMachines app key"'
    if error.status == 503:
        response.headers["Retry-After"] = "5"
    return response


# -- work -----------------------------------------------------------------------------------------
def _search(level: str, study_uid: str = "", series_uid: str = "") -> Response:
    reader: Reader = g.app_key
    _check_accept(JSON_TYPE, "application/json")
    groups: dict[tuple[str, ...], list[dict]] = {}
    for study_id in reader.studies():
        for one in reader.instances(study_id):
            found = one.headers
            uids = tuple(str(found.get(key) or "") for key in ("study_uid", "series_uid", "instance_uid"))
            if (study_uid and uids[0] != study_uid) or (series_uid and uids[1] != series_uid):
                continue
            depth = {"studies": 1, "series": 2, "instances": 3}[level]
            groups.setdefault(uids[:depth], []).append(found)
    try:
        elements = dicom_json.answer(level, groups.values(), request.args)
    except BadQuery as error:
        return Response(f"{error}\n", 400, mimetype="text/plain")
    reader.note("app-key-searched")
    response = _json(elements) if elements else Response(status=204)
    if request.args.get("fuzzymatching", "").lower() == "true":
        response.headers["Warning"] = '299 - "The fuzzymatching parameter is not supported"'
    return response


def _metadata(study_uid: str, series_uid: str = "", instance_uid: str = "") -> Response:
    reader: Reader = g.app_key
    _check_accept(JSON_TYPE, "application/json")
    found = _instances(study_uid, series_uid, instance_uid)
    under_way = contextlib.ExitStack()
    under_way.enter_context(streams.one(reader.account_id))
    try:
        reader.note("app-key-searched")
    except BaseException:
        under_way.close()
        raise
    base = portal().settings.public_url.rstrip("/") + "/dicom-web"
    response = Response(_headers(portal().store, reader, found, base), mimetype=JSON_TYPE)
    response.call_on_close(under_way.close)
    return response


def _headers(store: ObjectStore, reader: Reader, found: list[Instance], base: str) -> Iterator[str]:
    """One image after the other: a study's headers may be many megabytes."""
    for number, one in enumerate(found):
        reader.still()
        yield ("," if number else "[") + json.dumps(_whole_header(store, one, base))
    yield "]"


def _whole_header(store: ObjectStore, one: Instance, base: str) -> dict:
    known = dicom_json.metadata(one.headers)
    uids = [quote(str(one.headers.get(key) or ""), safe="") for key in ("study_uid", "series_uid", "instance_uid")]
    address = "{}/studies/{}/series/{}/instances/{}/bulkdata/".format(base, *uids)
    try:
        opened = open_item(store, one.item, one.dek)
        try:
            whole = whole_header(DicomFile(opened.read_at, opened.plain_bytes), lambda tag: address + tag)
        finally:
            opened.close()
    except (NotDicom, ContainerError, NotFound):
        whole = {}  # a file that is damaged here still tells what was read when it came
    return dict(sorted((known | whole).items()))


def _retrieve(study_uid: str, series_uid: str = "", instance_uid: str = "") -> Response:
    reader: Reader = g.app_key
    _check_accept("multipart/related", "application/dicom")
    found = _instances(study_uid, series_uid, instance_uid)
    wanted = {match.lower() for match in _SYNTAX.findall(request.headers.get("Accept", ""))}
    if wanted and "*" not in wanted:
        found = [one for one in found if one.headers.get("transfer_syntax") in wanted]
        if not found:
            raise NotAcceptable()
    under_way = contextlib.ExitStack()
    under_way.enter_context(streams.one(reader.account_id))
    try:
        reader.note("app-key-fetched", items=len(found))
    except BaseException:
        under_way.close()
        raise
    boundary = secrets.token_hex(16)
    kind = f'multipart/related; type="application/dicom"; boundary={boundary}'
    response = Response(_parts(portal().store, reader, found, boundary), content_type=kind)
    response.call_on_close(under_way.close)
    return response


def _instances(study_uid: str, series_uid: str, instance_uid: str) -> list[Instance]:
    """Raises NotFound, alike for what is not there and what is not in the key's scope."""
    reader: Reader = g.app_key
    for study_id in reader.studies():
        found = [one for one in reader.instances(study_id) if one.headers.get("study_uid") == study_uid]
        found = [
            one for one in found
            if series_uid in ("", one.headers.get("series_uid"))
            and instance_uid in ("", one.headers.get("instance_uid"))
        ]  # fmt: skip
        if found:
            return sorted(found, key=lambda one: (
                one.headers.get("series_number") or 0, one.headers.get("instance_number") or 0, one.item.id
            ))  # fmt: skip
    raise NotFound("study")


def one_instance(study_uid: str, series_uid: str, instance_uid: str) -> Instance:
    """Raises NotFound, as `_instances`."""
    reader: Reader = g.app_key
    uids = study_uid, series_uid, instance_uid
    place = _places.find(reader.app_key_id, uids)
    if place:
        with contextlib.suppress(NotFound):
            for one in reader.instances(*place):
                if _uids_of(one) == uids:
                    return one
    for study_id in reader.studies():
        every = sorted(reader.instances(study_id), key=lambda one: one.item.id, reverse=True)
        for one in every:
            _places.learn(reader.app_key_id, _uids_of(one), study_id, one.item.id)
        found = [one for one in every if _uids_of(one) == uids]
        if found:
            return found[-1]  # of several versions the first, as `_instances`
    raise NotFound("study")


def _uids_of(one: Instance) -> tuple[str, str, str]:
    found = one.headers
    return (
        str(found.get("study_uid") or ""), str(found.get("series_uid") or ""), str(found.get("instance_uid") or "")
    )  # fmt: skip


def _parts(store: ObjectStore, reader: Reader, found: list[Instance], boundary: str) -> Iterator[bytes]:
    """The body. Whatever goes wrong on the way ends the connection without the last boundary: never a whole answer."""
    for one in found:
        reader.still()  # a key taken back ends the answer with the image before
        syntax = one.headers.get("transfer_syntax")
        kind = "application/dicom" + (f"; transfer-syntax={syntax}" if syntax else "")
        yield f"--{boundary}\r\nContent-Type: {kind}\r\nContent-Length: {one.item.plain_bytes}\r\n\r\n".encode()
        opened = open_item(store, one.item, one.dek)
        try:
            for at in range(0, opened.plain_bytes, PIECE_BYTES):
                piece = opened.read_at(at, PIECE_BYTES)
                yield without_preamble(piece) if at == 0 else piece
        finally:
            opened.close()
        yield b"\r\n"
    yield f"--{boundary}--\r\n".encode()


def without_preamble(start: bytes) -> bytes:
    """The start of a file with a preamble that holds nothing."""
    if start[PREAMBLE_BYTES : PREAMBLE_BYTES + 4] == b"DICM":
        return bytes(PREAMBLE_BYTES) + start[PREAMBLE_BYTES:]
    return start


def _check_accept(*kinds: str) -> None:
    """Raises NotAcceptable where the app wants none of what we can give."""
    accept = request.headers.get("Accept", "").lower()
    if accept and "*/*" not in accept and not any(kind in accept for kind in kinds):
        raise NotAcceptable()


def _json(elements: list[dict]) -> Response:
    return Response(json.dumps(elements), mimetype=JSON_TYPE)


