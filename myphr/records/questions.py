"""A question put into an address, sealed: the address bar, the browser's history and any log on the way show no word of
it, and it opens for the owner alone. Spec: docs/formats/record-index.md, "Questions". Called by web.
"""

import base64
import binascii
import json
import re

from myphr.crypto import envelope
from myphr.errors import EnvelopeError, NotFound
from myphr.people.keyring import KeyRing
from myphr.records.search_index import FACETS, WORDS_CHARACTERS_MAX, Question, cleaned

START_MAX = 1_000_000
VALUE_CHARACTERS_MAX = 64
TEXT_CHARACTERS_MAX = 4096
_PADDED_BYTES = 128  # so that the length of an address does not tell the word
_KEY = "myphr/question/1"
_ALPHABET = re.compile("[A-Za-z0-9_-]+")


def seal(ring: KeyRing, account_id: str, question: Question) -> str:
    content = [question.words[:WORDS_CHARACTERS_MAX], dict(question.chosen), question.start]
    plain = json.dumps(content, separators=(",", ":")).encode()
    plain += b" " * (-len(plain) % _PADDED_BYTES)
    sealed = envelope.wrap(ring.derive(_KEY), plain, context=envelope.context_for("question", account_id))
    return base64.urlsafe_b64encode(sealed).rstrip(b"=").decode()


def open_(ring: KeyRing, account_id: str, text: str) -> Question:
    """Raises NotFound for anything that this owner's ring did not seal."""
    if len(text) > TEXT_CHARACTERS_MAX or not _ALPHABET.fullmatch(text):
        raise NotFound("question")
    try:
        sealed = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_")
        plain = envelope.unwrap(ring.derive(_KEY), sealed, context=envelope.context_for("question", account_id))
        words, chosen, start = json.loads(plain)
        return made(words, chosen, start)
    except (EnvelopeError, ValueError, TypeError, AttributeError, binascii.Error):
        raise NotFound("question") from None


def made(words: str, chosen: dict[str, str], start: int = 0) -> Question:
    """A question within its limits; what no facet is called is left out, as are control characters."""
    kept = {name: str(chosen[name])[:VALUE_CHARACTERS_MAX] for name in FACETS if chosen.get(name)}
    return Question(cleaned(str(words)[:WORDS_CHARACTERS_MAX]).strip(), kept, max(0, min(int(start), START_MAX)))
