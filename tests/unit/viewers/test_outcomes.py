"""What people say of viewers is kept for each and counted over all, and leads back to nobody."""

import dataclasses
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlmodel import select

from myphr.crypto import envelope
from myphr.crypto.envelope import new_key_pair
from myphr.database import Database, new_id
from myphr.errors import NotFound
from myphr.people.keyring import KeyRing
from myphr.people.models import Account
from myphr.people.service_keys import ServiceKeys
from myphr.viewers import outcomes
from myphr.viewers.belief import PEOPLE_MIN, Tally
from myphr.viewers.models import ViewerAnswer, ViewerMemory, ViewerVoice

KIND, VIEWER = "dicom/MR/image", "simple-images"


@dataclasses.dataclass
class Parts:
    """What `outcomes` needs of a portal."""

    database: Database
    keys: ServiceKeys
    settings: object = None
    redis: object = None


@dataclasses.dataclass
class Somebody:
    """An account with its ring, and what she can do."""

    parts: Parts
    account_id: str
    ring: KeyRing

    def opens(self, vm_session_id: str = "", kind: str = KIND, viewer: str = VIEWER) -> str:
        vm_session_id = vm_session_id or new_id()
        outcomes.remember(self.parts.database, self.ring, self.account_id, vm_session_id, viewer, kind)
        return vm_session_id

    def says(self, vm_session_id: str, opened: bool | None) -> None:
        outcomes.say(self.parts, self.ring, self.account_id, vm_session_id, opened)

    @property
    def memory(self) -> outcomes.Memory:
        return outcomes.memory_of(self.parts.database, self.ring, self.account_id)


@pytest.fixture
def parts(tmp_path: Path) -> Parts:
    database = Database(f"sqlite:///{tmp_path}/db.sqlite")
    database.create_all()
    return Parts(database, ServiceKeys.create(tmp_path / "keys"))


@pytest.fixture
def somebody(parts: Parts) -> Callable[[], Somebody]:
    def make() -> Somebody:
        with parts.database.write() as db:
            account = Account(email=f"{new_id()}@people.example", name="A Person")
            db.add(account)
            db.flush()
            return Somebody(parts, account.id, KeyRing(new_key_pair()))

    return make


def many_say(somebody: Callable[[], Somebody], count: int, opened: bool, **what: str) -> list[tuple[Somebody, str]]:
    people = [(person, person.opens(**what)) for person in (somebody() for _ in range(count))]
    for person, vm_session_id in people:
        person.says(vm_session_id, opened)
    return people


def everything_stored(database: Database) -> str:
    """The three tables as a thief reads them."""
    with database.read() as db:
        rows = [*db.exec(select(ViewerMemory)), *db.exec(select(ViewerAnswer)), *db.exec(select(ViewerVoice))]
    return "\n".join(repr(row.model_dump()) for row in rows)


# -- one's own --------------------------------------------------------------------------------------
def test_what_was_opened_is_remembered_and_what_was_said_of_it(somebody):
    vera = somebody()
    first, second = vera.opens(), vera.opens(kind="pdf", viewer="qpdfview")
    vera.says(first, False)
    assert vera.memory.of(first).opened is False and vera.memory.of(second).opened is None
    assert vera.memory.last_words(KIND) == {VIEWER: False} and vera.memory.last_words("pdf") == {}


def test_the_last_word_is_that_of_the_newest_opening(somebody):
    vera = somebody()
    first, second = vera.opens(), vera.opens()
    vera.says(second, True)
    vera.says(first, False)
    assert vera.memory.last_words(KIND) == {VIEWER: True}
    vera.says(second, None)
    assert vera.memory.last_words(KIND) == {VIEWER: False}


def test_remembering_twice_is_remembering_once(somebody):
    vera = somebody()
    vm_session_id = vera.opens()
    vera.opens(vm_session_id)
    assert len(vera.memory.openings) == 1


def test_the_memory_holds_the_newest_and_is_always_as_long(somebody, parts):
    vera = somebody()
    sizes = set()
    ids = []
    for _ in range(outcomes.ENTRIES_MAX + 3):
        ids.append(vera.opens(kind="dicom/RTSTRUCT/encapsulated", viewer="v" * 40))
        with parts.database.read() as db:
            sizes.add(len(db.get(ViewerMemory, vera.account_id).sealed))
    assert len(sizes) == 1 and len(vera.memory.openings) == outcomes.ENTRIES_MAX
    assert vera.memory.of(ids[0]) is None and vera.memory.of(ids[-1])


