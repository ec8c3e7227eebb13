"""The job queue: RQ on Redis. Jobs are named by their dotted path and take ids only.

RQ keeps arguments in clear and logs them, so `enqueue` accepts strings that look like ids and nothing else.
The database row is the truth; a job lost with Redis is put back by `jobs.sweep`.
"""

import logging
import re

import redis
from rq import Queue, Retry
from rq.exceptions import DuplicateJobError, NoSuchJobError
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer

log = logging.getLogger(__name__)

# Seconds until a failed job is tried again. The first time at once: a wait needs RQ's scheduler, and when that died
# with its worker, another one takes its place only after a minute.
RETRY_SECONDS = [0, 5, 20]
_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")


class JobQueue:
    """Puts jobs on one RQ queue. Safe to share between threads."""

    name = "myphr"

    def __init__(self, connection: redis.Redis) -> None:
        self.connection = connection
        self.rq = Queue(self.name, connection=connection, serializer=JSONSerializer)

    def enqueue(self, function: str, *ids: str, seconds_max: int = 600) -> None:
        """Run `function(*ids)` soon, once: a second call while the first waits or runs changes nothing.

        `function` is a dotted path such as "jobs.machines.start_vm_session". When Redis is away nothing is raised: the
        row that asks for the work is already stored, and the sweep puts the job back. Raises ValueError for anything
        that is not an id."""
        for value in ids:
            if not _ID.fullmatch(value):
                raise ValueError("jobs take ids only")
        job_id = ":".join((function.replace(".", "-"), *ids)).replace(":", "_")
        try:
            self._put(function, ids, job_id, seconds_max)
        except (redis.ConnectionError, redis.TimeoutError) as error:
            log.warning("%s waits for the sweep: %s", function, type(error).__name__)

    def has_waiting(self) -> bool:
        """Whether any job waits for a worker. When Redis is away: yes, so that who asks makes room."""
        try:
            return bool(self.connection.llen(self.rq.key))
        except (redis.ConnectionError, redis.TimeoutError):
            return True

    def _put(self, function: str, ids: tuple[str, ...], job_id: str, seconds_max: int) -> None:
        for again in (True, False):
            try:
                self.rq.enqueue(
                    function, args=ids, job_id=job_id, unique=True, description=function,
                    job_timeout=seconds_max, result_ttl=0, failure_ttl=86_400,
                    retry=Retry(max=len(RETRY_SECONDS), interval=RETRY_SECONDS),
                )
                return
            except DuplicateJobError:
                if not again or not self._clear_failed(job_id):
                    return

    def _clear_failed(self, job_id: str) -> bool:
        """A job that failed for good is kept a day for the operator: it must not block the sweep that repeats it."""
        try:
            job = Job.fetch(job_id, connection=self.connection, serializer=JSONSerializer)
        except NoSuchJobError:
            return True
        if job.get_status() not in (JobStatus.FAILED, JobStatus.STOPPED, JobStatus.CANCELED, JobStatus.FINISHED):
            return False
        job.delete()
        return True
