"""Servers in processes of their own, on the loopback interface."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import fsspec
from fsspec.asyn import sync


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(command: list[str], port: int) -> Iterator[subprocess.Popen[Any]]:
    """A server that listens; it is killed in the end."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            for _ in range(1200):
                assert server.poll() is None, "the server has ended"
                with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                    break
                time.sleep(0.05)
            yield server
        finally:
            server.kill()


@contextmanager
def web_server(folder: Path, port: int) -> Iterator[subprocess.Popen[Any]]:
    """A web server of a folder."""
    script = Path(__file__).with_name("file_server.py")
    with running([sys.executable, str(script), str(folder), str(port)], port) as server:
        yield server


@contextmanager
def webdav_server(folder: Path, port: int) -> Iterator[subprocess.Popen[Any]]:
    """A WebDAV server of a folder, as `/open` and `/closed`."""
    script = Path(__file__).with_name("webdav_server.py")
    with running([sys.executable, str(script), str(folder), str(port)], port) as server:
        yield server


@contextmanager
def s3_server(folder: Path, port: int) -> Iterator[subprocess.Popen[Any]]:
    """An S3 server with the files of a folder in `beamtime/run1`."""
    with running([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], port) as server:
        client = {"endpoint_url": f"http://127.0.0.1:{port}", "key": "somebody", "secret": "secret"}
        region = {"region_name": "us-east-1"}
        system = fsspec.filesystem("s3", **client, client_kwargs=region, skip_instance_cache=True)
        system.call_s3("create_bucket", Bucket="beamtime")
        for path in folder.iterdir():
            system.pipe_file(f"beamtime/run1/{path.name}", path.read_bytes())
        _close(system)
        yield server


def close_connections() -> None:
    """Close what fsspec keeps open, and forget its file systems.

    fsspec itself gives that a tenth of a second when a file system is forgotten, which on a busy machine is too short.
    """
    for protocol in ("http", "s3"):
        kind = fsspec.get_filesystem_class(protocol)
        for system in list(kind._cache.values()):
            _close(system)
        kind.clear_instance_cache()


def _close(system: Any) -> None:
    async def close() -> None:
        if getattr(system, "_s3", None) is not None:
            await system._s3creator.__aexit__(None, None, None)
        elif getattr(system, "_session", None) is not None:
            await system._session.close()
        await asyncio.sleep(0)  # until the transports have noticed

    sync(system.loop, close)
