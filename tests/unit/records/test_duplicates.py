"""What came again: noted with its place, kept once. Versions: found by what a file calls itself. Nothing in clear."""

import pytest
from sqlmodel import select

from myphr.audit.trail import Actor
from myphr.ingest import identify
from myphr.records import duplicates, items
from myphr.records.item_writer import ItemWriter
from myphr.records.models import Item, ItemIdentifier, ItemRepeat
from tests import hostile

UID = hostile.element(0x00080018, b"UI", b"1.2.840.99.7")


def put(portal, signed_in, content, name="scan.dcm", path="", source="upload", source_id=None):
    writer = ItemWriter(
        portal, signed_in.account.id, owner_public_key=signed_in.login.ring().public_key, source=source,
        source_id=source_id, describe=identify.describe,
    )  # fmt: skip
    writer.write(content)
    return writer.finish(name, path)


def again(portal, signed_in, item):
    return duplicates.again(portal.database, signed_in.login.ring(), item)


def image(text: bytes) -> bytes:
    return hostile.dicom(UID, *hostile._STUDY, hostile.element(0x00204000, b"LT", text))


def test_the_same_bytes_are_kept_once_and_each_place_is_noted(portal, patient):
    first = put(portal, patient, b"a letter", "letter.txt", "disc one/letter.txt")
    assert again(portal, patient, first).repeats == ()
    for _ in range(3):
        assert put(portal, patient, b"a letter", "copy.txt", "disc two/copy.txt", "archive", first.id).id == first.id
    put(portal, patient, b"a letter", "letter.txt", "", "drop-off", "11111111-2222-4333-8444-555555555555")
    found = again(portal, patient, first)
    assert found.repeats_count == 2 and found.versions == ()
    assert {(one.source, one.path, one.name, one.times) for one in found.repeats} == {
        ("archive", "disc two/copy.txt", "copy.txt", 3), ("drop-off", "", "letter.txt", 1)
    }  # fmt: skip
    assert len(list(portal.store.keys())) == 1


def test_filing_once_more_after_a_crash_is_no_repeat(portal, patient):
    from myphr.records.filing import file_sealed

    ring = patient.login.ring()
    writer = ItemWriter(
        portal, patient.account.id, owner_public_key=ring.public_key, source="upload", source_id=None,
        describe=identify.describe,
    )  # fmt: skip
    writer.write(b"once")
    sealed = writer.seal_up("once.txt")
    [filed] = file_sealed(portal, [sealed], owner_public_key=ring.public_key)
    [refiled] = file_sealed(portal, [sealed], owner_public_key=ring.public_key)
    assert not refiled.duplicate and again(portal, patient, filed.item).repeats_count == 0


def test_places_are_bounded_and_still_counted(portal, patient, monkeypatch):
    monkeypatch.setattr(duplicates, "REPEATS_MAX", 3)
    first = put(portal, patient, b"zeros", "0")
    for number in range(1, 6):
        put(portal, patient, b"zeros", str(number))
    found = again(portal, patient, first)
    assert found.repeats_count == 3 and sum(one.times for one in found.repeats) == 5


def test_two_versions_of_one_image_are_both_kept_and_find_each_other(portal, patient, stranger):
    old, new = put(portal, patient, image(b"before")), put(portal, patient, image(b"after"), "other.dcm")
    put(portal, stranger, image(b"before"))
    assert [(one[0], one[1]) for one in again(portal, patient, old).versions] == [(new.id, "other.dcm")]
    assert [one[0] for one in again(portal, patient, new).versions] == [old.id]
    assert duplicates.versions_count(portal.database, [old.id, new.id]) == 2
    items.remove_item(portal.database, patient.account.id, old.id, Actor("patient", patient.account.id))
    assert again(portal, patient, new).versions == ()
    assert duplicates.versions_count(portal.database, [new.id]) == 0


def test_identifiers_are_found_blindly_and_by_their_owner_only(portal, patient, stranger):
    item = put(portal, patient, b'{"resourceType": "Bundle"}', "ips.json")
    mine, theirs = patient.account.id, stranger.account.id
    index_key = portal.keys.index_key
    with portal.database.write() as db:
        for _ in range(2):
            duplicates.note_identifiers(
                db, item, index_key, duplicates.FHIR_IDENTIFIER, ["urn:oid:1.2|77", "urn:oid:1.2|77", "x" * 100_000]
            )
        key = duplicates.identifier_key(index_key, mine, duplicates.FHIR_IDENTIFIER, "urn:oid:1.2|77")
        assert duplicates.holders(db, mine, duplicates.FHIR_IDENTIFIER, [key, "0" * 64]) == {key: [item.id]}
        assert duplicates.holders(db, mine, duplicates.FHIR_CONTENT, [key]) == {}
        assert duplicates.holders(db, theirs, duplicates.FHIR_IDENTIFIER, [key]) == {}
        assert len(db.exec(select(ItemIdentifier)).all()) == 2
    other = duplicates.identifier_key(index_key, theirs, duplicates.FHIR_IDENTIFIER, "urn:oid:1.2|77")
    assert other != key
    with pytest.raises(ValueError):
        duplicates.identifier_key(index_key, mine, "name", "x")


def test_no_name_stands_in_clear_and_what_is_erased_is_forgotten(portal, patient):
    item = put(portal, patient, image(b"x"), "Mueller.dcm")
    put(portal, patient, image(b"x"), "Mueller-again.dcm", "Schmidt/Mueller-again.dcm")
    with portal.database.read() as db:
        rows = [*db.exec(select(ItemRepeat)), *db.exec(select(ItemIdentifier)), *db.exec(select(Item))]
        assert len(rows) == 3 and not any(text in repr(rows) for text in ("Mueller", "Schmidt", "1.2.840.99"))
    items.remove_item(portal.database, patient.account.id, item.id, Actor("patient", patient.account.id))
    items.erase_removed(portal.database, portal.store)
    with portal.database.read() as db:
        assert not db.exec(select(ItemRepeat)).all() and not db.exec(select(ItemIdentifier)).all()
