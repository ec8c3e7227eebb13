"""Calls below /access and /pools: sign-in, users, tokens, roles, access lists, pools."""

import asyncio
from typing import Any

from myphr.localpve import formats
from myphr.localpve.access import BUILT_IN_ROLES, Identity
from myphr.localpve.api import Call, call
from myphr.localpve.replies import ApiError, ParameterErrors, failure, forbidden


@call("GET /access/ticket")
async def get_ticket(call: Call) -> None:
    """Public, answers nothing: it only exists for sign-in forms."""


@call("POST /access/ticket")
async def new_ticket(call: Call) -> dict[str, Any]:
    given, access = call.given, call.node.access
    user = given["username"] + (f"@{given['realm']}" if "realm" in given else "")
    signed_in = access.user_of_ticket(given["password"]) == user  # a good ticket may renew itself
    if not signed_in:
        signed_in = await asyncio.to_thread(access.password_fits, user, given["password"])
    if not signed_in:
        raise ApiError(401, "authentication failure")
    answer: dict[str, Any] = {"username": user, "cap": capabilities(call, Identity(user))}
    if "path" in given:
        access.need(Identity(user), given["path"], *formats.split_list(given.get("privs", "")))
        return answer
    return {**answer, "ticket": access.new_ticket(user), "CSRFPreventionToken": access.new_csrf(user)}


def capabilities(call: Call, identity: Identity) -> dict[str, dict[str, int]]:
    """What the sign-in tells a user interface about its rights, by area."""
    areas = {
        "access": ("/access", ("User.", "Group.", "Permissions.")), "dc": ("/", ("Sys.",)),
        "nodes": ("/nodes", ("Sys.",)),
        "sdn": ("/sdn", ("SDN.", "Permissions.")), "storage": ("/storage", ("Datastore.", "Permissions.")),
        "vms": ("/vms", ("VM.", "Permissions.")), "mapping": ("/mapping", ("Mapping.", "Permissions.")),
    }  # fmt: skip
    found: dict[str, dict[str, int]] = {}
    for area, (path, heads) in areas.items():
        privileges = call.node.access.privileges(identity, path)
        found[area] = {p: 1 for p in privileges if p.startswith(heads)}
    return found


@call("GET /access/permissions")
async def permissions(call: Call) -> dict[str, dict[str, int]]:
    who = call.given.get("userid")
    identity = call.identity
    if who and who != identity.full:
        if identity.user != who.partition("!")[0]:
            call.need("/access", "Sys.Audit")
        user, _, token = who.partition("!")
        identity = Identity(user, token)
    return call.node.access.effective(identity, call.given.get("path"))


# -- users and tokens ---------------------------------------------------------------------------------
def _user(call: Call) -> dict[str, Any]:
    document = call.node.state.get("user", call.given["userid"])
    if document is None:
        raise failure(f"no such user ('{call.given['userid']}')")
    return document


def _shown(document: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in document.items() if k != "password" and v is not None}


@call("GET /access/users")
async def users(call: Call) -> list[dict[str, Any]]:
    found = []
    for name, document in call.node.state.kind("user").items():
        if (
            name == call.identity.user
            or call.may("/access/groups", "Sys.Audit")
            or call.may("/access/groups", "User.Modify")
        ):
            found.append({"userid": name, "realm-type": name.rpartition("@")[2], **_shown(document)})
    return found


@call("POST /access/users")
async def new_user(call: Call) -> None:
    given = dict(call.given)
    name, password = given.pop("userid"), given.pop("password", None)
    known = {k: v for k, v in given.items() if k in ("comment", "email", "enable", "expire")}
    call.node.access.add_user(name, password, **known)


@call("GET /access/users/{userid}")
async def user(call: Call) -> dict[str, Any]:
    document = _shown(_user(call))
    tokens = {}
    for full, token in call.node.state.kind("token").items():
        owner, _, name = full.partition("!")
        if owner == call.given["userid"]:
            tokens[name] = _shown_token(token)
    return {**document, "groups": [], **({"tokens": tokens} if tokens else {})}


@call("PUT /access/users/{userid}")
async def change_user(call: Call) -> None:
    document = _user(call)
    changes = {k: v for k, v in call.given.items() if k in ("comment", "email", "enable", "expire")}
    call.node.state.put("user", call.given["userid"], {**document, **changes})


@call("DELETE /access/users/{userid}")
async def remove_user(call: Call) -> None:
    _user(call)
    if call.given["userid"] == "root@pam":
        raise failure("delete user failed: cannot delete root@pam")
    call.node.access.forget(call.given["userid"])


def _shown_token(token: dict[str, Any]) -> dict[str, Any]:
    shown = {"privsep": token["privsep"], "expire": token["expire"]}
    return {**shown, **({"comment": token["comment"]} if token.get("comment") else {})}


