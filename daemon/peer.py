"""Who is at the other end, and what they may do. Decided once a connection, from what the kernel says."""

from __future__ import annotations

import grp
import os
import pwd
import re
import socket
import struct

from msgspec import Struct

from daemon.config import RightsSection
from protocols.errors import BadRequest, Forbidden
from protocols.rpc import Right

ALL: tuple[Right, ...] = ("observe", "use", "operate", "admin")
_NAME = re.compile(r"[^/@*][^/]{0,127}\Z")

_CREDENTIALS = struct.Struct("3i")


class Peer(Struct, frozen=True):
    """The process at the other end: its account, what it may do."""

    pid: int
    uid: int
    account: str
    rights: frozenset[Right]

    def needs(self, right: Right, what: str) -> None:
        """Raises Forbidden without this right."""
        if right not in self.rights:
            raise Forbidden(
                f"{what} needs the right `{right}`, and {self.account} (uid {self.uid}) has {_listed(self.rights)}"
            )

    def user(self, named: str | None) -> str:
        """The user that a call means: the account, a name below it, or with `operate` an absolute `@name`.

        Raises BadRequest, Forbidden.
        """
        if named is None:
            return self.account
        if named.startswith("@"):
            self.needs("operate", f"acting as `{named}`")
            parts = named[1:].split("/")
            if len(parts) > 2 or not all(map(_is_name, parts)):  # noqa: PLR2004  account and name
                raise BadRequest(f"`{named}` is no user; write @account or @account/name")
            return named[1:]
        if not _is_name(named):
            raise BadRequest(
                "`user` is a name of at most 128 printable characters without a slash; with `operate` also @account/name"
            )
        return f"{self.account}/{named}"


def peer_of(connection: socket.socket, section: RightsSection) -> Peer:
    """The peer of a Unix socket. Raises Forbidden for who may not connect."""
    pid, uid, gid = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    account = account_of(uid)
    rights = rights_of(uid, _groups(account, gid), section, own_uid=os.getuid())
    if not rights:
        raise Forbidden(
            f"{account} (uid {uid}) may not use this daemon; an administrator can add it to the group `{section.use_group}`"
        )
    return Peer(pid, uid, account, rights)


def rights_of(uid: int, groups: frozenset[str], section: RightsSection, own_uid: int) -> frozenset[Right]:
    """Who may what: root, the daemon's own account and `admin_uids` everything; the groups what they are named for."""
    if uid in {0, own_uid, *section.admin_uids}:
        return frozenset(ALL)
    if section.operate_group in groups:
        return frozenset(ALL[:3])
    return frozenset(ALL[:2]) if section.use_group in groups else frozenset()


def account_of(uid: int) -> str:
    """The account's name, or `uid-N` for one without."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid-{uid}"


def _is_name(text: str) -> bool:
    """Anything printable up to 128 characters without a slash; `@` and `*` at its start mean something else."""
    return _NAME.match(text) is not None and text.isprintable()


def _groups(account: str, gid: int) -> frozenset[str]:
    try:
        ids = {gid, *os.getgrouplist(account, gid)}
    except (KeyError, OSError):
        ids = {gid}
    names = set()
    for one in ids:
        try:
            names.add(grp.getgrgid(one).gr_name)
        except KeyError:
            continue
    return frozenset(names)


def _listed(rights: frozenset[Right]) -> str:
    return ", ".join(right for right in ALL if right in rights) or "none"
