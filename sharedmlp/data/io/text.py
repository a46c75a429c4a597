"""Text as people's programs write it: any Unicode encoding, any line ends."""

import codecs

from sharedmlp.data.io.base import FormatError

# The longer marks first: that of UTF-32 begins as that of UTF-16 does.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# Bytes that tell UTF-16 without a mark: of what people write in a header, every other one is NUL.
_START = 64


def convert_to_utf8(content: bytes) -> bytes:
    """Return text in UTF-8 without a byte order mark.

    Args:
        content: The bytes of a file. UTF-8, UTF-16 and UTF-32 are told by their byte order mark,
            UTF-16 also by NUL in every other byte of the start.

    Returns:
        The text; anything else, as Latin-1 and binary files, as it is.
    """
    for mark, encoding in _MARKS:
        if content.startswith(mark):
            content = content[len(mark) :]
            return content if encoding == "utf-8" else _recode(content, encoding)
    even, odd = content[:_START:2], content[1:_START:2]
    if len(even) >= 4:
        if not odd.strip(b"\0") and b"\0" not in even:
            return _recode(content, "utf-16-le")
        if not even.strip(b"\0") and b"\0" not in odd:
            return _recode(content, "utf-16-be")
    return content


def decode_ascii(content: bytes, name: str) -> str:
    r"""Return the text of a file whose numbers and words are ASCII.

    Args:
        content: The bytes of the file.
        name: The format, for the message.

    Returns:
        The text with `\n` line ends. Whatever is not ASCII may stand in comments and names; it is
        replaced by U+FFFD, which is no number, no blank and no line end.

    Raises:
        FormatError: If a byte is NUL, as in binary files.
    """
    content = convert_to_utf8(content)
    position = content.find(b"\0")
    if position >= 0:
        raise FormatError(
            f"byte {position} is NUL: the file is binary, expected {name} as plain text"
        )
    if b"\r" in content:
        content = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return content.decode("ascii", errors="replace")


def shorten(text: str) -> str:
    """Return text in quotes, at most 60 characters of it, for a message."""
    return repr(text if len(text) <= 60 else text[:57] + "...")


def one_line(text: str) -> str:
    """Return a message in one line of at most 400 characters, as it may quote what a file holds."""
    line = " ".join(text.split())
    return line if len(line) <= 400 else line[:397] + "..."


def _recode(content: bytes, encoding: str) -> bytes:
    return content.decode(encoding, errors="replace").encode("utf-8", errors="replace")
