"""The stage of the attackers: three files, each shared another way, and a thief beside them.

`letter` with the nurse by name, `heart` with the cardiologists and the patient's consent, `blood` for an emergency. The
practice became a cardiologist later: the patient has not agreed to them yet.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from myphr.sharing import record_shares, shared_with_me
from myphr.sharing.record_shares import Audience, Scope
from tests import cast
from tests.attacker import Loot
from tests.integration.sharing.conftest import Clinic, gid_of, new_clinic
from tests.integration.sharing.theft import Thief
from tests.running_keyholder import RunningKeyholder

LETTER, HEART, BLOOD = b"Dear Vera, the letter\n", b"Dear Vera, the heart\n", b"Dear Vera, the blood\n"


@dataclasses.dataclass(frozen=True)
class Scene:
    """`named`, `team`, `emergency`: ids of the shares. `redis`: a dump of that moment, with jobs in it."""

    clinic: Clinic
    thief: Thief
    named: str
    team: str
    emergency: str
    redis: Loot


def set_scene(clinic: Clinic, keyholder: RunningKeyholder, folder: Path) -> Scene:
    folder.mkdir()
    patient = clinic.patient.login
    letter, heart, blood = (clinic.add_item(f"{name}.txt", content)
                            for name, content in (("letter", LETTER), ("heart", HEART), ("blood", BLOOD)))  # fmt: skip
    clinic.grant(clinic.caregiver, "role", "cardiologist")
    clinic.grant(clinic.nurse, "emergency")
    clinic.grant(clinic.nurse, "break-glass", authority=clinic.registrar)
    audiences = (Audience("named", gids=(gid_of(clinic.nurse),)), clinic.cardiologists, clinic.emergency)
    shares = [record_shares.share(clinic.portal, patient, Scope("item", item), audience)
              for item, audience in zip((letter, heart, blood), audiences, strict=True)]  # fmt: skip
    clinic.grant(clinic.practice, "role", "cardiologist")
    for who, share_id, reason in ((clinic.nurse, shares[0], ""), (clinic.caregiver, shares[1], ""),
                                  (clinic.nurse, shares[2], "she fainted")):  # fmt: skip
        assert shared_with_me.open_shared(clinic.portal, who.login, share_id, reason).items
    thief = Thief(clinic, keyholder, folder)
    dump = thief.redis()
    assert dump.redis
    return Scene(clinic, thief, *shares, dump)


@pytest.fixture(scope="module")
def scene(
    tmp_path_factory: pytest.TempPathFactory, redis_server: str, keyholder_server: RunningKeyholder
) -> Iterator[Scene]:
    """For attackers who change nothing: one for all of them."""
    folder = tmp_path_factory.mktemp("scene")
    portal = cast.new_portal(folder / "home", redis_server)
    portal.__dict__["keyholder"] = keyholder_server.client
    clinic = new_clinic(portal, keyholder_server, lambda person: cast.enter(portal, person))
    yield set_scene(clinic, keyholder_server, folder / "stolen")
    portal.database.dispose()
    portal.redis.close()


@pytest.fixture
def fresh(clinic: Clinic, keyholder: RunningKeyholder, tmp_path: Path) -> Scene:
    """For those that follow a change."""
    return set_scene(clinic, keyholder, tmp_path / "stolen")
