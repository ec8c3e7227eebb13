"""The reader process as it is (`myphr.ingest.reading.child`), which also tells what it and each of its forks took.

The kernel notes the peak and the CPU time of a fork, with what that started, and tells them when it has ended (wait4):
nothing is missed, however short it lived. Started by `tests.hostile_desk` in the place of the real one.
"""

import contextlib
import os
import sys
import time

from myphr.ingest.reading import child

TOLD_AT = "MYPHR_FORKS_TOLD_AT"  # a named pipe: after `child` gave up what it does not need, it can write no file


def main(descriptor: int, told: int) -> None:
    own_pid = os.getpid()

    def waitpid(pid: int, options: int) -> tuple[int, int]:
        ended, status, usage = os.wait4(pid, options)
        if ended and os.getpid() == own_pid:  # a fork waits for what it starts
            os.write(told, b"fork %d %f\n" % (usage.ru_maxrss // 1024, usage.ru_utime + usage.ru_stime))
        return ended, status

    os.waitpid = waitpid
    child.main(descriptor)
    with contextlib.suppress(ChildProcessError):
        while True:
            waitpid(-1, 0)
    os.write(told, b"reader %d %f\n" % (peak_mib(), time.process_time()))


def peak_mib() -> int:
    """Of this process since its start: not ru_maxrss, which begins with the memory of whoever started it."""
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM:"))


if __name__ == "__main__":
    main(int(sys.argv[1]), os.open(os.environ[TOLD_AT], os.O_WRONLY))
