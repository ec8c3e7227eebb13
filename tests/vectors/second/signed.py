"""Signatures, statements, requests and certificates by docs/formats/keyholder.md, a second time.

Over FIPS 186-5 and RFC 5280: ECDSA is done here with Python's numbers alone, certificates are read as plain DER. What
is refused is a ValueError.
"""

import datetime as dt
import functools
import hashlib
import json
import uuid
from base64 import b64decode

P = 2**256 - 2**224 + 2**192 + 2**96 - 1
N = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
B = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B
G = (
    0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
    0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5,
)
Jacobian = tuple[int, int, int]  # x / z^2, y / z^3; z = 0 is infinity


# -- ECDSA P-256 with SHA-256 -------------------------------------------------------------------------
def _double(point: Jacobian) -> Jacobian:
    x, y, z = point
    if not (y and z):
        return 0, 1, 0
    s, m = 4 * x * y * y % P, 3 * (x - z * z) * (x + z * z) % P
    x3 = (m * m - 2 * s) % P
    return x3, (m * (s - x3) - 8 * y**4) % P, 2 * y * z % P


def _add(one: Jacobian, other: Jacobian) -> Jacobian:
    (x1, y1, z1), (x2, y2, z2) = one, other
    if not z1:
        return other
    if not z2:
        return one
    u1, u2, s1, s2 = x1 * z2 * z2 % P, x2 * z1 * z1 % P, y1 * z2**3 % P, y2 * z1**3 % P
    if u1 == u2:
        return _double(one) if s1 == s2 else (0, 1, 0)
    h, r = u2 - u1, s2 - s1
    x3 = (r * r - h**3 - 2 * u1 * h * h) % P
    return x3, (r * (u1 * h * h - x3) - s1 * h**3) % P, h * z1 * z2 % P


def read_point(public: bytes) -> tuple[int, int]:
    if len(public) != 65 or public[0] != 4:
        raise ValueError("not an uncompressed point")
    x, y = int.from_bytes(public[1:33], "big"), int.from_bytes(public[33:], "big")
    if x >= P or y >= P or (y * y - x**3 + 3 * x - B) % P:
        raise ValueError("not on the curve")
    return x, y


@functools.lru_cache(1024)  # the same issuers stand above every changed certificate
def verify_digest(public: bytes, digest: bytes, r: int, s: int) -> None:
    """FIPS 186-5, 6.4.2"""
    key = read_point(public)
    if not (0 < r < N and 0 < s < N):
        raise ValueError("not a signature")
    w = pow(s, -1, N)
    u1, u2 = int.from_bytes(digest, "big") * w % N, r * w % N
    sums = {(1, 0): (*G, 1), (0, 1): (*key, 1), (1, 1): _add((*G, 1), (*key, 1))}
    point: Jacobian = (0, 1, 0)
    for bit in range(255, -1, -1):
        point = _double(point)
        which = (u1 >> bit & 1, u2 >> bit & 1)
        if which != (0, 0):
            point = _add(point, sums[which])
    if not point[2] or (point[0] * pow(point[2], -2, P) % P - r) % N:
        raise ValueError("signature")


