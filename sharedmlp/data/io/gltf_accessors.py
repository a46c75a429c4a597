"""The arrays of a glTF file: buffers, views of them, and accessors, held against their bounds."""

import base64
import binascii
from typing import Any
from urllib.parse import unquote, unquote_to_bytes

import numpy as np
from numpy.typing import NDArray

from sharedmlp.data.io.base import FormatError
from sharedmlp.data.io.gltf_document import (
    COMPONENTS,
    GltfDocument,
    compressed,
    count_named_bytes,
    find_compression,
    find_file,
    get_count,
    get_list,
    get_object,
)

_DTYPES = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
# Bounds are written with a few digits less than the values, by some programs.
_BOUNDS_TOLERANCE = 1e-3


class Accessors:
    """Reads the accessors of a document; each buffer is read once."""

    def __init__(self, document: GltfDocument) -> None:
        """Read nothing yet.

        Args:
            document: One that `check_size` has passed.
        """
        self.document = document
        self._buffers: dict[int, bytes] = {}
        # Sparse values stand beside others, of a byte and more each, that the file holds.
        self._most_zeros = document.num_bytes + count_named_bytes(document)

    def read(self, index: Any, type_name: str) -> NDArray[Any]:
        """Read an accessor.

        Args:
            index: Its place in the document, as another part names it.
            type_name: The type that it has to have, as "VEC3".

        Returns:
            (count, components), (count,) for "SCALAR": integers, float32, or float64 of normalized
            integers.

        Raises:
            FormatError: If the file does not hold it, or it holds values outside the bounds that
                it names itself.
        """
        accessor = self.document.part("accessors", index)
        where = f"accessors[{index}]"
        found = accessor.get("type")
        if found != type_name:
            raise FormatError(f"{where}: expected the type {type_name}, found {found!r}")
        count, width = get_count(accessor, "count"), COMPONENTS[type_name]
        dtype = _get_dtype(accessor, where)
        sparse = get_object(accessor, "sparse")
        if "bufferView" in accessor:
            offset = get_count(accessor, "byteOffset", 0)
            values = self._read_view(accessor["bufferView"], offset, (count, width), dtype, where)
        elif sparse:
            if count > self._most_zeros:
                raise FormatError(f"{where}: {count} zeros are more than the file can refer to")
            values = np.zeros((count, width), dtype)
        else:
            raise FormatError(f"{where} names no data: the part is empty, or is compressed")
        if sparse:
            self._replace(values, sparse, where)
        values = _check_bounds(values, accessor, where)
        return values[:, 0] if type_name == "SCALAR" else values

    def _read_view(
        self, index: Any, offset: int, shape: tuple[int, int], dtype: np.dtype[Any], where: str
    ) -> NDArray[Any]:
        """Return a copy of (count, components) values that begin at a byte of a view."""
        view = self.document.part("bufferViews", index)
        content = self._read_buffer(view, where)
        start, length = get_count(view, "byteOffset", 0), get_count(view, "byteLength")
        if start + length > len(content):
            raise FormatError(
                f"bufferViews[{index}]: bytes {start} to {start + length} of a buffer of "
                f"{len(content)} bytes: the file is cut short or its numbers are wrong"
            )
        size = shape[1] * dtype.itemsize
        stride = get_count(view, "byteStride", size)
        needed = offset + stride * (shape[0] - 1) + size if shape[0] else 0
        if needed > length or stride < size:
            raise FormatError(
                f"{where}: {shape[0]} values of {size} bytes, {stride} apart, from byte {offset} on"
                f" do not fit the {length} bytes of bufferViews[{index}]"
            )
        values: NDArray[Any] = np.ndarray(
            shape, dtype, content, start + offset if shape[0] else 0, (stride, dtype.itemsize)
        )
        return values.copy()

    def _replace(self, values: NDArray[Any], sparse: dict[str, Any], where: str) -> None:
        """Put in the values that a sparse accessor changes."""
        count = get_count(sparse, "count")
        named = get_object(sparse, "indices"), get_object(sparse, "values")
        dtype = _get_dtype(named[0], where)
        if dtype.kind != "u":
            raise FormatError(f"{where}: expected unsigned sparse indices, found {dtype}")
        # Each of them may be any size: only what a view holds is read.
        places, replaced = (
            self._read_view(
                part.get("bufferView"), get_count(part, "byteOffset", 0), shape, kind, where
            )
            for part, shape, kind in zip(
                named, ((count, 1), (count, values.shape[1])), (dtype, values.dtype), strict=True
            )
        )
        places = places[:, 0].astype(np.int64)
        if (places >= len(values)).any() or (np.diff(places) <= 0).any():
            raise FormatError(
                f"{where}: expected increasing sparse indices below {len(values)}, found others"
            )
        values[places] = replaced

    def _read_buffer(self, view: dict[str, Any], where: str) -> bytes:
        index = view.get("buffer")
        buffer = self.document.part("buffers", index)
        assert isinstance(index, int)
        if index not in self._buffers:
            uri = buffer.get("uri")
            if uri is None and (index > 0 or self.document.chunk is None):
                compression = find_compression(view)
                if compression is not None:
                    raise compressed(compression)
                raise FormatError(f"{where}: buffers[{index}] has no data")
            self._buffers[index] = self._load(uri)
        content = self._buffers[index]
        length = get_count(buffer, "byteLength")
        if length > len(content):
            raise FormatError(
                f"buffers[{index}] promises {length} bytes, found {len(content)}: it is cut short"
            )
        return content[:length] if length < len(content) else content

    def _load(self, uri: str | None) -> bytes:
        if uri is None:
            assert self.document.chunk is not None
            return self.document.chunk
        if not uri.startswith("data:"):
            path = find_file(self.document.folder, uri)
            try:
                return path.read_bytes()
            except OSError as error:
                raise FormatError(f"{path.name} cannot be opened: {error.strerror}") from error
        head, comma, data = uri.partition(",")
        try:
            if not comma:
                raise ValueError("it has no comma")
            if not head.endswith(";base64"):
                return unquote_to_bytes(data)
            if "%" in data:
                data = unquote(data)
            return base64.b64decode(data + "=" * (-len(data) % 4), validate=True)
        except (ValueError, binascii.Error) as error:
            raise FormatError(f"a data URI cannot be read ({error})") from error


