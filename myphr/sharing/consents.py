"""The owner's consent, one person at a time: a key of the attribute `consent:<compartment>` of their own authority.

Only its holder can use it, together with what organisations say of them. Called by `record_shares`.
"""

from collections.abc import Iterable

from sqlmodel import Session

from myphr.crypto import envelope
from myphr.crypto.abe.multi_authority import AuthoritySecret, issue
from myphr.crypto.abe.policy import Attribute
from myphr.errors import CertificateRefused, NotFound
from myphr.people import authorities, identities
from myphr.people.identities import Person, VerifiedPerson
from myphr.sharing.compartments import Parts, reader_context
from myphr.sharing.policies import CONSENT, Audience


def holders(db: Session, audience: Audience) -> list[Person]:
    """Who holds today all that the audience asks for, by name."""
    found: list[Person] | None = None
    for authority_gid, name, value in audience.held:
        some = authorities.holders(db, authority_gid, name, value)
        gids = {person.gid for person in some}
        found = some if found is None else [person for person in found if person.gid in gids]
    return found or []


def verified(parts: Parts, people: Iterable[Person]) -> list[VerifiedPerson]:
    """Those of them whose public keys hold; who never signed in, or whose certificate was cancelled, comes later."""
    found = []
    for person in people:
        try:
            found.append(identities.verified_statement(parts, person.gid))
        except (NotFound, CertificateRefused):
            continue
    return found


def seal_secret(secret: bytes, compartment_id: str, epoch: int, person: VerifiedPerson) -> bytes:
    """The header's secret of a share by name, for one reader."""
    return envelope.seal_to(person.statement.hpke, secret, context=reader_context(compartment_id, epoch, person.gid))


def seal_consent(secret: AuthoritySecret, compartment_id: str, epoch: int, person: VerifiedPerson) -> bytes:
    """One reader's consent for this epoch of the compartment."""
    key = issue(secret, person.gid, Attribute(secret.authority, CONSENT, compartment_id, epoch))
    return seal_secret(key.to_bytes(), compartment_id, epoch, person)
