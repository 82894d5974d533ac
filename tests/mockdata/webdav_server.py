"""A WebDAV server (WsgiDAV on cheroot) of a folder on the loopback interface, as `/open` and, for anna, as `/closed`.

`python webdav_server.py FOLDER PORT` serves until it is killed. Anna's password is `secret`.
"""

from __future__ import annotations

import sys

from cheroot import wsgi
from wsgidav.wsgidav_app import WsgiDAVApp

if __name__ == "__main__":
    folder, port = sys.argv[1], int(sys.argv[2])
    settings = {
        "provider_mapping": {"/open": folder, "/closed": folder},
        "simple_dc": {"user_mapping": {"/open": True, "/closed": {"anna": {"password": "secret"}}}},
        "dir_browser": {"enable": False},
        "verbose": 0,
    }
    wsgi.Server(("127.0.0.1", port), WsgiDAVApp(settings)).start()
