"""daemonctl on a terminal of its own: a real pty, for tests of what people see and type."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

CTL = [sys.executable, "-W", "error", "-m", "daemon.ctl"]


class Terminal:
    """daemonctl on a terminal of its own. State: what it has shown."""

    def __init__(self, *words, **env):
        self._master, self._slave = pty.openpty()
        # the shell opens the terminal as leader of a new session, which makes it the one that Ctrl-C works on
        on_it = ["sh", "-c", 'exec "$@" <"$0" >"$0" 2>&1', os.ttyname(self._slave)]
        clean = {key: value for key, value in os.environ.items() if key != "NO_COLOR"}
        self._process = subprocess.Popen(
            [*on_it, *CTL, *words], start_new_session=True, env={**clean, "TERM": "xterm", "COLUMNS": "80", **env}
        )
        self.shown = ""

    def type(self, text):
        os.write(self._master, text.encode())

    def until(self, text):
        while text not in self.shown:
            self.shown += os.read(self._master, 4096).decode()

    def end(self):
        """The exit code."""
        code = self._process.wait(10)
        os.close(self._slave)
        try:
            while data := os.read(self._master, 4096):
                self.shown += data.decode()
        except OSError:  # how a terminal ends
            pass
        os.close(self._master)
        return code
