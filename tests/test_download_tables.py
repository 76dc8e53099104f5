"""Tables of downloads: which file or archive a name comes from."""

import hashlib
from dataclasses import replace

import pytest

from poly_agents.files.download import Download, Elsewhere, find
from tests.archives import zipped
from tests.servers import serving_files


@pytest.fixture
def server(monkeypatch):
    with serving_files(monkeypatch) as found:
        yield found


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


def test_the_same_name_in_several_folders_needs_its_folder(server, tmp_path):
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
