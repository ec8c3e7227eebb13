"""One frozen settings object, read once at start from `MYPHR_*` environment variables.

Unknown `MYPHR_*` variables are refused, so that a misspelt limit never goes unnoticed. Called by the
composition root (`myphr.portal`) and the command line; everything else is handed the object.
"""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path

from myphr.errors import ConfigurationError

# Set by our own tools, not part of the portal's configuration.
_FOREIGN_KEYS = frozenset({"MYPHR_TEST_REUSE", "MYPHR_TEST_PROXMOX"})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything an operator can decide. Each field is the variable `MYPHR_<FIELD>` in upper case."""

    home: Path = Path("var")  # all state of the embedded default lives below it
    # What the browser sees; links in mails start with it. A name, as passkeys work at no number.
    public_url: str = "http://localhost:8000"
    web_bind: str = "127.0.0.1:8000"
    screen_url: str = "ws://127.0.0.1:8001"  # where the browser finds the screen gateway
    screen_bind: str = "127.0.0.1:8001"
    database_url: str = ""  # default sqlite:///<home>/db/myphr.sqlite
    redis_url: str = ""  # default unix://<home>/run/redis.sock, started by us
    store_url: str = ""  # default file://<home>/store ; s3://bucket/prefix?endpoint=...
    smtp_url: str = ""  # default outbox:<home>/outbox ; smtp://user:pw@host:587 or smtps://
    mail_from: str = "MyPHRMachines <portal@localhost>"
    operator_email: str = ""
    keyholder_address: str = ""  # default unix:<home>/run/keyholder/keyholder.sock, started by us; else one that runs
    keyholder_passphrase_file: str = ""  # default <home>/keys/keyholder-passphrase, made by init
    keyholder_listen_tls: str = ""  # host:port for keyholders of other hosts; empty: none

    proxmox_url: str = ""  # empty: the embedded localpve, started by us
    proxmox_token_id: str = "portal@pve!web"  # noqa: S105 - a name, not a secret
    proxmox_token_secret_file: str = ""  # default <home>/keys/proxmox-token
    # Publishing templates needs more rights than serving patients: a token of its own, or "" for the portal's.
    proxmox_publish_token_id: str = ""
    proxmox_publish_token_secret_file: str = ""
    proxmox_ca_file: str = ""  # default <home>/localpve/ca.pem
    proxmox_node: str = "pve"
    proxmox_storage: str = "local"
    proxmox_bridge: str = "vmbr1"
    proxmox_pool: str = "phr-sessions"
    proxmox_template_pool: str = "phr-templates"
    localpve_bind: str = "127.0.0.1:8006"
    localpve_accelerator: str = "auto"  # auto: a probe guest decides; kvm; tcg
    localpve_sealing: int = 1  # 0: always boot cold, as a real node does (benches)
    vmid_first: int = 100_000  # machines take ids from here on and never use one twice
    vmid_last: int = 999_999
    template_vmid_first: int = 9_000

    files_listen: str = ""  # default unix:<home>/run/files/{vmid}.sock ; tcp:10.20.0.1:564 on a real node
    guest_files_address: str = "10.0.2.100:564"  # what the guest dials
    guest_network: str = ""  # the isolated bridge's network on a real node, such as 10.20.0.0/16; empty: localpve's own

    warm_pool: str = "radiology=1"  # template=machines kept booted, comma-separated
    machines_max: int = 6  # running machines at once, pool included
    start_seconds_max: int = 180  # a machine that is not up by then has failed
    idle_seconds_max: int = 1800  # NIST 800-63B: 30 min without input
    idle_warning_seconds: int = 120
    session_seconds_max: int = 14_400
    share_seconds_max: int = 604_800
    upload_bytes_max: int = 64 * 1024**3
    upload_seconds_max: int = 86_400  # an unfinished upload is swept after a day: a CD on a tablet outlives an hour
    archive_members_max: int = 20_000
    archive_bytes_max: int = 64 * 1024**3
    record_bytes_max: int = 256 * 1024**3
    # Where practices send by C-STORE; empty: not started. Beyond this computer only with TLS, or with the next but two.
    receiver_bind: str = "127.0.0.1:11112"
    receiver_address: str = ""  # what a practice types, host:port; default is receiver_bind
    receiver_tls_cert_file: str = ""  # the receiver's certificate chain, PEM; with it only TLS is spoken
    receiver_tls_key_file: str = ""
    receiver_tls_ca_file: str = ""  # who signs the practices' certificates; asked of every client
    receiver_plain: int = 0  # 1: without TLS beyond this computer, inside a VPN
    receiver_associations_max: int = 20
    receiver_associations_per_address: int = 10
    receiver_memory_bytes_max: int = 2 * 1024**3  # address space of the process, most of it never touched
    drop_off_seconds_max: int = 7_776_000  # 90 days: from the referral to the last follow-up
    drop_off_files_max: int = 20_000
    drop_off_bytes_max: int = 32 * 1024**3  # what one drop-off may bring in all
    drop_off_object_bytes_max: int = 4 * 1024**3  # one file of a provider: an enhanced multi-frame image has 2 GB
    # What one fetch from a hospital may take. Loopback 1: FHIR servers at http://127.0.0.1 are allowed (tests).
    fhir_seconds_max: int = 1800
    fhir_pages_max: int = 2_000
    fhir_files_max: int = 2_000
    fhir_bytes_max: int = 4 * 1024**3
    fhir_loopback: int = 0
    # What one fetch from a PACS may take. Our certificate there, and whether lines in clear (by a VPN) are allowed.
    pacs_seconds_max: int = 1800
    pacs_silence_seconds: int = 60
    pacs_files_max: int = 20_000
    pacs_object_bytes_max: int = 4 * 1024**3
    pacs_bytes_max: int = 32 * 1024**3
    pacs_tls_cert_file: str = ""
    pacs_tls_key_file: str = ""
    pacs_plain: int = 0
    results_bytes_max: int = 1024**3  # what one session may write to results/

    argon2_memory_kib: int = 65_536
    argon2_passes: int = 3
    web_threads: int = 64
    workers: int = 2

    @property
    def run_dir(self) -> Path:
        return self.home / "run"

    @property
    def keys_dir(self) -> Path:
        return self.home / "keys"

    @property
    def spool_dir(self) -> Path:
        return self.home / "spool"

    @property
    def warm_pool_sizes(self) -> dict[str, int]:
        """Machines to keep booted, by template name."""
        sizes = {}
        for part in filter(None, (p.strip() for p in self.warm_pool.split(","))):
            name, _, count = (word.strip() for word in part.partition("="))
            if not name or not count.isdecimal():
                raise ConfigurationError("MYPHR_WARM_POOL must read like radiology=1,documents=0")
            sizes[name] = int(count)
        return sizes

    @property
    def embedded_keyholder(self) -> bool:
        """Whether the keyholder is ours to make and to start."""
        return self.keyholder_address == f"unix:{self.run_dir}/keyholder/keyholder.sock"

    def need_short_home(self) -> None:
        """Raises ConfigurationError where our sockets' names would not fit (unix(7): 108 bytes with the closing 0)."""
        longest = max(len(os.fsencode(self.run_dir / name)) for name in _SOCKETS)
        if longest > SOCKET_PATH_BYTES_MAX:
            room = SOCKET_PATH_BYTES_MAX - longest + len(os.fsencode(self.home))
            raise ConfigurationError(
                f"The folder {self.home} has too long a name: sockets are made below it. "
                f"Set MYPHR_HOME to a folder whose whole path has at most {room} letters."
            )

    @property
    def embedded_hypervisor(self) -> bool:
        return self.proxmox_url == "" or self.proxmox_url == f"https://{self.localpve_bind}"


