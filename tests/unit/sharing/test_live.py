"""Presence is what gateways said lately; news names the grant."""

import time

import redis

from myphr.sharing import live


def test_a_killed_gateways_watchers_fade(redis_url):
    with redis.Redis.from_url(redis_url) as client:
        key, moment = live.presence_key("vm-1"), time.time()
        client.hset(key, "a", live.presence_value("owner:1", "control", moment - 100, moment))
        client.hset(key, "b", live.presence_value("share:2", "view", moment - 50, moment - live.PRESENCE_SECONDS - 2))
        assert [watcher.grant for watcher in live.presence(client, "vm-1")] == ["owner:1"]


def test_watchers_come_in_the_order_they_came(redis_url):
    with redis.Redis.from_url(redis_url) as client:
        moment = time.time()
        for number in (3, 1, 2):
            value = live.presence_value(f"share:{number}", "view", moment + number, moment)
            client.hset(live.presence_key("vm-1"), str(number), value)
        assert [watcher.grant for watcher in live.presence(client, "vm-1")] == ["share:1", "share:2", "share:3"]
        assert live.presence(client, "vm-2") == []


def test_news_of_a_withdrawal_names_the_grant(redis_url):
    with redis.Redis.from_url(redis_url) as client, client.pubsub() as news:
        news.subscribe(live.REVOKED_CHANNEL)
        assert news.get_message(timeout=5)["type"] == "subscribe"
        live.revoke(client, "share:7")
        assert news.get_message(timeout=5)["data"] == b"share:7"
        live.end_screens(client, "vm-1")
        assert news.get_message(timeout=5)["data"] == b"vm:vm-1"
