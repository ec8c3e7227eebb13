"""Makes version1.json and destroy-order.json, once: signed statements and one proven request, with the key that signed
them.

ECDSA draws a random number for each signature, so a second run gives other bytes; old vectors are never made anew.
"""

import datetime as dt
import hashlib
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from myphr.crypto import certificates, proofs
from myphr.crypto.statements import AuthorityStatement, DestroyOrder, EpochTable, Holding, KeyStatement

HERE = Path(__file__).parent
GID, OTHER = "5f0c6f0e-7d0f-4c53-9d0b-6a6f3f6f0a11", "0b9b6d3c-51c2-4e0f-8a57-2f3c1d2e4b55"
AT = 1_800_000_000


def main() -> None:
    key = certificates.signing_key_from_bytes(hashlib.sha256(b"myphr vectors: signing key").digest())
    now = dt.datetime.fromtimestamp(AT, dt.timezone.utc)
    root = certificates.new_root(now, dt.timedelta(days=7300))
    intermediate = certificates.new_intermediate(root, now, dt.timedelta(days=1825))
    certificate = certificates.issue(intermediate, GID, key.public_key(), certificates.Kind.PERSON, now)
    arguments = {"block": ["gid", OTHER], "compartment": None}
    request = proofs.new_request(OTHER, "vault.block", arguments, now=AT, key=key, certificate=certificate)
    epochs = {("role", "cardiologist"): 3, ("owner", ""): 1, ("role", "nurse"): 2**32 - 1}
    vector = {
        "gid": GID, "other": OTHER, "at": AT, "public_key": certificates.public_key_bytes(key.public_key()).hex(),
        "key_statement": KeyStatement(GID, AT, b"hpke" * 10, b"authority" * 5, b"").sign(key).hex(),
        "authority_statement": AuthorityStatement(GID, AT, b"public" * 20, b"s" * 65).sign(key).hex(),
        "epoch_table": EpochTable(GID, 7, AT, epochs).sign(key).hex(),
        "holding": Holding(GID, OTHER, "role", "cardiologist", AT).sign(key).hex(),
        "request": request.to_bytes().hex(), "nonce": request.nonce.hex(), "certificate": certificate.hex(),
        "root": root.certificate.hex(), "intermediate": intermediate.certificate.hex(),
        "root_crl": certificates.issue_crl(root, [], number=1, now=now, lifetime=dt.timedelta(days=1825)).hex(),
        "crl": certificates.issue_crl(intermediate, [(0xABC, now)], number=4, now=now,
                                      lifetime=dt.timedelta(hours=2)).hex(),
    }  # fmt: skip
    order = {"owner": GID, "compartment": OTHER, "before": 2**32 - 1, "public_key": vector["public_key"],
             "destroy_order": DestroyOrder(GID, OTHER, 2**32 - 1).sign(key).hex()}  # fmt: skip
    for name, content in {"version1": vector, "destroy-order": order}.items():
        if not (HERE / f"{name}.json").exists():
            (HERE / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
