"""Users and what they chose: models, parameters, models of conversations. The only writer of these and of their audit rows."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from actors.base import Actor, Ref, Wait, handles
from actors.clock import Clock, rfc3339
from actors.store.audit import audit_row
from actors.store.queries import load
from actors.store.sqlite import Row, Store
from protocols.audit import Actor as Who
from protocols.errors import NotFound, QuorumError
from protocols.users import (
    MAX_CONVERSATIONS,
    NO_LAYERS,
    Choices,
    ChoicesChanged,
    ChoicesOf,
    ChooseForConversation,
    ChooseModel,
    ForgetModel,
    Layers,
    ListUsers,
    ModelsOf,
    Parameters,
    Used,
    UserModel,
    UserRow,
    WatchChoices,
)

SQL = load("users", first=500)

COUNT_EVERY_S = 30.0
"""Seconds between writes of how often models were used."""


class Users(Actor):
    """Reads and changes what users chose; it keeps none of it in memory, sessions do.

    State: answers by user and model that are not written yet; who is told of changes, in `watchers`, which outlives a crash; the
    change under way.
    """

    def __init__(self, store: Store, clock: Clock, watchers: dict[Ref[Any], None]) -> None:
        super().__init__()
        self._store = store
        self._clock = clock
        self._watchers = watchers
        self._used: dict[tuple[str, str], int] = {}
        self._changing = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<Users {sum(self._used.values())} uses to write>"

    async def opening(self) -> None:
        """Begins to write counts."""
        self.spawn(self._count())

    async def closing(self) -> None:
        """Writes the counts that are left."""
        await self._write_counts()

    @handles(WatchChoices)
    def watch(self, request: WatchChoices) -> None:
        """Tells this ref of changes from now on."""
        self._watchers[request.watcher] = None

    @handles(ChoicesOf)
    def choices_of(self, request: ChoicesOf) -> Wait[Choices]:
        """What a user chose, in one read."""
        return Wait(self._choices(request.user))

    async def _choices(self, user: str) -> Choices:
        default, parameters, conversations = None, {}, {}
        for conversation, provider, model, is_default, *layers in await self._store.read(SQL["preferences"], (user,)):
            if conversation is not None:
                conversations[conversation] = model
                continue
            name = f"{provider}:{model}"
            parameters[name] = _layers(*layers)
            default = name if is_default else default
        return Choices(default, tuple(parameters), parameters, conversations)

    @handles(ModelsOf)
    def models_of(self, request: ModelsOf) -> Wait[list[UserModel]]:
        """A user's models, answers that are not written yet counted in."""
        return Wait(self._models(request.user))

    async def _models(self, user: str) -> list[UserModel]:
        rows = await self._store.read(SQL["user_models"], (user,))
        models = [_user_model(row) for row in rows]
        return [
            replace(m, use_count=m.use_count + self._used.get((user, f"{m.provider}:{m.model}"), 0)) for m in models
        ]

    @handles(ListUsers)
    def list_all(self, request: ListUsers) -> Wait[list[UserRow]]:
        """Those who chose anything, a page of them."""
        return Wait(self._rows(request))

    async def _rows(self, request: ListUsers) -> list[UserRow]:
        found = await self._store.read(SQL["users"], (request.first, request.after))
        return [UserRow(name, rfc3339(at), *more) for name, at, *more in found]

    @handles(ChooseModel)
    def choose(self, request: ChooseModel) -> Wait[UserModel]:
        """Stores the choice and an audit row in one transaction; the next call goes by it."""
        return Wait(self._choose(request))

    async def _choose(self, request: ChooseModel) -> UserModel:
        async with self._changing:
            before = await self._model(request.user, request.provider)
            made = self._made(request, before)
            now, kept = self._clock.now_us(), made.parameters
            rows: list[Row] = [(SQL["add_user"], (request.user, now))]
            if request.as_default:
                rows.append((SQL["no_default"], (request.user,)))
            columns = (made.provider, made.model, made.is_default, 0)
            said = tuple(_text(part) for part in (kept.defaults, kept.overrides, made.metadata))
            rows.append((SQL["put_model"], (request.user, *columns, *said, now, now)))
            action = "user_models.set_default" if request.as_default else "user_models.add"
            subject = f"{request.user}: {request.provider}"
            left = before if before is not None and before.model != made.model else None
            told, after = _told(before), _told(made)
            await self._store_change(request.user, rows, request.actor, action, subject, told, after, left=left)
            stored = await self._model(request.user, request.provider)
        assert stored is not None
        return stored

    def _made(self, request: ChooseModel, before: UserModel | None) -> UserModel:
        model = request.model or (before and before.model)
        if not model:
            raise NotFound(
                f"{request.user} has no model at `{request.provider}` yet; name one: daemonctl prefer {request.provider}:<model>"
            )
        same = before if before is not None and before.model == model else None
        now = rfc3339(self._clock.now_us())
        return UserModel(
            provider=request.provider,
            model=model,
            is_default=request.as_default or (before is not None and before.is_default),
            parameters=request.parameters or (same.parameters if same else NO_LAYERS),
            metadata=(same.metadata if same else {}) if request.metadata is None else request.metadata,
            use_count=0,
            created_at=now,
            updated_at=now,
        )

    async def _model(self, user: str, provider: str) -> UserModel | None:
        return next((m for m in await self._models(user) if m.provider == provider), None)

    @handles(ForgetModel)
    def forget(self, request: ForgetModel) -> Wait[None]:
        """Removes a model of a user, audited."""
        return Wait(self._forget(request))

    async def _forget(self, request: ForgetModel) -> None:
        async with self._changing:
            before = await self._model(request.user, request.provider)
            if before is None:
                raise NotFound(
                    f"{request.user} has no model at `{request.provider}`; `daemonctl prefer --list` lists what there is"
                )
            rows: list[Row] = [
                (SQL["remove_model"], (request.user, request.provider)),
                (SQL["remove_user"], (request.user,)),
            ]
            subject = f"{request.user}: {request.provider}"
            await self._store_change(
                request.user, rows, request.actor, "user_models.remove", subject, _told(before), None, left=before
            )

    @handles(ChooseForConversation)
    def choose_for_conversation(self, request: ChooseForConversation) -> Wait[None]:
        """Sets or forgets a conversation's model, audited."""
        return Wait(self._choose_for_conversation(request))

    async def _choose_for_conversation(self, request: ChooseForConversation) -> None:
        user, conversation, model = request.user, request.conversation, request.model
        async with self._changing:
            found = await self._store.read(SQL["conversation"], (user, conversation))
            before = _text(found[0][0]) if found else None
            rows: list[Row] = [
                (SQL["remove_conversation"], (user, conversation)),
                (SQL["remove_user"], (user,)),
            ]
            if model is not None:
                now = self._clock.now_us()
                rows = [
                    (SQL["add_user"], (user, now)),
                    (SQL["put_conversation"], (user, conversation, model, now)),
                    (SQL["forget_conversations"], (user, MAX_CONVERSATIONS)),
                ]
            after = None if model is None else _text(model)
            subject = f"{user}: {conversation}"
            await self._store_change(user, rows, request.actor, "conversations.set_default", subject, before, after)

    async def _store_change(
        self,
        user: str,
        rows: list[Row],
        who: Who,
        action: str,
        subject: str,
        before: str | None,
        after: str | None,
        *,
        left: UserModel | None = None,
    ) -> None:
        """Called with `_changing` held, which a cancelled asker gives back only after the commit: changes never share one.

        `left` is a model that is the user's no more.
        """
        audit = audit_row(who, self._clock.now_us(), action, subject, before=before, after=after)
        await self._store.submit(*rows, audit, then=partial(self._changed, user, left))

    def _changed(self, user: str, left: UserModel | None) -> None:
        if left is not None:  # if it is ever chosen again, it counts from then on
            self._used.pop((user, f"{left.provider}:{left.model}"), None)
        for watcher in self._watchers:
            watcher.tell(ChoicesChanged(user))

    @handles(Used)
    def used(self, request: Used) -> None:
        """Counts an answer; the count is written later, with others."""
        key = (request.user, request.model)
        self._used[key] = self._used.get(key, 0) + 1

    async def _count(self) -> None:
        while True:
            await self._clock.sleep(COUNT_EVERY_S)
            await self._write_counts()

    async def _write_counts(self) -> None:
        """One transaction for all that were used since the last; on a full disk they wait for the next."""
        used, self._used = self._used, {}
        if not used:
            return
        try:
            await self._store.submit(
                *((SQL["count_uses"], (n, user, *model.split(":", 1))) for (user, model), n in used.items())
            )
        except QuorumError:
            for key, n in used.items():
                self._used[key] = self._used.get(key, 0) + n


class _Told(Struct, omit_defaults=True):
    """A model as the audit tells it."""

    model: str
    is_default: bool
    parameters: Layers
    metadata: dict[str, Any]


def _told(made: UserModel | None) -> str | None:
    return None if made is None else _text(_Told(made.model, made.is_default, made.parameters, made.metadata))


def _user_model(row: Any) -> UserModel:
    provider, model, is_default, use_count, defaults, overrides, metadata, created_at, updated_at = row
    return UserModel(
        provider=provider,
        model=model,
        is_default=bool(is_default),
        parameters=_layers(defaults, overrides),
        metadata=msgspec.json.decode(metadata),
        use_count=use_count,
        created_at=rfc3339(created_at),
        updated_at=rfc3339(updated_at),
    )


def _layers(defaults: str, overrides: str) -> Layers:
    if defaults == overrides == "{}":
        return NO_LAYERS
    return Layers(defaults=_decode(defaults), overrides=_decode(overrides))


_decode = msgspec.json.Decoder(Parameters).decode


def _text(value: Any) -> str:
    return msgspec.json.encode(value).decode()
