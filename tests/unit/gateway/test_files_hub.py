"""The hub's round: it ends when told to, whatever else happens in the same moment."""

import asyncio
from typing import cast

import pytest

from myphr.gateway.files_hub import Hub


class QuietHub(Hub):
    async def look(self) -> None:
        return None


@pytest.mark.parametrize("turns", range(5))
def test_news_in_the_moment_of_the_end_does_not_keep_it_running(turns: int) -> None:
    async def scenario() -> bool:
        hub = QuietHub(*cast(tuple, (None, None, None)))
        running = asyncio.create_task(hub.run(every_seconds=0.02))
        await asyncio.sleep(0.005)
        hub.news()
        for _ in range(turns):
            await asyncio.sleep(0)
        running.cancel()
        done, _ = await asyncio.wait({running}, timeout=0.5)
        for left in {running} - done:
            left.cancel()
        return running in done

    assert asyncio.run(scenario())
