"""A hospital on loopback for the tests: Authlib as its authorization server (PKCE demanded, RFC 9207, RFC 7009, refresh
tokens), Medplum as its FHIR server behind a check of the token. `faults` makes it misbehave in one named way.

SMART App Launch 2.2. The FHIR server is an npm package: see tests/peers/hospital. Development only.
"""

import base64
import contextlib
import fcntl
import json
import logging
import os
import secrets
import shutil
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import requests
from authlib.integrations.flask_oauth2 import AuthorizationServer
from authlib.oauth2 import OAuth2Error
from authlib.oauth2.rfc6749 import ClientMixin, TokenMixin, grants
from authlib.oauth2.rfc6749.models import AuthorizationCodeMixin
from authlib.oauth2.rfc6750 import BearerTokenGenerator
from authlib.oauth2.rfc7009 import RevocationEndpoint
from authlib.oauth2.rfc7636 import CodeChallenge
from authlib.oauth2.rfc9207 import IssuerParameter
from flask import Flask, Response, jsonify, request
from werkzeug.serving import make_server

PEER = Path(__file__).parent / "peers" / "hospital"
NODE_MODULES = Path(__file__).parents[1] / "build" / "hospital-peer"
CLIENT_ID = "myphr-portal"
CODE_SECONDS = 60
PATIENT_PASSWORD = "ward 7 in the morning"


