"""Archives: unpacked whole, and refused as a whole if a member is hostile."""

import io
import stat
import tarfile
import zipfile

import pytest

from poly_agents.files.archives import unpack
from tests.archives import tarred, zipped
from tests.servers import DATA

GOOD = {"in/a.txt": b"one", "in/deeper/b.txt": DATA}


@pytest.mark.parametrize("data", [zipped(GOOD), *(tarred(GOOD, kind) for kind in ("", "gz", "bz2", "xz"))])
def test_archives_are_unpacked_whole(tmp_path, data):
    (tmp_path / "data").write_bytes(data)
    unpack(tmp_path / "data", tmp_path / "out")
    assert {p.relative_to(tmp_path / "out").as_posix(): p.read_bytes() for p in tmp_path.glob("out/**/*.txt")} == GOOD


BOMB = {"good.txt": b"good", "bomb.txt": bytes(20_000_000)}
HOSTILE = {
    "zip up": (zipped({"good.txt": b"1", "../evil.txt": b"2"}), r"'\.\./evil\.txt', which leads out of the folder"),
    "zip inner up": (zipped({"a/../../evil.txt": b"2"}), "leads out of the folder"),
    "zip absolute": (zipped({"/evil.txt": b"2"}), "'/evil.txt', which is not a relative path"),
    "zip backslash": (zipped({"..\\evil.txt": b"2"}), "is not a relative path"),
    "zip drive": (zipped({"C:evil.txt": b"2"}), "is not a relative path"),
    "zip link": (zipped({"evil": b"/etc"}, stat.S_IFLNK | 0o777), "'evil', which is a link or a device"),
    "zip bomb": (zipped(BOMB), "more than 1,048,576 bytes up to 'bomb.txt'"),
    "zip clash": (zipped({"a": b"1", "a/b": b"2"}), "'a/b', which is both a file and a folder"),
    "tar up": (tarred({"good.txt": b"1", "../evil.txt": b"2"}), "leads out of the folder"),
    "tar absolute": (tarred({"/evil.txt": b"2"}), "is not a relative path"),
    "tar symlink": (tarred({"evil": b""}, member_type=tarfile.SYMTYPE), "is a link or a device"),
    "tar hard link": (tarred({"evil": b""}, member_type=tarfile.LNKTYPE), "is a link or a device"),
    "tar device": (tarred({"evil": b""}, member_type=tarfile.CHRTYPE), "is a link or a device"),
    "tar pipe": (tarred({"evil": b""}, member_type=tarfile.FIFOTYPE), "is a link or a device"),
    "tar bomb": (tarred(BOMB), "more than 1,048,576 bytes up to 'bomb.txt'"),
    "tar.bz2 bomb": (tarred(BOMB, "bz2"), "more than 1,048,576 bytes up to 'bomb.txt'"),
    "cut zip": (zipped(GOOD)[:-30], "is damaged"),
    "cut tar": (tarred(GOOD)[:-3000], "is damaged"),
    "no archive": (DATA, "is damaged"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archives_are_refused_before_anything_is_written(tmp_path, name):
    data, reason = HOSTILE[name]
    (tmp_path / "data").write_bytes(data)
    with pytest.raises(ValueError, match=reason):
        unpack(tmp_path / "data", tmp_path / "in" / "out")
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["data"]


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_member_that_comes_twice_is_refused(tmp_path):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a", b"1")
        archive.writestr("a", b"2")
    (tmp_path / "data").write_bytes(out.getvalue())
    with pytest.raises(ValueError, match="'a', which comes twice"):
        unpack(tmp_path / "data", tmp_path / "out")


def test_a_size_that_lies_is_found_while_unpacking(tmp_path):
    data = zipped({"a.txt": DATA})
    claimed = data.replace(len(DATA).to_bytes(4, "little"), (1000).to_bytes(4, "little"))
    (tmp_path / "data").write_bytes(claimed)
    with pytest.raises(ValueError):
        unpack(tmp_path / "data", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_table_may_allow_more_or_less(tmp_path):
    (tmp_path / "data").write_bytes(zipped(BOMB))
    unpack(tmp_path / "data", tmp_path / "out", limit=20_000_004)
    with pytest.raises(ValueError, match="more than 3 bytes"):
        unpack(tmp_path / "data", tmp_path / "other", limit=3)


def test_a_missing_member_is_named(tmp_path):
    (tmp_path / "data").write_bytes(zipped(GOOD))
    with pytest.raises(ValueError, match=r"does not hold in/c\.txt"):
        unpack(tmp_path / "data", tmp_path / "out", members=["in/a.txt", "in/c.txt"])
