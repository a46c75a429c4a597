"""glTF files (.glb, .gltf): all triangles of the scene.

By our own readers, as parsers of others leave out sparse values, take fractions for integers, and
draw only separate triangles. glTF is y-up by its specification: the coordinates stay so here.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharedmlp.data.io.base import FormatError, MeshArrays
from sharedmlp.data.io.gltf_accessors import Accessors
from sharedmlp.data.io.gltf_document import (
    GltfDocument,
    check_size,
    compressed,
    find_compression,
    get_count,
    get_list,
    get_object,
    get_primitives,
    read_document,
)
from sharedmlp.data.io.gltf_scene import find_scene_nodes
from sharedmlp.data.io.polygons import fan_triangles, strip_triangles

# Values of a primitive's `mode`.
_TRIANGLES, _STRIP, _FAN = 4, 5, 6
_NO_TRIANGLES = {0: "points", 1: "lines", 2: "lines", 3: "lines"}


def read_gltf(path: Path, content: bytes) -> MeshArrays:
    """Read the meshes of the scene that a file shows as one.

    Read are triangles, strips and fans, sparse, normalized and quantized accessors, transforms of
    nodes, skins in the pose of their nodes and morph targets at their default weights, buffers in
    the file and beside it. Left out are points and lines, materials, cameras and animations.

    Args:
        path: The file; the files that it names have to be in its folder.
        content: Its bytes.

    Raises:
        FormatError: If it is no glTF 2.0, does not hold what it promises, is compressed, requires
            an extension that is not served, would take more than 2 GiB, or has no triangles.
    """
    document = read_document(path, content)
    check_size(document)
    reader = _MeshReader(document)
    if not document.parts("nodes"):  # meshes alone are a library, shown here as they are
        for mesh in document.parts("meshes"):
            reader.add(mesh, {}, np.eye(4))
    else:
        order, places = find_scene_nodes(document)
        reader.places = places
        for number in order:
            node = document.parts("nodes")[number]
            if "mesh" in node:
                reader.add(document.part("meshes", node["mesh"]), node, places[number])
    return reader.finish()


class _MeshReader:
    """Collects the triangles of meshes."""

    def __init__(self, document: GltfDocument) -> None:
        self.accessors = Accessors(document)
        self.document = document
        self.places = np.empty((0, 4, 4))
        self._vertices: list[NDArray[np.float64]] = []
        self._faces: list[NDArray[np.int64]] = []
        self._num_vertices = 0
        self._others: dict[str, int] = {}

    def add(self, mesh: dict[str, Any], node: dict[str, Any], place: NDArray[np.float64]) -> None:
        """Add the triangles of a mesh as a node shows it, at a place (4, 4)."""
        weights = get_list(node, "weights") or get_list(mesh, "weights")
        firsts: dict[str, int] = {}  # parts of a mesh may share their vertices
        for primitive in get_primitives(mesh):
            key = repr([get_object(primitive, "attributes"), primitive.get("targets")])
            mode = get_count(primitive, "mode", _TRIANGLES)
            if mode in _NO_TRIANGLES:
                kind = _NO_TRIANGLES[mode]
                self._others[kind] = self._others.get(kind, 0) + 1
                continue
            positions = self._read_positions(primitive, weights)
            faces = self._read_faces(primitive, mode, len(positions))
            if key not in firsts:
                firsts[key] = self._num_vertices
                self._vertices.append(self._place(positions, primitive, node, place))
                self._num_vertices += len(positions)
            # What is mirrored is seen from its other side.
            if "skin" not in node and np.linalg.det(place[:3, :3]) < 0:
                faces = faces[:, ::-1]
            self._faces.append(faces + firsts[key])

    def finish(self) -> MeshArrays:
        """Return all of them.

        Raises:
            FormatError: If there are none.
        """
        if not any(map(len, self._faces)):
            if self._others:
                kinds = " and ".join(sorted(self._others))
                raise FormatError(f"holds {kinds} and no faces, expected a mesh")
            raise FormatError("there are no faces: no mesh in the scene that it shows")
        return MeshArrays(np.concatenate(self._vertices), np.concatenate(self._faces))

    def _read_positions(self, primitive: dict[str, Any], weights: list[Any]) -> NDArray[np.float64]:
        attributes = get_object(primitive, "attributes")
        if "POSITION" not in attributes:
            raise FormatError("a part of a mesh has no POSITION")
        compression = find_compression(primitive)
        accessor = self.document.part("accessors", attributes["POSITION"])
        if compression is not None and "bufferView" not in accessor:
            raise compressed(compression)
        positions = self.accessors.read(attributes["POSITION"], "VEC3").astype(np.float64)
        for weight, target in zip(weights, get_list(primitive, "targets"), strict=False):
            if not isinstance(weight, (int, float)) or not isinstance(target, dict):
                raise FormatError("expected morph targets and a number as the weight of each")
            if weight and "POSITION" in target:
                moved = self.accessors.read(target["POSITION"], "VEC3")
                if len(moved) != len(positions):
                    raise FormatError("a morph target has another number of vertices")
                positions += weight * moved
        return positions

    def _read_faces(
        self, primitive: dict[str, Any], mode: int, num_vertices: int
    ) -> NDArray[np.int64]:
        index = primitive.get("indices")
        if index is None:
            corners = np.arange(num_vertices)
        else:
            corners = self.accessors.read(index, "SCALAR")
            if corners.dtype.kind != "u":
                raise FormatError(f"accessors[{index}]: expected unsigned indices")
            if len(corners) and corners.max() >= num_vertices:
                raise FormatError(
                    f"accessors[{index}]: a face refers to vertex {corners.max()}, but there are "
                    f"{num_vertices}"
                )
        if mode == _STRIP:
            return strip_triangles(np.array([len(corners)]), corners)
        if mode == _FAN:
            return fan_triangles(corners)
        if mode != _TRIANGLES:
            raise FormatError(f"expected a mode of 0 to 6, found {mode!r}")
        if len(corners) % 3:
            raise FormatError(f"{len(corners)} corners are no triangles, expected a multiple of 3")
        return corners.astype(np.int64).reshape(-1, 3)

    def _place(
        self,
        positions: NDArray[np.float64],
        primitive: dict[str, Any],
        node: dict[str, Any],
        place: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        """Return the positions (N, 3) in the scene."""
        with np.errstate(all="ignore"):  # not finite: refused with every mesh
            if "skin" not in node:
                return positions @ place[:3, :3].T + place[:3, 3]
            return self._pose(positions, get_object(primitive, "attributes"), node["skin"])

    def _pose(
        self, positions: NDArray[np.float64], attributes: dict[str, Any], skin_index: Any
    ) -> NDArray[np.float64]:
        """Return the positions where the joints of a skin take them, whatever the mesh's node."""
        skin = self.document.part("skins", skin_index)
        joints = get_list(skin, "joints")
        for joint in joints:
            self.document.part("nodes", joint)
        matrices = self.places[joints]
        if "inverseBindMatrices" in skin:
            # Stored by columns.
            inverse = self.accessors.read(skin["inverseBindMatrices"], "MAT4").reshape(-1, 4, 4)
            if len(inverse) < len(matrices):
                raise FormatError(f"skins[{skin_index}] has fewer matrices than joints")
            matrices = matrices @ inverse[: len(matrices)].transpose(0, 2, 1).astype(np.float64)
        posed, total = np.zeros_like(positions), np.zeros((len(positions), 1))
        number = 0
        while f"JOINTS_{number}" in attributes:
            indices = self.accessors.read(attributes[f"JOINTS_{number}"], "VEC4")
            weights = self.accessors.read(attributes.get(f"WEIGHTS_{number}"), "VEC4")
            if len(indices) != len(positions) or len(weights) != len(positions):
                raise FormatError(f"skins[{skin_index}]: expected joints and weights a vertex")
            if indices.dtype.kind != "u" or (indices.max(initial=0) >= len(matrices)):
                raise FormatError(f"skins[{skin_index}]: a vertex refers to a joint it has not")
            for joint, weight in zip(indices.T, weights.T.astype(np.float64), strict=True):
                moved = np.einsum("nij,nj->ni", matrices[joint, :3, :3], positions)
                posed += weight[:, None] * (moved + matrices[joint, :3, 3])
                total += weight[:, None]
            number += 1
        return np.where(total > 0, posed / total, positions)
