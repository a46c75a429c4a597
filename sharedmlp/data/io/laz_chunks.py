"""What a LAZ file says of its chunks, held against its bytes before lazrs makes room for it.

lazrs allocates what the table of chunks and the sizes of layers say, and ends the process if there
is not so much memory.
"""

from __future__ import annotations

import io
import struct

from sharedmlp.data.io.base import FormatError

_BY_POINT, _LAYERED = 2, 3  # LASzip's compressors in chunks
# Of LASzip's items: points, colors, colors with infrared, waves. Of extra bytes each has a layer.
_LAYERS = {10: 9, 11: 1, 12: 2, 13: 1}
_EXTRA_BYTES = 14
_ITEM_COUNT = 32  # where it is in LASzip's record; the items follow, of 6 bytes each


def check_laz_chunks(content: bytes, start: int, record: bytes, num_points: int) -> None:
    """Check the table of chunks and, of layered ones, the sizes of their layers.

    Args:
        content: The bytes of the file.
        start: Where its points begin.
        record: LASzip's variable length record.
        num_points: How many points the header promises.

    Raises:
        FormatError: If they are not what the file holds.
        Exception: Whatever lazrs raises for a damaged table.
    """
    import lazrs

    table = _find_table(content, start)
    (count,) = struct.unpack_from("<I", content, table + 4)
    if count > table - start:
        raise FormatError(
            f"cannot be read as LAS: its table lists {count} chunks in {table - start} bytes"
        )
    file = io.BytesIO(content)
    file.seek(start)
    vlr = lazrs.LazVlr(record)
    chunks = lazrs.read_chunk_table(file, vlr)
    # After the last chunk, the bytes of the table would be taken for the next one.
    if vlr.uses_variable_size_chunks():
        found = sum(points for points, _ in chunks)
    else:
        found = len(chunks) * vlr.chunk_size()
    if found < num_points:
        raise FormatError(
            f"cannot be read as LAS: its header promises {num_points} points, and its {count} "
            f"chunks have room for {found}"
        )
    position = start + 8
    layers = _count_layers(record)
    for number, (_, size) in enumerate(chunks):
        if size > table - position:
            raise FormatError(
                f"cannot be read as LAS: its chunk {number} (from 0) of {size} bytes ends after "
                f"the last one, at byte {table}"
            )
        if layers and size:
            first = vlr.item_size() + 4  # a whole point, and how many points there are
            end = first + 4 * layers
            if end > size:
                raise FormatError(f"cannot be read as LAS: its chunk {number} is cut short")
            sizes = struct.unpack_from(f"<{layers}I", content, position + first)
            if end + sum(sizes) != size:
                raise FormatError(
                    f"cannot be read as LAS: the layers of its chunk {number} (from 0) take "
                    f"{sum(sizes)} bytes of {size - end}"
                )
        position += size


def _find_table(content: bytes, start: int) -> int:
    """Return the byte where the table of chunks begins."""
    if start + 8 > len(content):
        raise FormatError("cannot be read as LAS: the file ends before its points")
    (table,) = struct.unpack_from("<q", content, start)
    if table == -1:  # written by a program that could not go back: the place is at the end
        (table,) = struct.unpack_from("<q", content, len(content) - 8)
    if not start + 8 <= table <= len(content) - 8:
        raise FormatError(f"cannot be read as LAS: its table of chunks would be at byte {table}")
    return int(table)


def _count_layers(record: bytes) -> int:
    """Return how many layers each chunk has; 0 if its points come one after the other."""
    (compressor,), (count,) = (struct.unpack_from("<H", record, at) for at in (0, _ITEM_COUNT))
    layers = 0
    for number in range(count):
        kind, size = struct.unpack_from("<HH", record, _ITEM_COUNT + 2 + 6 * number)
        layers += size if kind == _EXTRA_BYTES else _LAYERS.get(kind, 0)
    if compressor != (_LAYERED if layers else _BY_POINT):
        raise FormatError(f"cannot be read as LAS: compressor {compressor} of LASzip is not read")
    return layers
