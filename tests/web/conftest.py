"""Fixtures for page tests: the real application over a real portal (SQLite, Redis, folder store), checked browsers."""

from collections.abc import Callable

import pytest
from flask import Flask

from myphr.portal import Portal
from myphr.web.application import create_app
from tests.cast import OPERATOR, PATIENT, STRANGER, Person, SignedIn
from tests.web.page_client import PageClient


@pytest.fixture
def app(portal: Portal) -> Flask:
    return create_app(portal)


@pytest.fixture
def browser(app: Flask) -> PageClient:
    """A browser that nobody is signed in with."""
    return PageClient(app)


@pytest.fixture
def browser_of(app: Flask, enter: Callable[..., SignedIn]) -> Callable[[Person], PageClient]:
    """`browser_of(PATIENT)`: registers that person and signs them in through the sign-in page."""

    def signed_in(person: Person) -> PageClient:
        enter(person)
        return sign_in(PageClient(app), person)

    return signed_in


def sign_in(client: PageClient, person: Person) -> PageClient:
    response = client.post("/sign-in", {"email": person.email, "password": person.password})
    assert response.status_code == 303, response.status_code
    return client


@pytest.fixture
def vera(browser_of: Callable[[Person], PageClient]) -> PageClient:
    """The patient's browser, signed in."""
    return browser_of(PATIENT)


@pytest.fixture
def nils(browser_of: Callable[[Person], PageClient]) -> PageClient:
    """The stranger's browser, signed in."""
    return browser_of(STRANGER)


@pytest.fixture
def oda(browser_of: Callable[[Person], PageClient]) -> PageClient:
    """The operator's browser, signed in."""
    return browser_of(OPERATOR)
