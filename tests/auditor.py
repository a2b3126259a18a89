"""The promises about money, recomputed from the database after every commit: nothing here asks the product's own rules.

The limits are promised by what raises a balance, which is tighter than comparing sums now and then. In the order in which entries
were written, spent + held of an account rises only through a hold that fits (or whose row says why it passes), through a cost above
its hold (whose row says `overrun`), or through a correction by hand. So it never passes a limit otherwise, but when the limit falls.
"""

import sqlite3
import threading
from collections import defaultdict
from datetime import UTC, datetime, tzinfo
from pathlib import Path

from msgspec import Struct, field

LEVELS = (75, 80, 90, 100)
HARD = {
    ("daemon", "month"): 900,
    ("daemon", "day"): 700,
    ("user:bob", "month"): 400,
    ("app:agent", "day"): 350,
    ("provider:openai", "month"): 600,
}
BUDGETS = {
    ("user:ana", "month"): 500,
    ("user:ana/kid", "month"): 120,
    ("user:cleo", "month"): 300,
    ("user:cleo", "day"): 250,
}

NOTE_ENTRIES = """
CREATE TEMP TABLE written (n INTEGER PRIMARY KEY, usage_id, entry, held, spent, set_id);
CREATE TEMP TRIGGER note AFTER INSERT ON main.journal BEGIN
    INSERT INTO written (usage_id, entry, held, spent, set_id) VALUES (new.usage_id, new.entry, new.held, new.spent, new.set_id);
END"""
SUMS = """
WITH moved AS (SELECT set_id, spent, held FROM journal UNION ALL SELECT set_id, spent, 0 FROM carried)
SELECT scope, period, label, coalesce(sum(moved.spent), 0), coalesce(sum(moved.held), 0)
FROM accounts LEFT JOIN account_sets ON account_id = id LEFT JOIN moved USING (set_id) GROUP BY id"""
TOTALS = """
SELECT (SELECT coalesce(sum(cost), 0) FROM usage), (SELECT coalesce(sum(spent), 0) FROM journal),
    (SELECT coalesce(sum(amount), 0) FROM holds WHERE state = 'held'), (SELECT coalesce(sum(held), 0) FROM journal),
    (SELECT coalesce(sum(cost), 0) FROM usage_daily), (SELECT coalesce(sum(spent), 0) FROM carried)"""
ENTRIES = """
SELECT journal.usage_id FROM journal
    LEFT JOIN usage ON usage.id = usage_id LEFT JOIN holds ON holds.id = usage_id
GROUP BY usage_id
HAVING sum(entry = 0) <> 1 OR (sum(entry = 1) = 1) <> (usage.id IS NOT NULL)
    OR (usage.id IS NOT NULL AND (sum(journal.held) <> 0 OR sum(spent) <> usage.cost OR holds.state = 'held'))
    OR (usage.id IS NULL AND holds.state IS NOT 'held')"""
ROW = "SELECT cost, held, marks, status FROM usage WHERE id = ?"
MEMBERS = "SELECT scope, period, label FROM account_sets JOIN accounts ON id = account_id WHERE set_id = ?"

Name = tuple[str, str, str]
"""An account: scope, period, label."""


class Time(Struct, frozen=True):
    """What holds at a time: users' own settings by owner and key (amounts in nano-dollars), and the names of month and day."""

    own: dict[tuple[str, str], object]
    month: str
    day: str

    def limits(self, scope: str, period: str) -> tuple[int | None, int | None]:
        """The hard limit of a scope, and the budget of a user where it is below that."""
        hard, budget = HARD.get((scope, period)), BUDGETS.get((scope, period))
        own = self._own(scope, period) if scope.startswith("user:") else None
        if own is not None:
            budget = own if budget is None else min(own, budget)
        return hard, None if hard is not None and budget is not None and budget >= hard else budget

    def limit(self, scope: str, period: str) -> int | None:
        """The lower of both, which alerts go by."""
        return min((limit for limit in self.limits(scope, period) if limit is not None), default=None)

    def enforced(self, scope: str) -> bool:
        name = scope.partition(":")[2]
        return self.own.get((name, "enforced"), self.own.get(("*", "enforced"), True))

    def accounts(self, who: tuple[str, str, str]) -> list[Name]:
        """Where an attempt counts."""
        user, app, provider = who
        users = dict.fromkeys((f"user:{user.partition('/')[0]}", f"user:{user}"))
        scopes = ("daemon", *users, f"app:{app}", f"provider:{provider}")
        return [(scope, *period) for scope in scopes for period in (("month", self.month), ("day", self.day))]

    def _own(self, scope: str, period: str) -> int | None:
        name = scope.partition(":")[2]
        everybody = self.own.get(("*", period)) if "/" not in name else None
        return self.own.get((name, period), everybody)


