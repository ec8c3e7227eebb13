"""Attacks on attribute-based sharing that pass by the local check of the policy: a fault in the sharing itself must not
hide behind it, as it did for years in another library.

Each attack asks for the seed that a header covers, which comes before the re-encryption check (`_uncovered`), and has a
control: the same way in opens for whom it should, and, where an attack is known to work on a faulty scheme, on that
very fault.
"""

import dataclasses
import itertools
import math
import uuid
from collections.abc import Iterator

import pytest

from myphr.crypto.abe import curve, encapsulation, key_policy, multi_authority, policy, shares
from myphr.crypto.abe.curve import G1, G2, GT, R
from myphr.crypto.abe.multi_authority import ROW_BYTES, _Pick
from myphr.errors import AbeError, AbeMalformed, AbeNotSatisfied, PolicyError
from tests.vectors.abe_second import policy as second_policy
from tests.vectors.abe_second import schemes as second_schemes

HOSPITAL, PATIENT, REGISTRAR = (str(uuid.UUID(int=0xA0 + number, version=4)) for number in range(3))
ALIASES = {"hospital": HOSPITAL, "patient": PATIENT, "registrar": REGISTRAR}
ANN, BOB = (str(uuid.UUID(int=0xB0 + number, version=4)) for number in range(2))
SECRETS = {name: multi_authority.new_authority(name, seed=bytes([number]) * 32)
           for number, name in enumerate(ALIASES.values(), 1)}
PUBLICS = {name: secret.public for name, secret in SECRETS.items()}
SEED, BINDING = b"\x5e" * 32, b"item 17, epoch 3"


def policy_of(text, epoch=3):
    return policy.parse(text, ALIASES, epoch)


def attribute(text, epoch=3):
    return policy_of(text, epoch)


def key_of(gid, text, epoch=3):
    return multi_authority.issue(SECRETS[attribute(text).authority], gid, attribute(text, epoch))


def sealed(text, binding=BINDING):
    return multi_authority.encapsulate(policy_of(text), PUBLICS, binding=binding, seed=SEED)


def uncovered(header, picks, divisor=1, binding=BINDING):
    return multi_authority._uncovered(header, picks, PUBLICS, binding=binding, divisor=divisor)


def matrix_of(tree):
    """Rows of the share matrix by the second implementation, so that an attack does not lean on what it attacks."""
    return [row for _, row in second_schemes.share_matrix(second_policy.decode(policy.canonical(tree)))]


def combination(rows) -> list[int] | None:
    """c with sum c[x] * rows[x] = (1, 0, 0, ...) mod R, or None: elimination over the transposed system."""
    width = len(rows)
    system = [[row[column] % R for row in rows] + [int(column == 0)] for column in range(len(rows[0]))]
    pivots = []
    for column in range(width):
        found = next((line for line in range(len(pivots), len(system)) if system[line][column]), None)
        if found is None:
            continue
        here = len(pivots)
        system[here], system[found] = system[found], system[here]
        inverse = pow(system[here][column], -1, R)
        system[here] = [value * inverse % R for value in system[here]]
        for line in range(len(system)):
            if line != here and (factor := system[line][column]):
                system[line] = [(a - factor * b) % R for a, b in zip(system[line], system[here], strict=True)]
        pivots.append(column)
    if any(line[-1] and not any(line[:-1]) for line in system):
        return None
    out = [0] * width
    for line, column in enumerate(pivots):
        out[column] = system[line][-1]
    return out


def of_one_and(count):
    """The combination of the shares at 1 ... count of one AND: count over i, with alternating signs."""
    return [math.comb(count, point) * (-1) ** (point - 1) for point in range(1, count + 1)]


def exponents(tree, rows) -> Iterator[list[int]]:
    """What an attacker would raise these rows to: a combination that gives the secret, if the rows have one; what these
    rows would be raised to among all rows; the combination of the same number of leaves under one AND; and ones."""
    matrix = matrix_of(tree)
    tried = []
    whole = combination(matrix)
    for one in (combination([matrix[row] for row in rows]), whole and [whole[row] for row in rows],
                of_one_and(len(rows)), [1] * len(rows)):
        if one is not None and one not in tried:
            tried.append(one)
            yield one


