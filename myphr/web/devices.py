"""Which device calls: in short plain words ("Safari on iPad") for lists, and its address for counting tries."""

import ipaddress

from flask import request

_SYSTEMS = (
    ("iPad", "iPad"),
    ("iPhone", "iPhone"),
    ("Android", "Android"),
    ("CrOS", "Chromebook"),
    ("Windows", "Windows"),
    ("Mac OS X", "Mac"),
    ("Linux", "Linux"),
)
_BROWSERS = (
    ("Edg/", "Edge"), ("OPR/", "Opera"), ("SamsungBrowser/", "Samsung Internet"), ("Firefox/", "Firefox"),
    ("FxiOS/", "Firefox"), ("CriOS/", "Chrome"), ("Chrome/", "Chrome"), ("Safari/", "Safari"),
)  # fmt: skip



def device_words(user_agent: str) -> str:
    browser = next((name for mark, name in _BROWSERS if mark in user_agent), "A browser")
    system = next((name for mark, name in _SYSTEMS if mark in user_agent), "")
    return f"{browser} on {system}" if system else browser


def this_device() -> str:
    return device_words(request.headers.get("User-Agent", ""))


def this_address() -> str:
    """The caller's address if it is a public one, for counting tries; else empty.

    Behind a reverse proxy everybody comes from the proxy's private or loopback address: counting by it would let one
    guesser lock all others out. Forwarded headers are not believed, anybody can write them."""
    try:
        address = ipaddress.ip_address(request.remote_addr or "")
    except ValueError:
        return ""
    return str(address) if address.is_global else ""
