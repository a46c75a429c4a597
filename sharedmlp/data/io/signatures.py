"""What a file is by its first bytes, for the words that say why it is not what its name says."""

from __future__ import annotations

from sharedmlp.data.io.text import convert_to_utf8

# The first bytes, what has them, and the suffixes that promise it.
_SIGNATURES: tuple[tuple[bytes, str, tuple[str, ...]], ...] = (
    (b"ply\n", "a PLY file", (".ply",)),
    (b"ply\r", "a PLY file", (".ply",)),
    (b"# .PCD", "a PCD file", (".pcd",)),
    (b"VERSION 0.7\n", "a PCD file", (".pcd",)),
    (b"VERSION .7\n", "a PCD file", (".pcd",)),
    (b"LASF", "a LAS file", (".las", ".laz")),
    (b"OFF\n", "an OFF file", (".off",)),
    (b"OFF\r", "an OFF file", (".off",)),
    (b"solid ", "an STL file", (".stl", ".stl_ascii")),
    (b"glTF", "a binary glTF file", (".glb",)),
    (b"\x93NUMPY", "a NumPy array", (".npy",)),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file", (".h5", ".hdf5")),
    (b"PK\x03\x04", "a zip archive", (".npz",)),
    (b"\x1f\x8b", "compressed by gzip", ()),
    (b"BZh", "compressed by bzip2", ()),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", ()),
    (b"Rar!", "a RAR archive", ()),
    (b"\x80\x02", "a Python pickle, which is not read", ()),
    (b"\x80\x04", "a Python pickle, which is not read", ()),
    (b"\x80\x05", "a Python pickle, which is not read", ()),
    (b"MATLAB", "a MATLAB file", ()),
    (b"%PDF", "a PDF file", ()),
    (b"\x89PNG", "a PNG picture", ()),
    (b"\xff\xd8\xff", "a JPEG picture", ()),
    (b"ASTM-E57", "an E57 file", (".e57",)),
    (b"<!DOCTYPE", "a page of HTML, such as a failed download leaves", ()),
    (b"<html", "a page of HTML, such as a failed download leaves", ()),
    (b"<?xml", "an XML file", ()),
    (b"version https://git-lfs", "a pointer of Git LFS, whose file was not fetched", ()),
)


def recognize_content(content: bytes, suffix: str) -> str | None:
    """Return what a file of another suffix is by its first bytes, as "a PLY file"; else None.

    Args:
        content: The bytes of the file.
        suffix: Its suffix, lower case, with the dot.
    """
    start = convert_to_utf8(content[:64])
    for signature, name, suffixes in _SIGNATURES:
        if start.startswith(signature):
            return None if suffix in suffixes else name
    return None