def ways(header, text, keys):
    """Everything the keys of several people may be tried on: every subset of rows, every key for a row's attribute,
    each row's GID being that of the key or one for all, and the exponents above."""
    tree = policy_of(text)
    leaves = list(policy.leaves_of(tree))
    for size in range(1, len(leaves) + 1):
        for rows in itertools.combinations(range(len(leaves)), size):
            holders = [[key for key in keys if key.attribute == leaves[row]] for row in rows]
            for chosen in itertools.product(*holders):
                own = tuple(key.gid for key in chosen)
                for gids in {own, *((gid,) * size for gid in own)}:
                    for factors in exponents(tree, rows):
                        yield [_Pick(*pick) for pick in zip(rows, factors, chosen, gids, strict=True)]


def opens(header, text, keys):
    """Whether any of these ways uncovers the seed, and how many there were."""
    answers = [uncovered(header, picks) == SEED for picks in ways(header, text, keys)]
    return any(answers), len(answers)


# ------------------------------------------------------------------------------------------ pooled keys (RW15)
@pytest.mark.parametrize(("text", "of_ann", "of_bob", "control"), [
    ("role@hospital AND consent@patient", ["role@hospital"], ["consent@patient"], ["role@hospital", "consent@patient"]),
    ("role@hospital AND role:x@hospital", ["role@hospital"], ["role:x@hospital"], ["role@hospital", "role:x@hospital"]),
    ("2 of (role@hospital, consent@patient, emergency@registrar)", ["role@hospital"], ["consent@patient"],
     ["consent@patient", "emergency@registrar"]),
    ("3 of (role@hospital, consent@patient, emergency@registrar)", ["role@hospital", "consent@patient"],
     ["emergency@registrar", "consent@patient"], ["role@hospital", "consent@patient", "emergency@registrar"]),
    ("(role@hospital AND consent@patient) OR (role@hospital AND emergency@registrar)", ["role@hospital"],
     ["consent@patient", "emergency@registrar"], ["role@hospital", "emergency@registrar"]),
])
def test_two_people_who_pool_their_keys_open_nothing_with_any_rows(text, of_ann, of_bob, control):
    _, header = sealed(text)
    pooled = [*(key_of(ANN, name) for name in of_ann), *(key_of(BOB, name) for name in of_bob)]
    opened, tried = opens(header, text, pooled)
    assert not opened and tried >= 4
    assert opens(header, text, [key_of(ANN, name) for name in control])[0]


def test_without_shares_of_zero_the_same_pool_would_open(monkeypatch):
    """The control of the test above: it would see a scheme whose rows are not tied to one GID."""
    right = multi_authority.share
    monkeypatch.setattr(multi_authority, "share", lambda tree, value, draws:
                        right(tree, value, draws) if value else [0] * policy.leaf_count(tree))
    text = "role@hospital AND consent@patient"
    _, header = sealed(text)
    assert opens(header, text, [key_of(ANN, "role@hospital"), key_of(BOB, "consent@patient")])[0]


def test_keys_of_two_people_are_refused_before_any_arithmetic_too():
    _, header = sealed("role@hospital AND consent@patient")
    pooled = [key_of(ANN, "role@hospital"), key_of(BOB, "consent@patient")]
    with pytest.raises(AbeError):
        multi_authority.decapsulate(header, pooled, PUBLICS, binding=BINDING)


def test_a_key_under_another_name_or_for_another_attribute_opens_nothing():
    text = "role@hospital AND consent@patient"
    key, header = sealed(text)
    role, consent = key_of(ANN, "role@hospital"), key_of(ANN, "consent@patient")
    assert multi_authority.decapsulate(header, [role, consent], PUBLICS, binding=BINDING) == key
    for forged in (
        dataclasses.replace(key_of(BOB, "consent@patient"), gid=ANN),
        dataclasses.replace(key_of(ANN, "consent:other@patient"), attribute=consent.attribute),
        dataclasses.replace(role, attribute=consent.attribute),
    ):
        assert not opens(header, text, [role, forged])[0]
        with pytest.raises(AbeError):
            multi_authority.decapsulate(header, [role, forged], PUBLICS, binding=BINDING)


