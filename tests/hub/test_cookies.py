"""What of site.toml decides over cookies, subdomains, TLS and addresses, as JupyterHub is told of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from traitlets.config import Config

from sfxlab.hub.configuration import configure
from sfxlab.hub.policy import PolicyError

PROPOSALS = '[proposals.one]\ntitle = "One"\nmembers = { anna = "lead" }\n'


def _configured(folder: Path, hub: str) -> Config:
    (folder / "state").mkdir(exist_ok=True)
    (folder / "proposals.toml").write_text(PROPOSALS)
    (folder / "site.toml").write_text(f'[hub]\nstate = "{folder}/state"\n{hub}\n')
    c = Config()
    configure(c, folder / "site.toml", folder / "proposals.toml")
    c.JupyterHub.spawner_class.acceptances.close()
    return c


def test_without_tls_cookies_are_for_this_site(tmp_path: Path) -> None:
    c = _configured(tmp_path, 'address = "http://127.0.0.1:8000"')
    assert c.JupyterHub.tornado_settings == {"cookie_options": {"samesite": "Lax"}}
    assert not c.JupyterHub.cookie_host_prefix_enabled


def test_with_tls_cookies_are_secure_and_bound_to_a_host_where_each_server_has_its_own(tmp_path: Path) -> None:
    address = 'address = "https://hub.site.org"'
    c = _configured(tmp_path, address)
    assert c.JupyterHub.tornado_settings["cookie_options"] == {"samesite": "Lax", "secure": True}
    # On one host for all, such cookies would go to every server on it.
    assert not c.JupyterHub.cookie_host_prefix_enabled
    c = _configured(tmp_path, f'{address}\ndomain = "https://hub.site.org"')
    assert c.JupyterHub.subdomain_host == "https://hub.site.org"
    assert c.JupyterHub.cookie_host_prefix_enabled


@pytest.mark.parametrize(
    ("hub", "found"),
    [
        ('address = "http://127.0.0.1:8000"', "http://127.0.0.1:8899"),
        ('address = "https://hub.site.org"\n[servers]\nkind = "slurm"', "https://hub.site.org"),
        (
            'address = "https://hub.site.org"\ndomain = "https://hub.site.org:444"\n[servers]\nkind = "slurm"',
            "https://sessions--service.hub.site.org:444",
        ),
    ],
)
def test_servers_find_the_session_service(tmp_path: Path, hub: str, found: str) -> None:
    assert _configured(tmp_path, hub).Spawner.environment["SFXLAB_CATALOGUE"] == f"{found}/services/sessions"


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    certificate, key = tmp_path / "tls.pem", tmp_path / "tls.key"
    for path in (certificate, key):
        path.write_text("PEM")
        path.chmod(0o644)
    files = f'address = "https://hub.site.org"\ncertificate = "{certificate}"\nkey = "{key}"'
    with pytest.raises(PolicyError, match="others can read this secret"):
        _configured(tmp_path, files)
    key.chmod(0o600)
    c = _configured(tmp_path, files)
    assert (c.JupyterHub.ssl_cert, c.JupyterHub.ssl_key) == (str(certificate), str(key))


def test_servers_have_no_settings_of_their_users_and_tokens_say_little(tmp_path: Path) -> None:
    c = _configured(tmp_path, 'address = "http://127.0.0.1:8000"')
    assert c.Spawner.disable_user_config
    (server,) = [role for role in c.JupyterHub.load_roles if role["name"] == "server"]
    assert all(scope.endswith(("!user", "!server")) for scope in server["scopes"])
    assert all(scope.endswith("!server") for scope in c.Spawner.oauth_client_allowed_scopes)
    for service in c.JupyterHub.services:
        roles = [role for role in c.JupyterHub.load_roles if service["name"] in role.get("services", ())]
        assert not [scope for role in roles for scope in role["scopes"] if scope.startswith(("admin", "tokens"))]
