"""The index of one record: an SQLite database with full-text search (FTS5) that exists in memory only.

Takes words that are open already and returns rows to show; knows no key, table, store or page. Never a file: whoever
keeps the bytes of `to_bytes` seals them first. One index belongs to one thread at a time. Called by `search`.
"""

# ruff: noqa: S608 - what is put into a statement are names of ours and numbers of rows

import contextlib
import dataclasses
import heapq
import re
import sqlite3
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence

SCHEMA_VERSION = 1  # another one: the index is made anew
TEXT_CHARACTERS_MAX = 64 * 1024  # of one file: what a reading holds
LARGE_BYTES = 96 * 1024**2  # an index grown to this takes only the beginning of each further text: it is opened whole
BEGINNING_CHARACTERS = 2_000
TERMS_MAX = 12
WORDS_CHARACTERS_MAX = 200
FACETS = ("type", "modality", "year", "source", "format")
NO_YEAR = "none"
_MARK, _END = "\x02", "\x03"  # around what was found; taken out of every text that comes in
_ELLIPSIS = "…"
_UNSEARCHED = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\ud800-\\udfff]+")

_SCHEMA = f"""
PRAGMA user_version = {SCHEMA_VERSION};
CREATE TABLE entry (
    id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, title TEXT NOT NULL, kind TEXT NOT NULL, about TEXT NOT NULL,
    day TEXT, place TEXT NOT NULL, author TEXT NOT NULL, patient TEXT NOT NULL, size TEXT NOT NULL, icon TEXT NOT NULL,
    source TEXT NOT NULL, added TEXT NOT NULL
);
CREATE INDEX entry_day ON entry (day, key);
CREATE TABLE doc (
    id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, entry INTEGER NOT NULL, stamp BLOB NOT NULL, type TEXT,
    modality TEXT, source TEXT, format TEXT
);
CREATE INDEX doc_entry ON doc (entry);
CREATE TABLE facet (
    name TEXT NOT NULL, value TEXT NOT NULL, entry INTEGER NOT NULL, PRIMARY KEY (name, value, entry)
) WITHOUT ROWID;
CREATE INDEX facet_entry ON facet (entry);
CREATE VIRTUAL TABLE words USING fts5 (title, about, text, tokenize = "unicode61 remove_diacritics 2");
"""


@dataclasses.dataclass(frozen=True)
class Entry:
    """What one row of a result shows: a study, or a file of no study. `key` is "study:<id>" or "item:<id>"; `day` is
    that of the content, as exact as it is known: 2021, 2021-02, 2021-02-03 or empty; `added` when it came."""

    key: str
    title: str
    kind: str = ""
    about: str = ""
    day: str = ""
    place: str = ""
    author: str = ""
    patient: str = ""
    size: str = ""
    icon: str = "file"
    source: str = ""
    added: str = ""

    @property
    def is_study(self) -> bool:
        return self.key.startswith("study:")

    @property
    def thing_id(self) -> str:
        return self.key.partition(":")[2]

    @property
    def share_id(self) -> str | None:
        """Of what somebody else shares: "shared:<share id>:<file or study id>"."""
        kind, _, rest = self.key.partition(":")
        return rest.partition(":")[0] if kind == "shared" else None


@dataclasses.dataclass(frozen=True)
class Doc:
    """The words of one file or one study, and what it counts as. `entry`: the key of the row that shows it. `stamp`
    changes when the file is to be read anew."""

    key: str
    entry: str
    stamp: bytes
    title: str = ""
    about: str = ""
    text: str = ""
    type: str | None = None
    modality: str | None = None
    source: str | None = None
    format: str | None = None


@dataclasses.dataclass(frozen=True)
class Question:
    """What the owner looks for. Empty: everything, the newest first."""

    words: str = ""
    chosen: Mapping[str, str] = dataclasses.field(default_factory=dict)  # facet: value
    start: int = 0


Marked = tuple[tuple[str, bool], ...]  # pieces of a text; True: this was looked for


@dataclasses.dataclass(frozen=True)
class Hit:
    entry: Entry
    title: Marked
    excerpt: Marked


@dataclasses.dataclass(frozen=True)
class Found:
    """`counts[facet]` holds (value, number of results), the most frequent first."""

    hits: tuple[Hit, ...]
    total: int
    counts: Mapping[str, tuple[tuple[str, int], ...]]