def verify(public: bytes, tag: str, body: bytes, signature: bytes) -> None:
    """The tagged form of the page: r || s over tag || 00 || body."""
    if len(signature) != 64:
        raise ValueError("not a signature")
    digest = hashlib.sha256(tag.encode("ascii") + b"\0" + body).digest()
    verify_digest(public, digest, int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big"))


# -- statements ---------------------------------------------------------------------------------------
class Reader:
    """Takes bytes from the front; never past the end."""

    def __init__(self, content: bytes) -> None:
        self.content, self.at = content, 0

    def take(self, count: int) -> bytes:
        if self.at + count > len(self.content):
            raise ValueError("too short")
        self.at += count
        return self.content[self.at - count : self.at]

    def number(self, count: int) -> int:
        return int.from_bytes(self.take(count), "big")

    def gid(self) -> str:
        found = uuid.UUID(bytes=self.take(16))
        if found.version != 4:
            raise ValueError("not a GID")
        return str(found)

    def sized(self, count: int = 2) -> bytes:
        return self.take(self.number(count))

    def text(self) -> str:
        return self.sized(1).decode("ascii")

    def end(self) -> None:
        if self.at != len(self.content):
            raise ValueError("bytes left over")


def opened(statement: bytes, magic: bytes, tag: str, public: bytes) -> Reader:
    """What stands between version and signature, once the signature held."""
    body, signature = statement[:-64], statement[-64:]
    if body[:9] != magic + b"\x01":
        raise ValueError("not this statement")
    verify(public, tag, body, signature)
    return Reader(body[9:])


def key_statement(data: bytes, public: bytes) -> dict[str, object]:
    reader = opened(data, b"MYPHRKST", "myphr/key-statement/1", public)
    found: dict[str, object] = {
        "gid": reader.gid(),
        "at": reader.number(8),
        "hpke": reader.sized(),
        "authority": reader.sized(),
        "key_policy": reader.sized(),
    }
    reader.end()
    return found


def authority_statement(data: bytes, public: bytes) -> dict[str, object]:
    reader = opened(data, b"MYPHRAST", "myphr/authority-statement/1", public)
    found: dict[str, object] = {
        "gid": reader.gid(),
        "at": reader.number(8),
        "public": reader.sized(),
        "signing_public": reader.sized(),
    }
    reader.end()
    return found


def epoch_table(data: bytes, public: bytes) -> dict[str, object]:
    reader = opened(data, b"MYPHREPO", "myphr/epoch-table/1", public)
    found: dict[str, object] = {"gid": reader.gid(), "version": reader.number(8), "at": reader.number(8)}
    rows = [(reader.text(), reader.text(), reader.number(4)) for _ in range(reader.number(4))]
    reader.end()
    names = [row[:2] for row in rows]
    if names != sorted(set(names)):
        raise ValueError("order")
    return found | {"epochs": {(name, value): epoch for name, value, epoch in rows}}


def holding(data: bytes, public: bytes) -> dict[str, object]:
    reader = opened(data, b"MYPHRHLD", "myphr/holding/1", public)
    found: dict[str, object] = {
        "authority": reader.gid(),
        "member": reader.gid(),
        "at": reader.number(8),
        "name": reader.text(),
        "value": reader.text(),
    }
    reader.end()
    return found


def destroy_order(data: bytes, public: bytes) -> dict[str, object]:
    reader = opened(data, b"MYPHRDES", "myphr/destroy-order/1", public)
    found: dict[str, object] = {
        "owner": reader.gid(),
        "compartment": str(uuid.UUID(bytes=reader.take(16))),
        "before": reader.number(4),
    }
    reader.end()
    return found


# -- requests -----------------------------------------------------------------------------------------
def request(data: bytes, public: bytes) -> dict[str, object]:
    """A proven request, once its proof held; `certificate` and `nonce` as bytes."""
    reader = Reader(data)
    if reader.take(2) != b"\x01\x01":
        raise ValueError("not a proven request of version 1")
    certificate, signature = reader.sized(), reader.take(64)
    said = reader.take(len(data) - reader.at)
    verify(public, "myphr/keyholder-proof/1", said, signature)

    def once(pairs: list[tuple[str, object]]) -> dict[str, object]:
        if len(dict(pairs)) != len(pairs):
            raise ValueError("a member twice")
        return dict(pairs)

    found = json.loads(said.decode("utf-8"), object_pairs_hook=once)
    if sorted(found) != ["arguments", "call", "gid", "keyholder", "nonce", "time"]:
        raise ValueError("members")
    return found | {"nonce": b64decode(found["nonce"], validate=True), "certificate": certificate}


# -- certificates -------------------------------------------------------------------------------------
Node = tuple[int, bytes, bytes]  # tag, content, the whole with tag and length
ECDSA_SHA256 = bytes.fromhex("300a06082a8648ce3d040302")
P256_KEY = bytes.fromhex("301306072a8648ce3d020106082a8648ce3d030107")
SAN, KEY_USAGE, CONSTRAINTS = (bytes.fromhex(f"0603551d{last}") for last in ("11", "0f", "13"))
TRUE = b"\x01\x01\xff"


def der(data: bytes) -> list[Node]:
    """The values one behind the other."""
    reader, found = Reader(data), []
    while reader.at < len(data):
        start, tag, size = reader.at, reader.number(1), reader.number(1)
        if size >= 0x80:
            size = reader.number(size - 0x80)
        content = reader.take(size)
        found.append((tag, content, data[start : reader.at]))
    return found


def _signed_parts(data: bytes, issuer_public: bytes) -> list[Node]:
    """The fields of what was signed (certificate or CRL), once the issuer's signature held."""
    [whole] = der(data)
    said, algorithm, signature = der(whole[1])
    if algorithm[2] != ECDSA_SHA256 or signature[1][:1] != b"\0":
        raise ValueError("algorithm, or unused bits")
    [pair] = der(signature[1][1:])
    numbers = der(pair[1])
    if [whole[0], said[0], signature[0], pair[0], *(part[0] for part in numbers)] != [0x30, 0x30, 3, 0x30, 2, 2]:
        raise ValueError("another form")
    r, s = (int.from_bytes(part[1], "big") for part in numbers)
    verify_digest(issuer_public, hashlib.sha256(said[2]).digest(), r, s)
    return der(said[1])


def _time(node: Node) -> dt.datetime:
    text = node[1].decode("ascii")
    text = text if node[0] == 0x18 else ("20" if text[0] < "5" else "19") + text
    return dt.datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=dt.timezone.utc)