def _get_dtype(part: dict[str, Any], where: str) -> np.dtype[Any]:
    code = part.get("componentType")
    if not isinstance(code, int) or code not in _DTYPES:
        raise FormatError(
            f"{where}: expected a componentType among {list(_DTYPES)}, found {code!r}"
        )
    return np.dtype(_DTYPES[code])


def _check_bounds(values: NDArray[Any], accessor: dict[str, Any], where: str) -> NDArray[Any]:
    """Return the values, as fractions if they are normalized, held against `min` and `max`."""
    if accessor.get("normalized") is True and values.dtype.kind != "f":
        # Programs disagree on whether bounds are those of the integers, of the fractions or of the
        # coordinates before they were quantized: they say nothing.
        largest = np.iinfo(values.dtype).max
        fractions: NDArray[Any] = np.maximum(values.astype(np.float64) / largest, -1.0)
        return fractions
    for key, found in (("min", values.min), ("max", values.max)):
        bound = get_list(accessor, key)
        if not bound or not len(values):
            continue
        try:
            expected = np.array(bound, dtype=np.float64)
        except (ValueError, TypeError, OverflowError):
            expected = np.empty(0)
        if expected.shape != values.shape[1:]:
            raise FormatError(f"{where}: expected {values.shape[1]} numbers as its {key}")
        actual = found(axis=0).astype(np.float64)
        size = np.abs(values.astype(np.float64)).max() + np.abs(expected).max()
        if not (np.abs(actual - expected) <= _BOUNDS_TOLERANCE * size).all():
            raise FormatError(
                f"{where}: its {key} is {expected.tolist()}, but that of its values is "
                f"{actual.tolist()}: its data is damaged or not what the file says"
            )
    return values
