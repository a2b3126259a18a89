"""Every command, in the order in which the help lists them. A new one is one file and one line here."""

from __future__ import annotations

from daemon.ctl.alerts import ALERTS
from daemon.ctl.audit import AUDIT
from daemon.ctl.call import CALL
from daemon.ctl.chat import CHAT
from daemon.ctl.explain import EXPLAIN
from daemon.ctl.holds import HOLDS, HOLDS_RESOLVE
from daemon.ctl.ledger import LEDGER_VERIFY
from daemon.ctl.models import MODELS
from daemon.ctl.overrides import OVERRIDES, OVERRIDES_GRANT, OVERRIDES_REVOKE
from daemon.ctl.providers import PROVIDERS
from daemon.ctl.sessions import SESSIONS
from daemon.ctl.settings import SETTINGS_GET, SETTINGS_SET, SETTINGS_SHOW, SETTINGS_UNSET
from daemon.ctl.spend import SPEND
from daemon.ctl.status import STATUS
from daemon.ctl.usage import USAGE_ROWS
from daemon.ctl.watch import WATCH

COMMANDS = (
    STATUS,
    CHAT,
    EXPLAIN,
    MODELS,
    PROVIDERS,
    SESSIONS,
    SPEND,
    USAGE_ROWS,
    ALERTS,
    HOLDS,
    HOLDS_RESOLVE,
    OVERRIDES,
    OVERRIDES_GRANT,
    OVERRIDES_REVOKE,
    AUDIT,
    SETTINGS_SHOW,
    SETTINGS_GET,
    SETTINGS_SET,
    SETTINGS_UNSET,
    LEDGER_VERIFY,
    WATCH,
    CALL,
)
