"""A real JupyterLab and a real Chromium, for tests of what people see and click."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
from nbformat.sign import NotebookNotary, SQLiteSignatureStore
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright
from playwright.sync_api import Error as PlaywrightError

SWITCHES = (
    "--no-sandbox", "--disable-quic", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--no-first-run", "--disable-dev-shm-usage", "--use-gl=angle", "--use-angle=swiftshader",
    "--ignore-gpu-blocklist",
)  # fmt: skip
WINDOW = {"width": 1400, "height": 1100}
ARTEFACTS = Path(__file__).parents[2] / "artefacts"
"""What tests leave behind to look at; CI keeps it."""

# Each token is somebody, as it would be behind a hub.
_ACCOUNTS = """
import json
from jupyter_server.auth.identity import IdentityProvider, User
NAMES = {{token: name for name, token in json.loads({people!r}).items()}}
class Accounts(IdentityProvider):
    async def get_user_token(self, handler):
        name = NAMES.get(self.get_token(handler))
        return await super().get_user_token(handler) if name is None else User(name, name.title(), name.title())
c.ServerApp.identity_provider_class = Accounts
"""
# On a busy machine JupyterLab asks whether to go on waiting for a shared notebook.
_WAIT_ON = """new MutationObserver(() => {
  for (const button of document.querySelectorAll(".jp-Dialog button"))
    if (button.textContent === "Continue waiting") button.click();
}).observe(document, {childList: true, subtree: true})"""
_BUSY = """() => {
  const cells = [...document.querySelectorAll(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-CodeCell")];
  const prompts = cells.map(cell => cell.querySelector(".jp-InputPrompt")?.textContent ?? "");
  return prompts.length === 0 || prompts.some(prompt => !/\\[\\d+\\]/.test(prompt));
}"""


def chromium() -> str | None:
    """The browser, None where there is none."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class LabServer:
    """JupyterLab on a free loopback port, with settings, signatures and notebooks of its own.

    `people` have accounts: names, each with a token of its own.
    """

    def __init__(
        self,
        folder: Path,
        *,
        collaborative: bool = False,
        environment: dict[str, str] | None = None,
        people: Mapping[str, str] | None = None,
    ) -> None:
        self.notebooks, self._data = folder / "notebooks", folder / "data"
        self.token = uuid.uuid4().hex
        for made in (self.notebooks, self._data, folder / "config" / "labconfig"):
            made.mkdir(parents=True)
        self.people = dict(people or {})
        if people:
            accounts = _ACCOUNTS.format(people=json.dumps(self.people))
            (folder / "config" / "jupyter_server_config.py").write_text(accounts, encoding="utf-8")
        settings = folder / "settings"
        (settings / "overrides.d").mkdir(parents=True)
        installed = Path(sys.prefix) / "share/jupyter/lab/settings/overrides.d/sfxlab.json"
        shutil.copy(installed, settings / "overrides.d")
        (settings / "overrides.json").write_text(
            json.dumps(
                {"@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False}}
            )
        )
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{port}"
        command = [
            sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--expose-app-in-browser",
            "--JupyterNotebookApp.expose_app_in_browser=True",
            "--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}", "--ServerApp.port_retries=0",
            f"--IdentityProvider.token={self.token}", f"--ServerApp.root_dir={self.notebooks}",
            f"--LabApp.app_settings_dir={settings}", f"--LabApp.user_settings_dir={folder / 'user'}",
            f"--LabApp.workspaces_dir={folder / 'workspaces'}",
            f"--YDocExtension.disable_rtc={not collaborative}",
        ]  # fmt: skip
        self.environment = {
            **os.environ, "JUPYTER_DATA_DIR": str(self._data), "JUPYTER_CONFIG_DIR": str(folder / "config"),
            "JUPYTER_RUNTIME_DIR": str(folder / "runtime"), "IPYTHONDIR": str(folder / "ipython"),
            "JUPYTER_PREFER_ENV_PATH": "1", **(environment or {}),
        }  # fmt: skip
        self._log = folder / "lab.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, cwd=folder, env=self.environment, stdout=log, stderr=log)
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise

    def _wait(self) -> None:
        deadline = time.monotonic() + 60
        while True:
            try:
                self.ask("/api/status")
                return
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"JupyterLab did not start:\n{self._log.read_text()[-3000:]}") from None
                time.sleep(0.1)

    def ask(self, path: str, method: str = "GET") -> Any:
        """The answer of the server's REST interface."""
        request = urllib.request.Request(
            self.address + path, method=method, headers={"Authorization": f"token {self.token}"}
        )
        with urllib.request.urlopen(request, timeout=20) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def write(self, cells: Sequence[str], name: str | None = None) -> str:
        """A new, trusted notebook of code cells; its name."""
        name = name or f"{uuid.uuid4().hex[:8]}.ipynb"
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(notebook, self.notebooks / name)
        # Only a notebook that was signed before it is opened shows its widgets to everybody at once.
        store = SQLiteSignatureStore(str(self._data / "nbsignatures.db"))
        notary = NotebookNotary(data_dir=str(self._data), store_factory=lambda: store)
        notary.sign(nbformat.read(self.notebooks / name, as_version=4))
        store.close()
        return name

    def stop_kernels(self) -> None:
        """End all kernels, whoever started them."""
        for kernel in self.ask("/api/kernels"):
            self.ask(f"/api/kernels/{kernel['id']}", "DELETE")

    def stop(self) -> None:
        """End the server with its kernels."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(15)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


class Lab:
    """People in front of notebooks: each has a browser context of their own."""

    def __init__(self, server: LabServer, browser: Browser, name: str = "lab") -> None:
        self.server, self.name = server, name
        self._browser = browser
        self._contexts: list[BrowserContext] = []

    @property
    def notebooks(self) -> Path:
        """Folder of the notebooks, which is the kernels' working directory."""
        return self.server.notebooks

    def open(
        self,
        cells: Sequence[str],
        *,
        run: bool = True,
        context: BrowserContext | None = None,
        person: str | None = None,
    ) -> Page:
        """A new notebook of these code cells, in a new browser context unless one is given; all cells have run.

        `page.problems` lists errors of the page's own scripts.
        """
        return self.join(self.server.write(cells), run=run, context=context, person=person)

    def join(
        self,
        name: str,
        *,
        run: bool = False,
        context: BrowserContext | None = None,
        person: str | None = None,
        notebook: bool = False,
    ) -> Page:
        """Open a notebook that is there already, as another person does: one with an account where named.

        With `notebook` in Notebook instead of JupyterLab.
        """
        if context is None:
            context = self._browser.new_context(viewport=WINDOW)
            self._contexts.append(context)
        token = self.server.token if person is None else self.server.people[person]
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.add_init_script(_WAIT_ON)
        page.problems = []
        page.on("pageerror", lambda error: page.problems.append(str(error)))
        page.on(
            "console",
            lambda said: page.problems.append(said.text) if said.type == "error" and _ours(said.text) else None,
        )
        where = f"notebooks/{name}" if notebook else f"lab/workspaces/{uuid.uuid4().hex[:8]}/tree/{name}"
        page.goto(f"{self.server.address}/{where}?reset&token={token}")
        page.wait_for_selector(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-CodeCell", timeout=60_000)
        page.wait_for_function("() => window.jupyterapp?.shell?.currentWidget?.sessionContext?.isReady", timeout=60_000)
        if not notebook:
            page.evaluate("() => window.jupyterapp.commands.execute('application:toggle-left-area').catch(() => {})")
        if run:
            self.run_all(page)
        return page

    def run_all(self, page: Page, timeout: float = 120.0) -> None:
        """Run all cells, until the last has come to its end; raises what a cell raised."""
        page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-all-cells')")
        page.wait_for_function(f"() => !({_BUSY})()", timeout=1000 * timeout)
        errors = page.locator(".jp-NotebookPanel:not(.lm-mod-hidden) [data-mime-type='application/vnd.jupyter.stderr']")
        for text in errors.all_inner_texts():
            if "Traceback" in text or "Error" in text:
                raise AssertionError(f"a cell failed:\n{text}")

    def kernel(self, page: Page, code: str) -> Any:
        """Run code in the kernel of a notebook; what the expression in its last line is, by way of JSON.

        The notebook stays as it is.
        """
        *lines, last = code.strip().split("\n")
        wrapped = "\n".join([*lines, "import json as _json", f"print('\\x1e' + _json.dumps({last}) + '\\x1e')"])
        answer = page.evaluate(_EXECUTE, wrapped)
        if "error" in answer:
            raise AssertionError(answer["error"])
        return json.loads(answer["text"].split("\x1e")[1])

    def restart_kernel(self, page: Page) -> None:
        """A new kernel for a notebook, which knows nothing; all cells have run in it."""
        page.evaluate(
            """async () => {
              const context = window.jupyterapp.shell.currentWidget.sessionContext;
              await context.session.kernel.restart();
              await window.jupyterapp.commands.execute("notebook:clear-all-cell-outputs");
            }"""
        )
        self.run_all(page)

    def keep(self, page: Page, name: str) -> Path:
        """A picture of a page in the folder of artefacts."""
        ARTEFACTS.mkdir(exist_ok=True)
        path = ARTEFACTS / f"{name}.png"
        page.screenshot(path=path, timeout=20_000)
        return path

    def keep_all(self, name: str) -> None:
        """A picture of every page that is open."""
        pages = [page for context in self._contexts for page in context.pages]
        for i, page in enumerate(pages):
            try:
                self.keep(page, f"{name}-{i}" if len(pages) > 1 else name)
            except PlaywrightError as error:  # what the test found counts, not this
                print(f"no picture of {name}: {error}", file=sys.stderr)

    def close(self) -> None:
        """Close all pages, of which pictures are kept, and end their kernels."""
        self.keep_all(self.name)
        for context in self._contexts:
            context.close()
        self._contexts.clear()
        self.server.stop_kernels()


_EXECUTE = """async code => {
  const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
  const future = kernel.requestExecute({code, store_history: false, silent: false});
  let text = "", error;
  future.onIOPub = message => {
    if (message.header.msg_type === "stream") text += message.content.text;
    if (message.header.msg_type === "error") error = message.content.ename + ": " + message.content.evalue;
  };
  await future.done;
  return error ? {error} : {text};
}"""


def _ours(text: str) -> bool:
    # Said by JupyterLab itself, whatever is in the notebook.
    harmless = ("Failed to load resource", "Comm not found for comm id", "net::ERR_", "WebSocket")
    return not any(part in text for part in harmless)


@contextmanager
def browser() -> Iterator[Browser]:
    """Chromium without a window. While it is open, no other event loop can run in this thread."""
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium(), args=list(SWITCHES))
        try:
            yield opened
        finally:
            opened.close()
