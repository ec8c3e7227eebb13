"""What the services here and in `sharing` need of the portal, as a type. `myphr.portal.Portal` is one."""

from typing import Protocol

from myphr.machines.proxmox import Hypervisor
from myphr.people.parts import CommonParts
from myphr.queue import JobQueue


class Parts(CommonParts, Protocol):
    @property
    def queue(self) -> JobQueue: ...
    @property
    def hypervisor(self) -> Hypervisor: ...
