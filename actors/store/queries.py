"""Named SQL: the statements of a `.sql` file by their `-- name:` lines."""

from __future__ import annotations

from importlib.resources import files


class Statement(str):
    """SQL with its place in a transaction: statements of a grouped commit run in the order in which their files list them.

    `adds` marks one whose parameters are a key and deltas: those of one commit with the same key are summed first.
    """

    __slots__ = ("adds", "order")

    order: int
    adds: bool


def load(name: str, *, adds: frozenset[str] = frozenset(), first: int = 0) -> dict[str, Statement]:
    """The statements of `sql/<name>.sql`; `first` is the order of the first one."""
    text = files("actors.store").joinpath("sql", f"{name}.sql").read_text("utf-8")
    statements = {}
    for order, block in enumerate(text.split("-- name: ")[1:], first):
        title, _, sql = block.partition("\n")
        statement = Statement(sql.strip())
        statement.order, statement.adds = order, title in adds
        statements[title.strip()] = statement
    return statements


def migrations() -> list[str]:
    """The numbered migrations in order; the n-th takes a database from version n-1 to n."""
    found = sorted(p.name for p in files("actors.store").joinpath("sql").iterdir() if p.name[:4].isdigit())
    return [files("actors.store").joinpath("sql", name).read_text("utf-8") for name in found]
