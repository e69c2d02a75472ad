"""``python -m facepoison``: the command line."""

from facepoison.cli import app

app()
