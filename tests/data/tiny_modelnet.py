"""A set like ModelNet of ten meshes, as an archive, and the table's entry for it."""

import hashlib
import io
import random
import stat
import zipfile

from sharedmlp.data import fetch_modelnet
from sharedmlp.data.download import RemoteFile
from sharedmlp.data.modelnet import ModelNet

from .io.meshes import TETRAHEDRON

TREE = [
    f"Tiny/{name}/{split}/{name}_{number:04d}.off"
    for name in ("chair", "night_stand")
    for split, numbers in (("train", (1, 2, 3)), ("test", (4, 5)))
    for number in numbers
]
COUNTS = {"train": 6, "test": 4}
# So that the archive is more than what is on the way when a connection breaks.
JUNK = random.Random(0).randbytes(300_000)


def make_zip(names=TREE, links=(), more=(), content=TETRAHEDRON):
    """An archive as ModelNet's are, with the files that a Mac adds to it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("Tiny/", "")
        file.writestr("Tiny/README.txt", "read me")
        file.writestr("Tiny/chair/.DS_Store", "x")
        file.writestr("__MACOSX/Tiny/chair/._junk", JUNK)
        for name in (*names, *more):
            file.writestr(name, content)
        for name in links:
            link = zipfile.ZipInfo(name)
            link.create_system = 3
            link.external_attr = (stat.S_IFLNK | 0o777) << 16
            file.writestr(link, "/etc/passwd")
    return buffer.getvalue()


ZIP = make_zip()


def describe(content, url="http://127.0.0.1:9/Tiny.zip"):
    remote = RemoteFile(url, len(content), hashlib.sha256(content).hexdigest())
    return ModelNet("Tiny", remote, COUNTS)


def fetch(root, **options):
    return fetch_modelnet("modelnet10", root, progress=False, **options)


def written(root):
    """All that is below a folder but the lock, folders left out."""
    paths = (path.relative_to(root).as_posix() for path in root.rglob("*") if not path.is_dir())
    return sorted(set(paths) - {".Tiny.lock"})
