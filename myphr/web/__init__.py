"""The portal's pages: Flask, HTMX, server-rendered. Holds no standing power to open items.

A page module offers `blueprint`; each view carries one `@policy` (policy.py) and takes the parts from `portal()` and
the person from `this_login()` (login.py). Unsafe requests need the CSRF token as form field `csrf` or header
`X-CSRF-Token` (uploads too: the page's script sends it).
"""
