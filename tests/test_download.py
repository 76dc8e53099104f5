"""Downloads against a server that misbehaves, and archives of ill will."""

import hashlib
import io
import stat
import subprocess
import sys
import tarfile
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from poly_agents.files import download
from poly_agents.files.archives import unpack
from poly_agents.files.download import Download, DownloadError, Elsewhere, fetch, find
from tests.servers import DATA, DIGEST, Files, serving


@pytest.fixture
def server():
    with serving(Files, data=DATA, files={}, breaks=1, etag='"one"', pause=0.02) as found:
        yield found


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(download, "PATIENCE", 0.001)
    monkeypatch.setattr(download, "PIECE", 4096)


def get(server, kind, folder, **changes) -> Path:
    return fetch(Download(f"{server.url}/{kind}", "data.bin", **changes), folder)


@pytest.mark.parametrize("kind", ["data", "moved", "busy", "breaks", "rangeless", "slow"])
def test_a_file_arrives_whole_and_once(server, tmp_path, kind):
    path = get(server, kind, tmp_path, sha256=DIGEST)
    assert path == tmp_path / "data.bin" and path.read_bytes() == DATA
    asked = len(server.asked)
    assert get(server, kind, tmp_path, sha256=DIGEST) == path and len(server.asked) == asked
    assert {p.name for p in tmp_path.iterdir() if not p.name.startswith(".")} == {"data.bin"}


def test_a_broken_download_goes_on_where_it_stopped(server, tmp_path):
    server.breaks = 3
    assert get(server, "breaks", tmp_path).read_bytes() == DATA
    starts = [int(span[6:-1]) for _, span in server.asked[1:]]
    assert len(starts) == 3 and 0 < starts[0] < starts[1] < starts[2] < len(DATA)


def test_more_breaks_than_attempts_are_borne_while_there_is_progress(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    server.breaks = 3
    assert get(server, "breaks", tmp_path).read_bytes() == DATA


def test_a_killed_download_goes_on_where_it_stopped(server, tmp_path):
    server.pause = 0.2
    code = (
        "import sys; from pathlib import Path; from poly_agents import download; download.PIECE = 4096;"
        f"download.fetch(download.Download('{server.url}/slow', 'data.bin'), Path(sys.argv[1]))"
    )
    process = subprocess.Popen([sys.executable, "-c", code, tmp_path])
    part = tmp_path / "data.bin.part"
    until = time.monotonic() + 60
    while not (part.is_file() and part.stat().st_size > 10_000) and time.monotonic() < until:
        time.sleep(0.02)
    process.kill()
    process.wait()
    size = part.stat().st_size
    assert 10_000 < size < len(DATA) and not (tmp_path / "data.bin").exists()
    assert get(server, "data", tmp_path).read_bytes() == DATA
    assert server.asked[-1] == ("data", f"bytes={size}-")


@pytest.mark.parametrize("etag", ['"one"', None])
def test_the_rest_of_another_file_is_not_appended(server, tmp_path, etag, monkeypatch):
    server.etag = etag
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    with pytest.raises(DownloadError):
        get(server, "short", tmp_path)
    server.data, server.etag = DATA[::-1] + b"more", etag and '"two"'
    monkeypatch.setattr(download, "ATTEMPTS", 3)
    assert get(server, "data", tmp_path).read_bytes() == server.data


def test_a_wrong_joint_without_validators_is_found_by_the_digest(server, tmp_path):
    server.etag = None
    (tmp_path / "data.bin.part").write_bytes(b"x" * 5000)
    (tmp_path / "data.bin.part.json").write_text(f'{{"total": {len(DATA)}, "etag": null}}')
    assert get(server, "data", tmp_path, sha256=DIGEST).read_bytes() == DATA
    assert [span for _, span in server.asked] == ["bytes=5000-", None]


def test_a_length_that_is_never_reached_is_an_error(server, tmp_path):
    with pytest.raises(
        DownloadError, match=rf"{server.url}/short: .*attempts, \d+,\d+ bytes are kept.*Try again later"
    ):
        get(server, "short", tmp_path)
    assert not (tmp_path / "data.bin").exists()


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("gone", "answered 404 Not Found"),
        ("forbidden", "answered 403 Forbidden"),
        ("page", "is a web page, not a file"),
    ],
)
def test_what_is_not_the_file_is_an_error_at_once(server, tmp_path, kind, reason):
    with pytest.raises(DownloadError, match=rf"{server.url}/{kind}.*{reason}.*put the file at {tmp_path}/data.bin"):
        get(server, kind, tmp_path)
    assert len(server.asked) == 1 and not (tmp_path / "data.bin").exists()


