"""PCD files as the tests write them, and a strict reader of the plainest kind."""

import struct

import numpy as np

# NumPy's codes, and PCD's type and size.
TYPES = {"f4": "F 4", "f8": "F 8", "u1": "U 1", "u2": "U 2", "u4": "U 4", "i4": "I 4", "i2": "I 2"}


def header(names, types, count, encoding, counts=None, **lines):
    """The header; `lines` replace its lines, or leave them out if None."""
    codes = [TYPES[code].split() for code in types]
    text = {
        "VERSION": "0.7",
        "FIELDS": " ".join(names),
        "SIZE": " ".join(size for _, size in codes),
        "TYPE": " ".join(kind for kind, _ in codes),
        "COUNT": " ".join(map(str, counts or [1] * len(names))),
        "WIDTH": count,
        "HEIGHT": 1,
        "VIEWPOINT": "0 0 0 1 0 0 0",
        "POINTS": count,
        "DATA": encoding,
    }
    text |= lines
    kept = (f"{key} {value}\n" for key, value in text.items() if value is not None)
    return ("# .PCD v0.7 - Point Cloud Data file format\n" + "".join(kept)).encode()


def literal_lzf(data):
    """Data in LZF's format without compressing them: runs of up to 32 bytes."""
    runs = (data[start : start + 32] for start in range(0, len(data), 32))
    return b"".join(bytes([len(run) - 1]) + run for run in runs)


def write_pcd(names, arrays, encoding, counts=None, **lines):
    """A file of columns (N,) or (N, count), each of the type of its array."""
    types = [array.dtype.str[1:] for array in arrays]
    size = len(arrays[0])
    start = header(names, types, size, encoding, counts, **lines)
    columns = [array.reshape(size, -1) for array in arrays]
    if encoding == "ascii":
        rows = [
            " ".join(str(value) for c in columns for value in c[i].tolist()) for i in range(size)
        ]
        return start + "".join(row + "\n" for row in rows).encode()
    if encoding == "binary":
        return start + b"".join(c[i].tobytes() for i in range(size) for c in columns)
    data = b"".join(column.tobytes() for column in columns)
    packed = literal_lzf(data)
    return start + struct.pack("<II", len(packed), len(data)) + packed


def read_plain_pcd(content):
    """Read x, y, z of ASCII and binary files, strictly and value by value.

    Returns:
        (N, 3), without points that are not finite.

    Raises:
        ValueError: If the file is not sound in every respect.
    """
    entries = {}
    rest = content
    while "DATA" not in entries:
        line, end, rest = rest.partition(b"\n")
        if not end:
            raise ValueError("no end of the header")
        words = line.decode("ascii").split()
        if not words or words[0][0] == "#":
            continue
        if words[0] in entries:
            raise ValueError("twice")
        entries[words[0]] = words[1:]
    known = {"VERSION", "FIELDS", "SIZE", "TYPE", "COUNT", "WIDTH", "HEIGHT", "VIEWPOINT"}
    if set(entries) - known - {"POINTS", "DATA"}:
        raise ValueError("another entry")
    names = entries["FIELDS"]
    counts = [int(word) for word in entries.get("COUNT", ["1"] * len(names))]
    (width,), (height,), (points,) = (map(int, entries[k]) for k in ("WIDTH", "HEIGHT", "POINTS"))
    if not width * height == points > 0 or not 1 <= min(counts) <= max(counts) < 1000:
        raise ValueError("counts")
    codes = {("F", "4"): "f", ("F", "8"): "d"}
    codes |= {
        (kind, size): code
        for kind, row in (("U", "BHIQ"), ("I", "bhiq"))
        for size, code in zip("1248", row, strict=True)
    }
    columns = list(zip(names, entries["TYPE"], entries["SIZE"], counts, strict=True))
    form = "<" + "".join(codes[kind, size] * count for _, kind, size, count in columns)
    flat = [name for name, _, _, count in columns for _ in range(count)]
    places = [flat.index(name) for name in "xyz"]
    if any(flat.count(name) != 1 for name in "xyz"):
        raise ValueError("x, y, z")
    if entries["DATA"] == ["ascii"]:
        if b"\r" in rest:
            raise ValueError("another line end")
        lines = [line for line in rest.split(b"\n") if line.strip()]
        rows = [[float(word) for word in line.split()] for line in lines]
        if len(rows) != points or {len(row) for row in rows} != {len(flat)} or b"_" in rest:
            raise ValueError("lines")
    elif entries["DATA"] == ["binary"]:
        if len(rest) != points * struct.calcsize(form):
            raise ValueError("size")
        rows = [list(row) for row in struct.iter_unpack(form, rest)]
    else:
        raise ValueError("not plain")
    values = np.array([[row[place] for place in places] for row in rows], dtype=np.float64)
    return values[np.isfinite(values).all(axis=1)]
