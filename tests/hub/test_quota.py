from __future__ import annotations

import os
import pwd
import subprocess
from pathlib import Path

import pytest

from sfxlab.hub.policy import Proposals
from sfxlab.hub.quota import Usage, command_to_enforce, is_enforced, measure, read_usage, size_told, told, written_by


@pytest.fixture
def proposals(tmp_path: Path) -> Proposals:
    folder = tmp_path / "data"
    (folder / "deep" / "deeper").mkdir(parents=True)
    (folder / "run.h5").write_bytes(os.urandom(300_000))
    (folder / "deep" / "deeper" / "run.h5").write_bytes(os.urandom(200_000))
    (folder / "again.h5").hardlink_to(folder / "run.h5")
    (folder / "link").symlink_to("/usr")
    (tmp_path / "proposals.toml").write_text(
        f'[proposals.no-such]\ntitle = "P"\nmembers = {{ a = "lead" }}\ndata = ["{folder}"]\nquota = "400 kB"\n'
    )
    return Proposals.read(tmp_path / "proposals.toml")


def test_what_is_stored_is_what_du_counts(tmp_path: Path, proposals: Proposals) -> None:
    used = measure(tmp_path, proposals)["no-such"]
    told_by_du = subprocess.run(
        ["du", "--summarize", "--block-size=1", tmp_path / "data"], capture_output=True, text=True, check=True
    )
    folder = (tmp_path / "data").stat().st_blocks * 512
    assert used.used == int(told_by_du.stdout.split()[0]) - folder
    assert used.is_full
    assert read_usage(tmp_path, proposals)["no-such"] == used


def test_quotas_are_those_of_now_and_nothing_is_told_before_a_measurement(tmp_path: Path, proposals: Proposals) -> None:
    assert read_usage(tmp_path, proposals) == {}
    measure(tmp_path, proposals)
    text = (tmp_path / "proposals.toml").read_text().replace("400 kB", "1 GB")
    (tmp_path / "proposals.toml").write_text(text)
    assert not read_usage(tmp_path, Proposals.read(tmp_path / "proposals.toml"))["no-such"].is_full


def test_sizes_are_told_with_units() -> None:
    assert size_told(999) == "999 B"
    assert size_told(1_500_000) == "1.5 MB"
    assert told(Usage(1_900_000_000_000, 2_000_000_000_000, 0.0)) == "1.9 TB of 2.0 TB"
    assert told(Usage(5, None, 0.0)) == "5 B"


def test_only_directories_that_a_proposal_may_write_count(tmp_path: Path, proposals: Proposals) -> None:
    account = pwd.getpwnam("nobody")
    (tmp_path / "mine").mkdir()
    (tmp_path / "theirs").mkdir(mode=0o755)
    os.chown(tmp_path / "mine", account.pw_uid, -1)
    proposal = proposals.proposals["no-such"].model_copy(
        update={"data": (tmp_path / "mine", tmp_path / "theirs", tmp_path / "absent")}
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pwd, "getpwnam", lambda name: account)
        assert written_by("no-such", proposal) == [tmp_path / "mine"]


def test_the_command_that_enforces_a_quota_is_the_file_systems(tmp_path: Path) -> None:
    (tmp_path / "mounts").write_text(
        "/dev/sda / ext4 rw 0 0\n/dev/sdb /data xfs rw,prjquota 0 0\nnas:/x /data/nas nfs4 rw 0 0\n"
    )
    account = pwd.getpwnam("nobody")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pwd, "getpwnam", lambda name: account)

        def command(path: str) -> str:
            return command_to_enforce("p1", Path(path), 2 * 1024**3, mounts=str(tmp_path / "mounts"))

        assert command("/data/p1").startswith("xfs_quota -x -c 'project -s -p /data/p1 ")
        assert f"bhard=2097152k {account.pw_gid}' /data" in command("/data/p1")
        assert f"setquota -P {account.pw_gid} 0 2097152 0 0 /" in command("/srv/p1")
        assert command("/data/nas/p1") == ""
    assert is_enforced(tmp_path, 10**18)
    assert not is_enforced(tmp_path, 1)
