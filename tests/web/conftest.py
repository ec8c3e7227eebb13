"""Fixtures for page tests: the real application over a real portal (SQLite, Redis, folder store), checked browsers."""

from collections.abc import Callable

import pytest
from flask import Flask
from jinja2.bccache import Bucket, BytecodeCache

from myphr.portal import Portal
from myphr.web.application import create_app
from tests.cast import OPERATOR, PATIENT, STRANGER, Person, SignedIn
from tests.web.page_client import PageClient


class CompiledOnce(BytecodeCache):
    """Page templates as compiled for the first application of this process, for those of all other tests."""

    def __init__(self) -> None:
        self._kept: dict[str, bytes] = {}

    def load_bytecode(self, bucket: Bucket) -> None:
        if bucket.key in self._kept:
            bucket.bytecode_from_string(self._kept[bucket.key])

    def dump_bytecode(self, bucket: Bucket) -> None:
        self._kept[bucket.key] = bucket.bytecode_to_string()


COMPILED = CompiledOnce()


@pytest.fixture
def app(portal: Portal) -> Flask:
    app = create_app(portal)
    app.jinja_env.bytecode_cache = COMPILED
    return app


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
