"""What the services here and in `sharing` need of the portal, as a type. `myphr.portal.Portal` is one."""

from typing import Protocol

import redis

from myphr.database import Database
from myphr.machines.proxmox import Hypervisor
from myphr.people.service_keys import ServiceKeys
from myphr.queue import JobQueue
from myphr.settings import Settings


class Parts(Protocol):
    @property
    def settings(self) -> Settings: ...
    @property
    def database(self) -> Database: ...
    @property
    def redis(self) -> redis.Redis: ...
    @property
    def queue(self) -> JobQueue: ...
    @property
    def keys(self) -> ServiceKeys: ...
    @property
    def hypervisor(self) -> Hypervisor: ...
