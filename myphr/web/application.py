"""Builds the web application from the portal's parts. Called by `app.py` under gunicorn and by the tests."""

import logging
from pathlib import Path

import jinja2
from flask import Flask
from flask_login import current_user
from htmx_flask import Htmx

from myphr.portal import Portal
from myphr.web import words
from myphr.web.errors import init_errors
from myphr.web.login import init_login, put_key_cookie
from myphr.web.security import init_security
from myphr.web.static_files import init_static

TEMPLATES = Path(__file__).resolve().parents[2] / "templates"
FORM_BYTES_MAX = 256 * 1024  # no form of ours is larger; uploads stream past this and have limits of their own


def create_app(portal: Portal) -> Flask:
    """One WSGI application. Everything it needs hangs on `portal`; nothing is read from the environment."""
    app = Flask("myphr.web", template_folder=str(TEMPLATES), static_folder=None)
    is_https = portal.settings.public_url.startswith("https://")
    app.config.update(
        SECRET_KEY=portal.keys.cookie_key,
        SESSION_COOKIE_NAME="__Host-myphr" if is_https else "myphr",
        SESSION_COOKIE_HTTPONLY=True, SESSION_COOKIE_SAMESITE="Lax", SESSION_COOKIE_SECURE=is_https,
        SESSION_COOKIE_PATH="/", SESSION_REFRESH_EACH_REQUEST=False,
        MAX_FORM_MEMORY_SIZE=FORM_BYTES_MAX, MAX_FORM_PARTS=200,
    )  # fmt: skip
    app.extensions["portal"] = portal
    app.jinja_env.undefined = jinja2.StrictUndefined
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    Htmx(app)

    init_login(app)
    init_security(app, portal.settings, portal.keys.cookie_key)
    app.after_request(put_key_cookie)
    init_errors(app)
    init_static(app)
    words.init_words(app)
    app.context_processor(lambda: {
        "me": current_user.login.account if current_user.is_authenticated else None,
        "settings": portal.settings,
    })  # fmt: skip

    from myphr.web import (
        account,
        app_keys,
        authorities,
        caregiver,
        closing,
        correction,
        deletions,
        dicom_web,
        dicom_web_out,
        dicom_web_parts,
        drop_offs,
        entrance,
        everything,
        find,
        handing_over,
        help_pages,
        hospital_servers,
        hospitals,
        identity,
        machine,
        operator,
        outcome,
        pacs,
        pacs_servers,
        previews,
        record,
        record_shares,
        second_step,
        share_by_kind,
        shared_with_me,
        study,
        trail,
        uploads,
    )

    for module in (
        entrance, second_step, account, identity, authorities, record, study, previews, correction, find, record_shares,
        share_by_kind, shared_with_me, drop_offs, hospitals, hospital_servers, machine, outcome, caregiver, trail,
        help_pages, operator, uploads, dicom_web, dicom_web_out, dicom_web_parts, app_keys, handing_over,
    ):  # fmt: skip
        app.register_blueprint(module.blueprint)
    app.register_blueprint(pacs.blueprint)
    app.register_blueprint(pacs_servers.blueprint)
    app.register_blueprint(everything.blueprint)
    app.register_blueprint(deletions.blueprint)
    app.register_blueprint(closing.blueprint)
    app.register_blueprint(handing_over.uploads_blueprint)
    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # its access lines would carry upload tokens
    return app
