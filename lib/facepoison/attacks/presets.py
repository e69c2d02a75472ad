"""The attacks by name."""

from __future__ import annotations

from facepoison.attacks.base import Attack
from facepoison.attacks.fawkes_v03 import FAWKES_V03_HIGH
from facepoison.attacks.fawkes_v1 import FAWKES_V1_HIGH, FAWKES_V1_LOW, FAWKES_V1_MID
from facepoison.attacks.lowkey import LOWKEY, LOWKEY_MSE
from facepoison.errors import InputError

_PUBLISHED: tuple[Attack, ...] = (FAWKES_V03_HIGH, FAWKES_V1_LOW, FAWKES_V1_MID, FAWKES_V1_HIGH, LOWKEY)
ATTACKS = {attack.name: attack for attack in (*_PUBLISHED, LOWKEY_MSE)}
"""The attacks of the book by name: those published, and LowKey without LPIPS."""


def find_attack(name: str) -> Attack:
    """The attack of a name.

    Raises:
        InputError: there is none.
    """
    if name not in ATTACKS:
        raise InputError(f"attack '{name}' is unknown: use one of {', '.join(ATTACKS)}")
    return ATTACKS[name]


def title_of(name: str) -> str:
    """What people call an attack, by its name, or by what a study calls a variant that is not published."""
    return ATTACKS[name].title if name in ATTACKS else name
