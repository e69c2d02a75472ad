"""``python -m bookpress``."""

from bookpress.cli import app

app()
