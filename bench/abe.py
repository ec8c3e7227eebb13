"""Attribute-based sharing: ours on blst against the same two schemes on py_arkworks_bls12381 (bench/abe_peer.py).

Milliseconds of CPU, medians of interleaved rounds of the same run: keys, encapsulating, opening with and without the
re-encryption check, for an AND of n leaves over five authorities. Each round has attributes of its own, so that no
cache helps. Then what a revocation costs: 10,000 keys wrapped anew.

charm's RW15 and FABEO are no peer here: its source package (charm-crypto-framework 0.62) does not build without
pbc/pbc.h, which neither Debian 12 nor PyPI has.
"""

import importlib.metadata
import secrets
import statistics
import time
import uuid
from collections.abc import Callable
from unittest import mock

from cryptography.hazmat.primitives import keywrap

from bench import abe_peer
from myphr.crypto import envelope
from myphr.crypto.abe import encapsulation, key_policy, multi_authority, policy
from tests.vectors.abe_second import policy as second_policy

SIZES = (2, 10, 50, 100)  # leaves, or labels
ROUNDS = {2: 9, 10: 7, 50: 3, 100: 3}
AUTHORITIES = 5
TARGET_MS, TARGET_LEAVES = 25.0, 10
WRAPPED_KEYS, WRAP_ROUNDS = 10_000, 3
OPERATIONS = ("keygen", "encrypt", "decrypt", "decrypt + check")
BINDING = b"bench"

Timed = dict[tuple[str, str, str], list[float]]


class Work:
    """One round's attributes, and both sides' way of doing each operation on them. `left` holds what is made."""

    def __init__(self, leaves: int, epoch: int) -> None:
        names = [str(uuid.uuid4()) for _ in range(AUTHORITIES)]
        attributes = [policy.Attribute(names[i % AUTHORITIES], f"a{i}", "", epoch) for i in range(leaves)]
        self.gid, self.policy = str(uuid.uuid4()), policy.all_of(*attributes)
        self.attributes = attributes
        self.secrets = {name: multi_authority.new_authority(name) for name in names}
        self.publics = {name: secret.public for name, secret in self.secrets.items()}
        self.patient = key_policy.new_patient()
        theirs = second_policy.Gate(leaves, tuple(
            second_policy.read_attribute(second_policy.Reader(attribute.to_bytes())) for attribute in attributes))
        self.peer_rw15 = abe_peer.Rw15(theirs, uuid.UUID(self.gid).bytes)
        self.peer_kp = abe_peer.Kp(theirs)
        # An authority's tables are made with its first header; neither side is charged for them.
        first = policy.all_of(*attributes[:AUTHORITIES])
        multi_authority.encapsulate(first, self.publics, binding=BINDING)
        key_policy.encapsulate(attributes[:1], self.patient.public, binding=BINDING)

    def run(self, times: Timed) -> tuple[int, int, int, int]:
        """Adds one time per scheme, operation and side. (header, keys) in bytes, of RW15 and of FABEO-KP."""

        def timed(scheme: str, operation: str, ours: Callable[[], object], peer: Callable[[], object]) -> list[object]:
            results = []
            for side, work in (("ours", ours), ("peer", peer)):
                start = time.process_time()
                results.append(work())
                times.setdefault((scheme, operation, side), []).append((time.process_time() - start) * 1000)
            return results

        seed = secrets.token_bytes(32)
        keys, peer_keys = timed(
            "RW15", OPERATIONS[0],
            lambda: [multi_authority.issue(self.secrets[one.authority], self.gid, one) for one in self.attributes],
            self.peer_rw15.keygen)
        sealed, peer_sealed = timed(
            "RW15", OPERATIONS[1],
            lambda: multi_authority.encapsulate(self.policy, self.publics, binding=BINDING, seed=seed),
            lambda: self.peer_rw15.encrypt(seed))
        secret, header = sealed  # type: ignore[misc]
        opened, _ = timed(
            "RW15", OPERATIONS[2], lambda: self.open_unchecked(header, keys),
            lambda: self.peer_rw15.decrypt(peer_sealed, peer_keys, False))
        assert opened == seed
        opened, peer_opened = timed(
            "RW15", OPERATIONS[3],
            lambda: multi_authority.decapsulate(header, keys, self.publics, binding=BINDING),  # type: ignore[arg-type]
            lambda: self.peer_rw15.decrypt(peer_sealed, peer_keys, True))
        assert (opened, peer_opened) == (secret, peer_sealed[-1])  # type: ignore[index]
        sizes = [len(header), sum(len(key.to_bytes()) for key in keys)]  # type: ignore[attr-defined]

        key, peer_key = timed("FABEO-KP", OPERATIONS[0], lambda: key_policy.issue(self.patient, self.policy),
                              self.peer_kp.keygen)
        sealed, peer_sealed = timed(
            "FABEO-KP", OPERATIONS[1],
            lambda: key_policy.encapsulate(self.attributes, self.patient.public, binding=BINDING, seed=seed),
            lambda: self.peer_kp.encrypt(seed))
        secret, header = sealed  # type: ignore[misc]
        opened, _ = timed("FABEO-KP", OPERATIONS[2], lambda: self.open_kp_unchecked(header, key),
                          lambda: self.peer_kp.decrypt(peer_sealed, peer_key, False))
        assert opened == seed
        opened, peer_opened = timed(
            "FABEO-KP", OPERATIONS[3],
            lambda: key_policy.decapsulate(header, key, self.patient.public, binding=BINDING),  # type: ignore[arg-type]
            lambda: self.peer_kp.decrypt(peer_sealed, peer_key, True))
        assert (opened, peer_opened) == (secret, peer_sealed[-1])  # type: ignore[index]
        return (*sizes, len(header), len(key.to_bytes()))  # type: ignore[attr-defined, return-value]

    def open_unchecked(self, header: bytes, keys: object) -> bytes:
        rows, divisor = policy_rows(self.policy, self.attributes)
        by_attribute = {key.attribute: key for key in keys}  # type: ignore[attr-defined]
        leaves = list(policy.leaves_of(self.policy))
        picks = [multi_authority._Pick(row, factor, by_attribute[leaves[row]], self.gid) for row, factor in rows]
        return multi_authority._uncovered(header, picks, self.publics, binding=BINDING, divisor=divisor)

    def open_kp_unchecked(self, header: bytes, key: object) -> bytes:
        rows, divisor = policy_rows(self.policy, self.attributes)
        leaves = list(policy.leaves_of(self.policy))
        picks = [key_policy._Pick(row, factor, key, leaves[row]) for row, factor in rows]  # type: ignore[arg-type]
        return key_policy._uncovered(header, picks, self.patient.public, binding=BINDING, divisor=divisor)


