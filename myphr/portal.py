"""The composition root: builds the portal's parts from the settings, once per process.

Web, gateway, jobs and the command line start from here and hand the parts on; nothing below imports this.
"""

import dataclasses
import functools

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from myphr.database import Database
from myphr.machines.proxmox import Hypervisor
from myphr.people.keyholder import Keyholder
from myphr.people.service_keys import ServiceKeys
from myphr.queue import JobQueue
from myphr.records.search import RecordSearch
from myphr.records.store import ObjectStore, open_store
from myphr.settings import Settings


@dataclasses.dataclass
class Portal:
    """The parts every process may use. Each is made on first use and belongs to this process (not to a fork)."""

    settings: Settings

    @functools.cached_property
    def database(self) -> Database:
        return Database(self.settings.database_url)

    @functools.cached_property
    def redis(self) -> redis.Redis:
        # One try more and no waiting: with Redis away, a page must say so at once (redis-py would retry for 4 s).
        return redis.Redis.from_url(self.settings.redis_url, retry=Retry(NoBackoff(), 1))

    @functools.cached_property
    def queue(self) -> JobQueue:
        return JobQueue(self.redis)

    @functools.cached_property
    def store(self) -> ObjectStore:
        return open_store(self.settings.store_url, partial_dir=self.settings.spool_dir / "uploads")

    @functools.cached_property
    def search(self) -> RecordSearch:
        return RecordSearch(self)

    @functools.cached_property
    def hypervisor(self) -> Hypervisor:
        return Hypervisor(self.settings, self.redis)

    @functools.cached_property
    def keyholder(self) -> Keyholder:
        """The client of the keyholder. Connects only when asked something."""
        return Keyholder(self.settings.keyholder_address)

    @functools.cached_property
    def keys(self) -> ServiceKeys:
        """The portal's own keys (not the patients'): see myphr.people.service_keys."""
        return ServiceKeys.load(self.settings.keys_dir)
