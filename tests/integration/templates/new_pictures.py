"""Screens of viewers with our samples in them, for somebody to look at before they become what `still_opens` compares
with. By hand: `python -m tests.integration.templates.new_pictures TEMPLATE FOLDER [VIEWER--SAMPLE ...]`; writes into
FOLDER each screen as a person sees it, and below FOLDER/references what belongs into `myphr/viewers/samples/screens`
once the screen is right.
"""

import sys
from pathlib import Path

from myphr import still_opens
from myphr.viewers import catalogue, samples
from tests.integration.templates.conftest import TEMPLATES
from tests.integration.templates.opened import Sealed, screen_at_rest

SHOWN = {
    "igv": (0, 192, 1252, 624),  # one variant is a bar of 3 pixels: without it all else would be 0.99 alike
    "igv--bam": (0, 192, 1252, 244),  # it draws other reads each time, the same depth
}


def main(template: str, folder: Path, *only: str) -> None:
    references = folder / "references"
    references.mkdir(parents=True, exist_ok=True)
    sealed = Sealed(template, TEMPLATES)
    try:
        for viewer in catalogue.load().values():
            for sample in still_opens.claims(viewer) if viewer.template == template else ():
                name = still_opens.reference_path(viewer.name, sample).name
                if only and name.removesuffix(".png") not in only:
                    continue
                try:
                    with sealed.opened(viewer.name, samples.of(sample)) as machine:
                        image = screen_at_rest(machine)
                except (AssertionError, TimeoutError) as error:
                    print(f"{name}: {str(error).splitlines()[0]}", flush=True)
                    continue
                image.save(folder / name)
                shown = SHOWN.get(name.removesuffix(".png"), SHOWN.get(viewer.name))
                reference = still_opens.reference_of(sealed.desk, image, shown)
                reference.save(references / name, optimize=True)
                print(name, flush=True)
    finally:
        sealed.close()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
