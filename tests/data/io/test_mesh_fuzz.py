"""Whatever the bytes of PLY, OBJ, STL and glTF: the mesh that they describe, or `MeshReadError`.

Each file is made from a seed, so that it can be made again.
"""

import copy
import json
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from sharedmlp.data import MeshReadError, read_mesh

from .gltf_files import BOX, FACES, Builder, box, glb, mesh
from .meshes import edges
from .reference_gltf import read_gltf
from .reference_meshes import read_obj, read_ply, read_stl
from .test_obj import GOOD as OBJ
from .test_obj import MIXED, F, R, V
from .test_ply import FORMATS, FORMS, make
from .test_stl import binary, text

# The seeds of the quick suite and of the slow one.
NUMBERS = [
    pytest.param(range(300), id="300"),
    pytest.param(range(300, 20_300), id="20000", marks=pytest.mark.slow),
]
SEEDS: dict[str, list[bytes]] = {
    ".obj": [
        *(content.encode() for content in (V + F, V + MIXED, V + R + V + R)),
        *(str(OBJ[case]).encode() for case in ("tabs", "continued", "all references", "colors")),
    ],
    ".stl": [
        binary(),
        binary(count=0),
        binary() + b"tail",
        text().encode(),
        text(name=" solid").encode(),
    ],
    ".ply": [
        make(kind, *FORMS[form])
        for kind in FORMATS
        for form in ("triangles", "triangles and quads", "texture coordinates of some", "strips")
    ],
}
# What a mutation writes: all that means something in a format, and what nearly does.
TOKENS = [
    *(bytes([byte]) for byte in b"0123456789+-.eE #_/\\\t\n\r\v\f\0\x1c\x7f\x80\xa0\xff"),
    *(b"v ", b"f ", b"vn ", b"nan", b"inf", b"1e999", b"-1", b"1_0", b"1/2/3", b"//", b"\\\n"),
    *(
        b"f 1 2 3\n",
        b"v 1 2 3\n",
        b"f -1 -2 -3 -4\n",
        b"1000000000000",
        b"9" * 20,
        b"\r\n",
        b"\n\n",
    ),
    *(b"solid", b"endsolid x\n", b"vertex 1 2 3\n", b"facet normal 0 0 1\n", b"endfacet\n"),
    *(b"element face 3\n", b"element x 5\n", b"property list char int a\n", b"property double b\n"),
    *(b"end_header\n", b"float", b"double", b"uchar", b"int", b"ascii", b"binary_big_endian"),
    *(
        b"\0\0\0\0",
        b"\xff\xff\xff\xff",
        b"\0\0\x80\x7f",
        b"\0\0\xc0\x7f",
        b"\3\0\0\0",
        b"\0\0\x80\x3f",
    ),
]


def mutate(rng, content):
    """A sound file with a few pieces replaced, inserted or cut out."""
    changed = bytearray(content)
    for _ in range(rng.randint(0, 4)):
        start = rng.randint(0, len(changed))
        length = rng.choice([0, 0, 1, 1, 2, 4, 8, 1000])
        changed[start : start + length] = rng.choice([b"", *TOKENS])
    return bytes(changed)


def read(path, content):
    """The mesh and None, or None and the sentence that refuses it."""
    path.write_bytes(content)
    try:
        return read_mesh(path), None
    except MeshReadError as error:
        reason = error.reason
    # What the reader found, not an exception that it ran into.
    assert "cannot be parsed as" not in reason
    assert "\n" not in reason
    assert len(reason) < 500
    return None, reason


def read_by_reference(reference, content):
    try:
        return reference(content)
    except Exception:  # it does not look where it steps
        return None


def has_to_be_read(expected, reason):
    """Whether a file that the reference reads must not be refused: it knows no area."""
    known_later = reason and ("no area" in reason or "not finite in float32" in reason)
    return expected is not None and not known_later


REFERENCES: dict[str, Callable[[bytes], Any]] = {
    ".obj": read_obj,
    ".stl": read_stl,
    ".ply": read_ply,
}


def check(path, content):
    """Hold `read_mesh` against the reference of its format on one file; True where both read it."""
    expected = read_by_reference(REFERENCES[path.suffix], content)
    mesh, reason = read(path, content)
    if not has_to_be_read(expected, reason):
        return False
    assert mesh is not None, (reason, content)
    vertices, polygons = expected
    np.testing.assert_array_equal(mesh.vertices, np.array(vertices))
    assert len(mesh.faces) == sum(len(polygon) - 2 for polygon in polygons)
    assert edges(mesh.faces.tolist()) == edges(polygons)
    return True


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