def policy_rows(tree: policy.Policy, held: list[policy.Attribute]) -> tuple[list[tuple[int, int]], int]:
    chosen = multi_authority.choose(tree, held)
    assert chosen is not None
    return chosen


def schemes() -> None:
    limits = {"LEAVES_MAX": policy.LEAVES_MAX, "LABELS_MAX": encapsulation.LABELS_MAX}
    version = importlib.metadata.version("py_arkworks_bls12381")
    print(f"ms of CPU, ours | peer (ratio); peer: the same schemes on py_arkworks_bls12381 {version},")
    print("  whose elements stay in memory: it can neither read nor write GT, and is spared what reading costs us")
    print("charm (RW15, FABEO): not measured, its package does not build without PBC, which is in no package here")
    for size in SIZES:
        beyond = size > min(limits.values())
        with (  # a measure beyond the product's limit raises it for the time of the measure
            mock.patch.object(policy, "LEAVES_MAX", max(size, policy.LEAVES_MAX)),
            mock.patch.object(encapsulation, "LABELS_MAX", max(size, encapsulation.LABELS_MAX)),
            mock.patch.object(key_policy, "LABELS_MAX", max(size, key_policy.LABELS_MAX)),
        ):
            times: Timed = {}
            Work(min(size, 10), 0).run({})  # warm: libraries, code paths, the generator's tables
            for number in range(ROUNDS[size]):
                rw15_header, rw15_keys, kp_header, kp_key = Work(size, number + 1).run(times)
        print(f"n = {size}" + (f" (above the product's limit of {min(limits.values())})" if beyond else ""))
        for scheme, header, keys in (("RW15", rw15_header, rw15_keys), ("FABEO-KP", kp_header, kp_key)):
            shown = []
            for operation in OPERATIONS:
                ours, peer = (statistics.median(times[scheme, operation, side]) for side in ("ours", "peer"))
                shown.append(f"{operation} {ours:.1f} | {peer:.1f} ({peer / ours:.1f}x)")
            print(f"  {scheme:8}  {'   '.join(shown)}   header {header:,} B, keys {keys:,} B", flush=True)
        if size == TARGET_LEAVES:
            checked = statistics.median(times["RW15", OPERATIONS[3], "ours"])
            print(f"  opening {TARGET_LEAVES} leaves with the check: {checked:.1f} ms, target at most {TARGET_MS:.0f}: "
                  f"{'met' if checked <= TARGET_MS else 'MISSED'}")


def wrapped_keys() -> None:
    """10,000 keys from one wrapping key to another, as a revocation does it; the peer: AES key wrap (RFC 3394), which
    binds no context."""
    old, new = secrets.token_bytes(32), secrets.token_bytes(32)
    contexts = [envelope.context_for("bench", str(uuid.uuid4())) for _ in range(WRAPPED_KEYS)]
    keys = [secrets.token_bytes(32) for _ in contexts]
    ours = [envelope.wrap(old, key, context=context) for key, context in zip(keys, contexts, strict=True)]
    theirs = [keywrap.aes_key_wrap(old, key) for key in keys]
    times: dict[str, list[float]] = {"ours": [], "peer": []}
    for _ in range(WRAP_ROUNDS):
        start = time.process_time()
        for wrapped, context in zip(ours, contexts, strict=True):
            envelope.wrap(new, envelope.unwrap(old, wrapped, context=context), context=context)
        times["ours"].append((time.process_time() - start) * 1000)
        start = time.process_time()
        for wrapped in theirs:
            keywrap.aes_key_wrap(new, keywrap.aes_key_unwrap(old, wrapped))
        times["peer"].append((time.process_time() - start) * 1000)
    mine, peer = (statistics.median(times[side]) for side in ("ours", "peer"))
    print(f"{WRAPPED_KEYS:,} keys wrapped anew (opened under one key, wrapped under another): {mine:.0f} ms, "
          f"AES key wrap of the same library without context or commitment {peer:.0f} ms ({peer / mine:.2f}x)")


def main() -> None:
    """Prints all figures."""
    schemes()
    wrapped_keys()


if __name__ == "__main__":
    main()
