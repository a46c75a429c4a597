"""What is wrong with data, apart from what is wrong with a program."""


class DataError(ValueError):
    """Data that a person named cannot be used; the message says why and what to do."""
