"""Proxmox's parameter formats: what a name, a volume id, a network line may look like, and the texts of refusal.

Pure functions over strings, no state. Called by `schema` for validation and by the machine code to read and write
property strings such as `virtio=BC:24:11:00:00:01,bridge=vmbr1`.
"""

import ipaddress
import re
from collections.abc import Callable

PRIVILEGES = frozenset(
    [
        "Datastore.Allocate",
        "Datastore.AllocateSpace",
        "Datastore.AllocateTemplate",
        "Datastore.Audit",
        "Group.Allocate",
        "Mapping.Audit",
        "Mapping.Modify",
        "Mapping.Use",
        "Permissions.Modify",
        "Pool.Allocate",
        "Pool.Audit",
        "Realm.Allocate",
        "Realm.AllocateUser",
        "SDN.Allocate",
        "SDN.Audit",
        "SDN.Use",
        "Sys.AccessNetwork",
        "Sys.Audit",
        "Sys.Console",
        "Sys.Incoming",
        "Sys.Modify",
        "Sys.PowerMgmt",
        "Sys.Syslog",
        "User.Modify",
        "VM.Allocate",
        "VM.Audit",
        "VM.Backup",
        "VM.Clone",
        "VM.Config.CDROM",
        "VM.Config.CPU",
        "VM.Config.Cloudinit",
        "VM.Config.Disk",
        "VM.Config.HWType",
        "VM.Config.Memory",
        "VM.Config.Network",
        "VM.Config.Options",
        "VM.Console",
        "VM.Migrate",
        "VM.Monitor",
        "VM.PowerMgmt",
        "VM.Snapshot",
        "VM.Snapshot.Rollback",
    ]
)

_LABEL = r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?"
_DNS_NAME = re.compile(rf"(?:{_LABEL})(?:\.{_LABEL})*", re.ASCII)
_CONFIG_ID = re.compile(r"[A-Za-z][A-Za-z0-9_-]+", re.ASCII)
_STORAGE_ID = re.compile(r"[A-Za-z][A-Za-z0-9\-_.]*[A-Za-z0-9]", re.ASCII)
_POOL_ID = re.compile(r"[A-Za-z0-9._-]+(?:/[A-Za-z0-9._-]+){0,2}", re.ASCII)
_USER_ID = re.compile(r"[^\s:/]{1,60}@[A-Za-z][A-Za-z0-9.\-_]+")
_TOKEN_ID = re.compile(r"[^\s:/]+@[A-Za-z][A-Za-z0-9.\-_]+![A-Za-z][A-Za-z0-9.\-_]+")
_ROLE_ID = re.compile(r"[A-Za-z0-9._-]+", re.ASCII)
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_\-+.]*", re.ASCII)
_VOLUME_ID = re.compile(r"([A-Za-z][A-Za-z0-9\-_.]*[A-Za-z0-9]):(.+)", re.ASCII)
_DISK_SIZE = re.compile(r"(\d+(\.\d+)?)([KMGT])?", re.ASCII)
_MAC = re.compile(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}", re.ASCII)
_BRIDGE = re.compile(r"[-_.\w\d]+", re.ASCII)
_VMID = re.compile(r"[1-9][0-9]{2,8}", re.ASCII)
CONTENT_TYPES = ("images", "rootdir", "vztmpl", "iso", "backup", "snippets", "import", "none")


class FormatError(ValueError):
    """Why a value does not fit its format, in the words of a real node."""


def _need(ok: object, text: str) -> None:
    if not ok:
        raise FormatError(text)


def _dns_name(value: str) -> None:
    _need(_DNS_NAME.fullmatch(value), "value does not look like a valid DNS name\n")


def _vmid(value: str) -> None:
    _need(_VMID.fullmatch(value), "value does not look like a valid VM ID\n")


def _config_id(value: str) -> None:
    _need(_CONFIG_ID.fullmatch(value), f"invalid configuration ID '{value}'\n")


