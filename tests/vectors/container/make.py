"""Makes the frozen vectors of docs/formats/container.md: `python tests/vectors/container/make.py`.

One file, one scenario: a text header ending in an empty line, then the container's bytes. Existing files are never
written again, so what an old version sealed stays what a new one must open.
"""

import hashlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from myphr.crypto import container
from myphr.crypto.container import CHUNK_BYTES, HEADER_BYTES, SEALED_CHUNK_BYTES, ChunkSealer

HERE = Path(__file__).resolve().parent
DEK, RECORD, FILE = (hashlib.sha256(word).digest() for word in (b"vector dek", b"vector record", b"vector file"))
RECORD, FILE = RECORD[:16], FILE[:16]


def plaintext(size: int) -> bytes:
    """The first `size` bytes of SHA-256(0) || SHA-256(1) ..., each number as 8 bytes big-endian."""
    return b"".join(hashlib.sha256(i.to_bytes(8, "big")).digest() for i in range(-(-size // 32)))[:size]


def sealed(size: int, name: str, version: int = 1) -> bytearray:
    sealer = ChunkSealer(DEK, RECORD, FILE, version, salt=hashlib.sha256(f"salt {name}".encode()).digest())
    return bytearray(sealer.header + sealer.seal_chunks(plaintext(size), last=True))


def flipped(data: bytearray, offset: int) -> bytearray:
    data[offset] ^= 1
    return data


def empty_end(name: str) -> bytearray:
    """A full chunk, not the last, then an empty last one, with fitting tags: if it opened, one file had two forms."""
    sealer = ChunkSealer(DEK, RECORD, FILE, salt=hashlib.sha256(f"salt {name}".encode()).digest())
    first = sealer.seal(0, plaintext(CHUNK_BYTES), last=False)
    key, _ = container._file_keys(DEK, sealer.header[:88], sealer.salt)
    return bytearray(sealer.header + first + AESGCM(key).encrypt(bytes(7) + b"\0\0\0\1\1", b"", None))


def scenarios() -> dict[str, tuple[str, int, bytearray, dict[str, bytes]]]:
    """name -> (opens or refused, plaintext bytes, container, what to open it with instead of the right values)."""
    made: dict[str, tuple[str, int, bytearray, dict[str, bytes]]] = {}
    for name, size in {"empty": 0, "one-byte": 1, "short": 1000, "chunk-less-one": CHUNK_BYTES - 1,
                       "chunk": CHUNK_BYTES, "chunk-and-one": CHUNK_BYTES + 1}.items():
        made[f"opens-{name}"] = ("opens", size, sealed(size, f"opens-{name}"), {})
    made["opens-version-7"] = ("opens", 10, sealed(10, "opens-version-7", 7), {})

    def refused(name: str, data: bytearray, **instead: bytes) -> None:
        made[f"refused-{name}"] = ("refused", 0, data, instead)

    two = sealed(2 * CHUNK_BYTES, "two")
    first, second = two[HEADER_BYTES : HEADER_BYTES + SEALED_CHUNK_BYTES], two[HEADER_BYTES + SEALED_CHUNK_BYTES :]
    refused("no-bytes", bytearray())
    refused("header-only", sealed(0, "a")[:HEADER_BYTES])
    refused("cut-in-chunk", sealed(1000, "b")[:-1])
    refused("cut-between-chunks", two[: HEADER_BYTES + SEALED_CHUNK_BYTES])
    refused("chunks-swapped", two[:HEADER_BYTES] + second + first)
    refused("first-chunk-gone", two[:HEADER_BYTES] + second)
    refused("chunk-of-another-salt", sealed(1000, "c")[:HEADER_BYTES] + sealed(1000, "d")[HEADER_BYTES:])
    refused("extended-in-chunk", sealed(1000, "e") + b"\0")
    refused("extended-by-a-chunk", sealed(CHUNK_BYTES, "f") + sealed(0, "f")[HEADER_BYTES:])
    refused("empty-end", empty_end("g"))
    refused("magic", flipped(sealed(10, "h"), 0))
    refused("version-2", bytearray(sealed(10, "i")[:8] + b"\2" + sealed(10, "i")[9:]))
    refused("suite-2", bytearray(sealed(10, "j")[:9] + b"\2" + sealed(10, "j")[10:]))
    refused("chunk-size", flipped(sealed(10, "k"), 10))
    refused("flags", flipped(sealed(10, "l"), 11))
    refused("salt-flipped", flipped(sealed(10, "m"), 56))
    refused("commitment-flipped", flipped(sealed(10, "n"), 88))
    refused("pad-used", flipped(sealed(10, "o"), 127))
    refused("tag-flipped", flipped(sealed(10, "p"), -1))
    refused("another-dek", sealed(10, "q"), dek=bytes(32))
    refused("another-record", sealed(10, "r"), record=bytes(16))
    refused("another-file", sealed(10, "s"), file=bytes(16))
    return made


def main() -> None:
    for name, (expected, size, data, instead) in scenarios().items():
        path = HERE / f"{name}.vector"
        if path.exists():
            continue
        values = {"dek": DEK, "record": RECORD, "file": FILE} | instead
        lines = [f"scenario: {name}", f"expect: {expected}"]
        lines += [f"{key}: {value.hex()}" for key, value in values.items()]
        if expected == "opens":
            lines += [f"plain_bytes: {size}", f"plain_sha256: {hashlib.sha256(plaintext(size)).hexdigest()}"]
        path.write_bytes("\n".join([*lines, "", ""]).encode() + data)


if __name__ == "__main__":
    main()