# --------------------------------------------------------------------------------- a GID equal to an attribute
def same_name_attack(header, keys) -> bytes:
    """The seed out of C1 e(K, C2) e(C4, Y) e(C4, T) per row, for two people each of whom is called as what they hold:
    if H(GID) = F(attribute), C4 raised to y takes the GID's part away and no share of zero is left."""
    parsed = multi_authority._parse(header)
    product = GT()
    for row, (factor, key) in enumerate(zip(of_one_and(2), keys, strict=True)):
        c1, c2, _, c4 = parsed.row(row)
        part = c1 * curve.pairing_product([
            (key.k, c2), (c4, PUBLICS[key.attribute.authority].y), (c4, key.t)])
        product = product * part.power(factor % R)
    context = multi_authority._context(
        parsed.start, multi_authority._publics_of(parsed.policy, PUBLICS), BINDING)
    return encapsulation.cover(parsed.covered, multi_authority._TAG_COVER, context, product)


def test_two_people_called_as_what_they_hold_open_nothing():
    _, header = sealed("role@hospital AND consent@patient")
    assert same_name_attack(header, [key_of(ANN, "role@hospital"), key_of(BOB, "consent@patient")]) != SEED


def test_with_one_hash_for_names_and_attributes_the_same_two_would_open(monkeypatch):
    called = {ANN: attribute("role@hospital"), BOB: attribute("consent@patient")}
    monkeypatch.setattr(multi_authority, "_gid_point", lambda gid: multi_authority._attribute_point(called[gid]))
    _, header = sealed("role@hospital AND consent@patient")
    assert same_name_attack(header, [key_of(ANN, "role@hospital"), key_of(BOB, "consent@patient")]) == SEED


def test_no_gid_can_be_written_like_an_attribute_and_both_hash_apart():
    for gid in ("role@hospital", attribute("role@hospital").to_bytes().hex(), attribute("role@hospital").to_bytes()):
        with pytest.raises(PolicyError):
            multi_authority.issue(SECRETS[HOSPITAL], gid, attribute("role@hospital"))
    domains = [multi_authority.GID_DST, multi_authority.ATTRIBUTE_DST, key_policy.LABEL_DST]
    points = [curve.hash_to_g1(uuid.UUID(ANN).bytes, domain) for domain in domains]
    assert all(one != other for one, other in itertools.combinations(points, 2))
    assert multi_authority._gid_point(ANN) == points[0]


# -------------------------------------------------------------------------------- gates: single leaf, k - 1 of n
@pytest.mark.parametrize("text", [
    "role@hospital AND consent@patient", "role@hospital AND consent@patient AND emergency@registrar",
    "(role@hospital AND consent@patient) OR (emergency@registrar AND consent@patient)",
    "role@hospital AND (consent@patient OR owner@patient)",
])
def test_one_leaf_of_an_and_does_not_open_it(text):
    _, header = sealed(text)
    names = sorted({f"{leaf.name}@{alias}" for leaf in policy.leaves_of(policy_of(text))
                    for alias, authority in ALIASES.items() if authority == leaf.authority})
    for name in names:
        assert not opens(header, text, [key_of(ANN, name)])[0]
    assert opens(header, text, [key_of(ANN, name) for name in names])[0]


def test_an_and_that_gives_the_whole_to_one_input_would_open_for_one_leaf(monkeypatch):
    def faulty(tree, value, draws):
        if isinstance(tree, policy.Attribute):
            return [value]
        first, *others = tree.children
        return faulty(first, value, draws) + [share for child in others for share in faulty(child, 0, draws)]

    monkeypatch.setattr(multi_authority, "share", faulty)
    text = "role@hospital AND consent@patient"
    _, header = sealed(text)
    assert opens(header, text, [key_of(ANN, "role@hospital")])[0]