def test_of_what_was_never_opened_nothing_can_be_said(somebody, parts):
    with pytest.raises(NotFound):
        somebody().says(new_id(), True)
    assert everything_stored(parts.database) == ""


def test_a_memory_under_anothers_key_is_empty_and_no_error(somebody, parts):
    vera, nils = somebody(), somebody()
    vm_session_id = vera.opens()
    with parts.database.write() as db:
        stolen = db.get(ViewerMemory, vera.account_id)
        db.add(ViewerMemory(account_id=nils.account_id, sealed=stolen.sealed))
    assert nils.memory.openings == ()
    with pytest.raises(NotFound):
        nils.says(vm_session_id, True)


# -- counted over all -------------------------------------------------------------------------------
def test_nothing_is_counted_before_a_few_people_said_something(somebody, parts):
    many_say(somebody, PEOPLE_MIN - 1, True)
    assert outcomes.count(parts) == 0 and outcomes.tallies(parts.database, KIND) == {}
    many_say(somebody, 1, True)
    assert outcomes.count(parts) == PEOPLE_MIN
    assert outcomes.tallies(parts.database, KIND) == {VIEWER: Tally(PEOPLE_MIN, 0)}


def test_one_person_who_answers_often_is_not_a_few_people(somebody, parts):
    vera = somebody()
    for number in range(3 * PEOPLE_MIN):
        vera.says(vera.opens(kind=("pdf", "jpeg", KIND)[number % 3]), True)
    assert outcomes.count(parts) == 0


def test_one_account_counts_once_however_often_it_answers(somebody, parts):
    many_say(somebody, PEOPLE_MIN, True)
    liar = somebody()
    for _ in range(12):
        liar.says(liar.opens(), False)
    outcomes.count(parts)
    with parts.database.read() as db:
        assert len(db.exec(select(ViewerVoice)).all()) == PEOPLE_MIN + 1
    assert outcomes.tallies(parts.database, KIND) == {VIEWER: Tally(PEOPLE_MIN, 1)}


def test_a_press_back_and_forth_leaves_one_answer_waiting(somebody, parts):
    vera = somebody()
    vm_session_id = vera.opens()
    for opened in (True, False, None, True, False):
        vera.says(vm_session_id, opened)
    with parts.database.read() as db:
        assert len(db.exec(select(ViewerAnswer)).all()) == 1


def test_a_counted_answer_can_be_changed_and_taken_back(somebody, parts):
    people = many_say(somebody, PEOPLE_MIN + 2, True)
    outcomes.count(parts)
    changed, gone = people[0], people[1]
    changed[0].says(changed[1], False)
    gone[0].says(gone[1], None)
    many_say(somebody, PEOPLE_MIN, True, kind="pdf", viewer="qpdfview")  # so that there are a few to count
    outcomes.count(parts)
    assert outcomes.tallies(parts.database, KIND) == {VIEWER: Tally(PEOPLE_MIN, 1)}


def test_of_two_answers_that_wait_the_later_one_counts(somebody, parts):
    vera = somebody()
    many_say(somebody, PEOPLE_MIN, False)
    first, second = vera.opens(), vera.opens()
    vera.says(first, True)
    vera.says(second, False)
    outcomes.count(parts)
    assert outcomes.tallies(parts.database, KIND) == {VIEWER: Tally(0, PEOPLE_MIN + 1)}


def test_counting_twice_counts_once(somebody, parts):
    many_say(somebody, PEOPLE_MIN, True)
    assert outcomes.count(parts) == PEOPLE_MIN and outcomes.count(parts) == 0
    assert outcomes.tallies(parts.database, KIND) == {VIEWER: Tally(PEOPLE_MIN, 0)}


def test_kinds_and_viewers_are_counted_apart_and_few_are_left_out(somebody, parts):
    many_say(somebody, PEOPLE_MIN, True)
    many_say(somebody, PEOPLE_MIN - 1, True, viewer="aeskulap")
    many_say(somebody, PEOPLE_MIN, False, kind="pdf", viewer="qpdfview")
    outcomes.count(parts)
    assert outcomes.tallies(parts.database, KIND) == {VIEWER: Tally(PEOPLE_MIN, 0)}
    assert outcomes.tallies(parts.database, "pdf") == {"qpdfview": Tally(0, PEOPLE_MIN)}