class Asked(Struct):
    """A reservation that was asked for, when `since` was the time; `group` names the group that it is of, if it is of one."""

    who: tuple[str, str, str]
    amount: int
    admission: str
    since: int
    at_us: int
    lease_s: float
    token: str | None = None
    group: str | None = None


class Told(Struct):
    """What the callers know: everything they asked for and were told.

    State: times so far, the one since which another can't hold any more, and the last when nobody had anything to do; what was
    asked for; the cost with which each hold was settled first; whose request has left; grants by id (user, amount, end, whether it
    is revoked); what resolved holds cost; whose limit was lowered below what is held for certain, or maybe.
    """

    times: list[Time]
    now: int = 0
    quiet: int = 0
    asked: dict[str, Asked] = field(default_factory=dict)
    settled: dict[str, int] = field(default_factory=dict)
    sent: set[str] = field(default_factory=set)
    grants: dict[str, tuple[str, int, int]] = field(default_factory=dict)
    revoked: dict[str, int] = field(default_factory=dict)
    resolved: dict[str, int] = field(default_factory=dict)
    lowered: set[str] = field(default_factory=set)
    maybe_lowered: set[str] = field(default_factory=set)

    def begins(self, time: Time) -> None:
        """From now on it may hold."""
        self.times.append(time)

    def holds(self) -> None:
        """From now on the last one does."""
        self.now = len(self.times) - 1


def labels(at_us: int, zone: tzinfo) -> tuple[str, str]:
    """The calendar's names for month and day of an instant."""
    day = datetime.fromtimestamp(at_us / 1e6, UTC).astimezone(zone).date().isoformat()
    return day[:7], day


