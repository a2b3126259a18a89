"""`daemonctl spend`: for programs in a pipe, and for people on a terminal."""

from __future__ import annotations

import re

import pytest
from terminal import Terminal

from daemon.ctl.output import rounded
from daemon.ctl.spend import _bar

DOLLAR = 1_000_000_000


def scope(spent, most, *, held=0.0, projected=0.0, name="user:ana", period="month"):
    return {
        "scope": name,
        "period": period,
        "starts_at": "2026-01-01T00:00:00Z",
        "resets_at": "2026-02-01T00:00:00Z",
        "spent_nano_usd": round(spent * DOLLAR),
        "held_nano_usd": round(held * DOLLAR),
        "limit_nano_usd": None if most is None else round(most * DOLLAR),
        "projected_nano_usd": round(projected * DOLLAR),
    }


def on_a_terminal(daemon, *scopes, **env):
    daemon.table["spend"] = {"scopes": list(scopes)}
    terminal = Terminal("spend", **{"TZ": "UTC", "PYTHONIOENCODING": "utf-8", **env})
    assert terminal.end() == 0
    return terminal.shown


def without_colour(shown):
    return re.sub(r"\x1b\[[0-9;]*m", "", shown)


class TestInAPipe:
    def test_every_figure_is_exact_and_no_cell_is_empty_or_drawn(self, daemon, ctl):
        daemon.table["spend"] = {
            "scopes": [
                scope(30.5123456789, 30, held=0.25, projected=42, name="daemon"),
                scope(1, 4, projected=4),
                scope(2, None, projected=9),
            ]
        }
        lines = ctl("spend", PYTHONIOENCODING="utf-8").stdout
        assert lines.isascii()
        assert [line.split() for line in lines.splitlines()] == [
            ["SCOPE", "PERIOD", "SPENT", "HELD", "LIMIT", "LEFT", "USED", "PROJECTED", "OVER", "RESETS"],
            [
                "daemon",
                "month",
                "$30.512345679",
                "$0.25",
                "$30.00",
                "-$0.762345679",
                "101.7%",
                "$42.00",
                "yes",
                "2026-02-01T00:00:00Z",
            ],
            ["user:ana", "month", "$1.00", "$0.00", "$4.00", "$3.00", "25.0%", "$4.00", "no", "2026-02-01T00:00:00Z"],
            ["user:ana", "month", "$2.00", "$0.00", "none", "-", "-", "$9.00", "-", "2026-02-01T00:00:00Z"],
        ]

    @pytest.mark.parametrize(
        ("spent", "most", "used"), [(0, 0, "100.0%"), (0, 1, "0.0%"), (0.9995, 1, "100.0%"), (0.99949, 1, "99.9%")]
    )
    def test_the_per_cent_are_those_of_the_daemon(self, daemon, ctl, spent, most, used):
        daemon.table["spend"] = {"scopes": [scope(spent, most)]}
        assert used in ctl("spend").stdout


