"""Studies that take too long for a chapter: each writes a table with a card into ``data/results``.

What each asks stands in ``data/protocol.toml``, written before its results.
"""
