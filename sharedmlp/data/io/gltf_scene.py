"""Where the nodes of a glTF file are, and which of them its scene shows."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharedmlp.data.io.base import FormatError
from sharedmlp.data.io.gltf_document import GltfDocument, get_list


def find_scene_nodes(document: GltfDocument) -> tuple[list[int], NDArray[np.float64]]:
    """Return the nodes of the scene that a file shows, and where all nodes are.

    Args:
        document: The document. If it names no scene, all nodes belong to it.

    Returns:
        The numbers of the nodes, each before its children, and the (nodes, 4, 4) matrices that
        take a column of a node's own coordinates to those of the scene.

    Raises:
        FormatError: If the nodes are no forest: one is a child of two others or of itself.
    """
    nodes = document.parts("nodes")
    parents: dict[int, int] = {}
    children: list[list[int]] = []
    for number, node in enumerate(nodes):
        children.append(_get_nodes(document, node, "children"))
        for child in children[-1]:
            if child in parents:
                raise FormatError(f"nodes[{child}] is a child of two nodes")
            parents[child] = number
    roots = [number for number in range(len(nodes)) if number not in parents]
    places = np.empty((len(nodes), 4, 4))
    order = _walk(roots, children)
    if len(order) < len(nodes):
        raise FormatError("its nodes form a circle: each is a child of another one")
    with np.errstate(all="ignore"):  # not finite: refused with every mesh
        for number in order:
            own = _get_matrix(nodes[number], number)
            parent = parents.get(number)
            places[number] = own if parent is None else places[parent] @ own
    scenes = document.parts("scenes")
    if scenes:
        scene = document.part("scenes", document.tree.get("scene", 0))
        roots = _get_nodes(document, scene, "nodes")
        order = _walk(roots, children)
        if len(set(order)) < len(order):
            raise FormatError("its scene shows a node twice")
    return order, places


def _get_nodes(document: GltfDocument, part: dict[str, Any], key: str) -> list[int]:
    numbers = get_list(part, key)
    for number in numbers:
        document.part("nodes", number)
    if len(set(numbers)) < len(numbers):
        raise FormatError(f"{key}: names a node twice")
    return numbers


def _walk(roots: list[int], children: list[list[int]]) -> list[int]:
    order: list[int] = []
    stack = roots[::-1]
    while stack:
        order.append(stack.pop())
        stack += children[order[-1]][::-1]
    return order


def _get_matrix(node: dict[str, Any], number: int) -> NDArray[np.float64]:
    if "matrix" in node:
        return _get_numbers(node, "matrix", [0.0] * 16, number).reshape(4, 4).T
    result = np.eye(4)
    if not {"translation", "rotation", "scale"} & node.keys():
        return result
    x, y, z, w = _get_numbers(node, "rotation", [0, 0, 0, 1], number)
    length = x * x + y * y + z * z + w * w
    if not length > 0:
        raise FormatError(f"nodes[{number}]: its rotation is no quaternion")
    rotation = np.array(
        [
            [y * y + z * z, w * z - x * y, -w * y - x * z],
            [-w * z - x * y, x * x + z * z, w * x - y * z],
            [w * y - x * z, -w * x - y * z, x * x + y * y],
        ]
    )
    result[:3, :3] -= 2 / length * rotation
    result[:3, :3] *= _get_numbers(node, "scale", [1, 1, 1], number)
    result[:3, 3] = _get_numbers(node, "translation", [0, 0, 0], number)
    return result


def _get_numbers(
    node: dict[str, Any], key: str, default: list[float], number: int
) -> NDArray[np.float64]:
    values = node.get(key, default)
    try:
        numbers = np.array(values, dtype=np.float64)
    except (ValueError, TypeError, OverflowError):
        numbers = np.empty(0)
    if numbers.shape != (len(default),) or not np.isfinite(numbers).all():
        raise FormatError(f"nodes[{number}]: expected {len(default)} numbers as its {key}")
    return numbers