@dataclasses.dataclass(frozen=True)
class Years:
    """How many entries there are of each year, the newest first, and how many of no known day."""

    counts: tuple[tuple[int, int], ...]
    unknown: int


class DamagedIndex(Exception):
    """Bytes that are no index, or one of another version: it is made anew."""


class SearchIndex:
    """As a context manager it is gone at the end."""

    def __init__(self, kept: bytes | bytearray | memoryview | None = None) -> None:
        """Empty, or from `to_bytes`. Raises DamagedIndex."""
        self._db = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
        try:
            if kept is not None:
                if not kept:
                    raise DamagedIndex
                self._db.deserialize(kept)
            self._db.execute("PRAGMA temp_store = MEMORY")  # else a large sort would spill plaintext into a file
            self._db.execute("PRAGMA secure_delete = ON")
            if kept is None:
                self._db.executescript(_SCHEMA)
            elif self._db.execute("PRAGMA user_version").fetchone() != (SCHEMA_VERSION,):
                raise DamagedIndex
        except sqlite3.Error:
            self.close()
            raise DamagedIndex from None
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "SearchIndex":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._db.close()

    def to_bytes(self) -> bytes:
        """The whole index. Words of what was removed are not in it: deleted rows are overwritten, and the full-text
        segments are merged, which drops the terms of deleted rows."""
        self._db.execute("INSERT INTO words (words) VALUES ('optimize')")
        return self._db.serialize()

    # -- keeping it up to date ------------------------------------------------------------------------
    def stamps(self) -> dict[str, bytes]:
        return dict(self._db.execute("SELECT key, stamp FROM doc"))

    @contextlib.contextmanager
    def changing(self) -> Iterator[None]:
        """One transaction around many `put` and `remove`: all or nothing."""
        self._db.execute("BEGIN")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            self._db.execute("ROLLBACK")
            raise

    def put_entry(self, entry: Entry) -> None:
        """Adds or replaces the row; its documents stay."""
        values = (
            *(cleaned(text) for text in (entry.title, entry.kind, entry.about)),
            entry.day or None,
            *(cleaned(text) for text in (entry.place, entry.author, entry.patient, entry.size)),
            entry.icon, entry.source, entry.added,
        )  # fmt: skip
        self._db.execute(
            "INSERT INTO entry (key, title, kind, about, day, place, author, patient, size, icon, source, added)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET title = excluded.title,"
            " kind = excluded.kind, about = excluded.about, day = excluded.day, place = excluded.place,"
            " author = excluded.author, patient = excluded.patient, size = excluded.size, icon = excluded.icon,"
            " source = excluded.source, added = excluded.added",
            (entry.key, *values),
        )

    def put(self, docs: Iterable[Doc]) -> set[str]:
        """Adds or replaces documents; the keys of the entries they belong or belonged to, to be settled. A document
        whose entry is not there is left out."""
        touched = set()
        [[pages]], [[page_bytes]] = self._db.execute("PRAGMA page_count"), self._db.execute("PRAGMA page_size")
        most = TEXT_CHARACTERS_MAX if pages * page_bytes < LARGE_BYTES else BEGINNING_CHARACTERS
        for doc in docs:
            touched |= self.remove([doc.key])
            row = self._db.execute("SELECT id FROM entry WHERE key = ?", (doc.entry,)).fetchone()
            if row is None:
                continue
            touched.add(doc.entry)
            number = self._db.execute(
                "INSERT INTO doc (key, entry, stamp, type, modality, source, format) VALUES (?, ?, ?, ?, ?, ?, ?)",
                (doc.key, row[0], doc.stamp, doc.type, doc.modality, doc.source, doc.format),
            ).lastrowid
            self._db.execute(
                "INSERT INTO words (rowid, title, about, text) VALUES (?, ?, ?, ?)",
                (number, cleaned(doc.title), cleaned(doc.about), cleaned(doc.text[:most])),
            )
        return touched

    def remove(self, keys: Iterable[str]) -> set[str]:
        """Takes documents out; the keys of the entries they belonged to, to be settled."""
        touched = set()
        for key in keys:
            for number, entry in self._db.execute(
                "SELECT doc.id, entry.key FROM doc JOIN entry ON entry.id = doc.entry WHERE doc.key = ?", (key,)
            ).fetchall():
                self._db.execute("DELETE FROM words WHERE rowid = ?", (number,))
                self._db.execute("DELETE FROM doc WHERE id = ?", (number,))
                touched.add(entry)
        return touched

    def settle(self, entries: Iterable[str]) -> None:
        """Counts anew what these entries stand for; those without a document go."""
        for key in entries:
            row = self._db.execute("SELECT id, substr(day, 1, 4) FROM entry WHERE key = ?", (key,)).fetchone()
            if row is None:
                continue
            number, year = row
            self._db.execute("DELETE FROM facet WHERE entry = ?", (number,))
            if self._db.execute("SELECT 1 FROM doc WHERE entry = ? LIMIT 1", (number,)).fetchone() is None:
                self._db.execute("DELETE FROM entry WHERE id = ?", (number,))
                continue
            self._db.execute("INSERT INTO facet VALUES ('year', ?, ?)", (year or NO_YEAR, number))
            for name in ("type", "modality", "source", "format"):
                self._db.execute(
                    f"INSERT INTO facet SELECT DISTINCT '{name}', {name}, ? FROM doc"
                    f" WHERE entry = ? AND {name} IS NOT NULL",
                    (number, number),
                )

    # -- asking -----------------------------------------------------------------------------------------
    def find(self, question: Question, most: int) -> Found:
        """What answers the question, the best first. Never raises for what somebody typed."""
        terms = terms_of(question.words)
        if question.words.strip() and not terms:
            return Found((), 0, {})
        ids = self._answering(terms, question.chosen)
        self._db.execute("CREATE TEMP TABLE IF NOT EXISTS hit (entry INTEGER PRIMARY KEY)")
        self._db.execute("DELETE FROM hit")
        self._db.executemany("INSERT INTO hit VALUES (?)", ((number,) for number in ids))
        hits = self._ranked(terms, ids, question.start, most) if terms else self._newest(question.start, most)
        return Found(tuple(hits), len(ids), self._counts())

    def _answering(self, terms: Sequence[str], chosen: Mapping[str, str]) -> list[int]:
        """Ids of the entries that have every word somewhere and every chosen facet. Each condition is asked alone and
        the sets are cut here: in one statement SQLite asked the full text once a row, 5.4 s instead of 20 ms."""
        sets = [
            self._ids("SELECT DISTINCT doc.entry FROM words JOIN doc ON doc.id = words.rowid WHERE words MATCH ?", term)
            for term in terms
        ]
        sets += [
            self._ids("SELECT entry FROM facet WHERE name = ? AND value = ?", name, value)
            for name, value in chosen.items() if name in FACETS
        ]  # fmt: skip
        return sorted(set.intersection(*sets) if sets else self._ids("SELECT id FROM entry"))

    def _ids(self, query: str, *values: str) -> set[int]:
        return {number for (number,) in self._db.execute(query, values)}

    def _ranked(self, terms: Sequence[str], ids: Iterable[int], start: int, most: int) -> list[Hit]:
        any_term = " OR ".join(terms)
        best: dict[int, tuple[float, int]] = {}  # entry: score of its best document (less is better), that document
        for score, doc, entry in self._db.execute(
            "SELECT bm25(words, 8, 4, 1), doc.id, doc.entry FROM words JOIN doc ON doc.id = words.rowid"
            " WHERE words MATCH ?",
            (any_term,),
        ):
            if entry not in best or score < best[entry][0]:
                best[entry] = score, doc
        order = heapq.nsmallest(start + most, ids, key=lambda entry: (best[entry][0], -entry))[start:]
        docs = {best[entry][1]: entry for entry in order}
        marked = {
            docs[number]: texts
            for number, *texts in self._db.execute(
                f"SELECT rowid, highlight(words, 0, ?1, ?2), snippet(words, 1, ?1, ?2, '{_ELLIPSIS}', 24),"
                f" snippet(words, 2, ?1, ?2, '{_ELLIPSIS}', 24) FROM words WHERE words MATCH ?3"
                f" AND rowid IN ({', '.join(map(str, docs))})",
                (_MARK, _END, any_term),
            )
        }  # fmt: skip
        rows = self._db.execute(f"SELECT id, {_COLUMNS} FROM entry WHERE id IN ({', '.join(map(str, order))})")
        entries = {number: _entry(row) for number, *row in rows}
        return [_hit(entries[number], marked.get(number, ("", "", ""))) for number in order]

    def _newest(self, start: int, most: int) -> list[Hit]:
        rows = self._db.execute(
            f"SELECT {_COLUMNS} FROM hit JOIN entry ON entry.id = hit.entry"
            " ORDER BY entry.day IS NULL, entry.day DESC, entry.added DESC, entry.id DESC LIMIT ? OFFSET ?",
            (most, start),
        ).fetchall()
        return [_hit(_entry(row), ("", "", "")) for row in rows]

    def _counts(self) -> dict[str, tuple[tuple[str, int], ...]]:
        found: dict[str, list[tuple[str, int]]] = {name: [] for name in FACETS}
        for name, value, count in self._db.execute(
            "SELECT facet.name, facet.value, count(*) FROM hit JOIN facet ON facet.entry = hit.entry"
            " GROUP BY 1, 2 ORDER BY 3 DESC, 2 DESC"
        ):
            found[name].append((value, count))
        return {name: tuple(counts) for name, counts in found.items()}

    # -- the timeline ------------------------------------------------------------------------------------
    def years(self) -> Years:
        rows = self._db.execute(
            f"SELECT substr(day, 1, 4), count(*) FROM entry WHERE {_OWN} GROUP BY 1 ORDER BY 1 DESC"
        ).fetchall()
        return Years(
            tuple((int(year), count) for year, count in rows if year is not None),
            sum(count for year, count in rows if year is None),
        )

    def by_day(self, *, before_year: int | None, start: int, most: int) -> tuple[list[Entry], int]:
        """Entries of a known day, the newest first, from the end of this year back; and how many there are of these."""
        last = f"{before_year:04}-12-31" if before_year is not None else "9999"
        [total] = self._db.execute(f"SELECT count(*) FROM entry WHERE day <= ? AND {_OWN}", (last,)).fetchone()
        rows = self._db.execute(
            f"SELECT {_COLUMNS} FROM entry WHERE day <= ? AND {_OWN} ORDER BY day DESC, place, id LIMIT ? OFFSET ?",
            (last, most, start),
        )
        return [_entry(row) for row in rows], total

    def without_day(self, *, start: int, most: int) -> tuple[list[Entry], int]:
        [total] = self._db.execute(f"SELECT count(*) FROM entry WHERE day IS NULL AND {_OWN}").fetchone()
        rows = self._db.execute(
            f"SELECT {_COLUMNS} FROM entry WHERE day IS NULL AND {_OWN} ORDER BY added DESC, id DESC LIMIT ? OFFSET ?",
            (most, start),
        )
        return [_entry(row) for row in rows], total


