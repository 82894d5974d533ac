"""Servers as processes of the hub's machine, each in a mount namespace of its own."""

from __future__ import annotations

import ctypes
import grp
import os
import pwd
from collections.abc import Callable

from jupyterhub.spawner import LocalProcessSpawner

from sfxlab.hub.loopback import DASK_SETTINGS
from sfxlab.hub.spawning import ProposalServer

_NEW_MOUNTS = 0x00020000
_PRIVATE, _RECURSIVE, _BIND, _REMOUNT, _READ_ONLY, _NO_SUID = 1 << 18, 1 << 14, 1 << 12, 1 << 5, 1, 2


class LocalServer(ProposalServer, LocalProcessSpawner):
    """Runs under its owner's account, with the groups that the policy gives.

    Data of a proposal belong to the group of its account. Other people's data and programs whose terms are not
    accepted lie below empty mounts there, so that not even wrong modes of files show them.
    """

    def get_env(self) -> dict[str, str]:
        return {**super().get_env(), **DASK_SETTINGS}

    def make_preexec_fn(self, name: str) -> Callable[[], None]:
        sight, account = self.sight(), pwd.getpwnam(name)
        hidden = [str(path).encode() for path in sight.hidden if path.is_dir()]
        closed = [str(each.path).encode() for each in sight.data if each.read_only and each.path.is_dir()]
        groups = [account.pw_gid, *(grp.getgrnam(group).gr_gid for group in sight.groups)]
        libc = ctypes.CDLL(None, use_errno=True)

        def become() -> None:
            _succeed(libc.unshare(_NEW_MOUNTS))
            _succeed(libc.mount(b"none", b"/", None, _RECURSIVE | _PRIVATE, None))
            for path in hidden:
                _succeed(libc.mount(b"none", path, b"tmpfs", _READ_ONLY | _NO_SUID, b"size=4k,mode=000"))
            for path in closed:
                _succeed(libc.mount(path, path, None, _BIND | _RECURSIVE, None))
                _succeed(libc.mount(b"none", path, None, _BIND | _REMOUNT | _READ_ONLY, None))
            os.setgid(account.pw_gid)
            os.setgroups(groups)
            os.setuid(account.pw_uid)
            os.chdir(account.pw_dir)

        return become


def _succeed(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
