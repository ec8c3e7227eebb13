#!/usr/bin/python3 -B
"""LibreOffice, loaded once and kept: turns office files into PDF for "Simple documents". Its library is used from here
(LibreOfficeKit, its documented C interface), because `soffice --convert-to` loads everything anew for each file: that
took 116 s once on a loaded machine under software emulation. Macros are not run: the interface does not unless asked.

Reads lines {"from": path, "to": path} on its input; writes "warm" once and then "done" or "failed" for each, in order.
Ends with its input. Runs in the guest as the viewer user, in a process of its own: a file that crashes it costs a
start.
"""

import ctypes
import json
import os
import signal
import sys
import tempfile
from pathlib import Path

PROGRAM = "/usr/lib/libreoffice/program"
PROFILE = "/home/viewer/office-to-pdf"  # not the one of LibreOffice itself, which could not start beside it
# Loads what each text needs: writer, fonts, the PDF export.
EXAMPLE = r"{\rtf1\ansi{\fonttbl{\f0 Liberation Serif;}}\f0 Ready.\par}"
PR_SET_PDEATHSIG = 1


class Table(ctypes.Structure):
    """The beginning of both classes of LibreOfficeKit.h: their size, then functions in an order that never changes."""

    _fields_ = (("size", ctypes.c_size_t), ("functions", ctypes.c_void_p * 4))


OFFICE_LOAD, DOCUMENT_DESTROY, DOCUMENT_SAVE = 1, 0, 1
LOAD = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)
SAVE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p)
DESTROY = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def function(thing: int, number: int) -> int:
    """The address of an object's function."""
    table = ctypes.cast(ctypes.cast(thing, ctypes.POINTER(ctypes.c_void_p))[0], ctypes.POINTER(Table))
    return table[0].functions[number]


class Office:
    def __init__(self) -> None:
        os.environ["SAL_USE_VCLPLUGIN"] = "svp"  # draws in memory, without a screen
        library = ctypes.CDLL(f"{PROGRAM}/libmergedlo.so", mode=ctypes.RTLD_GLOBAL)
        begin = library.libreofficekit_hook_2
        begin.restype, begin.argtypes = ctypes.c_void_p, [ctypes.c_char_p, ctypes.c_char_p]
        self.office = begin(PROGRAM.encode(), Path(PROFILE).as_uri().encode())
        if not self.office:
            sys.exit("LibreOffice did not start")

    def convert(self, source: str, target: str) -> bool:
        document = LOAD(function(self.office, OFFICE_LOAD))(self.office, Path(source).as_uri().encode())
        if not document:
            return False
        try:
            save = SAVE(function(document, DOCUMENT_SAVE))
            return bool(save(document, Path(target).as_uri().encode(), b"pdf", None))
        finally:
            DESTROY(function(document, DOCUMENT_DESTROY))(document)


def main() -> None:
    # Whoever reads the answers may be killed, and then this memory is wanted by another viewer.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # LibreOffice writes to its output what is none of the answers
    office = Office()
    with tempfile.TemporaryDirectory(prefix="office-") as folder:
        example = Path(folder, "example.rtf")
        example.write_text(EXAMPLE)
        office.convert(str(example), f"{folder}/example.pdf")
    print("warm", file=answers)
    for line in sys.stdin:
        order = json.loads(line)
        print("done" if office.convert(order["from"], order["to"]) else "failed", file=answers)
    os._exit(0)  # its threads do not end by themselves


if __name__ == "__main__":
    main()