def test_no_server_is_an_error_that_names_the_address(tmp_path):
    with pytest.raises(DownloadError, match=r"http://127\.0\.0\.1:9/data: .*Try again later"):
        fetch(Download("http://127.0.0.1:9/data", "data.bin"), tmp_path)
    with pytest.raises(DownloadError, match="No scheme supplied"):
        fetch(Download("nowhere", "data.bin"), tmp_path)


def test_another_file_than_the_pinned_one_is_refused(server, tmp_path):
    with pytest.raises(DownloadError, match=f"changed at its source: its sha256 is {DIGEST}, not {'0' * 64}"):
        get(server, "data", tmp_path, sha256="0" * 64)
    assert not list(tmp_path.glob("data.bin*"))


def test_without_a_pin_the_first_digest_is_kept(server, tmp_path):
    get(server, "data", tmp_path).unlink()
    server.data = DATA[1:]
    with pytest.raises(DownloadError, match=r"changed at its source.*or delete .*\.data\.bin\.json to accept"):
        get(server, "data", tmp_path)
    (tmp_path / ".data.bin.json").unlink()
    assert get(server, "data", tmp_path).read_bytes() == DATA[1:]


def test_a_file_that_was_changed_here_is_refused(server, tmp_path):
    path = get(server, "data", tmp_path)
    path.write_bytes(b"mine")
    with pytest.raises(DownloadError, match=r"it was changed\. Delete it, and it comes again"):
        get(server, "data", tmp_path)
    path.write_bytes(DATA)  # touched, but the same
    assert get(server, "data", tmp_path) == path


def test_a_file_the_user_put_there_is_taken_if_it_is_the_right_one(server, tmp_path):
    (tmp_path / "data.bin").write_bytes(DATA)
    assert get(server, "gone", tmp_path, sha256=DIGEST).read_bytes() == DATA and not server.asked
    (tmp_path / "data.bin").write_bytes(b"another")
    with pytest.raises(DownloadError, match="not " + DIGEST):
        get(server, "gone", tmp_path, sha256=DIGEST)


def test_two_processes_at_once_download_once(server, tmp_path):
    code = (
        "import sys; from pathlib import Path; from poly_agents.download import Download, fetch;"
        f"print(len(fetch(Download('{server.url}/slow', 'data.bin'), Path(sys.argv[1])).read_bytes()))"
    )
    server.pause = 0.1
    both = [subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE) for _ in range(2)]
    assert [int(process.communicate(timeout=120)[0]) for process in both] == [len(DATA)] * 2
    assert len(server.asked) == 1


def test_too_little_room_is_said_before_the_download(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 5}))
    with pytest.raises(DownloadError, match="has 100,003 bytes, more than is free"):
        get(server, "data", tmp_path)


# --- tables -----------------------------------------------------------------------------------------------------------


def test_a_file_that_is_elsewhere_says_where(tmp_path):
    table = [Elsewhere("secret.txt", "https://example.org/form", "its licence forbids it")]
    with pytest.raises(ValueError, match=r"secret.txt cannot be downloaded: its licence forbids it. Get it from https"):
        find(table, "secret.txt", tmp_path)
    (tmp_path / "secret.txt").write_text("found")
    assert find(table, "secret.txt", tmp_path).read_text() == "found"