@pytest.mark.parametrize("needed", [2, 3, 4])
def test_one_leaf_less_than_a_gate_needs_does_not_open_it(needed):
    names = ["a@hospital", "b@patient", "c@registrar", "d@hospital"]
    text = f"{needed} of ({', '.join(names)})"
    _, header = sealed(text)
    for held in itertools.combinations(names, needed - 1):
        assert not opens(header, text, [key_of(ANN, name) for name in held])[0]
    for held in itertools.combinations(names, needed):
        assert opens(header, text, [key_of(ANN, name) for name in held])[0]


def test_a_repeated_attribute_counts_as_often_as_it_stands_and_helps_nobody_else():
    text = "3 of (role@hospital, role@hospital, consent@patient, emergency@registrar)"
    _, header = sealed(text)
    assert not opens(header, text, [key_of(ANN, "role@hospital")])[0]
    assert not opens(header, text, [key_of(ANN, "consent@patient"), key_of(ANN, "emergency@registrar")])[0]
    assert not opens(header, text, [key_of(ANN, "role@hospital"), key_of(BOB, "consent@patient")])[0]
    assert opens(header, text, [key_of(ANN, "role@hospital"), key_of(ANN, "consent@patient")])[0]


# --------------------------------------------------------------------------- epochs, corrupted authorities
def test_a_key_of_the_epoch_before_does_not_open_even_when_it_is_forced_on_the_row():
    text = "role@hospital AND consent@patient"
    _, header = sealed(text)
    old = dataclasses.replace(key_of(ANN, "role@hospital", epoch=2), attribute=attribute("role@hospital"))
    assert not opens(header, text, [old, key_of(ANN, "consent@patient")])[0]
    assert opens(header, text, [key_of(ANN, "role@hospital"), key_of(ANN, "consent@patient")])[0]


def test_a_corrupted_authority_opens_nothing_with_people_who_hold_nothing_else_that_counts():
    """The hospital's secret makes any of its keys for anyone; with a right key of the second authority that is one
    person who satisfies the policy, without one it is not."""
    text = "2 of (role@hospital, consent@patient, emergency@registrar)"
    _, header = sealed(text)
    made = [multi_authority.issue(SECRETS[HOSPITAL], gid, attribute("role@hospital")) for gid in (ANN, BOB)]
    forged = []  # what the hospital would say in the patient's name
    for gid in (ANN, BOB):
        as_patient = dataclasses.replace(SECRETS[HOSPITAL], authority=PATIENT)
        forged.append(multi_authority.issue(as_patient, gid, attribute("consent@patient")))
    unrelated = [dataclasses.replace(key_of(BOB, "consent:other@patient"), attribute=attribute("consent@patient"))]
    assert not opens(header, text, [*made, *forged, *unrelated])[0]
    assert opens(header, text, [*made, key_of(BOB, "emergency@registrar")])[0]


def test_a_corrupted_authority_strips_its_own_row_and_no_more():
    """It needs no key for its row: C1 / e(g1, g2)^(alpha t) with e(C4, ...) is its share; the other row stays shut."""
    _, header = sealed("role@hospital AND consent@patient")
    parsed = multi_authority._parse(header)
    c1, c2, _, _ = parsed.row(0)
    own_share = c1 * curve.pairing(G1.generator().times(SECRETS[HOSPITAL].alpha), c2)  # gt^lambda
    draws = shares.Draws(SEED, multi_authority._TAG_ENCAPSULATE, multi_authority._context(
        parsed.start, multi_authority._publics_of(parsed.policy, PUBLICS), BINDING))
    z = draws.draw()
    of_rows = shares.share(parsed.policy, z, draws)
    assert own_share == curve.generator_power(of_rows[0])
    context = multi_authority._context(parsed.start, multi_authority._publics_of(parsed.policy, PUBLICS), BINDING)

    def seed_from(element):
        return encapsulation.cover(parsed.covered, multi_authority._TAG_COVER, context, element)

    assert all(seed_from(own_share.power(factor % R)) != SEED for factor in (1, 2, -1))
    assert seed_from(own_share.power(2) * curve.generator_power(of_rows[1]).inverse()) == SEED  # the right way to join


