"""Reading apt's sources: the distribution's own archive is found, whatever else is configured."""

from pathlib import Path

from outrider.servers import debian
from outrider.servers.debian import Source

DEB822 = """\
Types: deb
# a snapshot would be here
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main

Enabled: no
Types: deb
URIs: http://off.example/debian
Suites: bookworm
Components: main

Types: deb deb-src
URIs: http://keys.example/ubuntu http://second.example/ubuntu
Suites: noble
Components: main universe
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mQINBFufwdoBEADv
"""

ONE_LINE = """\
# deb http://comment.example/debian bookworm main
deb [arch=amd64 signed-by=/etc/apt/keyrings/docker.asc] https://vendor.example/linux/debian bookworm stable
deb-src http://mirror.example/debian bookworm main
deb   http://mirror.example/debian/   bookworm   main contrib   # the mirror
deb http://mirror.example/debian-security bookworm-security main
"""


def test_parse_deb822_leaves_out_disabled_stanzas_and_splits_uris() -> None:
    sources = debian.parse_deb822(DEB822)
    assert [source.uri for source in sources] == [
        "http://mirror.example/debian",
        "http://mirror.example/debian-security",
        "http://keys.example/ubuntu",
        "http://second.example/ubuntu",
    ]
    assert sources[0] == Source(
        "http://mirror.example/debian",
        ("bookworm", "bookworm-updates"),
        ("main",),
        "/usr/share/keyrings/debian-archive-keyring.gpg",
    )


def test_parse_deb822_with_a_key_inside_names_no_keyring() -> None:
    assert debian.parse_deb822(DEB822)[2].signed_by is None


def test_parse_one_line() -> None:
    assert debian.parse_one_line(ONE_LINE) == [
        Source("https://vendor.example/linux/debian", ("bookworm",), ("stable",), "/etc/apt/keyrings/docker.asc"),
        Source("http://mirror.example/debian/", ("bookworm",), ("main", "contrib")),
        Source("http://mirror.example/debian-security", ("bookworm-security",), ("main",)),
    ]


def test_archive_is_the_distributions_own() -> None:
    one_line = debian.archive(debian.parse_one_line(ONE_LINE), "bookworm")
    assert one_line is not None
    assert one_line.uri == "http://mirror.example/debian/"
    deb822 = debian.archive(debian.parse_deb822(DEB822), "noble")
    assert deb822 is not None
    assert deb822.uri == "http://keys.example/ubuntu"
    assert debian.archive(debian.parse_deb822(DEB822), "jammy") is None


def test_machine_sources_reads_both_forms(tmp_path: Path) -> None:
    parts = tmp_path / "sources.list.d"
    parts.mkdir()
    (tmp_path / "sources.list").write_text(ONE_LINE)
    (parts / "debian.sources").write_text(DEB822)
    (parts / "old.list.save").write_text("deb http://saved.example/debian bookworm main\n")
    assert len(debian.machine_sources(tmp_path)) == 3 + 4


def test_keyring_is_the_named_one_if_it_is_readable(tmp_path: Path) -> None:
    key = tmp_path / "named.gpg"
    key.touch()
    assert debian.keyring(Source("u", (), (), str(key)), "debian") == key
    assert debian.keyring(Source("u", (), (), str(tmp_path / "gone.gpg")), "no-such-distribution") is None


def test_os_release(tmp_path: Path) -> None:
    path = tmp_path / "os-release"
    path.write_text('ID=ubuntu\nVERSION_CODENAME=noble\nPRETTY_NAME="Ubuntu 24.04 LTS"\n')
    assert debian.os_release(path) == {
        "ID": "ubuntu",
        "VERSION_CODENAME": "noble",
        "PRETTY_NAME": "Ubuntu 24.04 LTS",
    }
    assert debian.os_release(tmp_path / "none") == {}
