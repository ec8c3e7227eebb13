"""Values of a DICOM data set as plain lines and numbers; what cannot be decoded is empty, never an error."""

from pydicom.dataset import Dataset

from myphr.records import summaries
from myphr.records.reading import line


def text(dataset: Dataset, keyword: str) -> str:
    """One value as a line, empty if it is not there or cannot be decoded."""
    try:
        value = dataset.get(keyword)
    except Exception:  # pydicom decodes late, and raises whatever the codec does
        return ""
    if value is None:
        return ""
    if isinstance(value, list | tuple) or type(value).__name__ == "MultiValue":
        value = ", ".join(str(one) for one in list(value)[:20])
    return line(value)


def person(dataset: Dataset, keyword: str) -> str:
    try:
        value = dataset.get(keyword)
        value = value[0] if type(value).__name__ == "MultiValue" and value else value
        words = line(summaries.person_words(line(value))) if value else ""
        return words if any(character.isalnum() for character in words) else ""
    except Exception:
        return ""


def number(dataset: Dataset, keyword: str) -> int | None:
    try:
        return int(dataset.get(keyword))
    except Exception:
        return None


def sequence(dataset: Dataset, keyword: str) -> list[Dataset]:
    try:
        return list(dataset.get(keyword) or ())
    except Exception:
        return []
