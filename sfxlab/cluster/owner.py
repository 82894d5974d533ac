"""A client of a cluster that was started for it."""
# Dask's own classes are typed in parts only.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import html
from typing import Any

from distributed import Client

from sfxlab.cluster.dashboard import page_of
from sfxlab.cluster.waiting import waiting_for


class Owner(Client):
    """A client that ends its cluster with itself."""

    def close(self, *arguments: Any, **options: Any) -> None:
        cluster = self.cluster
        super().close(*arguments, **options)
        if cluster is not None:
            cluster.close()

    def _repr_html_(self) -> str:
        shown, why = str(super()._repr_html_()), waiting_for(self)
        if self.dashboard_link:
            link = html.escape(page_of(self))
            shown += f'<p>Frames, hits and workers: <a href="{link}" target="_blank">{link}</a></p>'
        return f"{shown}<p>{html.escape(why)}</p>" if why else shown


def owner_of(cluster: Any) -> Owner:
    """A client of a cluster, which is ended where there can be none."""
    try:
        return Owner(cluster)
    except BaseException:
        cluster.close()
        raise
