"""Records and uploads on PostgreSQL: what depends on the engine, from the ordinary tests, and many at once.

SQLite has one writer at a time; PostgreSQL has many, so whatever SQLite's lock kept apart must be kept apart by rows.
"""

import concurrent.futures
import hashlib
import random

import pytest
from sqlmodel import select

from myphr.errors import RecordFull, UploadConflict
from myphr.ingest.uploads import Uploads, Wish
from myphr.records import items
from myphr.records.models import Item, Study, Upload
from tests.cast import PATIENT, enter, new_portal
from tests.unit.ingest.bodies import Pieces
from tests.unit.ingest.conftest import seals  # noqa: F401
from tests.unit.ingest.test_archives import (  # noqa: F401
    test_a_killed_run_is_taken_up_without_loss_or_duplicates,
    test_a_stuck_task_is_put_back,
    test_two_runs_at_once_file_everything_once,
)
from tests.unit.ingest.test_receiving_uploads import (  # noqa: F401
    taking,
    test_a_crash_while_finishing_loses_nothing_and_files_once,
    test_an_upload_that_ran_out_is_swept,
    test_other_bytes_after_a_crash_never_meet_a_used_key_and_nonce,
    test_terminate_forgets_bytes_and_key,
    test_the_hash_is_right_when_another_process_finishes_the_upload,
    test_the_same_file_of_another_person_is_not_a_duplicate,
    test_wrong_token_other_account_and_unknown_upload_look_the_same,
)
from tests.unit.ingest.test_upload_checksums import (  # noqa: F401
    begun,
    data,
    test_a_piece_that_fits_makes_the_item_byte_exact,
)
from tests.unit.ingest.test_whole_files import (  # noqa: F401
    filing,
    test_a_practice_with_two_files_left_hands_over_two,
    test_many_are_filed_in_one_commit_and_each_is_noted,
    test_one_that_comes_with_its_creation_is_filed_at_once,
    test_the_same_folder_from_two_browsers_is_stored_once,
    test_those_that_are_here_already_are_told_and_not_stored_again,
)
from tests.unit.records.test_items import (  # noqa: F401
    image,
    summed_up_at_once,
    test_a_damaged_row_does_not_hide_the_record,
    test_a_manifest_opens_each_item_for_its_session_and_secret_only,
    test_a_removed_study_disappears_and_comes_back_with_a_new_upload,
    test_a_stranger_can_load_and_open_nothing,
    test_an_identical_file_is_told_and_kept_once,
    test_images_of_one_study_stand_together_in_plain_words,
    test_only_objects_that_nobody_knows_are_swept,
    test_removed_is_out_of_sight_and_erased_is_gone,
    test_the_same_study_of_two_people_is_two_studies_that_do_not_match,
)

MANY = 8
CHUNK = 64 * 1024


def at_once(work):
    """`work(number)` in MANY threads; results, or the error that one ended in."""

    def run(number):
        try:
            return work(number)
        except Exception as error:
            return error

    with concurrent.futures.ThreadPoolExecutor(MANY) as pool:
        return list(pool.map(run, range(MANY)))


def rows(portal, table):
    with portal.database.read() as db:
        return db.exec(select(table)).all()


def upload(portal, patient, content):
    own = Uploads(portal)  # one each, as in processes of their own
    progress, token = own.create(patient.account.id, Wish(len(content), "x"))
    return own.append(patient.account.id, progress.upload_id, token, 0, Pieces(content))


def test_many_uploads_of_the_same_bytes_at_once_are_one_item(portal, patient):
    content = random.Random(1).randbytes(3 * CHUNK)
    ended = at_once(lambda _: upload(portal, patient, content))
    [item] = rows(portal, Item)
    assert [one.item_id for one in ended] == [item.id] * MANY
    assert sorted(one.duplicate for one in ended) == [False] + [True] * (MANY - 1)
    assert list(portal.store.keys()) == [item.object_key]


def test_many_images_of_a_study_at_once_are_one_study_that_counts_them_all(portal, patient):
    ended = at_once(lambda number: upload(portal, patient, image(number=number)))
    assert [one for one in ended if isinstance(one, Exception)] == []
    [study] = rows(portal, Study)
    assert study.items_count == len(rows(portal, Item)) == MANY
    assert study.bytes_total == sum(item.plain_bytes for item in rows(portal, Item))


def test_two_writers_of_one_upload_leave_one_whole_file(portal, patient, taking, seals):  # noqa: F811
    content = random.Random(2).randbytes(20 * CHUNK)
    progress, token = taking.create(patient.account.id, Wish(len(content), "x"))
    ended = at_once(lambda _: Uploads(portal).append(patient.account.id, progress.upload_id, token, 0, Pieces(content)))
    assert all(isinstance(one, UploadConflict) or one.offset == len(content) for one in ended)
    progress = taking.progress(
        patient.account.id, progress.upload_id, token
    )  # each may have made the one before let go
    if progress.item_id is None:
        rest = Pieces(content[progress.offset :])
        taking.append(patient.account.id, progress.upload_id, token, progress.offset, rest)
    [item] = rows(portal, Item)
    assert items.details_of(patient.login.ring(), item)["sha256"] == hashlib.sha256(content).hexdigest()
    assert seals.reused() == []


def test_uploads_begun_at_once_do_not_pass_the_limit_together(tmp_path, redis_url, postgresql_url):
    portal = new_portal(tmp_path / "small", redis_url, database_url=postgresql_url, record_bytes_max=2500)
    try:
        patient = enter(portal, PATIENT)
        ended = at_once(lambda _: Uploads(portal).create(patient.account.id, Wish(1000, "x")))
        assert sum(isinstance(one, RecordFull) for one in ended) == MANY - 2
        assert len(rows(portal, Upload)) == 2
    finally:
        portal.database.dispose()


@pytest.mark.parametrize("size", [1, CHUNK, 80 * CHUNK + 17])
def test_a_file_comes_back_byte_exact(portal, patient, size):
    content = random.Random(3).randbytes(size)
    upload(portal, patient, content)
    [item] = rows(portal, Item)
    opened = items.open_item(portal.store, item, items.dek_of(patient.login.ring(), item))
    assert opened.read_at(0, opened.plain_bytes) == content
    opened.close()
