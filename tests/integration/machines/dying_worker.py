"""A worker that is killed with SIGKILL at one hook: `dying_worker.py <method>:<before|after> <scheduler>`.

The hook is in the forked process of the job; it kills its worker and itself, as a power cut or the kernel would.
"""

import os
import signal
import sys

from myphr import settings
from myphr.machines.proxmox import Hypervisor


def die(*_: object) -> None:
    parent = os.getppid()
    os.kill(parent, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def install(hook: str) -> None:
    name, _, moment = hook.partition(":")
    real = getattr(Hypervisor, name)

    def cut(self, *arguments, **options):
        if moment == "after":
            real(self, *arguments, **options)
        die()

    setattr(Hypervisor, name, cut)


def main() -> None:
    hook, scheduler = sys.argv[1:3]
    if hook:
        install(hook)
    from myphr import worker

    worker.run(settings.load(), scheduler=bool(scheduler))


if __name__ == "__main__":
    sys.path.insert(0, os.getcwd())
    main()
