"""The one error that bad input raises."""


class InputError(ValueError):
    """Something that was given cannot be used; the message is one line: which thing, what is wrong, what to do."""