def test_an_answer_that_does_not_open_is_dropped_and_holds_up_nobody(somebody, parts):
    with parts.database.write() as db:
        db.add(ViewerAnswer(id="forged", sealed=b"\1 no envelope"))
    many_say(somebody, PEOPLE_MIN, True)
    assert outcomes.count(parts) == PEOPLE_MIN
    with parts.database.read() as db:
        assert db.exec(select(ViewerAnswer)).all() == []


# -- without identities -----------------------------------------------------------------------------
def test_a_stolen_database_tells_neither_who_nor_what_anybody_opened(somebody, parts):
    people = many_say(somebody, PEOPLE_MIN, True)
    before = everything_stored(parts.database)
    assert KIND not in before and VIEWER not in before, "what waits is sealed"
    outcomes.count(parts)
    with parts.database.read() as db:
        voices = "\n".join(repr(row.model_dump()) for row in db.exec(select(ViewerVoice)))
        waiting = db.exec(select(ViewerAnswer)).all()
    assert not waiting
    for person, vm_session_id in people:
        assert person.account_id not in voices and vm_session_id not in voices
        assert vm_session_id not in everything_stored(parts.database)


def test_also_with_the_portals_own_keys_a_token_leads_to_nobody(somebody, parts):
    """The control: her own ring finds it."""
    [(vera, _), *_] = many_say(somebody, PEOPLE_MIN, True)
    outcomes.count(parts)
    with parts.database.read() as db:
        tokens = {row.token for row in db.exec(select(ViewerVoice))}
    label = f"myphr/viewer-voice/1|{KIND}|{VIEWER}"
    assert vera.ring.derive(label).hex()[:32] in tokens
    keys = parts.keys
    for key in (keys.index_key, keys.cookie_key, keys.ticket_key, keys.passcode_key, keys.worker.private):
        for what in (label, f"{label}|{vera.account_id}", f"{vera.account_id}|{KIND}|{VIEWER}"):
            assert envelope.derive(key, what).hex()[:32] not in tokens
            assert envelope.derive(key, label, vera.account_id.encode()).hex()[:32] not in tokens


def test_two_words_of_one_person_are_not_seen_to_be_of_one_person(somebody, parts):
    vera = somebody()
    vera.says(vera.opens(), True)
    vera.says(vera.opens(kind="pdf", viewer="qpdfview"), True)
    many_say(somebody, PEOPLE_MIN, True)
    outcomes.count(parts)
    with parts.database.read() as db:
        tokens = [row.token for row in db.exec(select(ViewerVoice))]
    assert len(set(tokens)) == len(tokens) == PEOPLE_MIN + 2
    assert set(ViewerVoice.model_fields) == {"token", "kind", "viewer", "opened"}, "no account, no time"


def test_the_order_of_rows_does_not_tell_the_order_of_answers(somebody, parts, tmp_path):
    many_say(somebody, PEOPLE_MIN, True)
    outcomes.count(parts)
    with sqlite3.connect(tmp_path / "db.sqlite") as raw:
        tokens = [token for (token,) in raw.execute("SELECT token FROM viewer_voice")]
        assert tokens == sorted(tokens)
        for table in ("viewer_voice", "viewer_answer"):
            with pytest.raises(sqlite3.OperationalError):
                raw.execute(f"SELECT rowid FROM {table}")


def test_waiting_answers_are_all_as_long(somebody, parts):
    many_say(somebody, 1, True)
    many_say(somebody, 1, False, kind="dicom/RTSTRUCT/encapsulated", viewer="v" * 40)
    with parts.database.read() as db:
        assert len({len(row.sealed) for row in db.exec(select(ViewerAnswer))}) == 1


def test_the_longest_answer_and_the_longest_memory_fit():
    longest = {"token": "f" * 32, "person": "f" * 32, "kind": "dicom/RTSTRUCT/encapsulated", "viewer": "v" * 40,
               "opened": False, "at": 2**63}  # fmt: skip
    assert len(json.dumps(longest)) < outcomes.ANSWER_BYTES
