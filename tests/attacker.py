"""Somebody who took things and tries to open files of the record with them; no check of a policy stands in their way.

Reads copies of files, raw SQL, a Redis dump; of the product only the ciphers (`myphr.crypto`), so that a fault of the
services that share and open cannot hide here: contexts are written out anew, after docs/formats/compartment.md.
`Loot` is what they hold, `a | b` both together; `break_in(loot)` tries everything it can think of with it. A further
kind of share is one more method of `_Attempt`, called by `run`, that adds to `header_keys` and notes in `haul.headers`.
"""

import base64
import contextlib
import dataclasses
import hashlib
import itertools
import json
import sqlite3
import struct
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from myphr.crypto import container, envelope
from myphr.crypto.abe import curve, encapsulation, key_policy, multi_authority, policy, shares
from myphr.crypto.abe.key_policy import KpKey, PatientPublic
from myphr.crypto.abe.multi_authority import AttributeKey, AuthorityPublic, AuthoritySecret
from myphr.errors import AbeMalformed, ContainerError, EnvelopeError

NOBODY = "0a5e0000-0000-4000-8000-000000000000"  # a GID that the attacker made up
NOTHING = bytes(32)


@dataclasses.dataclass(frozen=True)
class Loot:
    """What an attacker holds. `rings`: private HPKE keys (of people, of the worker); `secrets`: 32 bytes of unknown
    use; `halves`: of the vault; `folders`: files to search for keys that lie in the open. `publics`: what everybody
    may know of authorities."""

    databases: tuple[Path, ...] = ()
    stores: tuple[Path, ...] = ()
    folders: tuple[Path, ...] = ()
    redis: tuple[bytes, ...] = ()
    rings: frozenset[bytes] = frozenset()
    secrets: frozenset[bytes] = frozenset()
    halves: frozenset[bytes] = frozenset()
    authorities: tuple[AuthoritySecret, ...] = ()
    attribute_keys: tuple[AttributeKey, ...] = ()
    publics: tuple[AuthorityPublic, ...] = ()
    patients: tuple[PatientPublic, ...] = ()  # what everybody may know of those who share by kind

    def __or__(self, other: "Loot") -> "Loot":
        both = {}
        for field in dataclasses.fields(self):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            both[field.name] = mine | theirs if isinstance(mine, frozenset) else mine + theirs
        return Loot(**both)


@dataclasses.dataclass
class Haul:
    """What came out: `files` by the id in their container, `words` (title and words of shares), `headers`: which
    (share, epoch) gave its header's key, which is worth something only with the vault's half."""

    files: dict[str, bytes] = dataclasses.field(default_factory=dict)
    words: set[str] = dataclasses.field(default_factory=set)
    headers: set[tuple[str, int]] = dataclasses.field(default_factory=set)

    @property
    def is_empty(self) -> bool:
        return not (self.files or self.words or self.headers)


def break_in(loot: Loot, *, search: bool = False) -> Haul:
    """Everything this loot opens. With `search` every 32 bytes of all that was taken are tried as a key, too."""
    return _Attempt(loot, search).run()


def attribute_keys_in(opened: bytes) -> tuple[AttributeKey, ...]:
    """What the keyholder's envelope of attribute keys holds: `u16 count`, each `u16 length || key`."""
    count, at, found = struct.unpack(">H", opened[:2])[0], 2, []
    for _ in range(count):
        size = struct.unpack(">H", opened[at : at + 2])[0]
        found.append(AttributeKey.from_bytes(opened[at + 2 : at + 2 + size]))
        at += 2 + size
    return tuple(found)


