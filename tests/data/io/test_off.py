"""Every form of OFF that has to be read, and every fault that has to be named, word for word."""

import pytest

from sharedmlp.data import MeshReadError, read_mesh
from sharedmlp.data.io.plain_off import read_plain_off

from .meshes import TETRAHEDRON, write
from .off_cases import BAD, GOOD, PLAIN


@pytest.mark.parametrize("case", GOOD)
def test_off_that_has_to_be_read(case, tmp_path):
    content, num_vertices, num_triangles, area = GOOD[case]
    mesh = read_mesh(write(tmp_path / "mesh.off", content))
    assert mesh.vertices.shape == (num_vertices, 3)
    assert mesh.faces.shape == (num_triangles, 3)
    assert mesh.area == pytest.approx(area)


@pytest.mark.parametrize("case", BAD)
def test_off_that_has_to_be_refused(case, tmp_path):
    content, message = BAD[case]
    path = write(tmp_path / "mesh.off", content)
    with pytest.raises(MeshReadError) as caught:
        read_mesh(path)
    assert caught.value.reason == message
    assert caught.value.path == path
    assert str(caught.value) == f"{path}: {caught.value.reason}"
    assert len(caught.value.reason) < 500


@pytest.mark.parametrize("length", range(len(TETRAHEDRON) - 2))
def test_off_cut_short_anywhere_is_refused(length, tmp_path):
    # The last two characters are a line end and the only digit of a last corner.
    with pytest.raises(MeshReadError):
        read_mesh(write(tmp_path / "mesh.off", TETRAHEDRON[:length]))


@pytest.mark.parametrize("case", GOOD)
def test_the_fast_reader_takes_the_plain_ones(case):
    content = GOOD[case][0]
    plain = read_plain_off(content if isinstance(content, bytes) else content.encode())
    assert (plain is not None) == (case in PLAIN)


def test_the_fast_reader_leaves_every_fault_to_the_other():
    for content, reason in BAD.values():
        data = content if isinstance(content, bytes) else content.encode()
        known_later = "no area" in reason or "float32" in reason
        assert known_later or read_plain_off(data) is None
