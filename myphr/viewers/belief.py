"""How far what people said about a viewer moves it: a Beta-Binomial in four lines, and the rule of a few people. Pure.

The content order is the prior: with no history nothing moves. One more "it opened" never lowers a viewer, one more
"it did not" never raises it, and fewer than PEOPLE_MIN people who say the same move nothing: so no few people can be
made out, or make themselves heard. Why it is so, and not by a library: docs/decisions/0236-beta-binomial.md.
"""

import dataclasses

PEOPLE_MIN = 5  # the "few people" below which nothing is shown and nothing is used
PRIOR_MEAN = 0.9  # of what a viewer says it opens, it opens so much, before anybody said anything
PRIOR_PEOPLE = 10  # how many people's word the catalogue's own is worth
LIFT = 0.2  # what opened for people confirms what was expected; what did not open is the news


@dataclasses.dataclass(frozen=True)
class Tally:
    """How many people said that a viewer opened this kind for them, and how many that it did not."""

    opened: int = 0
    not_opened: int = 0

    def __post_init__(self) -> None:
        if self.opened < 0 or self.not_opened < 0:
            raise ValueError("a tally counts people")

    @property
    def people(self) -> int:
        return self.opened + self.not_opened

    @property
    def counts(self) -> bool:
        """Whether enough people said the same for it to be used and shown."""
        return max(self.opened, self.not_opened) >= PEOPLE_MIN


NOBODY = Tally()


def chance(tally: Tally) -> float:
    """How likely this viewer opens this kind for the next person, between 0 and 1.

    The mean of Beta(prior + opened, prior + not opened), in which fewer than PEOPLE_MIN who say the same count as none:
    on either side by itself, or the fifth person's "it opened" would uncover four who said no and lower the viewer."""
    opened = tally.opened if tally.opened >= PEOPLE_MIN else 0
    not_opened = tally.not_opened if tally.not_opened >= PEOPLE_MIN else 0
    return (PRIOR_MEAN * PRIOR_PEOPLE + opened) / (PRIOR_PEOPLE + opened + not_opened)


def factor(tally: Tally) -> float:
    """What to multiply the expected share of opened files with: exactly 1 with no history."""
    if not tally.counts:
        return 1.0
    ratio = chance(tally) / PRIOR_MEAN
    return ratio if ratio <= 1 else 1 + LIFT * (ratio - 1)