# ----------------------------------------------------------------------------------- binding, changed headers
TEXT = "(role@hospital AND consent@patient) OR owner@patient"


def owner_and_staff():
    return [key_of(ANN, "role@hospital"), key_of(ANN, "consent@patient")]


def test_a_header_moved_to_another_record_opens_nothing():
    key, header = sealed(TEXT)
    assert multi_authority.decapsulate(header, owner_and_staff(), PUBLICS, binding=BINDING) == key
    for binding in (b"item 18, epoch 3", BINDING + b" ", BINDING[:-1]):
        with pytest.raises(AbeError):
            multi_authority.decapsulate(header, owner_and_staff(), PUBLICS, binding=binding)
        picks = [_Pick(row, factor, held, ANN) for (row, factor), held in zip(
            [(0, 2), (1, -1)], owner_and_staff(), strict=True)]
        assert uncovered(header, picks) == SEED
        assert uncovered(header, picks, binding=binding) != SEED


def test_a_header_made_for_other_public_values_opens_nothing():
    _, header = sealed(TEXT)
    another = multi_authority.new_authority(HOSPITAL, seed=b"\x77" * 32).public
    with pytest.raises(AbeError):
        multi_authority.decapsulate(header, owner_and_staff(), PUBLICS | {HOSPITAL: another}, binding=BINDING)


def rerandomised(header, row, by=7):
    """The same row with t + by in the place of t: an honest row, of another header."""
    parsed = multi_authority._parse(header)
    leaf = list(policy.leaves_of(parsed.policy))[row]
    c1, c2, c3, c4 = parsed.row(row)
    public = PUBLICS[leaf.authority]
    changed = b"".join((
        (c1 * public.a.power(by)).to_bytes(), (c2 + -G2.generator().times(by)).to_bytes(),
        (c3 + public.y.times(by)).to_bytes(), (c4 + multi_authority._attribute_point(leaf).times(by)).to_bytes()))
    at = len(header) - len(parsed.body) + row * ROW_BYTES
    return header[:at] + changed + header[at + ROW_BYTES :]


@pytest.mark.parametrize("row", [0, 2])
def test_a_row_drawn_anew_still_uncovers_the_seed_and_is_refused_all_the_same(row):
    """Row 0 is used by this reader, row 2 (the owner's) is not: the re-encryption check sees both."""
    _, header = sealed(TEXT)
    changed = rerandomised(header, row)
    picks = [_Pick(0, 2, owner_and_staff()[0], ANN), _Pick(1, -1, owner_and_staff()[1], ANN)]
    assert changed != header and uncovered(changed, picks) == SEED
    with pytest.raises(AbeError):
        multi_authority._opened(changed, picks, PUBLICS, binding=BINDING)
    with pytest.raises(AbeError):
        multi_authority.decapsulate(changed, owner_and_staff(), PUBLICS, binding=BINDING)
    assert multi_authority._opened(header, picks, PUBLICS, binding=BINDING) == sealed(TEXT)[0]


def test_a_changed_policy_over_the_same_rows_is_refused():
    """AND made OR in the header's own bytes: the reader of one leaf passes the local check and gets nothing."""
    _, header = sealed("role@hospital AND consent@patient")
    both, either = policy_of("role@hospital AND consent@patient"), policy_of("role@hospital OR consent@patient")
    changed = header.replace(policy.canonical(both), policy.canonical(either))
    assert policy.satisfied(multi_authority.policy_of(changed), [attribute("role@hospital")])
    with pytest.raises(AbeError) as refused:
        multi_authority.decapsulate(changed, [key_of(ANN, "role@hospital")], PUBLICS, binding=BINDING)
    assert not isinstance(refused.value, AbeNotSatisfied)