_OWN = "source <> 'shared'"  # somebody else's scans on one's own timeline would be taken for one's own
_COLUMNS = ", ".join(f"entry.{field.name}" for field in dataclasses.fields(Entry))


def _entry(row: Sequence[str | None]) -> Entry:
    return Entry(*(text or "" for text in row))


def _hit(entry: Entry, marked: Sequence[str]) -> Hit:
    """The title is marked where it is this entry's own; the excerpt is from the text, else from what else was found."""
    title, about, text = marked
    own = pieces(title) if _MARK in title and title.replace(_MARK, "").replace(_END, "") == entry.title else None
    other = about if _MARK in about else title  # "own" shows already why it was found
    excerpt = text if _MARK in text else other if own is None and _MARK in other else ""
    return Hit(entry, own or ((entry.title, False),), pieces(excerpt) if excerpt else ())


def pieces(marked: str) -> Marked:
    """A text with marks as (piece, was it looked for)."""
    found = []
    for at, part in enumerate(re.split(f"[{_MARK}{_END}]", marked)):
        if part:
            found.append((part, at % 2 == 1))
    return tuple(found)


def terms_of(words: str) -> list[str]:
    """What somebody typed as FTS5 phrases, each quoted, so that nothing in it is an operator: "in quotes" stays
    together, every other word also finds what begins with it. Words without a letter or digit are left out."""
    kept = cleaned(words)[:WORDS_CHARACTERS_MAX].replace("“", '"').replace("”", '"').replace("„", '"')
    terms = []
    for quoted, bare in re.findall(r'"([^"]*)"|([^\s"]+)', kept):
        text = quoted or bare
        if any(_is_token(character) for character in text):
            terms.append(f'"{text}"' + ("" if quoted else "*"))
    return terms[:TERMS_MAX]


def _is_token(character: str) -> bool:
    """Whether unicode61 takes it for part of a word."""
    return unicodedata.category(character)[0] in "LN" or unicodedata.category(character) == "Co"


def cleaned(text: str) -> str:
    """Without control characters, lone surrogates and our marks: SQLite ends a text at NUL and refuses surrogates."""
    return _UNSEARCHED.sub(" ", text)