@pytest.mark.parametrize("suffix", SEEDS)
def test_the_references_read_sound_files(suffix, folder):
    read_by_both = [check(folder / f"a{suffix}", content) for content in SEEDS[suffix]]
    assert sum(read_by_both) >= 3
    for content in SEEDS[suffix]:
        assert read(folder / f"a{suffix}", content)[1] is None


@pytest.mark.parametrize("suffix", SEEDS)
@pytest.mark.parametrize("seeds", NUMBERS)
def test_mutated_files(suffix, seeds, folder):
    read_by_both = 0
    for seed in seeds:
        rng = random.Random(seed)
        content = mutate(rng, rng.choice(SEEDS[suffix]))
        read_by_both += check(folder / f"a{suffix}", content)
    assert read_by_both > 0.02 * len(seeds)


def gltf_seeds():
    strips, sparse = Builder(), Builder()
    part = mesh(strips.accessor(BOX), strips.accessor(FACES[:9].astype("u1")), mode=5)
    nodes = [{"children": [1], "scale": [2, 1, 1]}, {"mesh": 0, "translation": [1, 2, 3]}]
    nodes.append({"mesh": 0, "matrix": [0, 1, 0, 0, -1, 0, 0, 0, 0, 0, 1, 0, 7, 8, 9, 1]})
    replaced = {
        "count": 2,
        "indices": {"bufferView": sparse.view(b"\2\7"), "componentType": 5121},
        "values": {"bufferView": sparse.view(BOX[:2].tobytes())},
    }
    changed = sparse.accessor(BOX, sparse=replaced)
    shown: dict[str, Any] = {"nodes": nodes, "scenes": [{"nodes": [0, 2]}]}
    return [
        box(),
        strips.document(meshes=[part], **shown),
        sparse.document(meshes=[mesh(changed, sparse.accessor(FACES), mode=6)]),
    ]


GLTF_SEEDS = gltf_seeds()
KEYS = (
    "mesh scale rotation matrix children byteStride byteOffset sparse normalized min max skin mode"
)
KEYS += " extensions extensionsRequired bufferView indices targets weights uri scene"
VALUES: list[Any] = [
    *(None, True, False, 0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 36, -1, 10**12, 1.5, 1e30, -1e300),
    *("", "x", "SCALAR", "VEC3", "VEC4", 5120, 5121, 5122, 5123, 5125, 5126, [], {}, [0], [1, 0]),
    *([0, 0, 0], [1, 2, 3], [1, 1, 1], [0] * 16, [-1, 1, 1], [0.5, 0.5, 0.5, 0.5], "a%20b.bin"),
]


def mutate_gltf(rng, document):
    """A document with a few of its values replaced, added or taken out."""
    document = copy.deepcopy(document)
    for _ in range(rng.randint(0, 3)):
        part: Any = document
        for _ in range(rng.randint(0, 6)):
            inner = list(part.values()) if isinstance(part, dict) else part
            inner = [value for value in inner if isinstance(value, (dict, list)) and value]
            if not inner:
                break
            part = rng.choice(inner)
        value = copy.deepcopy(rng.choice(VALUES))
        if isinstance(part, list):
            if rng.random() < 0.5:
                part[rng.randrange(len(part))] = value
            else:
                part.append(copy.deepcopy(rng.choice(part)))
        elif rng.random() < 0.75:
            part[rng.choice([*part, *KEYS.split()])] = value
        elif part:
            del part[rng.choice(list(part))]
    return document


def check_gltf(folder, document):
    content = json.dumps(document).encode()
    expected = read_by_reference(read_gltf, content)
    for name, data in (("a.gltf", content), ("a.glb", glb(document))):
        mesh, reason = read(folder / name, data)
        if not has_to_be_read(expected, reason):
            return False
        assert mesh is not None, (reason, content)
        found = mesh.vertices[mesh.faces]
        # A mirrored part has its triangles the other way round.
        np.testing.assert_allclose(np.sort(found, axis=1), np.sort(expected, axis=1), rtol=1e-12)
    return True


def test_the_reference_reads_the_sound_documents(folder):
    assert all(check_gltf(folder, document) for document in GLTF_SEEDS)


@pytest.mark.parametrize("seeds", NUMBERS)
def test_mutated_gltf(seeds, folder):
    read_by_both = 0
    for seed in seeds:
        rng = random.Random(seed)
        read_by_both += check_gltf(folder, mutate_gltf(rng, rng.choice(GLTF_SEEDS)))
    assert read_by_both > 0.02 * len(seeds)


@pytest.mark.parametrize("seeds", NUMBERS)
def test_mutated_glb(seeds, folder):
    builder = Builder()
    content = glb(box(builder, uri=None), builder.data)
    for seed in seeds:
        read(folder / "b.glb", mutate(random.Random(seed), content))
