"""Why records could not be fetched, by code: completes "Your records could not be fetched: ...". No name of a hospital,
no address, no word of a server's answer. Called by everything in this package."""

from collections.abc import Mapping

from myphr.errors import HospitalRefused
from myphr.ingest.fetch.ways import OUR_REASONS

REASONS: Mapping[str, str] = {
    # at the door
    "address": "the hospital's server gave an address that we do not call",
    "discovery": "the hospital's server does not say how to sign in there",
    "no-pkce": "the hospital's server does not know the safe way of signing in that we need",
    "changed": "the hospital's sign-in page has moved. The operator of this portal has to look at it first",
    "denied": "you or the hospital said no on its page. You can try again at any time",
    "sign-in-error": "the hospital's sign-in page answered with an error",
    "foreign-issuer": "the answer did not come from this hospital's sign-in page. Nothing was fetched",
    "code-refused": "the hospital did not accept the answer of its sign-in page; it may have taken too long. Try again",
    "token": "the hospital's server did not give its permission in a form that we understand",
    "no-patient": "the hospital did not say whose records they are",
    # on the way
    "unreachable": "the hospital's server does not answer. Try again later",
    "too-slow": "the hospital's server was too slow. Try again later",
    "too-large": "the hospital's server sent more than this portal takes at a time",
    "moved": "the hospital's server sends us to another one, and we do not follow",
    "not-records": "the hospital's server answered with something that is no health record",
    "server-error": "the hospital's server answered with an error",
    "not-allowed": "the hospital does not give it to you this way",
    "expired": "the hospital's permission ran out before everything had come",
    **OUR_REASONS,
    "gone": "this was taken off the list of hospitals",
}


def refused(code: str) -> HospitalRefused:
    return HospitalRefused(code, reason=REASONS[code])
