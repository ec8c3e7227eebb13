"""What the packages above use of items: filing them, opening them, showing them. The parts stand in `filing`,
`item_writer`, `opening`, `views` and `removal`."""

from myphr.records.facts import Describe, Facts
from myphr.records.filing import (
    Filed,
    RecordParts,
    SealedFile,
    check_room,
    file_sealed,
)
from myphr.records.item_writer import HEAD_BYTES, ItemWriter
from myphr.records.opening import OpenItem, dek_of, details_of, open_details, open_item
from myphr.records.removal import erase_removed, remove_item, remove_study, sweep_orphans
from myphr.records.views import (
    ItemView,
    RecordView,
    StudyPage,
    StudyView,
    item_view,
    load_item,
    load_items,
    load_study,
    my_record,
    study_page,
    study_view,
)

__all__ = [
    "HEAD_BYTES", "Describe", "Facts", "Filed", "ItemView", "ItemWriter", "OpenItem", "RecordParts", "RecordView",
    "SealedFile", "StudyPage", "StudyView", "check_room", "dek_of", "details_of", "erase_removed", "file_sealed",
    "item_view", "load_item", "load_items", "load_study", "my_record", "open_details", "open_item", "remove_item",
    "remove_study", "study_page", "study_view", "sweep_orphans",
]  # fmt: skip