SOCKET_PATH_BYTES_MAX = 107
_SOCKETS = ("redis.sock", "keyholder/keyholder.sock", "files/999999999.sock")  # the longest that is made below run_dir


def _defaults_below(home: Path, values: dict) -> None:
    home = home.resolve()
    values["home"] = home
    below = {
        "database_url": f"sqlite:///{home}/db/myphr.sqlite",
        "redis_url": f"unix://{home}/run/redis.sock",
        "store_url": f"file://{home}/store",
        "smtp_url": f"outbox:{home}/outbox",
        "keyholder_address": f"unix:{home}/run/keyholder/keyholder.sock",
        "keyholder_passphrase_file": f"{home}/keys/keyholder-passphrase",
        "proxmox_token_secret_file": f"{home}/keys/proxmox-token",
        "proxmox_ca_file": f"{home}/localpve/ca.pem",
        "files_listen": f"unix:{home}/run/files/{{vmid}}.sock",
    }
    for key, default in below.items():
        if not values.get(key):
            values[key] = default
    if not values.get("receiver_address"):
        values["receiver_address"] = values.get("receiver_bind", Settings.receiver_bind)
    if not values.get("proxmox_url"):
        values["proxmox_url"] = f"https://{values.get('localpve_bind', Settings.localpve_bind)}"


def load(environ: Mapping[str, str] = os.environ, **overrides: object) -> Settings:
    """Settings from the environment. Raises ConfigurationError for unknown keys or values of a wrong type."""
    fields = {f.name: f for f in dataclasses.fields(Settings)}
    values: dict = {}
    for key, text in environ.items():
        if not key.startswith("MYPHR_") or key in _FOREIGN_KEYS:
            continue
        name = key.removeprefix("MYPHR_").lower()
        if name not in fields:
            raise ConfigurationError(f"unknown setting {key}")
        kind = fields[name].type
        try:
            values[name] = int(text) if kind is int else Path(text) if kind is Path else text
        except ValueError:
            raise ConfigurationError(f"{key} must be a whole number") from None
    values.update(overrides)
    _defaults_below(Path(values.get("home", Settings.home)), values)
    settings = Settings(**values)
    _ = settings.warm_pool_sizes  # a bad value must stop the start, not the first refill
    return settings
