"""A browser without JavaScript for tests: keeps cookies, fills in the CSRF token, and checks every answer it gets.

What it checks of each page is in `check_page`; test_page_client.py shows that each check can fail.
"""

import json
import re
from typing import Any
from urllib.parse import urlsplit

import html5lib
from bs4 import BeautifulSoup, Tag
from flask import Flask
from werkzeug.test import TestResponse

HEADERS = {
    "Content-Security-Policy": re.compile(
        r"default-src 'none'; script-src 'self'; style-src 'self';.*frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": re.compile("nosniff"),
    "Referrer-Policy": re.compile("no-referrer"),
    "Permissions-Policy": re.compile(r"camera=\(\)"),
    "Cross-Origin-Opener-Policy": re.compile("same-origin"),
    "Cross-Origin-Resource-Policy": re.compile("same-origin"),
    "Vary": re.compile("HX-Request"),
}


class PageFault(AssertionError):
    """A page breaks one of the rules every page must keep."""


# A document that shows a stranger's markup: it may load, run and send nothing, and stands in our own pages only.
SANDBOXED = re.compile(r"default-src 'none'; style-src 'sha256-[\w+/=]+'; sandbox; frame-ancestors 'self'")


def check_headers(response: TestResponse) -> None:
    if SANDBOXED.fullmatch(response.headers.get("Content-Security-Policy", "")):
        kept = "no-store" not in response.headers["Cache-Control"]
        if kept or response.headers.get("X-Content-Type-Options") != "nosniff":
            raise PageFault("a sandboxed document without its headers")
        return
    for name, wanted in HEADERS.items():
        if not wanted.search(response.headers.get(name, "")):
            raise PageFault(f"header {name} is {response.headers.get(name)!r}")
    if re.search("unsafe|nonce|\\*", response.headers["Content-Security-Policy"]):
        raise PageFault("the content security policy has a hole")


def check_page(html: str, *, fragment: bool = False) -> BeautifulSoup:
    """Raises PageFault unless the page (or fragment) is valid HTML and keeps the rules of docs/style."""
    parser = html5lib.HTMLParser(strict=False)
    (parser.parseFragment if fragment else parser.parse)(html)
    if parser.errors:
        raise PageFault(f"not valid HTML: {[(at, code) for at, code, _ in parser.errors][:5]}")
    soup = BeautifulSoup(html, "lxml")  # of valid HTML the same tree, sooner
    ids = [tag["id"] for tag in soup.select("[id]")]
    if doubles := {one for one in ids if ids.count(one) > 1}:
        raise PageFault(f"the same id twice: {doubles}")
    if not fragment:
        _check_heading(soup)
        if not soup.html or not soup.html.get("lang"):
            raise PageFault("the page says no language")
    _check_no_inline(soup)
    _check_only_own_files(soup)
    for form in soup.select("form"):
        _check_form(form)
    _check_labels(soup, set(ids), fragment)
    return soup


def _check_heading(soup: BeautifulSoup) -> None:
    headings = soup.select("h1")
    if len(headings) != 1:
        raise PageFault(f"{len(headings)} h1 on the page")
    title, heading = soup.title.get_text() if soup.title else "", headings[0].get_text(" ", strip=True)
    if not heading or not title.startswith(heading):
        raise PageFault(f"title {title!r} does not start with h1 {heading!r}")


def _check_no_inline(soup: BeautifulSoup) -> None:
    if soup.select("script:not([src]), style, [style]"):
        raise PageFault("inline script or style")
    for tag in soup.find_all(True):
        if any(name.startswith("on") or name.startswith(("hx-on", "data-hx-on")) for name in tag.attrs):
            raise PageFault(f"inline event handler in {tag.name}")
        if any(
            str(tag.attrs.get(name, "")).strip().lower().startswith("javascript:") for name in ("href", "src", "action")
        ):
            raise PageFault("javascript: address")


def _check_only_own_files(soup: BeautifulSoup) -> None:
    for frame in soup.select("iframe"):
        allowed = frame.get("sandbox", ["everything"])  # a list of words: none is allowed
        if "".join(allowed) or not str(frame.get("src")).startswith("/") or not frame.get("title"):
            raise PageFault("a page inside the page that may do something, or without a title")
    if soup.select("object, embed"):
        raise PageFault("a page inside the page")
    for tag in soup.select("script[src], link[href], img[src], use[href]"):
        if tag.name == "img" and re.match("data:image/(jpeg|png);base64,", str(tag.get("src"))):
            continue  # a picture that came with the page
        address = urlsplit(str(tag.get("src") or tag.get("href") or "//foreign"))
        if address.scheme or address.netloc:
            raise PageFault(f"{tag.name} loads a foreign file")


def _check_form(form: Tag) -> None:
    if str(form.get("method", "get")).lower() == "post":
        token = form.select_one("input[type=hidden][name=csrf]")
        if token is None or len(str(token.get("value", ""))) < 32:
            raise PageFault("a form without CSRF token")
        if urlsplit(str(form.get("action", ""))).netloc:
            raise PageFault("a form that posts elsewhere")


def _check_labels(soup: BeautifulSoup, ids: set[str], fragment: bool) -> None:
    labelled = {tag.get("for") for tag in soup.select("label[for]")}
    for tag in soup.select("input:not([type=hidden]), select, textarea"):
        if not (
            tag.get("id") in labelled or tag.get("aria-label") or tag.get("aria-labelledby") or tag.find_parent("label")
        ):
            raise PageFault(f"{tag.name} {tag.get('name')} has no label")
    for tag in soup.select("button, a[href], summary"):
        if not (tag.get_text(strip=True) or tag.get("aria-label")):
            raise PageFault(f"{tag.name} without words")
    for tag in soup.select("progress"):
        if not (tag.get("aria-label") or tag.get("aria-labelledby") or tag.get("id") in labelled):
            raise PageFault("progress without words")
    if not fragment:
        for name in ("for", "aria-labelledby", "aria-describedby", "aria-controls"):
            for tag in soup.select(f"[{name}]"):
                if missing := set(str(tag[name]).split()) - ids:
                    raise PageFault(f"{name} points to {missing}, which is not on the page")


class PageClient:
    """One browser. `post` fills in the CSRF token of this browser; `htmx=True` asks as htmx does."""

    def __init__(self, app: Flask, *, language: str = "en") -> None:
        self.app = app
        self.browser = app.test_client()
        self._token = ("", "")

    def request(self, method: str, url: str, *, htmx: bool = False, **options: Any) -> TestResponse:
        headers = dict(options.pop("headers", {}))
        if htmx:
            headers |= {"HX-Request": "true"}
        response = self.browser.open(url, method=method, headers=headers, **options)
        check_headers(response)
        if SANDBOXED.fullmatch(response.headers["Content-Security-Policy"]):
            return response  # a stranger's markup: no page of ours
        if response.mimetype == "text/html" and response.data and not 300 <= response.status_code < 400:
            whole = response.text.lstrip().lower().startswith("<!doctype")
            if not whole and not htmx:
                raise PageFault("a whole page was asked for and a part came")
            check_page(response.text, fragment=not whole)
            if "no-store" not in response.headers.get("Cache-Control", ""):
                raise PageFault("a page may be kept by the browser")
        return response

    def get(self, url: str, **options: Any) -> TestResponse:
        return self.request("GET", url, **options)

    def token(self) -> str:
        """The CSRF token of this browser as its pages carry it. Asked for again when its cookies have changed."""
        with_cookies = str(sorted(self.cookies().items()))
        if with_cookies != self._token[0] or not self.cookies():
            page = BeautifulSoup(self.get("/help").text, "lxml")
            headers = json.loads(str(page.body["data-hx-headers"]))  # type: ignore[index]
            self._token = (str(sorted(self.cookies().items())), headers["X-CSRF-Token"])
        return self._token[1]

    def post(self, url: str, form: dict[str, Any] | None = None, **options: Any) -> TestResponse:
        return self.request("POST", url, data={"csrf": self.token(), **(form or {})}, **options)

    def page(self, url: str, **options: Any) -> BeautifulSoup:
        """The page behind this address, which must be there."""
        response = self.get(url, **options)
        assert response.status_code == 200, (url, response.status_code)
        return BeautifulSoup(response.text, "html5lib")

    def cookies(self) -> dict[str, str]:
        return {cookie.key: cookie.value for cookie in self.browser._cookies.values()}


def text_of(response: TestResponse | BeautifulSoup) -> str:
    """All words of a page, spaces squeezed."""
    soup = BeautifulSoup(response.text, "html5lib") if isinstance(response, TestResponse) else response
    return re.sub(r"\s+", " ", soup.get_text(" "))
