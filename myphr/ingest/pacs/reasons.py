"""Why images could not be fetched, by code: completes "The images could not be fetched: ...". No name of a practice, no
number, no word of a PACS's answer. Called by everything in this package."""

from collections.abc import Mapping

from myphr.errors import PacsRefused
from myphr.ingest.fetch.ways import OUR_REASONS

REASONS: Mapping[str, str] = {
    "unreachable": "the practice's image archive does not answer. Try again later",
    "tls": "the practice's image archive does not prove who it is. The operator of this portal has to look at it",
    "not-let-in": "the practice's image archive does not let this portal in. The operator has to look at it",
    "busy": "the practice's image archive has no time now. Try again later",
    "no-find": "the practice's image archive does not say what it has",
    "no-get": "the practice's image archive does not hand out images in the way that this portal asks",
    "no-destination": "the practice's image archive does not know where to send them. Please tell who runs this portal",
    "not-sent": "the practice's image archive could not send them to this portal. Please tell who runs this portal",
    "too-slow": "the practice's image archive was too slow. Try again later",
    "broke-off": "the practice's image archive broke off. Try again later",
    "not-dicom": "the practice's image archive answered with something that we do not understand",
    "said-no": "the practice's image archive answered with an error",
    "too-many": "the practice's image archive has more than this portal takes at a time. Choose fewer",
    "too-large": "the practice's image archive sent more than this portal takes at a time. Choose fewer",
    "foreign": "the practice's image archive sent images that were not asked for. Please tell the practice",
    **OUR_REASONS,
    "ended": "this practice is not connected to your record any more",
}


def refused(code: str) -> PacsRefused:
    return PacsRefused(code, reason=REASONS[code])