def _storage_id(value: str) -> None:
    _need(_STORAGE_ID.fullmatch(value), f"storage ID '{value}' contains illegal characters\n")


def _pool_id(value: str) -> None:
    _need(_POOL_ID.fullmatch(value), f"pool name '{value}' contains invalid characters\n")


def _user_id(value: str) -> None:
    _need(_USER_ID.fullmatch(value), f"value '{value}' does not look like a valid user name\n")


def _token_id(value: str) -> None:
    _need(_TOKEN_ID.fullmatch(value), f"value '{value}' does not look like a valid token ID\n")


def _role_id(value: str) -> None:
    _need(_ROLE_ID.fullmatch(value), f"role name '{value}' contains invalid characters\n")


def _privilege_list(value: str) -> None:
    for name in split_list(value):
        _need(name in PRIVILEGES, f"invalid privilege '{name}'\n")


def _tag_list(value: str) -> None:
    for tag in split_list(value):
        _need(_TAG.fullmatch(tag), "invalid characters in tag\n")


def _volume_id(value: str) -> None:
    _need(_VOLUME_ID.fullmatch(value), f"unable to parse volume ID '{value}'\n")


def _volume_or_path(value: str) -> None:
    if value in ("none", "cdrom") or value.startswith("/"):
        return
    _volume_id(value)


def _disk_size(value: str) -> None:
    _need(_DISK_SIZE.fullmatch(value), f"value does not look like a valid disk size: {value}\n")


def _urlencoded(value: str) -> None:
    _need(re.fullmatch(r"[-%a-zA-Z0-9_.!~*'()]*", value), f"invalid urlencoded string: {value}\n")


def _mac(value: str) -> None:
    unicast = _MAC.fullmatch(value) and not int(value[:2], 16) & 1
    _need(unicast, "value does not look like a valid unicast MAC address\n")


def _bridge(value: str) -> None:
    _need(_BRIDGE.fullmatch(value), "value does not look like a valid bridge name\n")


def _content_list(value: str) -> None:
    for name in split_list(value):
        _need(name in CONTENT_TYPES, f"invalid content type '{name}'\n")


def _cidr_or_alias(value: str) -> None:
    try:
        ipaddress.ip_network(value, strict=False)
    except ValueError:
        _need(
            re.fullmatch(r"(?:dc/|guest/)?[A-Za-z][A-Za-z0-9\-_]+", value),
            "value does not look like a valid IP address\n",
        )


def _boot(value: str) -> None:
    if value.strip() == "" or re.fullmatch(r"[acdn]{1,4}", value) or value.startswith("legacy="):
        return
    _need(value.startswith("order="), "invalid boot order\n")
    for device in filter(None, value.removeprefix("order=").split(";")):
        _need(re.fullmatch(r"(ide|sata|scsi|virtio|net|hostpci|usb)\d+", device), f"invalid boot device '{device}'\n")


def _digits(value: str) -> None:
    _need(re.fullmatch(r"[0-9a-f]{40,64}", value), "invalid digest\n")


CHECKS: dict[str, Callable[[str], None]] = {
    "dns-name": _dns_name, "pve-vmid": _vmid, "pve-configid": _config_id, "pve-storage-id": _storage_id,
    "pve-poolid": _pool_id, "pve-userid": _user_id, "pve-tokenid": _token_id, "pve-roleid": _role_id,
    "pve-priv-list": _privilege_list, "pve-tag-list": _tag_list, "pve-volume-id": _volume_id,
    "pve-volume-id-or-qm-path": _volume_or_path, "pve-volume-id-or-absolute-path": _volume_or_path,
    "disk-size": _disk_size, "urlencoded": _urlencoded, "mac-addr": _mac, "pve-bridge-id": _bridge,
    "pve-storage-content": _content_list, "pve-storage-content-list": _content_list,
    "IPorCIDRorAlias": _cidr_or_alias, "pve-qm-boot": _boot, "pve-config-digest": _digits,
}  # fmt: skip
LISTS: dict[str, str] = {
    "pve-configid-list": "pve-configid", "pve-userid-list": "pve-userid", "pve-tokenid-list": "pve-tokenid",
    "pve-roleid-list": "pve-roleid", "pve-vmid-list": "pve-vmid", "pve-storage-id-list": "pve-storage-id",
}  # fmt: skip

