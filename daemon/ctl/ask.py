"""`ask`: `tournament` in three letters."""

from __future__ import annotations

from daemon.ctl.tournament import TOURNAMENT

ASK = TOURNAMENT
