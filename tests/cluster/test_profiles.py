from __future__ import annotations

from pathlib import Path

import pytest
from dask.utils import parse_timedelta

from sfxlab.cluster.profiles import AddressProfile, LocalProfile, SlurmProfile, seconds_of_walltime
from sfxlab.cluster.site import profile_names, site_files, site_profile
from sfxlab.errors import ClusterError


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Where site files are looked for, all of them in a folder of this test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("SFXLAB_SITE", str(tmp_path / "named.toml"))
    (tmp_path / "config" / "sfxlab").mkdir(parents=True)
    (tmp_path / "named.toml").touch()
    return {
        "named": tmp_path / "named.toml",
        "here": tmp_path / "sfxlab-site.toml",
        "own": tmp_path / "config" / "sfxlab" / "site.toml",
    }


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 5400), ("2:30", 150), ("04:00:00", 14400), ("2-12", 216000), ("1-00:30", 88200),
        ("1-02:03:04", 93784),
    ],
)  # fmt: skip
def test_walltimes_are_read_as_sbatch_reads_them(text: str, seconds: int) -> None:
    # The examples are the forms that sbatch(1) lists for --time.
    assert seconds_of_walltime(text) == seconds


@pytest.mark.parametrize("walltime", ["00:05:00", "01:00:00", "3-00:00:00"])
def test_the_last_worker_ends_before_the_walltime_and_not_all_end_at_once(walltime: str) -> None:
    lifetime, stagger = SlurmProfile(walltime=walltime).lifetime
    limit = seconds_of_walltime(walltime)
    assert 0.75 * limit < lifetime - stagger < lifetime + stagger <= limit - min(0.1 * limit, 10)
    assert stagger >= 1


def test_a_margin_that_is_given_is_kept() -> None:
    lifetime, stagger = SlurmProfile(walltime="01:00:00", margin="20 minutes").lifetime
    assert lifetime + stagger == 3600 - parse_timedelta("20 minutes")


def test_jobs_hold_at_least_the_workers_asked_for() -> None:
    profile = SlurmProfile(workers=20, most_workers=50, cores=8)
    assert (profile.jobs, profile.most_jobs) == (3, 7)
    assert SlurmProfile(workers=20, cores=8).most_jobs == 3


def test_the_usual_profiles_are_there_without_a_file() -> None:
    assert profile_names() == ["local", "slurm", "mpi"]
    assert site_profile("local").profile == LocalProfile()
    assert set(site_profile("slurm").origins.values()) == {"default"}


def test_each_value_is_from_the_first_file_that_has_it(places: dict[str, Path]) -> None:
    places["own"].write_text('[maxwell]\nkind = "slurm"\nqueue = "all"\naccount = "me"\ncores = 8\n')
    places["here"].write_text('[maxwell]\nqueue = "upex"\ncores = 16\n')
    places["named"].write_text("[maxwell]\ncores = 32\n")
    assert site_files() == [places["named"], places["here"], places["own"]]
    site = site_profile("maxwell", workers=64)
    assert site.profile == SlurmProfile(queue="upex", account="me", cores=32, workers=64)
    named = {key: origin for key, origin in site.origins.items() if origin != "default"}
    assert named == {
        "kind": str(places["own"]), "account": str(places["own"]), "queue": str(places["here"]),
        "cores": str(places["named"]), "workers": "command line",
    }  # fmt: skip


def test_a_step_has_resources_of_its_own(places: dict[str, Path]) -> None:
    places["here"].write_text(
        '[slurm]\nworkers = 100\ncores = 4\nmemory = "8 GiB"\n[slurm.steps.merge]\nmemory = "256 GiB"\n'
    )
    index, merge = (site_profile("slurm", step) for step in ("index", "merge"))
    assert isinstance(merge.profile, SlurmProfile)
    assert (merge.profile.workers, merge.profile.cores, merge.profile.memory) == (1, 1, "256 GiB")
    assert index.profile == site_profile("slurm").profile
    assert merge.origins["memory"] == f"{places['here']}, steps.merge"


def test_an_address_is_a_profile_and_a_profile_can_name_one(places: dict[str, Path]) -> None:
    assert site_profile("tcp://node7:8786").profile == AddressProfile(address="tcp://node7:8786")
    places["here"].write_text('[online]\nkind = "tcp"\naddress = "tcp://node7:8786"\nlive = true\n')
    assert site_profile("online").profile == AddressProfile(address="tcp://node7:8786", live=True)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[site]\nkind = "slurm"\nwaltime = "1:00:00"', ("site.waltime", "did you mean 'walltime'?")),
        ('[site]\nkind = "slurm"\n[site.container]\nruntime = "podman"\nimgae = "a"', ("did you mean 'image'?",)),
        ('[site]\nkind = "slurm"\n[site.steps.mrege]\ncores = 1', ("did you mean 'merge'?",)),
        ('[site]\nkind = "slurm"\nmemory = "much"', ("site.memory", "much")),
        ('[site]\nkind = "slurm"\nwalltime = "soon"', ("site.walltime", "soon")),
        ('[site]\nkind = "slurm"\nidle = "10 parsec"', ("site.idle", "10 parsec")),
        ('[site]\nkind = "slrum"', ("site.kind", "did you mean 'slurm'?")),
        ("[site]\ncores = 2", ("site.kind", "missing")),
        ('[site]\nkind = "tcp"', ("site.address", "tcp://HOST:PORT")),
        ('[local]\nkind = "slurm"', ("local.kind",)),
        ("workers = 3", ("workers", "[slurm]")),
        ("[site", ("this is not TOML",)),
    ],
)
def test_a_site_file_that_is_wrong_is_refused_with_file_place_and_remedy(
    places: dict[str, Path], text: str, words: tuple[str, ...]
) -> None:
    places["here"].write_text(text)
    with pytest.raises(ClusterError) as caught:
        site_profile("local" if text.startswith("[local]") else "site")
    for word in words:
        assert word in str(caught.value)
    if "address" not in str(caught.value):
        assert str(places["here"]) in str(caught.value)


def test_a_profile_that_does_not_exist_is_refused_with_those_that_do(places: dict[str, Path]) -> None:
    places["here"].write_text('[maxwell]\nkind = "slurm"\n')
    with pytest.raises(ClusterError, match="did you mean 'maxwell'") as caught:
        site_profile("maxwel")
    assert "local, slurm, mpi, maxwell" in str(caught.value)


def test_a_site_file_that_is_named_has_to_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SFXLAB_SITE", "/no/such/file.toml")
    with pytest.raises(ClusterError, match="SFXLAB_SITE"):
        site_profile("local")