class Auditor:
    """Reads the books of one process after every commit, in the writer's thread.

    State: what it knows of each account, attempt, alert and token so far, and what was wrong.
    """

    def __init__(self, writer: sqlite3.Connection, path: str, told: Told, *, rebooted: bool = False) -> None:
        self.writer = writer
        self.path = path
        self.books = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self.told = told
        self.commits = 0
        self.wrong: list[str] = []
        self.used: dict[str, str] = {}
        writer.executescript(NOTE_ENTRIES)
        self.spent: defaultdict[Name, int] = defaultdict(int)
        self.held: defaultdict[Name, int] = defaultdict(int)
        for *name, spent, held in self.all(SUMS):
            self.spent[tuple(name)], self.held[tuple(name)] = spent, held
        self.seen = {name: {spent} for name, spent in self.spent.items()}
        self.set_of = dict(self.all("SELECT usage_id, set_id FROM journal WHERE entry = 0"))
        # After a power cut nobody knows what had left: all counts as sent that was open then.
        self.lost = {i for (i,) in self.all("SELECT id FROM holds WHERE state = 'held'")} if rebooted else set()
        self.last_alert, self.levels = 0, dict[tuple, int]()
        self.new_alerts()
        self.members: dict[int, list[Name]] = {}

    def all(self, sql: str, *parameters: object) -> list[tuple]:
        return self.books.execute(sql, parameters).fetchall()

    def accounts(self, set_id: int) -> list[Name]:
        if set_id not in self.members:
            self.members[set_id] = self.all(MEMBERS, set_id)
        return self.members[set_id]

    def audit(self) -> None:
        """After a commit."""
        self.commits += 1
        rows = self.writer.execute(
            "SELECT usage_id, entry, held, spent, set_id FROM temp.written ORDER BY n"
        ).fetchall()
        self.writer.execute("DELETE FROM temp.written")
        due: list[tuple[Name, int, int]] = []
        for usage_id, entry, held, spent, set_id in rows:
            for name in self.accounts(set_id):
                self.spent[name] += spent
                self.held[name] += held
                self.seen.setdefault(name, {0}).add(self.spent[name])
            if entry == 0:
                self.taken(usage_id, held, set_id)
            elif entry == 1:
                self.closed(usage_id, held, spent, set_id)
                due += self.due(set_id) if spent else []
            elif usage_id not in self.told.resolved:
                self.wrong.append(f"{usage_id} has entry {entry} that nobody asked for")
        self.groups({usage_id for usage_id, entry, *_ in rows if entry == 0})
        raised = self.new_alerts()
        self.wrong += [
            f"{name}: {spent} of {limit}, not all raised"
            for name, spent, limit in due
            if not self.all_raised(name, spent, limit)
        ]
        self.wrong += [f"alert of nothing: {alert}" for alert in raised if not self.is_reached(*alert)]
        self.sums()

    def sums(self) -> None:
        for *name, spent, held in self.all("SELECT scope, period, label, spent, held FROM accounts"):
            if (spent, held) != (self.spent[tuple(name)], self.held[tuple(name)]):
                self.wrong.append(
                    f"{name}: {spent}, {held}; its entries {self.spent[tuple(name)]}, {self.held[tuple(name)]}"
                )
        for *name, spent, held in self.all(SUMS):
            if (spent, held) != (self.spent[tuple(name)], self.held[tuple(name)]):
                self.wrong.append(
                    f"{name}: journal {spent}, {held}; noted {self.spent[tuple(name)]}, {self.held[tuple(name)]}"
                )
        ((cost, spent, amount, held, rolled, carried),) = self.all(TOTALS)
        if (cost, amount, rolled) != (spent, held, carried):
            self.wrong.append(
                f"usage {cost}, spent {spent}; open {amount}, held {held}; daily {rolled}, carried {carried}"
            )
        self.wrong += [f"{usage_id}: not one hold and one outcome" for (usage_id,) in self.all(ENTRIES)]

    # --- holds

    def groups(self, taken: set[str]) -> None:
        """Of a group all are taken in one commit."""
        groups = {self.told.asked[usage_id].group for usage_id in taken if usage_id in self.told.asked} - {None}
        for usage_id, asked in self.told.asked.items() if groups else ():
            if asked.group in groups and usage_id not in taken:
                self.wrong.append(f"{usage_id}: others of its group were taken without it")

    def taken(self, usage_id: str, amount: int, set_id: int) -> None:
        asked = self.told.asked.get(usage_id)
        if asked is None or usage_id in self.set_of:
            self.wrong.append(f"{usage_id}: held, but asked for {asked}, held before {usage_id in self.set_of}")
            return
        self.set_of[usage_id] = set_id
        if asked.amount != amount:
            self.wrong.append(f"{usage_id}: held {amount} of {asked.amount}")
        names = self.accounts(set_id)
        if asked.token is not None:
            used_by = asked.group or usage_id
            if self.used.setdefault(asked.token, used_by) != used_by:
                self.wrong.append(f"{usage_id}: a token that was used")
        marks = self.marks(usage_id)
        if not any(self.may(asked, names, marks, time) for time in self.told.times[asked.since :]):
            balances = {name: (self.spent[name], self.held[name]) for name in names}
            self.wrong.append(f"{usage_id}: {asked} with {marks} leaves {balances} at {self.told.times[asked.since :]}")

    def may(self, asked: Asked, names: list[Name], marks: set[str], time: Time) -> bool:
        """Whether a hold that was just taken may have been."""
        through = [name for name in names if name[1] == "override"]
        if sorted(n for n in names if n[1] != "override") != sorted(time.accounts(asked.who)):
            return False
        if asked.amount == 0:
            return True
        if not all(self.granted(name, asked) for name in through):
            return False
        for scope, period, label in names:
            name = (scope, period, label)
            hard, budget = time.limits(scope, period) if period != "override" else (None, None)
            spent, held = self.spent[name], self.held[name]
            if hard is not None and spent + held > hard:
                return False
            if budget is not None and spent + held > budget:
                unenforced = "unenforced" in marks and not time.enforced(scope)
                soft = "soft" in marks and asked.admission == "soft" and spent < budget
                override = "override" in marks and (asked.token or any(n[0] == scope for n in through))
                if not (unenforced or soft or override):
                    return False
        return True

    def granted(self, name: Name, asked: Asked) -> bool:
        user, amount, until = self.told.grants.get(name[2], ("", 0, 0))
        revoked = self.told.revoked.get(name[2], len(self.told.times)) < asked.since
        return (
            name[0] == f"user:{user}"
            and (
                asked.at_us < until or asked.admission == "queue"
            )  # a clock set back while it waited may be before its end
            and not revoked
            and self.spent[name] + self.held[name] <= amount
        )

    def marks(self, usage_id: str) -> set[str]:
        found = self.all(
            "SELECT marks FROM holds WHERE id = ?1 UNION ALL SELECT marks FROM usage WHERE id = ?1", usage_id
        )
        return set(",".join(marks for (marks,) in found).split(","))

    def closed(self, usage_id: str, released: int, spent: int, set_id: int) -> None:
        ((cost, held, text, status),) = self.all(ROW, usage_id)
        marks, told = set(text.split(",")), self.told
        later = usage_id in told.resolved  # in the same commit
        if set(self.accounts(set_id)) != set(self.accounts(self.set_of[usage_id])):
            self.wrong.append(f"{usage_id}: closed elsewhere than it was taken")
        if -released != held or (cost != spent and not later) or (spent > held) != ("overrun" in marks):
            self.wrong.append(f"{usage_id}: released {released} of {held}, spent {spent}, cost {cost}, marks {marks}")
        listed = self.all("SELECT state FROM holds WHERE id = ?", usage_id)
        lost = usage_id in told.sent or usage_id in self.lost
        expected = {
            "ok": told.settled.get(usage_id),
            "unknown": held if lost else None,
            "not_sent": None if lost else 0,
        }
        if expected[status] != spent or (listed != [("unknown",)]) != (status != "unknown" or later):
            self.wrong.append(f"{usage_id}: {status} at {spent}, expected {expected}, listed {listed}")
        if usage_id in told.lowered and "limit_lowered" not in marks:
            self.wrong.append(f"{usage_id}: a limit was lowered below it, but its row has {marks}")
        if "limit_lowered" in marks and usage_id not in told.lowered | told.maybe_lowered:
            self.wrong.append(f"{usage_id}: no limit was lowered below it, but its row has {marks}")

    # --- alerts

    def due(self, set_id: int) -> list[tuple[Name, int, int]]:
        """Accounts with what they have spent now and the limit, where nobody is changing it."""
        found = []
        for scope, period, label in self.accounts(set_id):
            limits = (
                {time.limit(scope, period) for time in self.told.times[self.told.quiet :]}
                if period != "override"
                else {None}
            )
            limit = limits.pop()
            if not limits and limit is not None:
                found.append(((scope, period, label), self.spent[scope, period, label], limit))
        return found

    def all_raised(self, name: Name, spent: int, limit: int) -> bool:
        highest = max((level for level in LEVELS if spent > 0 and spent * 100 >= level * limit), default=0)
        return self.levels.get((*name, limit), 0) >= highest

    def new_alerts(self) -> list[tuple]:
        sql = "SELECT id, scope, period, label, level, limit_nano, spent FROM alerts WHERE id > ? ORDER BY id"
        found = self.all(sql, self.last_alert)
        for alert_id, scope, period, label, level, limit, _ in found:
            before = self.levels.get((scope, period, label, limit), 0)
            # Each level that is crossed is said, one after the other: the one before it, at least, is there.
            if LEVELS.index(level) != (LEVELS.index(before) + 1 if before else 0):
                self.wrong.append(f"{scope} {period} {label}: {level} % of {limit} after {before} %")
            self.levels[scope, period, label, limit] = level
            self.last_alert = alert_id
        return [row[1:] for row in found]

    def is_reached(self, scope: str, period: str, label: str, level: int, limit: int, spent: int) -> bool:
        limits = {time.limit(scope, period) for time in self.told.times[self.told.quiet :]}
        return (
            limit in limits and spent > 0 and spent * 100 >= level * limit and spent in self.seen[scope, period, label]
        )


