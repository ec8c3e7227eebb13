"""What becomes a file of its own: an answer, a document that stood in one, and a document that an answer points to.

Sealed as it streams. Called by `fetching`.
"""

from collections.abc import Iterator

from myphr.ingest.fhir import entries
from myphr.ingest.fhir.dial import FHIR_JSON
from myphr.ingest.fhir.entries import Page
from myphr.ingest.fhir.line import PAGE_BYTES_MAX, Fetch, Line
from myphr.ingest.fhir.plan import Step
from myphr.ingest.fhir.words import words_of
from myphr.records import formats
from myphr.records.filing import SealedFile

FILE_BYTES_MAX = 1024**3


def of_page(taken: Fetch, step: Step, body: bytes, page: Page) -> list[SealedFile]:
    """The answer as it came, first, and the documents in it."""
    name = words_of(step.kind) + (f" {step.page}" if step.page > 1 else "")
    sealed = [_sealed(taken, iter([body]), name, len(body))]
    try:
        for one in page.attachments:
            if one.content is not None:
                sealed.append(_sealed(taken, iter([one.content]), one.title, len(one.content)))
    except BaseException as error:
        taken.drop(sealed, error)
        raise
    return sealed


def fetched(taken: Fetch, line: Line, step: Step) -> SealedFile | None:
    """A document as a file of its own, or None if it is not given. Raises HospitalRefused."""
    accept = step.media_type if "/" in step.media_type and step.media_type.isascii() else "*/*"
    accept = accept if accept.isprintable() and len(accept) < 100 else "*/*"
    with line.stream(step, f"{accept}, */*;q=0.1") as call:
        if call.status != 200:
            return None
        if call.media_type in (FHIR_JSON, "application/json") and "json" not in step.media_type:
            # The server gave the resource in place of its bytes (R4, 2.8.1 lets it).
            body = b"".join(call.blocks(line.room(PAGE_BYTES_MAX)))
            binary = entries.binary_of(body)
            content = binary[1] if binary else body
            return _sealed(taken, iter([content]), step.title, len(content))
        size = line.room(FILE_BYTES_MAX)
        return _sealed(taken, call.blocks(size), step.title, size)


def _sealed(taken: Fetch, blocks: Iterator[bytes], title: str, bytes_max: int) -> SealedFile:
    """A title without an ending gets that of its format, which the content tells."""
    with taken.writer(bytes_max) as writer:
        for block in blocks:
            writer.write(block)
            taken.tick()
        sealed = writer.seal_up("")
    ending = formats.of(sealed.facts.format).ending
    name = title.strip().replace("/", "-") or "Document"
    if ending and not name.lower().endswith(ending):
        name += ending
    return taken.named(sealed, name)
