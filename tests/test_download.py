"""Downloads against a server that breaks off, lies and changes its files."""

import hashlib
import subprocess
import sys
import time
from pathlib import Path

import pytest

from poly_agents.errors import DownloadError
from poly_agents.files import transfer
from poly_agents.files.download import Download, fetch
from tests.servers import DATA, DIGEST, serving_files

MD5 = hashlib.md5(DATA).hexdigest()


@pytest.fixture(autouse=True)
def server(monkeypatch):
    with serving_files(monkeypatch) as found:
        yield found


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
    monkeypatch.setattr(transfer, "ATTEMPTS", 1)
    server.breaks = 3
    assert get(server, "breaks", tmp_path).read_bytes() == DATA


def test_a_killed_download_goes_on_where_it_stopped(server, tmp_path):
    server.pause = 0.2
    code = (
        "import sys; from pathlib import Path; from poly_agents.files import download, transfer; transfer.PIECE = 4096;"
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
    monkeypatch.setattr(transfer, "ATTEMPTS", 1)
    with pytest.raises(DownloadError):
        get(server, "short", tmp_path)
    server.data, server.etag = DATA[::-1] + b"more", etag and '"two"'
    monkeypatch.setattr(transfer, "ATTEMPTS", 3)
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


@pytest.mark.parametrize("part", [False, True])
def test_an_md5_is_checked_where_the_publisher_gives_no_other_digest(server, tmp_path, part):
    if part:  # put there by the user
        (tmp_path / "data.bin").write_bytes(DATA)
    assert get(server, "data", tmp_path, md5=MD5).read_bytes() == DATA
    for path in tmp_path.glob(".data.bin*"):
        path.unlink()
    (tmp_path / "data.bin").unlink()
    if part:
        (tmp_path / "data.bin").write_bytes(DATA[1:])
    server.data = DATA[1:]
    with pytest.raises(DownloadError, match=rf"md5 {hashlib.md5(DATA[1:]).hexdigest()}, not {MD5}"):
        get(server, "data", tmp_path, md5=MD5)
    assert (tmp_path / "data.bin").exists() == part and not (tmp_path / "data.bin.part").exists()


def test_without_a_pin_the_first_digest_is_kept(server, tmp_path):
    get(server, "data", tmp_path).unlink()
    server.data = DATA[1:]
    with pytest.raises(DownloadError, match=r"changed at its source.*or move .*\.data\.bin\.json away to take"):
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
        "import sys; from pathlib import Path; from poly_agents.files.download import Download, fetch;"
        f"print(len(fetch(Download('{server.url}/slow', 'data.bin'), Path(sys.argv[1])).read_bytes()))"
    )
    server.pause = 0.1
    both = [subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE) for _ in range(2)]
    assert [int(process.communicate(timeout=120)[0]) for process in both] == [len(DATA)] * 2
    assert len(server.asked) == 1


def test_too_little_room_is_said_before_the_download(server, tmp_path, monkeypatch):
    monkeypatch.setattr(transfer.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 5}))
    with pytest.raises(DownloadError, match="has 100,003 bytes, more than is free"):
        get(server, "data", tmp_path)