class Audited:
    """Stands in for the store's `_apply`: an auditor for each database, and a lock while its files are not to be copied.

    State: auditors by writer, and of which folder they are.
    """

    def __init__(self, apply, told: Told) -> None:
        self._apply = apply
        self.told = told
        self.lock = threading.Lock()
        self.auditors: dict[int, Auditor] = {}
        self.rebooted: set[str] = set()
        self.retired: set[str] = set()

    def __call__(self, connection: sqlite3.Connection, group: list) -> None:
        with self.lock:
            path = connection.execute("PRAGMA database_list").fetchone()[2]
            auditor = self.auditors.get(id(connection))
            if auditor is None or auditor.writer is not connection:
                auditor = Auditor(connection, path, self.told, rebooted=path in self.rebooted)
                self.auditors[id(connection)] = auditor
            self._apply(connection, group)
            if path not in self.retired:
                auditor.audit()

    def of(self, path: Path) -> Auditor | None:
        """The newest of a database; None if nothing was written since it was opened first."""
        found = [auditor for auditor in self.auditors.values() if auditor.path == str(path)]
        return found[-1] if found else None

    @property
    def wrong(self) -> list[str]:
        return [wrong for auditor in self.auditors.values() for wrong in auditor.wrong]

    def close(self) -> None:
        for auditor in self.auditors.values():
            auditor.books.close()
