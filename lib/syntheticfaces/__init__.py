"""The book's own faces: people made of numbers, and pictures of them under any pose, light, expression and camera.

Nobody had to be photographed for the book. An identity is a row of named parameters (`PERSON`), a picture of it a
second row (`NUISANCE`), and `render` turns both into pixels, the same ones every time. This room knows nothing of
recognition; of the library it needs the seeded generators and the error of bad input.
"""

from syntheticfaces.parameters import NUISANCE, PERSON, Parameter, draw_nuisance, draw_people
from syntheticfaces.renderer import SIZES, render

__all__ = ["NUISANCE", "PERSON", "SIZES", "Parameter", "draw_nuisance", "draw_people", "render"]
