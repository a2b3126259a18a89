"""Who is there, and what they may do."""

from __future__ import annotations

import grp
import os
import pwd
import socket

import pytest

from daemon.config import RightsSection
from daemon.methods import METHODS
from daemon.peer import ALL, Peer, account_of, peer_of, rights_of
from protocols.errors import BadRequest, Forbidden

SECTION = RightsSection(admin_uids=(0, 7), use_group="callers", operate_group="runners")
ROLES = {"none": frozenset(), "use": frozenset(ALL[:2]), "operate": frozenset(ALL[:3]), "admin": frozenset(ALL)}
NEEDED = {
    "observe": ("ping", "status", "models", "providers", "sessions", "events"),
    "use": (
        *(
            "chat",
            "explain",
            "estimate",
            "recommend",
            "spend",
            "usage",
            "usage_stats",
            "performance",
            "feedback",
            "alerts",
        ),
        *("tournament", "tournaments", "tournament.show", "tournament.replay", "reviews", "reviews.resolve"),
        *("settings.show", "settings.get", "settings.set", "settings.unset"),
        *("overrides.grant", "overrides.list", "overrides.revoke"),
        *("user_models.set_default", "user_models.add", "user_models.remove", "user_models.get_default"),
        *("user_models.list", "user_models.resolved", "conversations.set_default", "sessions.open", "sessions.close"),
    ),
    "operate": ("users", "holds", "ledger.verify", "audit"),
    "admin": ("holds.resolve",),
}
"""The interface's table."""
OWN_UID = 5


def peer(role: str, account: str = "ana") -> Peer:
    return Peer(pid=1, uid=1000, account=account, rights=ROLES[role])


@pytest.mark.parametrize(
    ("uid", "groups", "role"),
    [
        (0, (), "admin"),
        (OWN_UID, (), "admin"),
        (7, (), "admin"),
        (7, ("callers",), "admin"),
        (1000, ("runners",), "operate"),
        (1000, ("callers", "runners"), "operate"),
        (1000, ("callers",), "use"),
        (1000, ("callers-too", "wheel"), "none"),
        (1000, (), "none"),
    ],
)
def test_rights_come_from_the_uid_then_from_the_groups(uid, groups, role):
    assert rights_of(uid, frozenset(groups), SECTION, OWN_UID) == ROLES[role]


def test_root_and_the_own_account_are_admins_whatever_the_config_says():
    section = RightsSection(admin_uids=())
    assert (
        rights_of(0, frozenset(), section, OWN_UID)
        == rights_of(OWN_UID, frozenset(), section, OWN_UID)
        == ROLES["admin"]
    )


class TestMatrix:
    def test_every_method_needs_the_right_of_the_interface(self):
        declared = {name: method.params.right for name, method in METHODS.items()}
        table = {name: right for right, names in NEEDED.items() for name in names}
        assert {name: table.get(name) for name in declared} == declared

    @pytest.mark.parametrize("name", METHODS)
    @pytest.mark.parametrize("role", ROLES)
    def test_a_role_may_what_its_rights_say(self, name, role):
        right = METHODS[name].params.right
        may = (
            role
            in {
                "observe": ("use", "operate", "admin"),
                "use": ("use", "operate", "admin"),
                "operate": ("operate", "admin"),
                "admin": ("admin",),
            }[right]
        )
        if may:
            peer(role).needs(right, name)
        else:
            with pytest.raises(Forbidden) as refused:
                peer(role).needs(right, f"`{name}`")
            assert all(said in refused.value.message for said in (f"`{name}`", f"`{right}`", "ana (uid 1000)"))


class TestUser:
    @pytest.mark.parametrize(
        ("role", "named", "user"),
        [
            ("use", None, "ana"),
            ("use", "bob", "ana/bob"),
            ("use", "bob@example.org", "ana/bob@example.org"),
            ("use", "Bób 2", "ana/Bób 2"),
            ("use", "x" * 128, "ana/" + "x" * 128),
            ("operate", "bob", "ana/bob"),
            ("operate", "@cem", "cem"),
            ("operate", "@cem/bob", "cem/bob"),
            ("admin", "@cem", "cem"),
        ],
    )
    def test_a_name_is_below_the_own_account_and_absolute_with_operate(self, role, named, user):
        assert peer(role).user(named) == user

    @pytest.mark.parametrize("named", ["@cem", "@cem/bob", "@ana", "@", "@*"])
    def test_an_absolute_name_needs_operate(self, named):
        with pytest.raises(Forbidden, match="operate"):
            peer("use").user(named)

    @pytest.mark.parametrize(
        "named",
        ["", "a/b", "/b", "*", "*x", "a\nb", "a\0", "a\x1b[2J", "a\x7f", "a\u0085", "a\u202eb", "\ud800", "x" * 129, "../ana", "@", "@/", "@cem/", "@/bob", "@cem/bob/eve", "@*", "@cem\n", "@@cem", "@" + "x" * 129],
    )  # fmt: skip
    def test_what_is_no_name_is_a_bad_request(self, named):
        with pytest.raises(BadRequest):
            peer("admin").user(named)


class TestKernel:
    def test_the_peer_of_a_socket_is_this_process(self):
        ours, theirs = socket.socketpair(socket.AF_UNIX)
        with ours, theirs:
            found = peer_of(ours, SECTION)
        assert (found.pid, found.uid, found.account) == (os.getpid(), os.getuid(), pwd.getpwuid(os.getuid()).pw_name)
        assert found.rights == ROLES["admin"]

    def test_an_account_without_a_name_is_called_by_its_uid(self):
        unused = next(uid for uid in range(60_000, 61_000) if not any(entry.pw_uid == uid for entry in pwd.getpwall()))
        assert account_of(unused) == f"uid-{unused}"

    def test_groups_that_the_config_names_need_not_exist(self):
        assert not {group.gr_name for group in grp.getgrall()} & {"callers", "runners"}
        assert rights_of(1000, frozenset(), SECTION, OWN_UID) == frozenset()
