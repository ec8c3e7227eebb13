"""Makes the frozen vectors of docs/formats/envelope.md: `python tests/vectors/envelope/make.py`.

One JSON file, one scenario. Sealing draws random numbers, so a vector is made once and never written again.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from myphr.crypto import envelope, passwords

HERE = Path(__file__).resolve().parent
SECRET = bytes(range(32))
CONTEXT = envelope.context_for("item-dek", "6f6f6f6f-0000-4000-8000-000000000001")
OTHER_CONTEXT = envelope.context_for("item-dek", "6f6f6f6f-0000-4000-8000-000000000002")


def main() -> None:
    pair = envelope.new_key_pair()
    code = passwords.new_recovery_code()
    password = "d\u00e9j\u00e0 vu in the \u212bngstr\u00f6m caf\u00e9"  # NFKC changes the Angstrom sign
    sealed = envelope.seal_to(pair.public, SECRET, context=CONTEXT)
    wrapped = envelope.wrap(SECRET, b"a wrapped secret", context=CONTEXT)
    ring = passwords.wrap_ring(password, b"a key ring", memory_kib=64, passes=2, context=b"an account id")
    recovery = passwords.wrap_by_recovery(code, b"a key ring", context=b"an account id")
    vectors: dict[str, dict[str, str]] = {
        "hybrid": {"private": pair.private.hex(), "public": pair.public.hex(), "context": CONTEXT.hex(),
                   "sealed": sealed.hex(), "secret": SECRET.hex()},
        "hybrid-other-context": {"private": pair.private.hex(), "context": OTHER_CONTEXT.hex(), "sealed": sealed.hex()},
        "wrap": {"key": SECRET.hex(), "context": CONTEXT.hex(), "wrapped": wrapped.hex(),
                 "secret": b"a wrapped secret".hex()},
        "derive": {"secret": SECRET.hex(), "label": "myphr/details/1", "context": "",
                   "key": envelope.derive(SECRET, "myphr/details/1").hex()},
        "ring-password": {"password": password, "context": b"an account id".hex(), "wrapped": ring.hex(),
                          "ring": b"a key ring".hex()},
        "ring-recovery": {"code": code, "context": b"an account id".hex(), "wrapped": recovery.hex(),
                          "ring": b"a key ring".hex()},
    }
    for name, values in vectors.items():
        path = HERE / f"{name}.json"
        if not path.exists():
            path.write_text(json.dumps({"scenario": name, **values}, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