class _Attempt:
    def __init__(self, loot: Loot, search: bool) -> None:
        self.loot, self.search, self.haul = loot, search, Haul()
        self._read: dict[str, list[dict[str, Any]]] = {}
        self.rings = set(loot.rings)
        self.deks: set[bytes] = set(loot.secrets)
        self.cks: set[bytes] = set(loot.secrets)
        self.halves: set[bytes] = set(loot.halves) | set(loot.secrets)
        self.header_keys: set[bytes] = set(loot.secrets)
        self.keys = list(loot.attribute_keys)
        self.label_keys: list[KpKey] = []
        self.containers = list(self._containers())

    def run(self) -> Haul:
        if self.search:
            self._keys_in_the_open()
        self._envelopes_to_known_keys()
        self._policy_headers()
        self._label_headers()
        self._compartment_keys()
        self._wraps()
        for raw in self.containers:
            head = container.Header.parse(raw[: container.HEADER_BYTES])
            for dek in self.deks:
                with contextlib.suppress(ContainerError):
                    plain = container.open_whole(dek, head.record_id, head.file_id, raw)
                    self.haul.files[str(uuid.UUID(bytes=head.file_id))] = plain
        return self.haul

    # -- reading what was taken
    def _rows(self, table: str) -> list[dict[str, Any]]:
        """The rows of a table in all copies of the database, each row once."""
        if table not in self._read:
            found: dict[tuple[object, ...], dict[str, Any]] = {}
            for path in self.loot.databases:
                with contextlib.closing(sqlite3.connect(path)) as db:
                    db.row_factory = sqlite3.Row
                    for row in db.execute(f"SELECT * FROM {table}"):
                        found[tuple(row)] = dict(row)
            self._read[table] = list(found.values())
        return self._read[table]

    def _containers(self) -> Iterator[bytes]:
        for store in self.loot.stores:
            for path in sorted(store.rglob("*")):
                if path.is_file() and (raw := path.read_bytes()).startswith(container.MAGIC):
                    yield raw

    def _keys_in_the_open(self) -> None:
        """Every 32 bytes that look random, from every byte on: as a file's key, a share's, a half, a header's key."""
        beside = [path.parent for path in self.loot.databases]  # with the journal, which has the newest rows
        files = [one for place in (*beside, *self.loot.stores, *self.loot.folders) for one in sorted(place.rglob("*"))]
        seen: set[bytes] = set()
        for content in (*(path.read_bytes() for path in files if path.is_file()), *self.loot.redis):
            for at in range(len(content) - 31):
                window = content[at : at + 32]
                if len(set(window)) >= 24:  # 32 random bytes have fewer once in a million
                    seen.add(window)
        self.deks |= seen
        self.cks |= seen

    # -- step by step
    def _envelopes_to_known_keys(self) -> None:
        """What is sealed to people (or to the worker) whose private keys were taken."""
        for ring in self.rings:
            opener = envelope.Opener(ring)
            for row in self._rows("compartment_reader"):
                place = (row["compartment_id"], str(row["epoch"]), row["gid"])
                context = envelope.context_for("compartment-reader", *place)
                with contextlib.suppress(EnvelopeError):
                    opened = opener.open(row["sealed"], context=context)
                    if len(opened) == 32:
                        self.header_keys.add(opened)
                        self.haul.headers.add((row["compartment_id"], row["epoch"]))
                    else:
                        self.keys.append(AttributeKey.from_bytes(opened))
            for row in self._rows("item"):
                with contextlib.suppress(EnvelopeError):
                    context = envelope.context_for("item-dek", row["id"])
                    self.deks.add(opener.open(row["sealed_dek"], context=context))
            for row in self._rows("rewrap_task"):
                with contextlib.suppress(EnvelopeError):
                    context = envelope.context_for("rewrap", row["id"])
                    opened = opener.open(row["keys_for_worker"] or b"", context=context)
                    self.cks |= {opened[at + 4 : at + 36] for at in range(0, len(opened), 36)}
                with contextlib.suppress(EnvelopeError):
                    context = envelope.context_for("rewrap-classes", row["id"])
                    opened = opener.open(row["keys_for_worker"] or b"", context=context)
                    self.cks |= {opened[at + 20 : at + 52] for at in range(0, len(opened), 52)}
            self._delegations(opener)

    def _delegations(self, opener: envelope.Opener) -> None:
        """Keys over labels that were sealed to somebody."""
        gid_of = {row["id"]: row["gid"] for row in self._rows("delegation")}
        for row in self._rows("delegation_key"):
            place = (row["delegation_id"], str(row["epoch"]), gid_of.get(row["delegation_id"], NOBODY))
            with contextlib.suppress(EnvelopeError):
                opened = json.loads(opener.open(row["sealed"], context=envelope.context_for("delegation", *place)))
                self.label_keys.append(KpKey.from_bytes(base64.b64decode(opened["key"])))

    def _policy_headers(self) -> None:
        """Headers of attributes, with every key there is forced on every row, whosoever it is."""
        publics = {one.authority: one for one in self.loot.publics}
        for row in self._rows("compartment_key"):
            owner = next(one["owner_gid"] for one in self._rows("compartment") if one["id"] == row["compartment_id"])
            bound = envelope.context_for("compartment", row["compartment_id"], owner, str(row["epoch"]))
            try:
                parsed = multi_authority._parse(row["header"])
            except AbeMalformed:  # of another kind
                continue
            context = multi_authority._context(parsed.start, multi_authority._publics_of(parsed.policy, publics), bound)
            for picks, divisor in self._ways(parsed.policy):
                element = multi_authority._recovered(parsed, picks, divisor)
                seed = encapsulation.cover(parsed.covered, multi_authority._TAG_COVER, context, element)
                self.header_keys.add(encapsulation.derive_key(seed, multi_authority._TAG_KEY, row["header"]))
                drawn = shares.Draws(seed, multi_authority._TAG_ENCAPSULATE, context).draw()
                if curve.generator_power(drawn) == element:  # the right seed; a wrong one is tried as well
                    self.haul.headers.add((row["compartment_id"], row["epoch"]))
                    break

    def _label_headers(self) -> None:
        """Headers of labels, with every key there is forced on them: rows that would be right, each alone, all of them;
        a label that the header lacks is replaced by each that it has."""
        owners = {row["id"]: row["owner_gid"] for row in self._rows("compartment")}
        classes = {row["id"]: owners[row["compartment_id"]] for row in self._rows("label_class")}
        for row in self._rows("label_class_key"):
            class_id, owner = row["label_class_id"], classes.get(row["label_class_id"])
            if owner is None:
                continue
            parsed = key_policy._parse(row["header"])
            bound = envelope.context_for("compartment", class_id, owner, str(row["epoch"]))
            for patient in self.loot.patients:
                context = key_policy._context(parsed.start, patient, bound)
                for picks, divisor in self._label_ways(parsed.labels):
                    element = key_policy._recovered(parsed, picks, divisor)
                    seed = encapsulation.cover(parsed.covered, key_policy._TAG_COVER, context, element)
                    self.header_keys.add(encapsulation.derive_key(seed, key_policy._TAG_KEY, row["header"]))
                    drawn = shares.Draws(seed, key_policy._TAG_ENCAPSULATE, context).draw()
                    if patient.a.power(drawn) == element:
                        self.haul.headers.add((class_id, row["epoch"]))
                        break

    def _label_ways(self, labels: tuple[policy.Attribute, ...]) -> Iterator[tuple[list[key_policy._Pick], int]]:
        for key in self.label_keys:
            leaves = list(policy.leaves_of(key.policy))
            right = [shares.choose(key.policy, known) for known in (frozenset(labels), frozenset(leaves))]
            patterns = [one for one in right if one is not None]
            patterns += [([(row, 1)], 1) for row in range(len(leaves))]
            patterns.append(([(row, 1) for row in range(len(leaves))], 1))
            for rows, divisor in patterns:
                lacking = any(leaves[row] not in labels for row, _ in rows)
                for stand_in in labels if lacking else labels[:1]:
                    picks = [key_policy._Pick(row, factor, key, leaves[row] if leaves[row] in labels else stand_in)
                             for row, factor in rows]  # fmt: skip
                    yield picks, divisor
        yield from self._pooled(labels)

    def _pooled(self, labels: tuple[policy.Attribute, ...]) -> Iterator[tuple[list[key_policy._Pick], int]]:
        """Rows of two keys together, each met by the label it names or by the first there is."""
        for one, other in itertools.permutations(self.label_keys, 2):
            picks = [key_policy._Pick(row, 1, key, leaf if leaf in labels else labels[0])
                     for key in (one, other) for row, leaf in enumerate(policy.leaves_of(key.policy))]  # fmt: skip
            yield picks, 1
            yield [pick for pick in picks if pick.label in policy.leaves_of(pick.key.policy)] or picks, 1

    def _ways(self, tree: policy.Policy) -> Iterator[tuple[list[multi_authority._Pick], int]]:
        """All rows with the factors that would be right, and each row alone; every key relabelled to fit its row; each
        row's GID that of its key, or one of them for all."""
        leaves = list(policy.leaves_of(tree))
        gids = sorted({row["gid"] for row in self._rows("identity")} | {key.gid for key in self.keys} | {NOBODY})
        keys = [*self.keys, *self._made_by_taken_authorities(leaves, gids)]
        options = [self._for_row(leaf, keys) for leaf in leaves]
        whole = shares.choose(tree, frozenset(leaves))
        assert whole is not None
        alone = [([(row, factor)], 1) for row, right in whole[0] for factor in {right, 1}]
        patterns = [whole, *alone]
        for rows, divisor in patterns:
            for chosen in itertools.product(*(options[row] for row, _ in rows)):
                own = tuple(key.gid for key in chosen)
                for names in {own, *((gid,) * len(own) for gid in own)}:
                    picks = [multi_authority._Pick(row, factor, key, name)
                             for (row, factor), key, name in zip(rows, chosen, names, strict=True)]  # fmt: skip
                    yield picks, divisor

    def _for_row(self, leaf: policy.Attribute, keys: Iterable[AttributeKey]) -> list[AttributeKey]:
        """Keys worth trying on a row: of this very attribute, or one of the same name from elsewhere or before."""
        near = [key for key in keys if (key.attribute.name, key.attribute.value) == (leaf.name, leaf.value)
                or key.attribute.authority == leaf.authority]  # fmt: skip
        return [dataclasses.replace(key, attribute=leaf) for key in near]

    def _made_by_taken_authorities(self, leaves: list[policy.Attribute], gids: list[str]) -> list[AttributeKey]:
        """For everybody: what a taken authority can say, and what it cannot say but tries to, in the others' name."""
        made = []
        for secret in self.loot.authorities:
            for leaf in leaves:
                posing = dataclasses.replace(secret, authority=leaf.authority)
                # A key for one person differs from one for the next by H(GID) alone: all for its own attributes, the
                # made up person's and the first's for those of others.
                some = gids if leaf.authority == secret.authority else [gids[0], NOBODY]
                made += [multi_authority.issue(posing, gid, leaf) for gid in some]
        return made

    def _compartment_keys(self) -> None:
        """A share's key out of a header's key and a half, and out of either alone, should one be enough."""
        for row in (*self._rows("compartment_key"), *self._rows("label_class_key")):
            digest = hashlib.sha256(row["header"]).digest()
            both = [key + half for key in self.header_keys for half in self.halves]
            alone = [*self.header_keys, *self.halves]
            alone += [part for one in alone for part in (one + NOTHING, NOTHING + one, one + one)]
            for secret in (*both, *alone, NOTHING + NOTHING):
                self.cks.add(envelope.derive(secret, "myphr/compartment-key/1", digest))

    def _wraps(self) -> None:
        for ck in self.cks:
            for row in self._rows("compartment_key"):
                context = envelope.context_for("compartment-words", row["compartment_id"], str(row["epoch"]))
                with contextlib.suppress(EnvelopeError):
                    self.haul.words.add(envelope.unwrap(ck, row["wrapped_words"], context=context).decode())
            for row in self._rows("item_wrap"):
                place = row["label_class_id"] or row["compartment_id"]
                context = envelope.context_for("item-wrap", place, row["item_id"], str(row["epoch"]))
                with contextlib.suppress(EnvelopeError):
                    self.deks.add(envelope.unwrap(ck, row["wrapped_dek"], context=context))