def test_rows_of_two_headers_do_not_mix():
    key, header = sealed(TEXT)
    _, other = multi_authority.encapsulate(policy_of(TEXT), PUBLICS, binding=BINDING, seed=b"\x11" * 32)
    at = len(header) - 3 * ROW_BYTES
    for row in range(3):
        start = at + row * ROW_BYTES
        mixed = header[:start] + other[start : start + ROW_BYTES] + header[start + ROW_BYTES :]
        with pytest.raises(AbeError):
            multi_authority.decapsulate(mixed, owner_and_staff(), PUBLICS, binding=BINDING)
    assert multi_authority.decapsulate(header, owner_and_staff(), PUBLICS, binding=BINDING) == key


# --------------------------------------------------------------------------------------------------- FABEO-KP
MOTHER, STRANGER = key_policy.new_patient(seed=b"\x21" * 32), key_policy.new_patient(seed=b"\x22" * 32)


def record(*labels, patient=MOTHER, binding=BINDING):
    return key_policy.encapsulate([attribute(f"{label}@patient") for label in labels], patient.public, binding=binding,
                                  seed=SEED)


def issued(text, patient=MOTHER):
    return key_policy.issue(patient, policy_of(text))


def kp_uncovered(header, picks, public=MOTHER.public, binding=BINDING):
    return key_policy._uncovered(header, picks, public, binding=binding)


def kp_opens(header, keys, public=MOTHER.public):
    """Every choice of rows over all keys whose label the record has, with the exponents that each key's own rows would
    have, those of one AND over all chosen rows, and ones."""
    labels = key_policy.labels_of(header)
    rows = [(key, row, leaf) for key in keys for row, leaf in enumerate(policy.leaves_of(key.policy)) if leaf in labels]
    answers = []
    for size in range(1, len(rows) + 1):
        for chosen in itertools.combinations(rows, size):
            own = [(combination(matrix_of(key.policy)) or [])[row] for key, row, _ in chosen]
            one_policy = all(key.policy == chosen[0][0].policy for key, _, _ in chosen)
            matrix = matrix_of(chosen[0][0].policy)
            together = combination([matrix[row] for _, row, _ in chosen]) if one_policy else None
            for factors in (own, together, of_one_and(size), [1] * size):
                if factors is not None and any(factors):
                    picks = [key_policy._Pick(row, factor, key, leaf)
                             for factor, (key, row, leaf) in zip(factors, chosen, strict=True)]
                    answers.append(kp_uncovered(header, picks, public) == SEED)
    assert answers
    return any(answers)


def test_two_keys_of_one_patient_do_not_add_up():
    _, header = record("lab", "year")
    mixed = [issued("lab@patient AND imaging@patient"), issued("genetic@patient AND year@patient")]
    assert not kp_opens(header, mixed)
    assert kp_opens(header, [issued("lab@patient AND year@patient")])


def test_two_people_with_the_same_policy_cannot_lend_each_other_a_row():
    """Both have 'lab AND year'; over one record's header each opens alone, but rows of the two do not join."""
    _, header = record("lab", "year")
    one, other = issued("lab@patient AND year@patient"), issued("lab@patient AND year@patient")
    lab, year = attribute("lab@patient"), attribute("year@patient")
    for first, second, right in ((one, other, False), (other, one, False), (one, one, True), (other, other, True)):
        picks = [key_policy._Pick(0, 2, first, lab), key_policy._Pick(1, -1, second, year)]
        assert (kp_uncovered(header, picks) == SEED) is right


def test_one_label_of_an_and_does_not_open():
    tree = "lab@patient AND year@patient"
    for label in ("lab", "year"):
        _, header = record(label, "other")
        assert not kp_opens(header, [issued(tree)])
        with pytest.raises(AbeNotSatisfied):
            key_policy.decapsulate(header, issued(tree), MOTHER.public, binding=BINDING)
    assert kp_opens(record("lab", "year")[1], [issued(tree)])


def test_another_label_in_the_place_of_the_missing_one_does_not_open():
    _, header = record("lab", "other")
    key = issued("lab@patient AND year@patient")
    for wrong in ("lab", "other"):
        picks = [key_policy._Pick(0, 2, key, attribute("lab@patient")),
                 key_policy._Pick(1, -1, key, attribute(f"{wrong}@patient"))]
        assert kp_uncovered(header, picks) != SEED


