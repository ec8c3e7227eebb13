"""Who a share is for, as a rule of the vault and a policy of attributes; and whether one authority alone could open it.

Asks the keyholder for the papers of authorities and believes them only once they are checked, and never an older epoch
table than one seen before. Called by `record_shares` and `shared_with_me`.
"""

import contextlib
import dataclasses
from collections.abc import Iterable
from typing import Any, Literal

from myphr.crypto import certificates, statements
from myphr.crypto.abe.multi_authority import AuthorityPublic, check_public
from myphr.crypto.abe.policy import Attribute, Policy, all_of, authorities_sufficient, leaves_of
from myphr.crypto.statements import EpochTable
from myphr.database import now
from myphr.errors import CertificateRefused, FormRefused
from myphr.people.identities import VerifiedPerson
from myphr.people.keyholder import Held, Rule, check_papers
from myphr.sharing.compartments import Parts
from myphr.sharing.record_models import AuthoritySeen

CONSENT = "consent"
EMERGENCY, BREAK_GLASS = ("emergency", ""), ("break-glass", "")
WINDOW_MINUTES = 60
Preset = Literal["care-team", "family", "emergency", "named"]


@dataclasses.dataclass(frozen=True)
class Audience:
    """Who a share is for. `care-team`: who holds all `attributes` at `authority_gid`, each with the owner's consent.
    `family`, `named`: the people `gids`. `emergency`: who may give emergency care at `authority_gid` and open records
    in an emergency at `registrar_gid`, with a reason, for an hour."""

    preset: Preset
    authority_gid: str = ""
    attributes: tuple[tuple[str, str], ...] = ()
    gids: tuple[str, ...] = ()
    registrar_gid: str = ""

    @property
    def is_named(self) -> bool:
        return self.preset in ("family", "named")

    @property
    def held(self) -> tuple[tuple[str, str, str], ...]:
        """(authority, name, value) of every attribute asked for; empty for people by name."""
        if self.preset == "emergency":
            return ((self.authority_gid, *EMERGENCY), (self.registrar_gid, *BREAK_GLASS))
        if self.preset == "care-team":
            return tuple((self.authority_gid, name, value) for name, value in self.attributes)
        return ()

    def to_plan(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_plan(cls, plan: dict[str, Any]) -> "Audience":
        attributes = tuple((name, value) for name, value in plan["attributes"])
        return cls(plan["preset"], plan["authority_gid"], attributes, tuple(plan["gids"]), plan["registrar_gid"])


def rule_of(audience: Audience, gids: Iterable[str]) -> Rule:
    """The vault's rule. `gids`: the people of a share by name."""
    if audience.is_named:
        return Rule(people=frozenset(gids))
    every = tuple(Held(*one) for one in audience.held)
    return Rule(holders=(every,), window_minutes=WINDOW_MINUTES if audience.preset == "emergency" else 0)


def check_form(audience: Audience) -> None:
    """The linter: raises FormRefused for what is incomplete, and for what one authority alone could open."""
    if audience.preset not in ("care-team", "family", "emergency", "named"):
        raise FormRefused("preset", reason="choose who may open it")
    if audience.is_named:
        if not audience.gids:
            raise FormRefused("nobody", reason="name at least one person")
        return
    if not audience.authority_gid or (audience.preset == "care-team" and not audience.attributes):
        raise FormRefused("incomplete", reason="choose an organisation and what its people do there")
    if audience.preset == "emergency" and not audience.registrar_gid:
        raise FormRefused("incomplete", reason="choose a hospital and a registrar")
    attributes = [Attribute(*one) for one in audience.held]
    own = "00000000-0000-4000-8000-000000000000"  # stands for the owner's own authority
    if audience.preset == "care-team":
        attributes.append(Attribute(own, CONSENT))
    if any(authority != own for authority in authorities_sufficient(all_of(*attributes))):
        reason = "choose two different organisations, so that none of them alone can open your record"
        raise FormRefused("one authority", reason=reason)


def policy_of(
    audience: Audience, tables: dict[str, EpochTable], compartment_id: str, owner_gid: str, epoch: int
) -> Policy:
    """The policy of one epoch of a compartment, at today's epochs of the attributes."""
    leaves = [Attribute(a, name, value, tables[a].epoch(name, value)) for a, name, value in audience.held]
    if audience.preset == "care-team":
        leaves.append(Attribute(owner_gid, CONSENT, compartment_id, epoch))
    return all_of(*leaves)


def is_behind(policy: Policy, tables: dict[str, EpochTable]) -> bool:
    """Whether an authority rolled an attribute since this policy was made."""
    leaves = [leaf for leaf in leaves_of(policy) if leaf.authority in tables]
    return any(leaf.epoch != tables[leaf.authority].epoch(leaf.name, leaf.value) for leaf in leaves)


def authority(parts: Parts, gid: str) -> tuple[AuthorityPublic, EpochTable]:
    """An authority's public value and epochs, checked. Raises CertificateRefused, AuthorityRefused, NotFound ..."""
    papers = parts.keyholder.authority_statement(gid)
    chain = parts.keyholder.chain()
    with parts.database.read() as db:
        seen = db.get(AuthoritySeen, gid)
    last = None
    if seen is not None:
        key = certificates.validate(papers.certificate, chain, now()).public_key
        with contextlib.suppress(CertificateRefused):  # a row that this authority did not sign says nothing
            last = statements.read_epoch_table(seen.epochs, key, gid)
    public, table = check_papers(papers, chain, now(), last=last)
    if last is None or table.version > last.version:
        with parts.database.write() as db:
            row = db.get(AuthoritySeen, gid) or AuthoritySeen(authority_gid=gid, epochs=b"")
            row.epochs = papers.epochs
            db.add(row)
    return public, table


def own_authority(owner: VerifiedPerson) -> AuthorityPublic:
    """The public value of the owner's own authority. Raises AuthorityRefused, AbeMalformed."""
    public = AuthorityPublic.from_bytes(owner.statement.authority)
    check_public(public, owner.gid)
    return public