def certificate(data: bytes, issuer_public: bytes, at: dt.datetime) -> dict[str, bytes | str]:
    """What a certificate says, signed by this key and valid at this time. `gid` is empty for a CA."""
    _, serial, _, issuer, dates, subject, key, extensions = _signed_parts(data, issuer_public)
    begin, end = map(_time, der(dates[1]))
    if not begin <= at <= end:
        raise ValueError("not valid then")
    algorithm, bits = der(key[1])
    if algorithm[2] != P256_KEY:
        raise ValueError("not a key on P-256")
    [sequence] = der(extensions[1])
    found = {der(one[1])[0][2]: one[1] for one in der(sequence[1])}
    said: dict[str, bytes | str] = {
        "serial": serial[1],
        "issuer": issuer[2],
        "subject": subject[2],
        "gid": "",
        "public": bits[1][1:],
    }
    if SAN in found:
        value = b"urn:uuid:"
        content = found[SAN].split(SAN + TRUE, 1)[1]  # critical, and no other name
        name = der(der(der(content)[0][1])[0][1])
        if len(name) != 1 or name[0][0] != 0x86 or not name[0][1].startswith(value) or subject[1]:
            raise ValueError("not a GID's")
        said["gid"] = str(uuid.UUID(name[0][1][len(value) :].decode("ascii")))
        usage = 0x80  # digitalSignature
    else:
        usage = 0x06  # keyCertSign, cRLSign
    bits_of_usage = der(der(found[KEY_USAGE].split(KEY_USAGE + TRUE, 1)[1])[0][1])[0][1]
    if bits_of_usage[1] != usage or (usage == 0x06) != (b"\x01\x01\xff" in found[CONSTRAINTS].split(TRUE, 1)[1]):
        raise ValueError("for another use")
    return said


def crl(data: bytes, issuer_public: bytes, at: dt.datetime) -> list[tuple[int, dt.datetime]]:
    """(serial, revoked at) of a list signed by this key and current at this time."""
    parts = _signed_parts(data, issuer_public)
    this, following = _time(parts[3]), _time(parts[4])
    if not this <= at <= following:
        raise ValueError("not current")
    entries = der(parts[5][1]) if len(parts) > 5 and parts[5][0] == 0x30 else []
    return [(int.from_bytes(der(one[1])[0][1], "big"), _time(der(one[1])[1])) for one in entries]


def chained(leaf: bytes, issuers: list[bytes], lists: list[bytes], at: dt.datetime) -> tuple[str, bytes]:
    """(GID, public key) of a certificate whose issuers, the root last, and current lists all hold."""
    root = der(der(der(issuers[-1])[0][1])[0][1])
    public = der(root[6][1])[1][1][1:]
    issuer, found = b"", certificate(issuers[-1], public, at)
    for data in (*reversed(issuers[:-1]), leaf):
        issuer, public = bytes(found["subject"]), bytes(found["public"])  # type: ignore[arg-type]
        found = certificate(data, public, at)
        revoked = {serial for one in lists if _issuer_of_list(one) == issuer for serial, _ in crl(one, public, at)}
        if found["issuer"] != issuer or not any(_issuer_of_list(one) == issuer for one in lists):
            raise ValueError("another issuer, or no list of it")
        if int.from_bytes(bytes(found["serial"]), "big") in revoked:  # type: ignore[arg-type]
            raise ValueError("revoked")
    if not found["gid"]:
        raise ValueError("no GID")
    return str(found["gid"]), bytes(found["public"])  # type: ignore[arg-type]


def _issuer_of_list(data: bytes) -> bytes:
    return der(der(der(data)[0][1])[0][1])[2][2]