def _token(call: Call) -> tuple[str, dict[str, Any]]:
    full = f"{call.given['userid']}!{call.given['tokenid']}"
    document = call.node.state.get("token", full)
    if document is None:
        raise failure(f"no such token '{call.given['tokenid']}' for user '{call.given['userid']}'")
    return full, document


@call("GET /access/users/{userid}/token")
async def tokens(call: Call) -> list[dict[str, Any]]:
    found = []
    for full, token in call.node.state.kind("token").items():
        owner, _, name = full.partition("!")
        if owner == call.given["userid"]:
            found.append({"tokenid": name, **_shown_token(token)})
    return found


@call("GET /access/users/{userid}/token/{tokenid}")
async def token(call: Call) -> dict[str, Any]:
    return _shown_token(_token(call)[1])


@call("POST /access/users/{userid}/token/{tokenid}")
async def new_token(call: Call) -> dict[str, Any]:
    _user(call)
    given = call.given
    fields = {"privsep": given.get("privsep", 1), "expire": given.get("expire", 0), "comment": given.get("comment")}
    secret = call.node.access.add_token(given["userid"], given["tokenid"], **fields)
    info = {"privsep": str(fields["privsep"])}
    if "expire" in given:
        info["expire"] = str(given["expire"])
    return {"full-tokenid": f"{given['userid']}!{given['tokenid']}", "value": secret, "info": info}


@call("PUT /access/users/{userid}/token/{tokenid}")
async def change_token(call: Call) -> dict[str, Any]:
    full, document = _token(call)
    changes = {k: v for k, v in call.given.items() if k in ("privsep", "expire", "comment")}
    call.node.state.put("token", full, {**document, **changes})
    # A real node answers what was given as text, and the rest as numbers.
    return {**_shown_token(document), **{k: str(v) for k, v in changes.items()}}


@call("DELETE /access/users/{userid}/token/{tokenid}")
async def remove_token(call: Call) -> None:
    full, _document = _token(call)
    call.node.access.forget(full)


# -- roles and access lists ---------------------------------------------------------------------------
@call("GET /access/roles")
async def roles(call: Call) -> list[dict[str, Any]]:
    own = {name: set(privileges) for name, privileges in call.node.state.kind("role").items()}
    return [
        {"roleid": name, "privs": ",".join(sorted(privileges)), "special": int(name in BUILT_IN_ROLES)}
        for name, privileges in {**BUILT_IN_ROLES, **own}.items()
    ]


@call("GET /access/roles/{roleid}")
async def role(call: Call) -> dict[str, int]:
    name = call.given["roleid"]
    if name not in BUILT_IN_ROLES and name not in call.node.state.kind("role"):
        raise failure(f"role '{name}' does not exist")
    return dict.fromkeys(sorted(call.node.access.role_privileges(name)), 1)


@call("POST /access/roles")
async def new_role(call: Call) -> None:
    name = call.given["roleid"]
    if name in BUILT_IN_ROLES or name in call.node.state.kind("role"):
        raise failure(f"create role failed: role '{name}' already exists")
    call.node.state.put("role", name, formats.split_list(call.given.get("privs", "")))


@call("PUT /access/roles/{roleid}")
async def change_role(call: Call) -> None:
    name = call.given["roleid"]
    if name in BUILT_IN_ROLES:
        raise failure(f"auto-generated role '{name}' cannot be modified")
    if name not in call.node.state.kind("role"):
        raise failure(f"role '{name}' does not exist")
    wanted = formats.split_list(call.given.get("privs", ""))
    if call.given.get("append"):
        wanted = sorted({*wanted, *call.node.state.get("role", name)})
    call.node.state.put("role", name, wanted)


@call("DELETE /access/roles/{roleid}")
async def remove_role(call: Call) -> None:
    name = call.given["roleid"]
    if name in BUILT_IN_ROLES:
        raise failure(f"auto-generated role '{name}' cannot be deleted")
    if name not in call.node.state.kind("role"):
        raise failure(f"role '{name}' does not exist")
    with call.node.state.together():
        for key, entry in list(call.node.state.kind("acl").items()):
            if entry["roleid"] == name:
                call.node.state.remove("acl", key)
        call.node.state.remove("role", name)


@call("GET /access/acl")
async def acl(call: Call) -> list[dict[str, Any]]:
    return [
        entry for entry in call.node.state.kind("acl").values() if call.may(entry["path"], "Permissions.Modify")
    ]  # fmt: skip


