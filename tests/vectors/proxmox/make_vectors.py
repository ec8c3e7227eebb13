"""Makes the two files that localpve is held against, from the recordings and the public schema.

    python tests/vectors/proxmox/make_vectors.py TRANSCRIPTS.jsonl SCHEMA.json

writes transcripts.jsonl.gz beside this file (without timings) and myphr/localpve/schema.json (only the calls that
localpve implements, shared parameter formats stored once). Run by hand when either source changes.
"""

import gzip
import json
import sys
from pathlib import Path

HERE = Path(__file__).parent
SCHEMA = HERE.parents[2] / "myphr/localpve/schema.json"

CALLS = """
GET /version
GET /nodes
GET /nodes/{node}
GET /nodes/{node}/status
GET /nodes/{node}/version
GET /nodes/{node}/time
GET /nodes/{node}/network
GET /cluster/resources
GET /cluster/status
GET /cluster/tasks
GET /cluster/nextid
GET PUT /cluster/firewall/options
GET POST /nodes/{node}/qemu
GET DELETE /nodes/{node}/qemu/{vmid}
GET PUT POST /nodes/{node}/qemu/{vmid}/config
GET /nodes/{node}/qemu/{vmid}/pending
POST /nodes/{node}/qemu/{vmid}/clone
POST /nodes/{node}/qemu/{vmid}/template
GET /nodes/{node}/qemu/{vmid}/feature
PUT /nodes/{node}/qemu/{vmid}/resize
PUT /nodes/{node}/qemu/{vmid}/unlink
GET /nodes/{node}/qemu/{vmid}/status
GET /nodes/{node}/qemu/{vmid}/status/current
POST /nodes/{node}/qemu/{vmid}/status/start
POST /nodes/{node}/qemu/{vmid}/status/stop
POST /nodes/{node}/qemu/{vmid}/status/shutdown
POST /nodes/{node}/qemu/{vmid}/status/reset
POST /nodes/{node}/qemu/{vmid}/status/reboot
POST /nodes/{node}/qemu/{vmid}/status/suspend
POST /nodes/{node}/qemu/{vmid}/status/resume
GET /nodes/{node}/qemu/{vmid}/agent
POST /nodes/{node}/qemu/{vmid}/agent/ping
POST /nodes/{node}/qemu/{vmid}/agent/exec
GET /nodes/{node}/qemu/{vmid}/agent/exec-status
POST /nodes/{node}/qemu/{vmid}/agent/file-write
GET /nodes/{node}/qemu/{vmid}/agent/file-read
GET /nodes/{node}/qemu/{vmid}/agent/network-get-interfaces
GET /nodes/{node}/qemu/{vmid}/agent/get-osinfo
GET /nodes/{node}/qemu/{vmid}/agent/info
POST /nodes/{node}/qemu/{vmid}/vncproxy
GET /nodes/{node}/qemu/{vmid}/vncwebsocket
GET /nodes/{node}/qemu/{vmid}/firewall
GET PUT /nodes/{node}/qemu/{vmid}/firewall/options
GET POST /nodes/{node}/qemu/{vmid}/firewall/rules
GET PUT DELETE /nodes/{node}/qemu/{vmid}/firewall/rules/{pos}
GET POST /nodes/{node}/qemu/{vmid}/firewall/ipset
GET POST DELETE /nodes/{node}/qemu/{vmid}/firewall/ipset/{name}
DELETE /nodes/{node}/qemu/{vmid}/firewall/ipset/{name}/{cidr}
GET /nodes/{node}/storage
GET /nodes/{node}/storage/{storage}/status
GET /nodes/{node}/storage/{storage}/content
DELETE /nodes/{node}/storage/{storage}/content/{volume}
POST /nodes/{node}/storage/{storage}/upload
GET /nodes/{node}/tasks
DELETE /nodes/{node}/tasks/{upid}
GET /nodes/{node}/tasks/{upid}/status
GET /nodes/{node}/tasks/{upid}/log
GET POST /storage
GET POST PUT /pools
GET PUT DELETE /pools/{poolid}
GET POST /access/ticket
GET /access/permissions
GET PUT /access/acl
GET POST /access/roles
GET PUT DELETE /access/roles/{roleid}
GET POST /access/users
GET PUT DELETE /access/users/{userid}
GET /access/users/{userid}/token
GET POST PUT DELETE /access/users/{userid}/token/{tokenid}
"""

# The dump that the schema comes from lost every parameter that is itself called "description".
DESCRIPTION = {
    "POST /nodes/{node}/qemu": {"type": "string", "maxLength": 8192},
    "POST /nodes/{node}/qemu/{vmid}/config": {"type": "string", "maxLength": 8192},
    "PUT /nodes/{node}/qemu/{vmid}/config": {"type": "string", "maxLength": 8192},
    "POST /nodes/{node}/qemu/{vmid}/clone": {"type": "string"},
}
DROPPED = ("description", "verbose_description", "format_description", "title", "typetext")


def compact(parameter: dict, formats: dict[str, dict]) -> dict:
    small = {k: v for k, v in parameter.items() if k not in DROPPED}
    if not small.get("optional"):
        small.pop("optional", None)
    if small.get("type") == "string":
        small.pop("type")
    nested = small.get("format")
    if isinstance(nested, dict):
        nested = {name: compact(value, formats) for name, value in sorted(nested.items())}
        for key, known in formats.items():  # noqa: B007 - kept for after the loop
            if known == nested:
                break
        else:
            key = f"nested-{len(formats) + 1}"
            formats[key] = nested
        small["format"] = key
    return small


def make_schema(source: dict) -> dict:
    formats: dict[str, dict] = {}
    calls: dict[str, dict] = {}
    for line in CALLS.split("\n"):
        words = line.split()
        for method in words[:-1]:
            full = source.get(words[-1], {}).get(method)
            name = f"{method} {words[-1]}"
            if full is None:
                print("not in the schema:", name)
                continue
            parameters = {n: compact(p, formats) for n, p in sorted(full.get("parameters", {}).items())}
            if name in DESCRIPTION:
                parameters["description"] = {**DESCRIPTION[name], "optional": True}
                parameters["description"].pop("type")
            call: dict = {"parameters": parameters}
            if full.get("permissions"):
                call["permissions"] = {k: v for k, v in full["permissions"].items() if k != "description"}
            if full.get("protected"):
                call["protected"] = True
            calls[name] = call
    return {"formats": formats, "calls": calls}


def main() -> None:
    transcripts, schema = (Path(p) for p in sys.argv[1:3])
    rows = []
    for line in transcripts.read_text().splitlines():
        row = json.loads(line)
        row.pop("ms", None)
        rows.append(json.dumps(row, ensure_ascii=False, separators=(",", ":"), sort_keys=True))
    packed = gzip.compress(("\n".join(rows) + "\n").encode(), 9, mtime=0)
    (HERE / "transcripts.jsonl.gz").write_bytes(packed)
    text = json.dumps(make_schema(json.loads(schema.read_text())), sort_keys=True, separators=(",", ":"))
    SCHEMA.write_text(text.replace('},"', '},\n"') + "\n")
    print(len(rows), "recorded calls in", len(packed), "bytes; schema", SCHEMA.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
