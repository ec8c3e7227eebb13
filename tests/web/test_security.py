"""CSRF, headers, cookies, addresses that stay on this site."""

from pathlib import Path

import pytest
from flask import Flask

from myphr.portal import Portal
from myphr.web.application import create_app
from myphr.web.security import local_path
from tests.cast import PATIENT, SignedIn, new_portal
from tests.web.conftest import sign_in
from tests.web.page_client import PageClient

FORM = {"email": PATIENT.email, "password": PATIENT.password}


# -- CSRF -----------------------------------------------------------------------------------------
def test_a_form_without_token_is_refused(browser: PageClient, patient: SignedIn) -> None:
    browser.get("/sign-in")
    assert browser.request("POST", "/sign-in", data=FORM).status_code == 400


def test_a_form_with_the_token_of_another_browser_is_refused(
    app: Flask, browser: PageClient, patient: SignedIn
) -> None:
    foreign = PageClient(app).token()
    browser.get("/sign-in")
    assert browser.request("POST", "/sign-in", data={**FORM, "csrf": foreign}).status_code == 400


def test_the_token_from_before_signing_in_is_worthless_after(browser: PageClient, patient: SignedIn) -> None:
    before = browser.token()
    sign_in(browser, PATIENT)
    assert browser.request("POST", "/sign-out", data={"csrf": before}).status_code == 400
    assert browser.get("/record").status_code == 200


def test_the_token_is_taken_as_a_header_too(vera: PageClient) -> None:
    assert vera.request("POST", "/sign-out", headers={"X-CSRF-Token": vera.token()}).status_code == 303


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "http://localhost:9999"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_a_form_from_a_foreign_page_is_refused_even_with_the_token(vera: PageClient, headers: dict[str, str]) -> None:
    assert vera.post("/sign-out", headers=headers).status_code == 400


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "null"},
        {"Origin": "http://localhost"},
        {"Origin": "http://localhost:8000"},
        {"Sec-Fetch-Site": "same-origin"},
    ],
)
def test_a_form_from_our_own_page_is_taken(vera: PageClient, headers: dict[str, str]) -> None:
    assert vera.post("/sign-out", headers=headers).status_code == 303


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_every_unsafe_method_is_checked_before_anything_else(vera: PageClient, method: str) -> None:
    assert vera.request(method, "/record").status_code == 400


def test_reading_needs_no_token(vera: PageClient) -> None:
    assert vera.get("/record").status_code == 200


def test_an_htmx_request_without_token_is_told_so_in_a_fragment(vera: PageClient) -> None:
    answer = vera.request("POST", "/sign-out", htmx=True)
    assert answer.status_code == 400
    assert answer.headers["HX-Retarget"] == "#notice"
    assert "Reload" in answer.text and "<html" not in answer.text


# -- headers --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "address",
    [
        "/",
        "/help",
        "/nothing-here",
        "/static/app.css",
        "/healthz",
        "/record",
        "/s/6a1b0000-0000-4000-8000-000000000000",
    ],
)
def test_every_answer_carries_the_security_headers(browser: PageClient, address: str) -> None:
    browser.get(address)  # the page client checks them, errors and redirects included


def test_pages_may_talk_to_the_screen_gateway_and_to_nothing_else(browser: PageClient) -> None:
    policy = browser.get("/").headers["Content-Security-Policy"]
    assert "connect-src 'self' ws://127.0.0.1:8001;" in policy
    assert "http" not in policy


def test_pages_differ_by_htmx_and_caches_are_told(browser: PageClient) -> None:
    assert "HX-Request" in browser.get("/").headers["Vary"]


def test_a_versioned_static_file_may_be_kept_and_others_are_asked_again(browser: PageClient) -> None:
    assert "immutable" in browser.get("/static/app.css?v=1").headers["Cache-Control"]
    assert browser.get("/static/app.css").headers["Cache-Control"] == "no-cache"


@pytest.mark.parametrize(
    "address", ["/static/../app.py", "/static/%2e%2e/app.py", "/static//etc/passwd", "/static/vendor/../../app.py"]
)
def test_static_files_end_at_their_folder(browser: PageClient, address: str) -> None:
    assert browser.get(address).status_code in (404, 308)


def test_scripts_are_served_as_scripts(browser: PageClient) -> None:
    assert browser.get("/static/app.js").mimetype == "text/javascript"


# -- cookies --------------------------------------------------------------------------------------
def test_cookies_are_for_http_only_and_same_site(browser: PageClient, patient: SignedIn) -> None:
    answer = browser.post("/sign-in", FORM)
    cookies = answer.headers.getlist("Set-Cookie")
    assert {cookie.partition("=")[0] for cookie in cookies} == {"myphr", "myphr-key"}
    for cookie in cookies:
        assert "HttpOnly" in cookie and "SameSite=Lax" in cookie and "Path=/" in cookie and "Expires" not in cookie


