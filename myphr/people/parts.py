"""What every service needs of the portal, as a type. Each package above adds what it needs besides."""

from typing import Protocol

import redis

from myphr.database import Database
from myphr.people.service_keys import ServiceKeys
from myphr.settings import Settings


class CommonParts(Protocol):
    @property
    def settings(self) -> Settings: ...
    @property
    def database(self) -> Database: ...
    @property
    def redis(self) -> redis.Redis: ...
    @property
    def keys(self) -> ServiceKeys: ...
