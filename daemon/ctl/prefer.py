"""`prefer`: a user's default model, the user's model of each provider, and the list of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from daemon.ctl.command import Command, UsageError
from daemon.ctl.output import Column, count, put, result, say, table

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from daemon.ctl.command import Connect


def _parameters(parameters: Any) -> str:
    """Both layers on a line; an exclamation mark says that a call can't change it."""
    said = [f"{name}={value}" for name, value in parameters["defaults"].items()]
    return ", ".join([*said, *(f"{name}={value}!" for name, value in parameters["overrides"].items())])


COLUMNS = (
    Column("PROVIDER", "provider"),
    Column("MODEL", "model"),
    Column("DEFAULT", "is_default"),
    Column("USED", "use_count", count, right=True),
    Column("PARAMETERS", "parameters", _parameters),
)


def options(parser: ArgumentParser) -> None:
    """What is chosen, and for whom."""
    parser.add_argument(
        "model", metavar="MODEL", nargs="?", help="<provider>:<model>, an alias, or a name beside --provider"
    )
    parser.add_argument(
        "--provider", metavar="P", help="choose the model for calls to this provider; the default stays"
    )
    parser.add_argument("--conversation", metavar="C", help="choose the model for this conversation alone")
    parser.add_argument("--list", action="store_true", help="list what is chosen")
    parser.add_argument(
        "--remove", action="store_true", help="forget the model of the provider, or of the conversation"
    )
    parser.add_argument("--user", metavar="U", help="this user's choice instead of your own")


def run(arguments: Namespace, connect: Connect) -> int:
    """Chooses, forgets or lists."""
    method, asked = _asked(arguments)
    if arguments.user:
        asked["user"] = arguments.user
    with connect() as quorum:
        return result(arguments, quorum.call(method, **asked), _SHOWN[method])


def _asked(arguments: Namespace) -> tuple[str, dict[str, Any]]:
    """The method that the words mean, and its params. Raises UsageError."""
    model, provider, conversation = arguments.model, arguments.provider, arguments.conversation
    if provider and conversation:
        raise UsageError("a model is chosen for a provider or for a conversation; leave one of them out")
    if arguments.list:
        if model or provider or conversation or arguments.remove:
            raise UsageError("`prefer --list` lists everything; only --user may stand beside it")
        return "user_models.list", {}
    if arguments.remove:
        if model or not (provider or conversation):
            raise UsageError("`prefer --remove` needs --provider or --conversation, and no model")
        if conversation:
            return "conversations.set_default", {"conversation": conversation, "model": None}
        return "user_models.remove", {"provider": provider}
    if not model:
        raise UsageError("which model? `daemonctl models` lists them, `daemonctl prefer --list` what you chose")
    if conversation:
        return "conversations.set_default", {"conversation": conversation, "model": model}
    if provider:
        return "user_models.add", {"provider": provider, "model": model}
    return "user_models.set_default", {"model": model}


def _listed(answer: Any) -> None:
    table(COLUMNS, answer["models"], "nothing chosen: the daemon chooses; `daemonctl prefer MODEL` sets your default")


def _chosen(answer: Any) -> None:
    model = answer["model"]
    which = "the default" if model["is_default"] else f"the model for `{model['provider']}`"
    put(f"{model['provider']}:{model['model']} is {which}")
    _warn(answer)


def _for_conversation(answer: Any) -> None:
    put(f"conversation `{answer['conversation']}`: {answer['model'] or 'no default of its own'}")
    _warn(answer)


def _warn(answer: Any) -> None:
    for warning in answer["warnings"]:
        say(f"warning: {warning['message']}")


_SHOWN = {
    "user_models.list": _listed,
    "user_models.remove": lambda _: put("forgotten"),
    "user_models.add": _chosen,
    "user_models.set_default": _chosen,
    "conversations.set_default": _for_conversation,
}

PREFER = Command(
    run,
    options,
    ("prefer openai:gpt-4o-mini", "prefer --provider ollama llama3.2", "prefer --list"),
)
