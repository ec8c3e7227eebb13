"""Pictures for people's eyes: kept where KEEP_PICTURES names a folder, small enough for the documentation."""

import os
from pathlib import Path

from PIL import Image


def keep(picture: Image.Image | None, name: str) -> None:
    folder = os.environ.get("KEEP_PICTURES")
    if folder and picture is not None:
        path = Path(folder) / f"{name.replace(' ', '-').lower()}.png"
        picture.quantize(96, dither=Image.Dither.NONE).save(path, optimize=True)