def test_the_key_of_another_patient_opens_nothing():
    key, header = record("lab", "year")
    right, wrong = issued("lab@patient"), issued("lab@patient", STRANGER)
    assert key_policy.decapsulate(header, right, MOTHER.public, binding=BINDING) == key
    for public in (MOTHER.public, STRANGER.public):
        with pytest.raises(AbeError):
            key_policy.decapsulate(header, wrong, public, binding=BINDING)
        assert not kp_opens(header, [wrong], public)
    assert not kp_opens(header, [wrong, issued("lab@patient AND imaging@patient")])


def without_repetition_index(text):
    """A key as an implementation would make it that has one randomiser for all repetitions of a label."""
    tree = policy_of(text)
    draws = shares.Draws(b"\x31" * 32, b"fault", b"")
    lambdas = shares.share(tree, MOTHER.alpha, draws)
    r = draws.draw()
    rows = tuple(G1.generator().times(share) + key_policy._label_point(leaf).times(r)
                 for share, leaf in zip(lambdas, policy.leaves_of(tree), strict=True))
    return key_policy.KpKey(tree, rows, (G2.generator().times(r),) * 2)


def difference_attack(header, key):
    """2 of (lab, lab, year) on a record that has only `year`: the two rows of `lab`, divided, lose L(lab) if they share
    their randomiser, and leave the slope of the polynomial. f(0) = f(3) + 3 (f(1) - f(2))."""
    parsed = key_policy._parse(header)
    first, second, third = key.rows
    joined = third + (first + -second).times(3)
    element = curve.pairing_product([(joined, parsed.c()),
                                     (-parsed.label_part(attribute("year@patient")), key.randomisers[0])])
    context = key_policy._context(parsed.start, MOTHER.public, BINDING)
    return encapsulation.cover(parsed.covered, key_policy._TAG_COVER, context, element)


def test_a_label_that_repeats_in_a_key_gives_nothing_away():
    text = "2 of (lab@patient, lab@patient, year@patient)"
    _, header = record("year")
    assert difference_attack(header, issued(text)) != SEED
    assert difference_attack(header, without_repetition_index(text)) == SEED  # the control: the fault, and it opens
    assert not kp_opens(header, [issued(text)])
    assert kp_opens(record("lab")[1], [issued(text)])


def test_a_record_s_header_moved_or_changed_opens_nothing():
    right = issued("lab@patient")
    key, header = record("lab", "year")
    assert key_policy.decapsulate(header, right, MOTHER.public, binding=BINDING) == key
    with pytest.raises(AbeError):
        key_policy.decapsulate(header, right, MOTHER.public, binding=b"another record")
    changed = header[:-48] + G1.generator().to_bytes()  # the part of `year`, which this key does not use
    picks = [key_policy._Pick(0, 1, right, attribute("lab@patient"))]
    assert kp_uncovered(changed, picks) == SEED
    with pytest.raises(AbeError):
        key_policy.decapsulate(changed, right, MOTHER.public, binding=BINDING)


def test_a_label_added_to_a_header_is_refused():
    """Whoever holds the header gives the record a label that a key asks for, with a part of his own making."""
    right = issued("lab@patient AND year@patient")
    _, header = record("lab")
    parsed = key_policy._parse(header)
    both = sorted([attribute("lab@patient"), attribute("year@patient")], key=policy.Attribute.to_bytes)
    parts = {both[0]: parsed.body[96:], both[1]: G1.generator().to_bytes()}
    forged = (key_policy._start(both) + parsed.covered + parsed.body[:96] + b"".join(parts[label] for label in both))
    assert key_policy.labels_of(forged) == tuple(both)
    with pytest.raises(AbeError) as refused:
        key_policy.decapsulate(forged, right, MOTHER.public, binding=BINDING)
    assert not isinstance(refused.value, AbeNotSatisfied | AbeMalformed)
