"""Which passwords we take: NIST SP 800-63B-4, 3.1.1.2, for a password that stands alone. Pure; called by `accounts`.

Long enough, not too long, no composition rules, and not one of the guesses that attackers make first: common
passwords and their variations, keyboard walks, repetitions, and words of the person or of this portal.
"""

import functools
import re
import unicodedata
from collections.abc import Iterable
from importlib import resources

from myphr.errors import PasswordRefused

CHARACTERS_MIN = 15
CHARACTERS_MAX = 256
DISTINCT_CHARACTERS_MIN = 5
# "monkey dragon 1234" is three guesses off a short list; four unrelated words are a passphrase.
GUESSES_MAX = 3

_WORD_MIN, _WORD_MAX = 3, 24
_PORTAL_WORDS = (
    "myphrmachines", "myphr", "phr", "machines", "machine", "portal", "health", "record", "records", "patient",
    "medical", "doctor", "hospital", "viewer", "caregiver",
)  # fmt: skip
_WALKS = (
    "abcdefghijklmnopqrstuvwxyz", "01234567890", "qwertyuiop", "asdfghjkl", "zxcvbnm", "qwertzuiop", "yxcvbnm",
    "azertyuiop", "qsdfghjklm", "wxcvbn", "1qaz2wsx3edc4rfv5tgb6yhn7ujm8ik9ol0p", "1q2w3e4r5t6y7u8i9o0p",
    "qazwsxedcrfvtgbyhnujmikolp", "q1w2e3r4t5y6u7i8o9p0", "147258369", "741852963", "159357", "zaq1xsw2cde3vfr4bgt5",
    "!@#$%^&*()_+", "!\"§$%&/()=?",
)  # fmt: skip
_WALK_MIN = 3
_LEET = str.maketrans("013457@$!|+", "oieastasilt")
_LEET_L = str.maketrans("013457@$!|+", "oleastasllt")


def check(password: str, *, personal: Iterable[str] = ()) -> None:
    """Raises PasswordRefused with a plain reason, or returns. `personal`: the person's name and e-mail address."""
    if len(password) > CHARACTERS_MAX:  # before NFKC, which can make text 18 times as long
        raise PasswordRefused(reason=f"it may have at most {CHARACTERS_MAX} characters")
    try:
        text = unicodedata.normalize("NFKC", password)
        text.encode()
    except UnicodeEncodeError:
        raise PasswordRefused(reason="it holds something that is not text") from None
    if len(text) < CHARACTERS_MIN:
        raise PasswordRefused(reason=f"it needs at least {CHARACTERS_MIN} characters; a few words in a row are fine")
    if len(text) > CHARACTERS_MAX:
        raise PasswordRefused(reason=f"it may have at most {CHARACTERS_MAX} characters")
    folded = text.casefold()
    if len(set(folded)) < DISTINCT_CHARACTERS_MIN or _repeats(folded):
        raise PasswordRefused(reason="it repeats the same few characters")
    words = common_passwords() | _words_of((*personal, *_PORTAL_WORDS))
    if re.sub(r"[\W_]+", "", folded) in words or _guesses(folded, words) <= GUESSES_MAX:
        raise PasswordRefused(reason="it is among the first that others would guess; add words only you would think of")


@functools.cache
def common_passwords() -> frozenset[str]:
    """The shipped list: what leaked password lists have in common, as base words. `_guesses` finds variations."""
    text = resources.files("myphr.people").joinpath("common_passwords.txt").read_text("utf-8")
    return frozenset(word for line in text.splitlines() if not line.startswith("#") for word in line.split())


def _words_of(texts: Iterable[str]) -> frozenset[str]:
    """Whole texts and their parts: "Vera Lindqvist" gives vera, lindqvist and veralindqvist."""
    words: set[str] = set()
    for text in texts:
        folded = unicodedata.normalize("NFKC", text).casefold()
        parts = [part for part in re.split(r"[\W_]+", folded) if part]
        words.update(part for part in (*parts, "".join(parts), folded.split("@")[0]) if len(part) >= _WORD_MIN)
    return frozenset(words)


def _repeats(text: str) -> bool:
    """Whether a short piece, repeated, makes the whole ("abcabcabcabcabc")."""
    return any(text == (text[:size] * (len(text) // size + 1))[: len(text)] for size in range(1, len(text) // 3 + 1))


def _guesses(text: str, words: frozenset[str]) -> int:
    """The fewest guesses that make up `text`: a listed word (also in leetspeak or backwards), a keyboard walk, a run
    of one character, or up to 8 digits is one guess; spaces and ASCII punctuation between them are none; a character
    that fits nothing is worth more than all the guesses we refuse."""
    size = len(text)
    marks = {c for c in text if c.isascii() and not c.isalnum()}
    # Text that is mostly punctuation is not words held apart by it.
    marks_are_free = 3 * sum(c in marks for c in text) <= size
    longest = min(size, max(_WORD_MAX, max(map(len, words), default=0)))
    variants = {text, text.translate(_LEET), text.translate(_LEET_L)}
    best = [0] + [size * (GUESSES_MAX + 1)] * size
    for start in range(size):
        if best[start] > GUESSES_MAX:
            continue
        if marks_are_free and text[start] in marks:
            best[start + 1] = min(best[start + 1], best[start])
        for end in range(start + 1, size + 1):
            piece = text[start:end]
            known = _is_run(piece) or _is_walk(piece) or (piece.isdigit() and len(piece) <= 8)
            if not known and _WORD_MIN <= end - start <= longest:
                pieces = {variant[start:end] for variant in variants}
                known = any(form in words or form[::-1] in words for form in pieces)
            if known:
                best[end] = min(best[end], best[start] + 1)
    return best[size]


def _is_run(piece: str) -> bool:
    return piece == piece[0] * len(piece)


def _is_walk(piece: str) -> bool:
    if len(piece) < _WALK_MIN or len(piece) > 40:
        return False
    return any(piece in walk or piece[::-1] in walk for walk in _WALKS)
