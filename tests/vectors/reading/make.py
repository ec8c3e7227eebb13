"""Wrote `opens-reading.vector`, once: sealed reading, preview and narrative of one item. Never run again for that name.

`python -m tests.vectors.reading.make NAME`
"""

import json
import sys
from pathlib import Path

from myphr.records import readings
from myphr.records.reading import Reading

DEK, ITEM = bytes(range(32)), "6a1b0000-0000-4000-8000-000000000001"
READING = Reading(title="Größe", date="2024-08", date_words="August 2024", facts=(("Pages", "3"),), text="a\nb",
                  has_preview=True, has_narrative=True)  # fmt: skip
PREVIEW, NARRATIVE = b"\xff\xd8\xff\xe0 picture", "<p>Größe</p>"

if __name__ == "__main__":
    body = {
        "dek": DEK.hex(), "item": ITEM, "reading": readings.seal(DEK, ITEM, READING).hex(),
        "preview": readings.seal_preview(DEK, ITEM, PREVIEW).hex(),
        "narrative": readings.seal_narrative(DEK, ITEM, NARRATIVE).hex(),
    }  # fmt: skip
    head = f"scenario: {sys.argv[1]}\nexpect: opens\n\n"
    (Path(__file__).parent / f"{sys.argv[1]}.vector").write_text(head + json.dumps(body, indent=1) + "\n")
