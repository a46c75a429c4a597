"""The error for data that cannot be used, apart from errors of the program."""


class DataError(ValueError):
    """Raised when data that a user named cannot be used; the message says why and what to do."""


class MissingDataError(DataError, FileNotFoundError):
    """Raised when a file or folder of a data set is missing."""