def test_a_name_that_is_nowhere_names_the_known_ones(tmp_path):
    table = [Download("http://x/a", "a.txt"), Download("http://x/b", "b.zip", members=["in/c.txt"])]
    with pytest.raises(ValueError, match=r"there is no d.txt in .* known: a.txt, in/c.txt"):
        find(table, "d.txt", tmp_path)


@pytest.mark.parametrize("whole", [True, False])
def test_members_of_an_archive_are_found_by_their_names(server, tmp_path, whole):
    server.data = zipped({"in/a.txt": b"one", "in/b.txt": b"two"})
    table = [Download(f"{server.url}/data", "all.zip", **{"archive": True} if whole else {"members": ["in/a.txt"]})]
    assert find(table, "a.txt", tmp_path).read_bytes() == b"one"
    assert find(table, "in/a.txt", tmp_path).read_bytes() == b"one"
    assert len(server.asked) == 1
    if whole:
        assert find(table, "b.txt", tmp_path).read_bytes() == b"two"
    else:
        assert len(list(tmp_path.rglob("*.txt"))) == 1


def test_an_archive_is_unpacked_again_when_the_table_asks_for_more_or_another(server, tmp_path):
    server.data = zipped({"a.txt": b"one", "b.txt": b"two"})
    table = Download(f"{server.url}/data", "all.zip", members=["a.txt"])
    find([table], "a.txt", tmp_path)
    assert find([replace(table, members=["a.txt", "b.txt"])], "b.txt", tmp_path).read_bytes() == b"two"
    server.data = zipped({"a.txt": b"three"})
    (tmp_path / "all.zip").unlink()
    pinned = replace(table, sha256=hashlib.sha256(server.data).hexdigest())
    assert find([pinned], "a.txt", tmp_path).read_bytes() == b"three"
    assert len(server.asked) == 2


def test_the_same_name_in_several_folders_has_to_be_told_apart(server, tmp_path):
    server.data = zipped({"a.txt": b"top", "x/a.txt": b"x", "x/b.txt": b"x", "y/b.txt": b"y"})
    table = [Download(f"{server.url}/data", "all.zip", archive=True)]
    assert find(table, "a.txt", tmp_path).read_bytes() == b"top"
    assert find(table, "y/b.txt", tmp_path).read_bytes() == b"y"
    with pytest.raises(ValueError, match=r"holds more than one b\.txt: .*x/b\.txt, .*y/b\.txt"):
        find(table, "b.txt", tmp_path)
    (tmp_path / "b.txt").write_bytes(b"mine")
    assert find(table, "b.txt", tmp_path).read_bytes() == b"mine"


def test_of_several_archives_only_the_file_s_own_is_fetched(server, tmp_path):
    server.data = zipped({"two/a.txt": b"one"})
    urls = {"one.zip": f"{server.url}/gone", "two.zip": f"{server.url}/data"}
    table = [Download(url, name, archive=True) for name, url in urls.items()]
    assert find(table, "two/a.txt", tmp_path).read_bytes() == b"one"
    with pytest.raises(ValueError, match=r"there is no a.txt in .* known: one.zip, two.zip"):
        find(table, "a.txt", tmp_path)
    assert [kind for kind, _ in server.asked] == ["data"]


# --- archives ---------------------------------------------------------------------------------------------------------


def zipped(members: dict[str, bytes], mode: int = 0) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            archive.writestr(info, data, zipfile.ZIP_DEFLATED)
    return out.getvalue()


def tarred(members: dict[str, bytes], kind: str = "gz", member_type: bytes = tarfile.REGTYPE) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=f"w:{kind}") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size, info.type, info.linkname = len(data), member_type, "/etc/passwd"
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


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