def node_modules() -> Path:
    """Medplum's packages, fetched once into build/ by the lock file; one test process fetches, the others wait."""
    lock, fetched = PEER / "package-lock.json", NODE_MODULES / "fetched-by-lock.json"
    NODE_MODULES.mkdir(parents=True, exist_ok=True)
    with open(NODE_MODULES / "guard", "w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        if not fetched.exists() or fetched.read_bytes() != lock.read_bytes():
            npm = shutil.which("npm")
            assert npm, "npm is needed to fetch the FHIR server of these tests"
            for name in ("package.json", "package-lock.json"):
                shutil.copy(PEER / name, NODE_MODULES / name)
            command = [npm, "ci", "--prefix", str(NODE_MODULES), "--no-audit", "--no-fund"]
            subprocess.run(command, check=True, capture_output=True)
            shutil.copy(lock, fetched)
        shutil.copy(PEER / "medplum.mjs", NODE_MODULES / "medplum.mjs")
    return NODE_MODULES


def node() -> Path:
    """Node.js 20, which Medplum needs (Debian 12 has 18), from npm like the rest."""
    [found] = (node_modules() / "node_modules").glob("node-linux-*/bin/node")
    return found


class Medplum:
    """The FHIR server alone, without a check of tokens."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [node(), node_modules() / "medplum.mjs"], stdout=subprocess.PIPE, text=True
        )  # fmt: skip
        assert self._process.stdout is not None
        self.url = f"http://127.0.0.1:{int(self._process.stdout.readline())}"

    def call(self, method: str, path: str, body: bytes | None = None, base: str = "") -> tuple[int, bytes]:
        asked = urllib.request.Request(self.url + path, data=body, method=method, headers={"X-Base": base})
        try:
            with urllib.request.urlopen(asked, timeout=30) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def admit(self, bundle: bytes) -> str:
        """Put a transaction's entries in; the id that its patient has here."""
        status, answer = self.call("POST", "/", bundle)
        assert status == 200, answer[:500]
        entries = json.loads(answer)["entry"]
        assert all(entry["response"]["status"].startswith("20") for entry in entries), answer[:2000]
        places = [entry["response"]["location"] for entry in entries]
        return next(place.split("Patient/")[1].split("/")[0] for place in places if "Patient/" in place)

    def put(self, resource: dict[str, Any]) -> str:
        """One resource in; its id."""
        status, answer = self.call("POST", f"/{resource['resourceType']}", json.dumps(resource).encode())
        assert status in (200, 201), answer[:500]
        return json.loads(answer)["id"]

    def problems(self, resource: bytes) -> list[dict[str, Any]]:
        """What its validator says against a resource."""
        _status, answer = self.call("POST", "/$validate", resource)
        return [issue for issue in json.loads(answer)["issues"] if issue.get("severity") != "information"]

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


class Client(ClientMixin):
    """The portal as this hospital registered it: public, one redirect address."""

    def __init__(self, redirect_uri: str) -> None:
        self.redirect_uri = redirect_uri

    def get_client_id(self) -> str:
        return CLIENT_ID

    def get_default_redirect_uri(self) -> str:
        return self.redirect_uri

    def get_allowed_scope(self, scope: str) -> str:
        return scope

    def check_redirect_uri(self, redirect_uri: str) -> bool:
        return redirect_uri == self.redirect_uri

    def check_client_secret(self, _secret: str) -> bool:
        return False

    def check_endpoint_auth_method(self, method: str, _endpoint: str) -> bool:
        return method == "none"

    def check_response_type(self, response_type: str) -> bool:
        return response_type == "code"

    def check_grant_type(self, grant_type: str) -> bool:
        return grant_type in ("authorization_code", "refresh_token")


class Code(AuthorizationCodeMixin):
    def __init__(self, code: str, asked: Any, user: str) -> None:
        self.code, self.user, self.made_at = code, user, time.monotonic()
        self.redirect_uri, self.scope = asked.payload.redirect_uri, asked.payload.scope
        self.code_challenge = asked.payload.data.get("code_challenge")
        self.code_challenge_method = asked.payload.data.get("code_challenge_method")

    def get_redirect_uri(self) -> str:
        return self.redirect_uri

    def get_scope(self) -> str:
        return self.scope


class Token(TokenMixin):
    def __init__(self, token: dict[str, Any], user: str) -> None:
        self.token, self.user, self.ends_at, self.revoked = token, user, time.monotonic() + token["expires_in"], False

    def check_client(self, client: Client) -> bool:
        return client.get_client_id() == CLIENT_ID

    def get_scope(self) -> str:
        return self.token["scope"]

    def get_expires_in(self) -> int:
        return self.token["expires_in"]

    def is_expired(self) -> bool:
        return time.monotonic() > self.ends_at

    def is_revoked(self) -> bool:
        return self.revoked

    def get_user(self) -> str:
        return self.user

    def get_client(self) -> Client:
        raise NotImplementedError


class Hospital:
    """`patient` is the id of the one person who has an account here. `faults`: see `_fault`. `asked` is every path that
    was asked for with a token."""

    def __init__(self, medplum: Medplum, redirect_uri: str) -> None:
        os.environ["AUTHLIB_INSECURE_TRANSPORT"] = "1"  # loopback without TLS
        self.medplum, self.patient = medplum, ""
        self.faults: dict[str, Any] = {}
        self.asked: list[str] = []
        self.codes: dict[str, Code] = {}
        self.tokens: list[Token] = []
        self.token_seconds = 600
        self.before_answer: Callable[[str], None] = lambda path: None
        self._client = Client(redirect_uri)
        self._app = self._build()
        logging.getLogger("werkzeug").setLevel(logging.WARNING)
        self._server = make_server("127.0.0.1", 0, self._app, threaded=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.base = self.url + "/fhir"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)

    @property
    def secrets(self) -> list[str]:
        """Everything that must stand nowhere in clear at the portal."""
        tokens = [one.token.get(name, "") for one in self.tokens for name in ("access_token", "refresh_token")]
        return [*filter(None, tokens), *self.codes]

    # -- the application --------------------------------------------------------------------------
    def _build(self) -> Flask:
        app = Flask("hospital")
        hospital = self

        class CodeGrant(grants.AuthorizationCodeGrant):
            TOKEN_ENDPOINT_AUTH_METHODS = ["none"]

            def save_authorization_code(self, code: str, asked: Any) -> None:
                hospital.codes[code] = Code(code, asked, asked.user)

            def query_authorization_code(self, code: str, _client: Client) -> Code | None:
                found = hospital.codes.get(code)
                seconds = hospital.faults.get("code-seconds", CODE_SECONDS)
                return found if found and time.monotonic() - found.made_at < seconds else None

            def delete_authorization_code(self, code: Code) -> None:
                hospital.codes[code.code].made_at = float("-inf")

            def authenticate_user(self, code: Code) -> str:
                return code.user

        class Refresh(grants.RefreshTokenGrant):
            TOKEN_ENDPOINT_AUTH_METHODS = ["none"]
            INCLUDE_NEW_REFRESH_TOKEN = True

            def authenticate_refresh_token(self, refresh_token: str) -> Token | None:
                live = [token for token in hospital.tokens if not token.revoked]
                return next((t for t in live if t.token.get("refresh_token") == refresh_token), None)

            def authenticate_user(self, token: Token) -> str:
                return token.user

            def revoke_old_credential(self, token: Token) -> None:
                token.revoked = True

        class Revocation(RevocationEndpoint):
            CLIENT_AUTH_METHODS = ["none"]

            def query_token(self, text: str, _hint: str | None) -> Token | None:
                return next((t for t in hospital.tokens if text in t.token.values()), None)

            def revoke_token(self, token: Token, _request: Any) -> None:
                token.revoked = True

        class Issuer(IssuerParameter):
            def get_issuer(self) -> str:
                return hospital.faults.get("iss", hospital.url)

        def save_token(token: dict[str, Any], asked: Any) -> None:
            if "patient" not in hospital.faults:
                token["patient"] = asked.user
            elif hospital.faults["patient"] is not None:
                token["patient"] = hospital.faults["patient"]
            hospital.tokens.append(Token(dict(token), asked.user))

        known = {CLIENT_ID: self._client}
        server = AuthorizationServer(app, known.get, save_token)
        server.register_token_generator("default", BearerTokenGenerator(
            lambda **_: secrets.token_urlsafe(32),
            lambda **_: secrets.token_urlsafe(32) if not hospital.faults.get("no-refresh") else None,
            lambda *_: hospital.token_seconds,
        ))  # fmt: skip
        server.register_grant(CodeGrant, [CodeChallenge(required=True)])
        server.register_grant(Refresh)
        server.register_endpoint(Revocation)
        server.register_extension(lambda authorization_server: Issuer()(authorization_server))

        @app.get("/fhir/.well-known/smart-configuration")
        def configuration() -> Response:
            if "no-well-known" in self.faults:
                return Response("<h1>nothing</h1>", 404, mimetype="text/html")
            return jsonify({
                "issuer": self.url, "authorization_endpoint": f"{self.url}/authorize",
                "token_endpoint": f"{self.url}/token", "revocation_endpoint": f"{self.url}/revoke",
                "code_challenge_methods_supported": ["S256"], "grant_types_supported": ["authorization_code"],
                "authorization_response_iss_parameter_supported": True,
                "capabilities": ["launch-standalone", "client-public", "context-standalone-patient", "permission-v2"],
            } | self.faults.get("configuration", {}))  # fmt: skip

        @app.route("/authorize", methods=["GET", "POST"])
        def authorize() -> Any:
            try:
                grant = server.get_consent_grant(end_user=self.patient)
            except OAuth2Error as error:
                return Response(f"<h1>Refused: {error.error}</h1>", 400)
            if request.method == "GET":
                return PAGE
            signed_in = request.form.get("answer") == "yes" and request.form.get("password") == PATIENT_PASSWORD
            grant_user = self.patient if signed_in else None
            return server.create_authorization_response(grant_user=grant_user, grant=grant)

        @app.post("/token")
        def token() -> Any:
            if "token-answer" in self.faults:
                status, body, *rest = self.faults["token-answer"]
                return Response(body, status, headers=rest[0] if rest else None, mimetype="application/json")
            return server.create_token_response()

        @app.post("/revoke")
        def revoke() -> Any:
            return server.create_endpoint_response(Revocation.ENDPOINT_NAME)

        @app.get("/fhir/<path:path>")
        def fhir(path: str) -> Response:
            return self._fhir(path)

        return app

    def _fhir(self, path: str) -> Response:
        full = request.full_path.removeprefix("/fhir").rstrip("?")
        if path == "metadata":
            return self._metadata()
        text = request.headers.get("Authorization", "").removeprefix("Bearer ")
        held = next((t for t in self.tokens if t.token["access_token"] == text), None)
        if held is None or held.is_expired() or held.is_revoked():
            return Response('{"resourceType":"OperationOutcome"}', 401, mimetype="application/fhir+json")
        self.asked.append(full)
        self.before_answer(full)
        for part, fault in self.faults.get("answers", {}).items():
            if part in full:
                kind = "application/fhir+json"
                return fault(full) if callable(fault) else Response(fault[1], fault[0], mimetype=kind)
        status, body = self.medplum.call("GET", full, base=self.base)
        if path.startswith("Binary/") and status == 200 and "fhir+json" not in request.headers["Accept"].split(",")[0]:
            binary = json.loads(body)
            return Response(base64.b64decode(binary["data"]), 200, mimetype=binary["contentType"])
        return Response(body, status, mimetype="application/fhir+json")

    def _metadata(self) -> Response:
        _status, body = self.medplum.call("GET", "/metadata")
        document = json.loads(body)
        uris = {"authorize": f"{self.url}/authorize", "token": f"{self.url}/token"}
        document["rest"][0]["security"] = {"extension": [{
            "url": "http://fhir-registry.smarthealthit.org/StructureDefinition/oauth-uris",
            "extension": [{"url": name, "valueUri": uri} for name, uri in uris.items()],
        }]}  # fmt: skip
        if "metadata" in self.faults:
            return Response(self.faults["metadata"], mimetype="application/fhir+json")
        return Response(json.dumps(document), mimetype="application/fhir+json")


PAGE = """<!doctype html><html lang="en"><title>Harbour Hospital</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>body{font:20px sans-serif;max-width:32em;margin:3em auto;padding:0 1em}
input,button{font:inherit;padding:.5em 1em;margin:.3em 0}</style>
<h1>Harbour Hospital</h1><p>MyPHRMachines asks to read your records. Nothing of them is changed.</p>
<form method="post"><p><label>Your password here<br><input type="password" name="password"></label></p>
<button name="answer" value="yes">Allow</button> <button name="answer" value="no">Do not allow</button></form></html>"""


@contextlib.contextmanager
def open_hospital(redirect_uri: str) -> Iterator[Hospital]:
    medplum = Medplum()
    try:
        hospital = Hospital(medplum, redirect_uri)
        try:
            yield hospital
        finally:
            hospital.close()
    finally:
        medplum.close()


def give_consent(authorization_url: str, answer: str = "yes") -> str:
    """What the patient's browser does at the hospital: sign in, allow, be sent back. The address it is sent to."""
    page = requests.get(authorization_url, timeout=10)
    assert page.status_code == 200, page.text
    sent = requests.post(
        authorization_url, data={"answer": answer, "password": PATIENT_PASSWORD}, allow_redirects=False, timeout=10
    )
    assert sent.status_code in (302, 303), sent.text
    return sent.headers["Location"]
