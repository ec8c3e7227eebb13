"""Viewer templates at the hypervisor: publish what the builder made, look after older revisions.

The image's own hash is its revision, so publishing again what is there already costs one look. Called by the command
line and by `myphr up`.
"""

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path

import redis

from myphr.errors import ConfigurationError, HypervisorRefused
from myphr.machines.parts import Parts
from myphr.machines.proxmox import Hypervisor, Template

REVISION_CHARS = 12
INSTALLED_KEY = "myphr:templates"  # names, comma-separated, as of the last round of the sweep
DEFAULT_CONFIG = {"memory": 1024, "cores": 1, "ostype": "l26", "vga": "virtio"}


def revision_of(image: Path) -> str:
    """The first 12 hex digits of the image's SHA-256."""
    with open(image, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()[:REVISION_CHARS]


def publisher(parts: Parts) -> Hypervisor:
    """The hypervisor as somebody who may publish: the embedded one's administrator, whose password lies in our own
    home; on a real node the token named in the settings. The portal's own token can only clone."""
    settings = parts.settings
    if settings.proxmox_publish_token_id:
        return Hypervisor(dataclasses.replace(
            settings, proxmox_token_id=settings.proxmox_publish_token_id,
            proxmox_token_secret_file=settings.proxmox_publish_token_secret_file,
        ))  # fmt: skip
    password = settings.home / "localpve" / "root.password"
    if settings.embedded_hypervisor and password.is_file():
        return Hypervisor(settings, sign_in=("root@pam", password.read_text().strip()))
    return parts.hypervisor


def publish(parts: Parts, name: str, image: Path, *, report: Callable[[str], None] = print) -> Template:
    """Make this image the newest template of this name, unless it is already. Raises ConfigurationError when the
    hypervisor refuses it."""
    revision = revision_of(image)
    existing = parts.hypervisor.templates()
    for template in existing:
        if (template.name, template.revision) == (name, revision):
            return template
    vmid = max([parts.settings.template_vmid_first - 1, *(template.vmid for template in existing)]) + 1
    try:
        hypervisor = publisher(parts)
        template = hypervisor.publish_template(
            name, revision, image, vmid, config=config_of(image), link_down=bool(parts.settings.guest_network),
            report=report,
        )  # fmt: skip
        if not hypervisor.can_clone(template.vmid):
            hypervisor.destroy(template.vmid)
            raise ConfigurationError(f"storage {parts.settings.proxmox_storage} cannot make linked clones")
    except HypervisorRefused as error:
        raise ConfigurationError(f"template {name} was refused: {error.detail}") from None
    report(f"{name}: published as template {template.vmid}")
    return template


def config_of(image: Path) -> dict:
    """What the builder says about the virtual machine in `<name>.json` beside the image."""
    beside = image.with_suffix(".json")
    if not beside.is_file():
        return DEFAULT_CONFIG
    return json.loads(beside.read_text()).get("proxmox", DEFAULT_CONFIG)


def publish_all(parts: Parts, folder: Path, *, report: Callable[[str], None] = print) -> list[Template]:
    """Every `<name>.qcow2` in this folder; then older revisions that no machine uses any more are removed."""
    published = [publish(parts, image.stem, image, report=report) for image in sorted(folder.glob("*.qcow2"))]
    if not published:
        raise ConfigurationError("there are no templates to publish: run `myphr template build` first")
    remove_outdated(parts)
    note_installed(parts)
    return published


def note_installed(parts: Parts) -> None:
    """Keep the names of the published templates where pages find them without asking the hypervisor: its answer would
    hold up every page that suggests a viewer. Raises HypervisorUnreachable; then the last answer stands."""
    names = sorted({template.name for template in parts.hypervisor.templates()})
    parts.redis.set(INSTALLED_KEY, ",".join(names))


def installed(redis_: redis.Redis) -> frozenset[str] | None:
    """Names of the published templates; None while nobody knows."""
    try:
        text = redis_.get(INSTALLED_KEY)
    except redis.exceptions.RedisError:
        return None
    return None if text is None else frozenset(re.findall(r"[^,]+", bytes(text).decode()))  # type: ignore[arg-type]


def remove_outdated(parts: Parts) -> None:
    """Remove templates of an older revision that have no clones left. A template in use refuses by itself on most
    storages, but not on all: our own rows are asked first."""
    from sqlmodel import col, select

    from myphr.machines.models import Machine

    newest = {template.name: template for template in parts.hypervisor.templates()}
    with parts.database.read() as db:
        used = set(db.exec(select(Machine.template_vmid).where(col(Machine.state) != "destroyed")).all())
    hypervisor = publisher(parts)
    for template in parts.hypervisor.templates():
        if template.revision and template != newest[template.name] and template.vmid not in used:
            try:
                hypervisor.wait_task(hypervisor.delete(template.vmid, node=template.node), 60)
            except HypervisorRefused:
                continue  # still in use, or protected: it does no harm
