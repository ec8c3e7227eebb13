"""Makes the frozen vectors of docs/formats/identity.md. Run once per version; the files are never made anew."""

import json
import sys
from pathlib import Path

from myphr.crypto import certificates
from myphr.crypto.envelope import new_key_pair
from myphr.people.identity_keys import new_keys, wrap_keys
from myphr.people.keyring import KeyRing

path = Path(__file__).parent / "keys-version2.json"
if path.exists():
    sys.exit(f"{path.name} is frozen")
pair, gid = new_key_pair(), certificates.new_gid()
keys = new_keys(gid)
path.write_text(json.dumps({
    "scenario": "identity keys, version 2", "gid": gid, "ring_private": pair.private.hex(),
    "wrapped": wrap_keys(KeyRing(pair), keys).hex(), "signing": keys.signing.hex(), "authority": keys.authority.hex(),
    "key_policy": keys.key_policy.hex(), "labels": keys.labels.hex(),
}, indent=1) + "\n")  # fmt: skip
