"""Network addresses of machines: which one a guest gets, and which machine an address is.

In localpve's own network every guest is alone behind its emulated card, and the files gateway knows the machine by
its socket. On a real node all guests are on one isolated bridge: the address follows from the vmid, is handed over
with the claim, and is pinned by the hypervisor's firewall. Called by the worker and by the files gateway.
"""

import functools
import ipaddress
from collections.abc import Iterable

from myphr.errors import ConfigurationError
from myphr.settings import Settings

RESERVED_HOSTS = 16  # the first addresses of the network belong to the gateway and the operator


def files_address(settings: Settings) -> tuple[str, int]:
    """Host and port that the guest dials."""
    host, _, port = settings.guest_files_address.rpartition(":")
    try:
        return str(ipaddress.IPv4Address(host)), int(port)
    except ValueError:
        raise ConfigurationError("MYPHR_GUEST_FILES_ADDRESS must be an IPv4 address and a port") from None


@functools.lru_cache(maxsize=8)
def _network(text: str) -> ipaddress.IPv4Network:
    try:
        network = ipaddress.IPv4Network(text)
    except ValueError:
        raise ConfigurationError("MYPHR_GUEST_NETWORK must be an IPv4 network such as 10.20.0.0/16") from None
    if network.num_addresses < 64:
        raise ConfigurationError("MYPHR_GUEST_NETWORK is too small: at least a /26")
    return network


def guest_address(settings: Settings, vmid: int) -> ipaddress.IPv4Interface | None:
    """The address of this machine with its network, or None in localpve's own network.

    Two machines share an address only if their numbers are a whole network apart: numbers are handed out in order
    and machines live for hours, so both never live at once."""
    if not settings.guest_network:
        return None
    network = _network(settings.guest_network)
    files, _ = files_address(settings)
    room = network.num_addresses - RESERVED_HOSTS - 1  # the last is the broadcast address
    host = network.network_address + RESERVED_HOSTS + (vmid - settings.vmid_first) % room
    if str(host) == files:
        raise ConfigurationError("MYPHR_GUEST_FILES_ADDRESS must be among the first 16 addresses of the guest network")
    return ipaddress.IPv4Interface(f"{host}/{network.prefixlen}")


def vmid_of(settings: Settings, address: str, vmids: Iterable[int]) -> int | None:
    """Which of these machines has this source address?"""
    for vmid in vmids:
        guest = guest_address(settings, vmid)
        if guest is not None and str(guest.ip) == address:
            return vmid
    return None
