"""Tournaments that end in the middle: whatever ends them, members are cut off, holds close, books balance, and the record says so."""

import time
from collections.abc import Callable, Iterator

import pytest
import running_daemon
import several
import simulated_provider
from running_daemon import Daemon, JsonLines, eventually, priced, provider
from several import BOUND, CHUNKS, COST, LONGER, LONGEST, SHORT, SILENT, SLOW, TOKEN_NANO, WITHIN_S, YES, asked, balanced
from simulated_provider import Provider
from test_killed_at_each_stage import no_commit
