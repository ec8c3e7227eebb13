"""The regular check of rights: everybody's turn comes in time, and no moment belongs to all of them."""

import dataclasses

import pytest

from myphr.gateway.screen import due_for_check, origins_of


@dataclasses.dataclass(eq=False)
class Watched:
    checked_at: float = 0.0


def play(screens: list[Watched], ticks: int, *, interval: float, tick: float = 1.0) -> list[int]:
    """Lets time pass; returns how many were asked about in each tick. Nobody may wait longer than the interval."""
    owed, moment, counts = 0.0, 0.0, []
    for _ in range(ticks):
        moment += tick
        due, owed = due_for_check(screens, owed, moment, tick, interval)
        assert len(set(due)) == len(due)
        for screen in due:
            screen.checked_at = moment
        assert all(moment - screen.checked_at < interval for screen in screens)
        counts.append(len(due))
    return counts


@pytest.mark.parametrize("count", [1, 2, 29, 30, 31, 200])
def test_everybody_is_asked_about_within_the_interval(count):
    play([Watched() for _ in range(count)], 100, interval=30)


def test_200_screens_that_opened_together_are_never_asked_about_together():
    assert max(play([Watched() for _ in range(200)], 100, interval=30)) <= 8


def test_one_screen_is_not_asked_about_at_every_tick():
    assert sum(play([Watched()], 300, interval=30)) <= 11


def test_after_a_pause_of_the_process_all_who_are_late_are_asked_about_at_once():
    screens = [Watched() for _ in range(50)]
    due, owed = due_for_check(screens, 0.0, 100.0, 100.0, 30)
    assert len(due) == 50 and owed < 1


def test_an_interval_shorter_than_a_tick_asks_about_everybody_each_time():
    assert play([Watched() for _ in range(7)], 5, interval=0.9) == [7] * 5


def test_with_no_screens_nothing_is_due():
    assert due_for_check([], 0.0, 10.0, 1.0, 30) == ([], 0.0)


@pytest.mark.parametrize("public_url", ["http://localhost:8000", "http://127.0.0.1:8000/"])
def test_a_portal_on_this_computer_is_reached_by_its_name_and_by_its_number(public_url):
    assert origins_of(public_url) == {"http://localhost:8000", "http://127.0.0.1:8000"}


@pytest.mark.parametrize("public_url", ["https://portal.example", "http://192.0.2.7:8000", "http://localhost.example"])
def test_a_portal_elsewhere_has_one_address(public_url):
    assert origins_of(public_url) == {public_url}
