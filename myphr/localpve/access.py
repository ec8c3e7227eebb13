"""Who may do what: users, API tokens, tickets, roles and access lists, with Proxmox VE's rules and texts.

Knows nothing of machines except that a machine or storage may be in a pool. Secrets are kept hashed, but for root's
first password, which stands in a file for the operator. Called by `api` on every request.
"""

import base64
import hashlib
import hmac
import os
import re
import secrets
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from myphr.localpve import formats
from myphr.localpve.replies import ApiError, ParameterErrors, failure, forbidden
from myphr.localpve.state import State

TICKET_SECONDS = 7200
CSRF_SECONDS = 86_400
CONSOLE_TICKET_SECONDS = 40  # a screen's ticket; 20 s of clock difference allowed into the future
CLOCK_SKEW_SECONDS = 20

_VM_USER = {"VM.Audit", "VM.Backup", "VM.Config.CDROM", "VM.Config.Cloudinit", "VM.Console", "VM.PowerMgmt"}
_STARTING_WITH = lambda *heads: {p for p in formats.PRIVILEGES if p.startswith(heads)}  # noqa: E731
BUILT_IN_ROLES: dict[str, set[str]] = {
    "Administrator": set(formats.PRIVILEGES),
    "NoAccess": set(),
    "PVEAdmin": set(formats.PRIVILEGES)
    - {"Permissions.Modify", "Sys.PowerMgmt", "Sys.Modify", "Sys.Incoming", "Sys.AccessNetwork", "Realm.Allocate"},
    "PVEAuditor": {p for p in formats.PRIVILEGES if p.endswith(".Audit")},
    "PVEDatastoreAdmin": _STARTING_WITH("Datastore."),
    "PVEDatastoreUser": {"Datastore.AllocateSpace", "Datastore.Audit"},
    "PVEMappingAdmin": _STARTING_WITH("Mapping."),
    "PVEMappingUser": {"Mapping.Audit", "Mapping.Use"},
    "PVEMappingAuditor": {"Mapping.Audit"},
    "PVEPoolAdmin": _STARTING_WITH("Pool."),
    "PVEPoolUser": {"Pool.Audit"},
    "PVESDNAdmin": _STARTING_WITH("SDN."),
    "PVESDNUser": {"SDN.Audit", "SDN.Use"},
    "PVESysAdmin": {"Permissions.Modify", "Sys.Audit", "Sys.Console", "Sys.Syslog"},
    "PVETemplateUser": {"VM.Audit", "VM.Clone"},
    "PVEUserAdmin": {"Group.Allocate", "Realm.AllocateUser", "User.Modify"},
    "PVEVMAdmin": _STARTING_WITH("VM."),
    "PVEVMUser": _VM_USER,
}


@dataclass(frozen=True)
class Identity:
    """Who is calling: a user, or a token of that user."""

    user: str
    token: str = ""  # the token's own name
    by_cookie: bool = False

    @property
    def full(self) -> str:
        return f"{self.user}!{self.token}" if self.token else self.user

    @property
    def is_root(self) -> bool:
        """Only root@pam signed in with the password; root's tokens are not root."""
        return self.full == "root@pam"


def hash_password(password: str, salt: bytes | None = None) -> str:
    salt = salt or os.urandom(16)
    digest = hashlib.scrypt(password.encode(), salt=salt, n=4096, r=8, p=1)
    return f"{salt.hex()}${digest.hex()}"


