"""The job worker: RQ on our queue, one forked process a job, arguments as JSON (never pickles), restartable anywhere.

With the scheduler it also puts the recurring sweep on the queue and wakes jobs whose retry is due. Knows no job by
itself: `jobs.*` are named by the queue. Started by `myphr worker`.
"""

import importlib
import logging
import pkgutil
import random
import threading
import time

import redis
from rq import Worker
from rq.executions import Execution
from rq.job import Job
from rq.serializers import JSONSerializer

from myphr.errors import ConfigurationError
from myphr.portal import Portal
from myphr.settings import Settings

SWEEP_SECONDS = 15
SWEEP_SECONDS_MAX = 300  # one round: a destroy in it may wait for the hypervisor
# RQ looks for jobs of dead workers this often; its default of 10 minutes would leave a patient waiting.
MAINTENANCE_SECONDS = 15
MONITORING_SECONDS = 2
# How long an idle worker listens in one go; RQ takes 15 s off its `worker_ttl`, and looks for jobs of dead workers only
# in between. By default that is 405 s: a worker killed in a sweep held up every later one, and all that waits for them.
IDLE_SECONDS = 15
# A job without a sign of life for so long is taken for dead and tried again. RQ waits 60 s; the signs come every 2 s,
# and our jobs run twice without harm, so a patient need not wait that minute after a crash.
SILENT_SECONDS_MAX = 15
REDIS_WAIT_SECONDS_MAX = 60

log = logging.getLogger(__name__)


class _Worker(Worker):
    def get_heartbeat_ttl(self, job: Job, working_time: float = 0.0) -> int:
        """Seconds until the job counts as one of a dead worker, from its last sign of life."""
        return MONITORING_SECONDS + SILENT_SECONDS_MAX

    def prepare_execution(self, job: Job) -> Execution:
        """RQ 3.0.0 lists a dead worker's execution for 60 s longer than it keeps it. The second try stumbled over that
        when it was done, counted as failed, and was tried again until the minute was over."""
        job.execution_registry.cleanup(time.time() + 60)
        return super().prepare_execution(job)


def run(settings: Settings, *, scheduler: bool = False) -> None:
    """Work until SIGTERM; the job under way is finished first. A second SIGTERM stops at once. Returns, too, when Redis
    goes away in the middle of a job: the supervisor starts us again, and the rows say how far the work is."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    # RQ logs each job with its description: ours is the function's name, and its ids are no secret.
    logging.getLogger("rq").setLevel(logging.WARNING)
    portal = Portal(settings)
    portal.keys  # noqa: B018 - missing or damaged keys stop the start, not the first job
    _wait_for_redis(portal.redis)
    _load_jobs()
    if scheduler:
        threading.Thread(target=_sweep_for_ever, args=(portal,), name="sweeps", daemon=True).start()
    worker = _Worker(
        [portal.queue.rq], connection=portal.redis, serializer=JSONSerializer, maintenance_interval=MAINTENANCE_SECONDS,
        job_monitoring_interval=MONITORING_SECONDS, worker_ttl=IDLE_SECONDS + 15, log_job_description=False,
    )  # fmt: skip
    # Retries wait in a registry that a scheduler empties; RQ elects one among the workers.
    worker.work(with_scheduler=True, logging_level="WARNING")


def _load_jobs() -> None:
    """Imported once here instead of once in every forked process: half a second a job."""
    import jobs

    for module in pkgutil.iter_modules(jobs.__path__):
        importlib.import_module(f"jobs.{module.name}")
    for name in ("myphr.records.manifest", "myphr.viewers.catalogue", "myphr.ingest.archives"):
        importlib.import_module(name)


def _wait_for_redis(connection: redis.Redis) -> None:
    deadline = time.monotonic() + REDIS_WAIT_SECONDS_MAX
    while True:
        try:
            connection.ping()
            return
        except redis.exceptions.BusyLoadingError:
            pass  # reading its file back
        except redis.exceptions.ConnectionError:
            if time.monotonic() > deadline:
                raise ConfigurationError("Redis does not answer at MYPHR_REDIS_URL") from None
        time.sleep(0.2)


def _sweep_for_ever(portal: Portal) -> None:
    """The sweep is a job like any other: it runs in a process of its own, and never twice at once."""
    own = Portal(portal.settings)  # connections of this thread's own: the main thread forks
    while True:
        try:
            own.queue.enqueue("jobs.sweep.sweep", seconds_max=SWEEP_SECONDS_MAX)
        except redis.exceptions.RedisError as error:
            log.warning("no sweep: %s", type(error).__name__)
        time.sleep(SWEEP_SECONDS + random.SystemRandom().uniform(0, 1))