# A property string's first value may stand without a key: this is the key it then means. A network line starts with
# its model as the key of the MAC address ("virtio=BC:24:...").
DEFAULT_KEY = {"net": "model", "agent": "enabled", "memory": "current", "vga": "type", "machine": "type"}
NET_MODELS = (
    "e1000", "e1000-82540em", "e1000-82544gc", "e1000-82545em", "e1000e", "i82551", "i82557b", "i82559er", "ne2k_isa",
    "ne2k_pci", "pcnet", "rtl8139", "virtio", "vmxnet3",
)  # fmt: skip


def split_list(text: str) -> list[str]:
    """Elements of a Proxmox list: separated by comma, semicolon, space or NUL."""
    return [part for part in re.split(r"[,;\s\0]+", text) if part]


def check(name: str, value: str) -> None:
    """Raises FormatError when `value` does not have the format; unknown formats pass (checked where they are used)."""
    if name in LISTS:
        for part in split_list(value):
            CHECKS[LISTS[name]](part)
    elif name in CHECKS:
        CHECKS[name](value)


def parse_properties(text: str, default_key: str) -> dict[str, str]:
    """`a,b=1` to a dict in order. Raises FormatError for a part without a key that is not the first."""
    found: dict[str, str] = {}
    for position, part in enumerate(text.split(",")):
        key, equals, value = part.partition("=")
        if not equals:
            if position or not default_key or default_key in found:
                raise FormatError("value without key, but schema does not define a default key\n")
            key, value = default_key, part
        if key in found:
            raise FormatError(f"duplicate key in comma-separated list property: {key}\n")
        found[key] = value
    return found


def default_key(option: str) -> str:
    """The implied first key of an option's property string: `scsi0` is a drive, hence `file`."""
    kind = option.rstrip("0123456789")
    return DEFAULT_KEY.get(
        kind, "file" if kind in ("ide", "sata", "scsi", "virtio", "unused", "efidisk", "tpmstate") else ""
    )


def parse_net(text: str) -> dict[str, str]:
    """A network line with `model` and `macaddr` taken from its `virtio=MAC` form."""
    line = parse_properties(text, "model")
    for model in NET_MODELS:
        if model in line:
            line = {"model": model, "macaddr": line.pop(model), **line}
    return line


def print_net(line: dict[str, str]) -> str:
    rest = [f"{k}={v}" for k, v in sorted(line.items()) if k not in ("model", "macaddr")]
    head = f"{line['model']}={line['macaddr']}" if line.get("macaddr") else line["model"]
    return ",".join([head, *rest])


def parse_drive(text: str) -> dict[str, str]:
    line = parse_properties(text, "file")
    if "volume" in line:
        line["file"] = line.pop("volume")
    return line


def print_drive(line: dict[str, str]) -> str:
    return ",".join([line["file"], *(f"{k}={v}" for k, v in sorted(line.items()) if k != "file")])


def parse_size(text: str) -> int:
    """Bytes of `1G`, `512K`, `10` (bytes). Raises ValueError."""
    match = _DISK_SIZE.fullmatch(text)
    if not match:
        raise ValueError("no disk size")
    return int(float(match[1]) * {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}[match[3] or ""])


def print_size(size: int) -> str:
    for unit, factor in (("T", 1 << 40), ("G", 1 << 30), ("M", 1 << 20), ("K", 1 << 10)):
        if size and size % factor == 0:
            return f"{size // factor}{unit}"
    return str(size)