class TestOnATerminal:
    def test_a_bar_shows_what_is_spent_and_held(self, daemon):
        shown = without_colour(on_a_terminal(daemon, scope(15, 30, held=7.5), COLUMNS="100"))
        assert re.search(r"50\.0%  █{10}▒{5}░{5}  ", shown)
        assert "Feb 1" in shown

    def test_it_is_ascii_where_blocks_cannot_be_shown(self, daemon):
        shown = on_a_terminal(daemon, scope(15, 30, held=7.5), COLUMNS="100", PYTHONIOENCODING="ascii")
        assert "##########+++++....." in shown
        assert shown.isascii()

    @pytest.mark.parametrize(("width", "bar"), [(80, True), (60, False)])
    def test_it_takes_the_room_there_is_and_breaks_no_figure(self, daemon, width, bar):
        scopes = scope(12.3456789, 30, held=0.1, projected=18.2), scope(12.3456789, None, projected=18.2)
        shown = without_colour(on_a_terminal(daemon, *scopes, COLUMNS=str(width)))
        lines = shown.splitlines()
        assert max(map(len, lines)) <= width
        assert ("█" in shown) == bar
        assert not bar or [line.split()[2] for line in lines] == ["SPENT", "$12.35", "$12.35"]

    def test_usual_figures_and_a_bar_stand_side_by_side_on_80_columns(self, daemon):
        scopes = (
            scope(163.423817293, 200, held=1.25, projected=231.77, name="daemon"),
            scope(47.1, 50, held=0.4, projected=66, name="provider:openai"),
            scope(0.0000024, None, projected=0.0000081, name="user:ana/bob"),
        )
        head, *lines, _ = without_colour(on_a_terminal(daemon, *scopes, COLUMNS="80")).splitlines()
        assert len(lines) == 3
        assert re.search(r"LIMIT +LEFT +USED +BY END +RESETS", head)
        assert re.search(r"81\.7% ████░ \$231\.77 ! Feb 1", lines[0])
        assert "<$0.001" in lines[2]

    def test_without_a_limit_there_is_no_bar(self, daemon):
        shown = on_a_terminal(daemon, scope(1, None), COLUMNS="120")
        assert not set("█▒░") & set(shown)

    def test_a_bar_stands_there_before_anything_is_spent(self, daemon):
        assert "░" * 20 in on_a_terminal(daemon, scope(0, 5), COLUMNS="120")

    @pytest.mark.parametrize(("spent", "colour"), [(74.99, None), (75, "33"), (89.99, "33"), (90, "31"), (120, "31")])
    def test_colour_tells_the_level(self, daemon, spent, colour):
        shown = on_a_terminal(daemon, scope(spent, 100))
        assert set(re.findall(r"\x1b\[(3\d)m", shown)) == ({colour} if colour else set())

    @pytest.mark.parametrize("env", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
    def test_no_colour_where_it_is_not_wanted(self, daemon, env):
        shown = on_a_terminal(daemon, scope(95, 100, projected=120), **env)
        assert not re.search(r"\x1b\[(2|3\d)m", shown)
        assert "█" in shown

    def test_a_projection_above_the_limit_is_marked_and_the_mark_explained(self, daemon):
        shown = without_colour(on_a_terminal(daemon, scope(5, 10, projected=12), scope(5, 10, projected=10)))
        assert re.search(r"\$12\.00 +! +Feb 1", shown)
        assert shown.count("!") == 2
        assert "! above the limit by the end of the period" in shown
        assert "!" not in on_a_terminal(daemon, scope(5, 10, projected=10))

    def test_a_period_that_ends_within_a_day_says_when(self, daemon):
        assert "Jan 31 19:00" in on_a_terminal(daemon, scope(1, 2), TZ="EST5", COLUMNS="120")


@pytest.mark.parametrize(
    ("spent", "held", "bar"),
    [
        *((0, 0, "░░░░"), (0.001, 0, "█░░░"), (0.001, 0.001, "█▒░░"), (9.99, 0, "███░"), (10, 0, "████")),
        *((9.99, 0.01, "███▒"), (12, 5, "████"), (0, 20, "▒▒▒▒"), (8, 0.1, "███░"), (5, 5, "██▒▒")),
    ],
)
def test_a_bar_is_full_only_at_the_limit_and_never_hides_a_beginning(spent, held, bar):
    assert _bar({**scope(spent, 10, held=held), "limited": True}, 4) == bar


def test_a_bar_of_no_money_is_full():
    assert _bar({**scope(0, 0), "limited": True}, 4) == "████"


@pytest.mark.parametrize(
    ("nano", "text"),
    [
        *((0, "$0.00"), (1, "<$0.001"), (-1, "-<$0.001"), (1_499_999, "$0.001"), (12_345_678, "$0.012")),
        *((99_600_000, "$0.10"), (12_345_678_900, "$12.35"), (-762_345_679, "-$0.76"), (1_999_999_999, "$2.00")),
    ],
)
def test_amounts_at_a_glance(nano, text):
    assert rounded(nano) == text
