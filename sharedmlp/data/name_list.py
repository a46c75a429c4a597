"""The text files that sampled sets keep beside their clouds: one name a line."""

from pathlib import Path

from sharedmlp.data.errors import DataError, MissingDataError


def read_names(path: Path, layout: str) -> list[str]:
    """Return the lines of a file, stripped, without empty ones.

    Args:
        path: The file.
        layout: What the set has to look like; ends the message of an error.

    Raises:
        MissingDataError: If the file is missing.
        DataError: If it is empty or no text.
    """
    if not path.is_file():
        raise MissingDataError(f"{path} is missing; {layout}")
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no text ({error}); {layout}") from error
    names = [line for line in lines if line]
    if not names:
        raise DataError(f"{path} is empty; {layout}")
    return names
