"""Face pictures, poisons and the recognisers that meet them: the library under the book *Poisoned Once*.

Rooms are stacked in floors and no import runs upwards: ``device`` and ``store`` at the bottom, then ``pictures`` and
``extractors``, ``poisons``, ``recognition`` and ``protection``, and ``figures`` on top.
"""

__version__ = "0.1.0"