def _hash_secret(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()  # 122 random bits need no slow hash


def unauthorised(text: str) -> ApiError:
    """401 of the authentication layer: only a reason phrase, no body."""
    return ApiError(401, text, body=False)


class Access:
    """Reads and changes the access part of the state. `key_pem` signs tickets."""

    def __init__(self, state: State, key_pem: bytes, now: Callable[[], float] = time.time) -> None:
        self._state = state
        self._now = now
        key = serialization.load_pem_private_key(key_pem, None)
        if not isinstance(key, rsa.RSAPrivateKey):
            raise TypeError("the ticket key must be an RSA key")
        self._key = key
        self._csrf_key = hashlib.sha256(b"csrf" + key_pem).digest()

    # -- tickets ------------------------------------------------------------------------------
    def _sign(self, text: str) -> str:
        return base64.b64encode(self._key.sign(text.encode(), padding.PKCS1v15(), hashes.SHA256())).decode()

    def _signed_at(
        self, ticket: str, prefix: str, bound: str, *, long_signature_is_failure: bool = False
    ) -> int | None:
        """Unix time of a good signature over `prefix:...:time` and what it is bound to; None if it is not good."""
        plain, _, signature = ticket.rpartition("::")
        if not plain.startswith(prefix + ":"):
            return None
        try:
            raw = base64.b64decode(signature)
            when = int(plain.rsplit(":", 1)[1], 16)
        except ValueError:
            return None
        if long_signature_is_failure and len(raw) > self._key.key_size // 8:
            raise failure("Signature longer than key at <server source> line <n>.")
        try:
            self._key.public_key().verify(raw, (plain + bound).encode(), padding.PKCS1v15(), hashes.SHA256())
        except InvalidSignature:
            return None
        return when

    def new_ticket(self, user: str) -> str:
        plain = f"PVE:{user}:{int(self._now()):08X}"
        return f"{plain}::{self._sign(plain)}"

    def new_csrf(self, user: str) -> str:
        plain = f"{int(self._now()):08X}"
        mac = hmac.digest(self._csrf_key, f"{plain}:{user}".encode(), "sha256")
        return f"{plain}:{base64.b64encode(mac).decode().rstrip('=')}"

    def _csrf_fits(self, text: str, user: str) -> bool:
        plain, _, given = text.partition(":")
        mac = hmac.digest(self._csrf_key, f"{plain}:{user}".encode(), "sha256")
        if not hmac.compare_digest(
            base64.b64encode(mac).decode().rstrip("=").encode(), given.encode("utf-8", "replace")
        ):
            return False
        age = self._now() - int(plain, 16)
        return -CLOCK_SKEW_SECONDS * 15 < age < CSRF_SECONDS

    def new_console_ticket(self, identity: Identity, path: str) -> str:
        plain = f"PVEVNC:{int(self._now()):08X}"
        return f"{plain}::{self._sign(f'{plain}:{identity.full}:{path}')}"

    def check_console_ticket(self, ticket: str, identity: Identity, path: str) -> None:
        """Raises ApiError 401 (with a body) unless made for this identity and path within the last 40 s."""
        bound = f":{identity.full}:{path}"
        when = self._signed_at(ticket, "PVEVNC", bound, long_signature_is_failure=True)
        if when is None or not -CLOCK_SKEW_SECONDS <= self._now() - when <= CONSOLE_TICKET_SECONDS:
            raise ApiError(401, "permission denied - invalid PVEVNC ticket")

    # -- who is it ----------------------------------------------------------------------------
    def identify(self, headers: dict[str, str], method: str) -> Identity:
        """The caller. Raises ApiError 401 without a body, as the authentication layer of a real node does."""
        authorization = headers.get("authorization", "")
        if authorization.startswith("PVEAPIToken"):
            return self._identify_token(authorization[len("PVEAPIToken") :].lstrip("= "))
        cookies = dict(part.strip().partition("=")[::2] for part in headers.get("cookie", "").split(";") if "=" in part)
        ticket = unquote(cookies.get("PVEAuthCookie", ""))
        if not ticket:
            raise unauthorised("No ticket")
        user = self.user_of_ticket(ticket)
        if user is None:
            raise unauthorised("permission denied - invalid PVE ticket")
        self._check_enabled(user)
        if method != "GET" and not self._csrf_good(headers.get("csrfpreventiontoken", ""), user):
            raise unauthorised("Permission denied - invalid csrf token")
        return Identity(user, by_cookie=True)

    def _csrf_good(self, text: str, user: str) -> bool:
        try:
            return self._csrf_fits(text, user)
        except ValueError:
            return False

    def user_of_ticket(self, ticket: str) -> str | None:
        when = self._signed_at(ticket, "PVE", "")
        if when is None or not -CLOCK_SKEW_SECONDS * 15 <= self._now() - when <= TICKET_SECONDS:
            return None
        user = ticket.split(":")[1]
        return user if self._state.get("user", user) else None

    def _identify_token(self, text: str) -> Identity:
        full, _, secret = text.partition("=")
        user, mark, name = full.partition("!")
        if not mark or not name:
            raise unauthorised("no tokenid specified")
        known = self._state.get("user", user)
        if known is None:
            raise unauthorised(f"no such user ('{user}')")
        self._check_enabled(user)
        token = self._state.get("token", full)
        if token is None:
            raise unauthorised(f"no such token '{name}' for user '{user}'")
        if token["expire"] and token["expire"] < self._now():
            raise unauthorised(f"token '{name}' access expired")
        if not hmac.compare_digest(_hash_secret(secret), token["secret_sha256"]):
            raise unauthorised("invalid token value!")
        return Identity(user, name)

    def _check_enabled(self, user: str) -> None:
        known = self._state.get("user", user)
        if known is None:
            raise unauthorised(f"no such user ('{user}')")
        if not known["enable"]:
            raise unauthorised(f"user '{user}' is disabled")
        if known["expire"] and known["expire"] < self._now():
            raise unauthorised(f"user '{user}' access expired")

    def password_fits(self, user: str, password: str) -> bool:
        """Slow on purpose (scrypt): call it in a thread."""
        known = self._state.get("user", user)
        stored = (known or {}).get("password") or hash_password("", b"no such user....")
        salt = bytes.fromhex(stored.split("$")[0])
        same = hmac.compare_digest(hash_password(password, salt), stored)
        return bool(same and known and known.get("password") and known["enable"])

    # -- what may it do -----------------------------------------------------------------------
    def privileges(self, identity: Identity, path: str) -> dict[str, int]:
        """Privilege -> propagates (0/1) on one path. A token with separated privileges has what both it and its user
        have."""
        if identity.user == "root@pam":
            own = dict.fromkeys(formats.PRIVILEGES, 1)
        else:
            own = self._acl_privileges(identity.user, path)
        if not identity.token:
            return own
        token = self._state.get("token", identity.full)
        if not token or not token["privsep"]:
            return own
        separate = self._acl_privileges(identity.full, path)
        return {name: min(own[name], separate[name]) for name in separate if name in own}

    def _acl_privileges(self, who: str, path: str) -> dict[str, int]:
        acl = self._state.kind("acl")
        roles: dict[str, int] = {}
        parts = [p for p in path.split("/") if p]
        for depth in range(len(parts) + 1):
            here = "/" + "/".join(parts[:depth])
            final = depth == len(parts)
            found = {
                entry["roleid"]: entry["propagate"]
                for entry in acl.values()
                if entry["path"] == here and entry["ugid"] == who and (final or entry["propagate"])
            }
            if found:  # a deeper entry replaces the inherited one
                roles = found
        if "NoAccess" in roles:
            return {}
        privileges: dict[str, int] = {}
        for role, propagate in roles.items():
            for name in self.role_privileges(role):
                privileges[name] = max(privileges.get(name, 0), propagate)
        # A machine or storage in a pool has the pool's roles on top of its own.
        if len(parts) == 2 and parts[0] in ("vms", "storage"):
            for pool, document in self._state.kind("pool").items():
                if parts[1] in document[parts[0]]:
                    for name, propagate in self._acl_privileges(who, f"/pool/{pool}").items():
                        privileges[name] = max(privileges.get(name, 0), propagate)
        return privileges

    def role_privileges(self, role: str) -> set[str]:
        if role in BUILT_IN_ROLES:
            return BUILT_IN_ROLES[role]
        return set(self._state.kind("role").get(role, ()))

    def may(self, identity: Identity, path: str, wanted: Iterable[str], any_of: bool = False) -> bool:
        has = self.privileges(identity, path)
        return (any if any_of else all)(name in has for name in wanted)

    def need(self, identity: Identity, path: str, *wanted: str, any_of: bool = False) -> None:
        """Raises ApiError 403 "(path, privilege)"."""
        if any_of:
            if not self.may(identity, path, wanted, any_of=True):
                raise forbidden(f"{path}, {'|'.join(wanted)}")
            return
        for name in wanted:
            if not self.may(identity, path, (name,)):
                raise forbidden(f"{path}, {name}")

    def check(self, identity: Identity, rule: dict, given: dict[str, Any]) -> None:
        """The schema's `permissions` of a call. Raises ApiError 403."""
        if "check" in rule:
            self._check_expression(identity, rule["check"], given)

    def _check_expression(self, identity: Identity, expression: list, given: dict[str, Any]) -> None:
        kind, *rest = expression
        if kind == "and":
            for part in rest:
                self._check_expression(identity, part, given)
        elif kind == "or":
            for part in rest:
                try:
                    return self._check_expression(identity, part, given)
                except ApiError:
                    continue
            raise forbidden()
        elif kind == "perm":
            path, wanted = rest[0], rest[1]
            options = dict(zip(rest[2::2], rest[3::2], strict=False))
            if (needed := options.get("require_param")) and needed not in given:
                raise forbidden()
            path = re.sub(r"\{(\w+)\}", lambda m: str(given.get(m[1], "")), path)
            self.need(identity, path, *wanted, any_of=bool(options.get("any")))
        elif kind == "perm-modify":
            self.need(identity, str(given.get("path", "/")), "Permissions.Modify")
        elif kind == "userid-param":
            if rest[0] == "self":
                if given.get("userid") != identity.user:
                    raise forbidden()
            else:
                realm = str(given.get("userid", "")).rpartition("@")[2]
                self.need(identity, f"/access/realm/{realm}", rest[0])
        elif kind == "userid-group":
            self.need(identity, "/access/groups", *rest[0], any_of=True)

    def effective(self, identity: Identity, path: str | None) -> dict[str, dict[str, int]]:
        """What /access/permissions answers: every path that an entry, a pool or a built-in tree names."""
        if path is not None:
            return {path: self.privileges(identity, path)}
        paths = {"/", "/access", "/access/groups", "/nodes", "/pool", "/sdn", "/storage", "/vms"}
        paths |= {entry["path"] for entry in self._state.kind("acl").values()}
        for pool, document in self._state.kind("pool").items():
            if self._acl_privileges(identity.user, f"/pool/{pool}"):
                paths |= {f"/vms/{vmid}" for vmid in document["vms"]} | {f"/storage/{s}" for s in document["storage"]}
        found = {p: self.privileges(identity, p) for p in sorted(paths)}
        return {p: privileges for p, privileges in found.items() if privileges}

    # -- changes ------------------------------------------------------------------------------
    def add_user(self, user: str, password: str | None = None, **fields: Any) -> None:
        if self._state.get("user", user):
            raise failure(f"create user failed: user '{user}' already exists")
        document = {"enable": 1, "expire": 0, "comment": None, "email": "", **fields}
        document["password"] = hash_password(password) if password else None
        self._state.put("user", user, document)

    def add_token(self, user: str, name: str, privsep: int = 1, expire: int = 0, comment: str | None = None) -> str:
        """Returns the secret; it is not kept."""
        full = f"{user}!{name}"
        if self._state.get("token", full):
            raise ParameterErrors({"tokenid": "Token already exists."})
        secret = str(uuid.UUID(bytes=secrets.token_bytes(16), version=4))
        self.put_token(full, secret, privsep=privsep, expire=expire, comment=comment)
        return secret

    def put_token(self, full: str, secret: str, **fields: Any) -> None:
        document = {"privsep": 1, "expire": 0, "comment": None, **fields, "secret_sha256": _hash_secret(secret)}
        self._state.put("token", full, document)

    def grant(self, path: str, who: str, role: str, propagate: int = 1) -> None:
        kind = "token" if "!" in who else "user"
        entry = {"path": path, "ugid": who, "type": kind, "roleid": role, "propagate": propagate}
        self._state.put("acl", f"{path}|{who}|{role}", entry)

    def withdraw(self, path: str, who: str, role: str) -> None:
        self._state.remove("acl", f"{path}|{who}|{role}")

    def forget(self, who: str) -> None:
        """Removes a user or token with its access entries (and a user's tokens)."""
        with self._state.together():
            for key, entry in list(self._state.kind("acl").items()):
                if entry["ugid"] == who or entry["ugid"].startswith(who + "!"):
                    self._state.remove("acl", key)
            for full in [t for t in self._state.kind("token") if t == who or t.startswith(who + "!")]:
                self._state.remove("token", full)
            self._state.remove("user", who)

    def forget_path(self, path: str) -> None:
        for key in [k for k, entry in self._state.kind("acl").items() if entry["path"] == path]:
            self._state.remove("acl", key)


def new_ticket_key() -> bytes:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
