"""Exports and deletions on PostgreSQL, where many write at once."""

import contextlib
import io
import threading
import zipfile

import pytest

from myphr.errors import NotFound
from myphr.ingest import identify
from myphr.records import deletions, exports
from myphr.sharing import forgetting
from tests.web.stage import put_in


def together(*work) -> list:
    """All at once; what each returned or raised."""
    answers: list = [None] * len(work)

    def one(at: int) -> None:
        try:
            answers[at] = work[at]()
        except Exception as error:
            answers[at] = error

    threads = [threading.Thread(target=one, args=(at,)) for at in range(len(work))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return answers


def test_asked_for_twice_at_once_there_is_one_export_and_it_is_whole(portal, patient) -> None:
    for number in range(3):
        put_in(portal, patient.account.id, b"letter %d" % number, f"{number}.txt")
    ids = together(*[lambda: exports.ask(portal, patient.login)] * 4)
    assert len(set(ids)) == 1 and isinstance(ids[0], str), ids
    exports.run(portal, ids[0], identify.pronom_of)
    with contextlib.closing(exports.open_zip(portal, patient.login, ids[0])) as opened:
        assert zipfile.ZipFile(io.BytesIO(opened.read_at(0, opened.plain_bytes))).testzip() is None


def test_deleted_twice_at_once_it_is_deleted_once_and_its_proof_fits(portal, patient) -> None:
    item = put_in(portal, patient.account.id, b"soon gone", "gone.txt")
    answers = together(*[
        lambda: deletions.delete_item(portal, patient.login, item.id, (forgetting.forget_items,))
    ] * 3)  # fmt: skip
    done = [answer for answer in answers if isinstance(answer, str)]
    assert len(done) == 1 and sum(isinstance(answer, NotFound) for answer in answers) == 2, answers
    assert deletions.check_in(portal.database, deletions.certificate(portal, patient.login, done[0])) == 2
    with pytest.raises(NotFound):
        portal.store.open(item.object_key)
