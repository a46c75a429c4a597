"""A second reader of OFF, written without a look at the first: slow, strict, no NumPy.

It says which files are sound, and what they hold. The readers of the package are held against it.
"""

import itertools
import math
import re

KEYWORDS = ["off", *(f"{st}{c}{n}OFF" for st in ("", "ST") for c in ("", "C") for n in ("", "N"))]
NUMBER = re.compile(r"[+-]?([0-9]+[.]?[0-9]*|[.][0-9]+)([eE][+-]?[0-9]+)?")
INTEGER = re.compile(r"[+-]?[0-9]{1,4000}")
BLANK = " \t\v\f\x1c\x1d\x1e\x1f"


def number(token):
    if not NUMBER.fullmatch(token) or not math.isfinite(float(token)):
        raise ValueError(token)
    return float(token)


def integer(token):
    if not INTEGER.fullmatch(token):
        raise ValueError(token)
    return int(token)


def count(token):
    if not re.fullmatch("[0-9]{1,18}", token):
        raise ValueError(token)
    return int(token)


def read_lines(content):
    if 0 in content:
        raise ValueError("binary")
    if content[:3] == b"\xef\xbb\xbf":
        content = content[3:]
    lines = []
    for line in content.decode("latin-1").replace("\r\n", "\n").replace("\r", "\n").split("\n"):
        if re.match("[^#]*[0-9][.]#(IND|INF|QNAN|SNAN)", line):
            raise ValueError(line)
        tokens = []
        for character in line.split("#")[0] + " ":
            if character in BLANK:
                tokens.append("")
            else:
                tokens = tokens or [""]
                tokens[-1] += character
        if any(tokens):
            lines.append([token for token in tokens if token])
    return lines


def read_off(content):
    """The vertices (x, y, z) and triangles of a file's content, polygons cut into fans.

    Raises ValueError where the file is not sound.
    """
    lines = read_lines(content)
    if not lines:
        raise ValueError("empty")
    first = lines.pop(0)
    keyword = max((k for k in KEYWORDS if first[0].startswith(k)), key=len, default=None)
    if keyword is None:
        raise ValueError("no keyword")
    glued = first[0][len(keyword) :]
    if glued[:1].isascii() and glued[:1].isalpha():
        raise ValueError("another keyword")
    counts = ([glued] if glued else []) + first[1:]
    if not counts:
        counts = lines.pop(0) if lines else []
    if len(counts) not in (2, 3):
        raise ValueError("counts")
    num_vertices, num_faces = [count(token) for token in counts][:2]
    if not num_vertices or not num_faces or num_vertices + num_faces != len(lines):
        raise ValueError("not what the header promises")

    vertices = [[number(token) for token in line] for line in lines[:num_vertices]]
    widths = {len(vertex) for vertex in vertices}
    if len(widths) != 1 or min(widths) < 3 or widths == {4}:
        raise ValueError("widths of vertices")
    triangles = []
    for line in lines[num_vertices:]:
        size = integer(line[0])
        corners = [integer(token) for token in line[1 : 1 + max(size, 0)]]
        color = [number(token) for token in line[1 + max(size, 0) :]]
        if size < 3 or len(corners) != size or len(color) not in (0, 1, 3, 4):
            raise ValueError("face")
        if not all(0 <= corner < num_vertices for corner in corners):
            raise ValueError("corner")
        triangles += [(corners[0], b, c) for b, c in itertools.pairwise(corners[1:])]
    return [vertex[:3] for vertex in vertices], triangles