@call("PUT /access/acl")
async def change_acl(call: Call) -> None:
    given, node = call.given, call.node
    who = formats.split_list(given.get("users", "")) + formats.split_list(given.get("tokens", ""))
    if not who:
        raise ParameterErrors({"users": "property is missing and it is not optional"})
    wanted = formats.split_list(given["roles"])
    for name in who:
        kind = "token" if "!" in name else "user"
        if node.state.get(kind, name) is None:
            raise failure(f"update acl failed: {kind} '{name}' does not exist")
    for name in wanted:
        if name not in BUILT_IN_ROLES and name not in node.state.kind("role"):
            raise failure(f"update acl failed: role '{name}' does not exist")
    path = "/" + "/".join(p for p in given["path"].split("/") if p)
    with node.state.together():
        for name in who:
            for role_name in wanted:
                if given.get("delete"):
                    node.access.withdraw(path, name, role_name)
                else:
                    node.access.grant(path, name, role_name, given.get("propagate", 1))


# -- pools --------------------------------------------------------------------------------------------
def _pool(call: Call) -> dict[str, Any]:
    document = call.node.state.get("pool", call.given["poolid"])
    if document is None:
        raise failure(f"no such pool '{call.given['poolid']}'")
    return document


def _members(call: Call, document: dict[str, Any]) -> list[dict[str, Any]]:
    from myphr.localpve.calls_cluster import machine_resource, storage_resource

    members = []
    for vmid in document["vms"]:
        if call.may(f"/vms/{vmid}", "VM.Audit"):
            entry = machine_resource(call.node, int(vmid))
            members.append({k: v for k, v in entry.items() if k not in ("pool", "tags")})
    for name in document["storage"]:
        if call.may(f"/storage/{name}", "Datastore.Audit"):
            members.append(storage_resource(call.node, name))
    return members


@call("GET /pools")
async def pools(call: Call) -> list[dict[str, Any]]:
    if "poolid" in call.given:
        call.need(f"/pool/{call.given['poolid']}", "Pool.Audit")
        document = _pool(call)
        shown = _shown_pool(call.given["poolid"], document)
        return [{**shown, "members": _members(call, document)}]
    known = call.node.state.kind("pool")
    return [_shown_pool(name, d) for name, d in sorted(known.items()) if call.may(f"/pool/{name}", "Pool.Audit")]


def _shown_pool(name: str, document: dict[str, Any]) -> dict[str, Any]:
    return {"poolid": name, **({"comment": document["comment"]} if document.get("comment") else {})}


@call("POST /pools")
async def new_pool(call: Call) -> None:
    name = call.given["poolid"]
    if call.node.state.get("pool", name) is not None:
        raise failure(f"create pool failed: pool '{name}' already exists")
    call.node.state.put("pool", name, {"comment": call.given.get("comment"), "vms": [], "storage": []})


@call("PUT /pools")
async def change_pool(call: Call) -> None:
    _change_pool(call)


@call("PUT /pools/{poolid}")
async def change_one_pool(call: Call) -> None:
    _change_pool(call)


def _change_pool(call: Call) -> None:
    node, given = call.node, call.given
    document = _pool(call)
    document = {**document, "vms": list(document["vms"]), "storage": list(document["storage"])}
    if "comment" in given:
        document["comment"] = given["comment"]
    for kind, privilege, root in (("vms", "VM.Allocate", "/vms"), ("storage", "Datastore.Allocate", "/storage")):
        for name in formats.split_list(given.get(kind, "")):
            if not call.may(f"{root}/{name}", privilege) and not call.may(f"{root}/{name}", "Permissions.Modify"):
                raise forbidden(f"{root}/{name}, {privilege}")
            if given.get("delete"):
                if name not in document[kind]:
                    raise failure(
                        f"update pools failed: {'VM' if kind == 'vms' else 'Storage'} {name} is not a pool member"
                    )
                document[kind].remove(name)
                continue
            if kind == "vms":
                if not node.machines.exists(int(name)):
                    raise failure(f"update pools failed: VM {name} does not exist")
                if (other := node.machines.pool_of(int(name))) and not given.get("allow-move"):
                    raise failure(f"update pools failed: VM {name} belongs already to pool '{other}'")
                if other and other != given["poolid"]:
                    left = node.state.get("pool", other)
                    node.state.put("pool", other, {**left, "vms": [v for v in left["vms"] if v != name]})
            if name not in document[kind]:
                document[kind].append(name)
    node.state.put("pool", given["poolid"], document)


@call("GET /pools/{poolid}")
async def pool(call: Call) -> dict[str, Any]:
    document = _pool(call)
    return {**_shown_pool(call.given["poolid"], document), "members": _members(call, document)}


@call("DELETE /pools/{poolid}")
async def remove_pool(call: Call) -> None:
    document = _pool(call)
    if document["vms"] or document["storage"]:
        raise failure(f"delete pool failed: pool '{call.given['poolid']}' is not empty")
    call.node.state.remove("pool", call.given["poolid"])
    call.node.access.forget_path(f"/pool/{call.given['poolid']}")