def test_over_https_cookies_are_secure_and_pinned_to_the_host(tmp_path: Path, redis_url: str) -> None:
    portal = new_portal(tmp_path / "https", redis_url, public_url="https://phr.example")
    try:
        from myphr.people import accounts

        accounts.register(portal, PATIENT.email, PATIENT.name, PATIENT.password)
        client = PageClient(create_app(portal))
        answer = client.post("/sign-in", FORM, base_url="https://phr.example")
        # The token came over http, where a Secure cookie does not travel: ask again over https.
        assert answer.status_code in (303, 400)
        client.browser.get("/sign-in", base_url="https://phr.example")
        page = client.browser.get("/sign-in", base_url="https://phr.example").text
        token = page.split('name="csrf" value="')[1].split('"')[0]
        answer = client.request("POST", "/sign-in", data={**FORM, "csrf": token}, base_url="https://phr.example")
        assert answer.status_code == 303
        cookies = answer.headers.getlist("Set-Cookie")
        assert {cookie.partition("=")[0] for cookie in cookies} == {"__Host-myphr", "__Host-myphr-key"}
        assert all("Secure" in cookie for cookie in cookies)
        assert answer.headers["Strict-Transport-Security"]
    finally:
        portal.database.dispose()


def test_each_cookie_alone_signs_nobody_in(app: Flask, vera: PageClient) -> None:
    for name in ("myphr", "myphr-key"):
        thief = PageClient(app)
        thief.browser.set_cookie(name, vera.cookies()[name])
        assert thief.get("/record").status_code == 303


def test_the_cookies_of_two_people_do_not_mix(app: Flask, vera: PageClient, nils: PageClient) -> None:
    mixed = PageClient(app)
    mixed.browser.set_cookie("myphr", nils.cookies()["myphr"])
    mixed.browser.set_cookie("myphr-key", vera.cookies()["myphr-key"])
    assert mixed.get("/record").status_code == 303


def test_a_changed_cookie_opens_no_record(app: Flask, vera: PageClient) -> None:
    for name, value in vera.cookies().items():
        thief = PageClient(app)
        for other, same in vera.cookies().items():
            thief.browser.set_cookie(other, same)
        thief.browser.set_cookie(name, value[:-3] + ("abc" if value[-3:] != "abc" else "xyz"))
        assert thief.get("/record").status_code in (303, 403), name


def test_a_changed_address_does_not_sign_out(vera: PageClient) -> None:
    assert (
        vera.get(
            "/record", environ_base={"REMOTE_ADDR": "203.0.113.9"}, headers={"X-Forwarded-For": "198.51.100.7"}
        ).status_code
        == 200
    )


# -- addresses that stay here ---------------------------------------------------------------------
@pytest.mark.parametrize(
    "address",
    ["https://evil.example/", "//evil.example", "/\\evil.example", "\\\\evil.example", "javascript:alert(1)",
     "evil.example", "", None,
     "/\t/evil.example", "/a\nLocation: https://evil.example", "http:evil", "/ok\\@evil.example"],
)  # fmt: skip
def test_addresses_elsewhere_are_not_followed(address: str | None) -> None:
    assert local_path(address) is None


@pytest.mark.parametrize(
    "address", ["/record", "/study/6a1b0000-0000-4000-8000-000000000000?a=b", "/who-looked?before=3#x"]
)
def test_addresses_here_are_followed(address: str) -> None:
    assert local_path(address) == address


@pytest.mark.parametrize("where", ["https://evil.example/", "//evil.example/x", "/\\evil.example"])
def test_signing_in_never_leads_elsewhere(browser: PageClient, patient: SignedIn, where: str) -> None:
    page = browser.get("/sign-in", query_string={"next": where})
    assert "evil" not in page.text
    assert browser.post("/sign-in", {**FORM, "next": where}).headers["Location"] == "/record"


def test_signing_in_leads_back_to_where_one_wanted_to_go(browser: PageClient, patient: SignedIn) -> None:
    assert browser.get("/who-looked?before=7").headers["Location"] == "/sign-in?next=%2Fwho-looked%3Fbefore%3D7"
    assert (
        browser.post("/sign-in", {**FORM, "next": "/who-looked?before=7"}).headers["Location"] == "/who-looked?before=7"
    )


def test_the_key_for_cookies_differs_between_installations(
    portal: Portal, tmp_path: Path, redis_url: str, app: Flask
) -> None:
    other = new_portal(tmp_path / "other", redis_url)
    try:
        assert other.keys.cookie_key != portal.keys.cookie_key
        assert app.secret_key == portal.keys.cookie_key
    finally:
        other.database.dispose()
