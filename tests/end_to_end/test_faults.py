"""What a client hears when something is wrong: the code of the interface, a sentence that says what to do, and never a secret."""

import grp
import json
import pwd
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import running_daemon
import simulated_provider
from running_daemon import Daemon, eventually, priced, provider
from simulated_provider import Provider, model

KEY = "canary key 7f3a9c"
"""No vendor's keys look like this, so no pattern of theirs hides it."""
LONG_KEY = "sk-canary-0123456789abcdefghijklmnopqrstuvwxyz"
PROMPT = "the canary prompt sings at dawn"
ANSWER = "the canary answer sleeps at dusk"
KINDS = ("openai", "anthropic", "ollama")
PRICED = [
    "sim",
    *(model(**knobs) for knobs in ({"fail": 503}, {"garbage": True}, {"break_at": 2, "chunks": 5, "pace_ms": 1})),
]


@pytest.fixture(scope="module")
def upstream() -> Iterator[Provider]:
    with simulated_provider.running(key=LONG_KEY) as running:
        yield running


def config(upstream: Provider, limits: str = "") -> str:
    key = '{ env = "THE_KEY" }'
    sections = [
        limits,
        *(provider(kind, kind, upstream.base_url(kind), local=False, api_key=key) for kind in KINDS),
        provider("wrong", "openai", upstream.base_url(), api_key='{ env = "THE_WRONG_KEY" }'),
        provider("lost", "openai", upstream.base_url(), api_key='{ env = "NO_SUCH_VARIABLE" }'),
        provider("down", "openai", "http://127.0.0.1:9/v1"),
        priced(*[f"{kind}:{name}" for kind in KINDS for name in PRICED], "down:m", "wrong:sim", "lost:sim"),
        priced("openai:old", retired=True, successor="openai:sim"),
        '[aliases]\nquick = "openai:sim"\nclaude = "anthropic"\n',
    ]
    return "\n".join(sections)


ENVIRONMENT = {"THE_KEY": LONG_KEY, "THE_WRONG_KEY": KEY}


@pytest.fixture(scope="module")
def one_daemon(upstream: Provider) -> Iterator[Daemon]:
    with running_daemon.running(config(upstream), environment=ENVIRONMENT) as running:
        yield running


@pytest.fixture
def daemon(one_daemon: Daemon, upstream: Provider) -> Daemon:
    upstream.reset()
    states = {row["name"]: row["state"] for row in one_daemon.call("providers")["providers"]}
    if {states[kind] for kind in KINDS} & {"open", "rate_limited", "degraded"}:
        one_daemon.restart()
    return one_daemon


def fault_of(daemon: Daemon, method: str = "chat", **params: object) -> dict:
    """The fault of a call; what every fault must be like is asserted here."""
    if method == "chat":
        params = {"messages": [{"role": "user", "content": PROMPT}]} | params
    with daemon.json_lines() as lines:
        lines.send({"t": "call", "id": 7, "method": method, "params": params})
        *_, fault = lines.until_end_of(7)
    assert fault["t"] == "fault", fault
    said = json.dumps(fault)
    assert KEY not in said
    assert LONG_KEY not in said
    assert "Traceback" not in said
    assert ".py" not in said
    assert fault["message"][-1] not in ":;, "
    return fault


ROUTES = {
    "a model that the provider lacks": ({"model": "openai:simm"}, "unknown_model", ["simm", "`openai`", "`sim`"]),
    "a model without its provider": ({"model": "sim"}, "unknown_model", ["<provider>:<model>", "openai:sim"]),
    "a model that is retired": ({"model": "openai:old"}, "unknown_model", ["retired", "openai:sim"]),
    "an unknown provider": ({"model": "opena:sim"}, "unknown_provider", ["opena", "`openai`"]),
    "an unknown provider by itself": ({"provider": "nowhere"}, "unknown_provider", ["nowhere", "openai"]),
    "two providers": ({"model": "openai:sim", "provider": "anthropic"}, "bad_request", ["openai", "anthropic"]),
    "a provider that is down": ({"model": "down:m"}, "provider_unavailable", ["`down`"]),
    "a key that is refused": ({"model": "wrong:sim"}, "misconfigured", ["key"]),
    "a key that is missing": ({"model": "lost:sim"}, "misconfigured", ["NO_SUCH_VARIABLE"]),
}


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("what", ROUTES)
def test_a_wrong_choice_is_named_and_so_is_the_way_out(what, stream, daemon):
    params, code, words = ROUTES[what]
    eventually(
        lambda: any(row["id"] == "openai:sim" and row["source"] for row in daemon.call("models")["models"]), "models"
    )
    eventually(
        lambda: next(r for r in daemon.call("providers")["providers"] if r["name"] == "openai")["models"],
        "it was probed",
    )
    fault = fault_of(daemon, **params, stream=stream)
    assert fault["code"] == code, fault
    assert [word for word in words if word not in fault["message"]] == [], fault["message"]
    daemon.balanced()


UPSTREAM = {
    "fails": ({"fail": 500}, "provider_error"),
    "is overloaded": ({"fail": 503}, "provider_error"),
    "sends what is not JSON": ({"garbage": True}, "provider_error"),
    "hangs up": ({"close_before_head": True}, "provider_error"),
    "limits the rate": ({"fail": 429, "retry_after_s": 7}, "rate_limited"),
    "has no credit left": ({"fail": 429, "fail_reason": "quota"}, None),
    "finds the prompt too long": ({"context_tokens": 1}, "context_too_long"),
    "refuses the content": ({"refuse": True}, "refused"),
    "finds the request invalid": (
        {"fail": 400, "fail_reason": "invalid", "fail_message": "no such parameter"},
        "bad_request",
    ),
    "refuses the key": ({"fail": 401}, "misconfigured"),
    "forbids": ({"fail": 403}, "misconfigured"),
}


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("what", UPSTREAM)
@pytest.mark.parametrize("kind", KINDS)
def test_a_provider_that_answers_with_an_error_is_told_by_its_code(kind, what, stream, daemon, upstream):
    knobs, code = UPSTREAM[what]
    fault = fault_of(daemon, model=f"{kind}:{model(**knobs)}", stream=stream)
    if code is None:
        assert fault["code"] in {"provider_error", "rate_limited"}
    else:
        assert fault["code"] == code, fault
    if what == "limits the rate":
        assert fault["retry_after_s"] == 7
        again = fault_of(daemon, model=f"{kind}:sim")
        assert again["code"] == "rate_limited"
        assert 5 < again["retry_after_s"] <= 7
    assert fault["detail"]["provider"] == kind
    assert len(upstream.chats()) == 1  # asked once, and no other provider in its place
    row = daemon.rows()[0]
    assert row["status"] == fault["code"]
    daemon.balanced()
    if fault["code"] in {"misconfigured", "rate_limited"}:
        daemon.restart()


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_that_breaks_off_is_truncated_and_says_what_arrived(kind, daemon):
    fault = fault_of(daemon, model=f"{kind}:{PRICED[-1]}", stream=True)
    row = daemon.rows()[0]
    assert fault["code"] == row["status"] == "truncated"
    assert fault["detail"]["usage_id"] == row["usage_id"]
    assert fault["detail"]["partial"].startswith("This is")
    assert row["cost_nano_usd"] > 0


BAD = {
    "no messages": ({"messages": []}, "messages"),
    "messages of the wrong type": ({"messages": "hi"}, "$.messages"),
    "an unknown role": ({"messages": [{"role": "boss", "content": "x"}]}, "$.messages[0].role"),
    "an unknown field of a message": ({"messages": [{"role": "user", "content": "x", "colour": 1}]}, "colour"),
    "an unknown field": ({"temprature": 1}, "temprature"),
    "a field of the wrong type": ({"temperature": "hot"}, "$.temperature"),
    "a temperature out of range": ({"temperature": 9}, "temperature"),
    "a top_p out of range": ({"top_p": 0}, "top_p"),
    "no answer at all": ({"max_tokens": 0}, "max_tokens"),
    "an answer below none": ({"max_tokens": -5}, "max_tokens"),
    "a wrong format": ({"response_format": {"type": "xml"}}, "$.response_format"),
    "a wrong tool": ({"tools": [{"type": "function"}]}, "$.tools[0]"),
    "a user with a slash": ({"user": "a/b"}, "user"),
    "an empty user": ({"user": ""}, "user"),
    "an answer above every number": ({"max_tokens": 10**30}, "max_tokens"),
    "an answer of more than any model has": ({"max_tokens": 2**62}, "max_tokens"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_wrong_field_is_named_and_the_connection_goes_on(what, daemon, upstream):
    params, named = BAD[what]
    asked = {"messages": [{"role": "user", "content": "hi"}], "model": "openai:sim"} | params
    with daemon.json_lines() as lines:
        lines.send({"t": "call", "id": 1, "method": "chat", "params": asked}, {"t": "call", "id": 2, "method": "ping"})
        heard = {message["id"]: message for message in (lines.hear(), lines.hear())}
    assert (heard[1]["t"], heard[1].get("code")) == ("fault", "bad_request"), heard[1]
    assert named in heard[1]["message"]
    assert heard[2]["t"] == "done"
    assert upstream.chats() == []
    daemon.balanced()


def test_an_unknown_method_is_told_the_nearest(daemon):
    fault = fault_of(daemon, "chta")
    assert (fault["code"], "`chat`" in fault["message"]) == ("unknown_method", True)
    assert "ping" in fault_of(daemon, "xyzzy")["message"]


def test_two_calls_with_one_id_are_one_call_and_one_fault(daemon):
    slow = {"model": f"ollama:{model(latency_ms=200)}", "messages": [{"role": "user", "content": "hi"}]}
    with daemon.json_lines() as lines:
        lines.send(*[{"t": "call", "id": 1, "method": "chat", "params": slow}] * 2)
        assert [lines.hear()["t"], lines.hear()["t"]] == ["fault", "done"]


def test_a_model_without_a_price_is_refused_under_a_limit_and_the_config_to_write_is_named(upstream):
    upstream.reset()
    with running_daemon.running(config(upstream, "[limits]\nmonth_usd = 5.0\n"), environment=ENVIRONMENT) as limited:
        fault = fault_of(limited, model="openai:nobody-knows-this-price")
        assert fault["code"] == "price_unknown"
        assert '[models."openai:nobody-knows-this-price"]' in fault["message"]
        assert "input_usd_per_mtok" in fault["message"]
        assert upstream.chats() == []
        assert limited.database("SELECT * FROM journal") == []


STRANGER = """
import json, os, socket, sys
os.setgroups([]); os.setgid(int(sys.argv[5])); os.setuid(int(sys.argv[2]))
with socket.socket(socket.AF_UNIX) as raw:
    raw.connect(sys.argv[1])
    raw.sendall(json.dumps({"t": "call", "id": 1, "method": sys.argv[3], "params": json.loads(sys.argv[4])}).encode() + b"\\n")
    raw.settimeout(10)
    print(raw.makefile().readline())
"""


def as_account(name: str, daemon: Daemon, method: str, **params: object) -> dict:
    """What another account of this machine hears."""
    account = pwd.getpwnam(name)
    said = [str(account.pw_uid), method, json.dumps(params), str(account.pw_gid)]
    command = [sys.executable, "-c", STRANGER, str(daemon.socket), *said]
    daemon.folder.chmod(0o755)
    said = subprocess.run(command, capture_output=True, check=True, cwd="/")
    heard: dict = json.loads(said.stdout)
    return heard


@pytest.mark.box
def test_who_may_not_connect_hears_why(upstream):
    stranger, operator = "nobody", "daemon"
    rights = f'[rights]\nuse_group = "no-such-group"\nadmin_uids = [{pwd.getpwnam(operator).pw_uid}]\n'
    with running_daemon.running(config(upstream, rights), environment=ENVIRONMENT) as guarded:
        fault = as_account(stranger, guarded, "ping")
        assert (fault["t"], fault["code"]) == ("fault", "forbidden")
        assert "no-such-group" in fault["message"]
        assert as_account(operator, guarded, "ping")["t"] == "done"


@pytest.mark.box
def test_who_may_use_it_reads_its_own_rows_alone_and_acts_as_nobody_else(upstream):
    group = grp.getgrgid(pwd.getpwnam("nobody").pw_gid).gr_name
    rights = f'[rights]\nuse_group = "{group}"\n'
    with running_daemon.running(config(upstream, rights), environment=ENVIRONMENT) as guarded:
        guarded.call("chat", messages=[{"role": "user", "content": "hi"}], model="openai:sim")
        assert as_account("nobody", guarded, "usage")["value"] == {"rows": []}
        for method, params in (
            ("usage", {"user": "@root"}),
            ("chat", {"user": "@root", "messages": [{"role": "user", "content": "hi"}]}),
            ("ledger.verify", {}),
            ("holds", {}),
            ("settings.set", {"key": "default_model", "value": "openai:sim"}),
        ):
            fault = as_account("nobody", guarded, method, **params)
            assert fault["code"] == "forbidden", (method, fault)
        assert as_account("nobody", guarded, "spend")["value"]["scopes"][0]["scope"] != "user:root"


# --- canaries


def everything_written(daemon: Daemon) -> dict[str, bytes]:
    """The log and every file of the state folder, by name."""
    files = [daemon.folder / "log", *(path for path in daemon.state.rglob("*") if path.is_file())]
    return {path.name: path.read_bytes() for path in files}


def found_in(written: dict[str, bytes], canary: str) -> list[str]:
    return [name for name, data in written.items() if canary.encode() in data]


@pytest.mark.parametrize("key", [KEY, LONG_KEY], ids=["a key of an unusual shape", "a key of a usual shape"])
def test_the_key_is_found_nowhere_and_prompt_and_answer_neither_in_log_nor_database(key):
    echo = f"the key {key} is bad, you said {PROMPT}"
    usual = [
        {"text": ANSWER, "pace_ms": 1},
        {"text": ANSWER, "break_at": 2},
        {"text": ANSWER, "error_in_stream_at": 2},
        {"garbage": True},
    ]
    echoing = [{"fail": status, "fail_message": echo} for status in (400, 401, 403, 404, 413, 429, 500, 503)]
    shown = []
    with simulated_provider.running(key=key) as upstream:
        sections = [
            provider(kind, kind, upstream.base_url(kind), local=False, api_key='{ env = "THE_KEY" }') for kind in KINDS
        ]
        with running_daemon.running("\n".join(sections), environment={"THE_KEY": key}) as daemon:
            for kind in KINDS:
                for knobs in [*usual, *echoing]:
                    for stream in (True, False):
                        with daemon.json_lines() as lines:
                            params = {
                                "model": f"{kind}:sim",
                                "stream": stream,
                                "messages": [{"role": "user", "content": PROMPT}],
                            }
                            upstream.set(**knobs)
                            lines.send({"t": "call", "id": 1, "method": "chat", "params": params})
                            shown.append(json.dumps(lines.until_end_of(1)[-1]))
                    upstream.set()
                    if any(row["state"] not in {"healthy", "unknown"} for row in daemon.call("providers")["providers"]):
                        shown.append(
                            json.dumps([daemon.call("providers"), daemon.call("status"), daemon.call("models")])
                        )
                        daemon.restart()
            upstream.set(fail=401, fail_message=echo)
            daemon.restart()  # now the health probes are refused too
            eventually(
                lambda: {row["state"] for row in daemon.call("providers")["providers"]} >= {"misconfigured"}, "probed"
            )
            for arguments in (
                ["chat", "-m", "openai:sim", PROMPT],
                ["status"],
                ["providers"],
                ["models"],
                ["usage"],
                ["--json", "status"],
                ["call", "chat", json.dumps({"messages": [{"role": "user", "content": PROMPT}], "key": "x"})],
            ):
                ended = daemon.ctl(*arguments)
                shown.append(ended.out + ended.err)
            leaks = [text for text in shown if key in text]
            assert leaks == []
            for running in (True, False):
                if not running:
                    daemon.stop()
                written = everything_written(daemon)
                assert "quorumd.sqlite3" in written
                assert found_in(written, key) == []
                assert found_in(written, PROMPT) == []
                assert found_in(written, ANSWER) == []


def test_the_key_and_prompt_stay_out_of_the_process_list_and_of_child_processes(upstream):
    with running_daemon.running(config(upstream), environment=ENVIRONMENT) as daemon:
        assert LONG_KEY.encode() not in Path(f"/proc/{daemon.process.pid}/cmdline").read_bytes()
    with running_daemon.running('[providers.sim]\nkind = "simulated"\n', environment=ENVIRONMENT) as daemon:
        children = Path(f"/proc/{daemon.process.pid}/task/{daemon.process.pid}/children").read_text().split()
        assert children
        assert [child for child in children if LONG_KEY.encode() in Path(f"/proc/{child}/environ").read_bytes()] == []


CRASHING = """
import sys
from actors.exchange import Exchange
async def broken(self, question, progress):
    text, key = question.request.body, question.source.endpoint
    raise RuntimeError("a defect")
Exchange.ask = broken
sys.argv[0] = "quorumd"
from daemon.__main__ import main
sys.exit(main())
"""


def test_a_defect_of_the_daemon_is_internal_settles_and_shows_neither_key_nor_prompt(upstream):
    with running_daemon.running(config(upstream), environment=ENVIRONMENT, start=False) as daemon:
        daemon.program = ["-c", CRASHING]
        daemon.start()
        fault = fault_of(daemon, model="openai:sim")
        assert fault["code"] == "internal"
        assert "log" in fault["message"]
        assert "defect" not in fault["message"]
        daemon.balanced()
        assert daemon.rows()[0]["status"] == "internal"
        assert any("a defect" in json.dumps(line) for line in daemon.log())
        written = everything_written(daemon)
        assert found_in(written, LONG_KEY) == found_in(written, PROMPT) == []
        assert daemon.call("ping") == {}


def test_daemonctl_says_code_and_message_on_stderr_and_ends_with_1(daemon):
    ended = daemon.ctl("chat", "-m", "openai:simm", PROMPT)
    assert ended.code == 1
    assert "unknown_model" in ended.err
    assert "`sim`" in ended.err
    assert "Traceback" not in ended.err
    assert ended.out == ""
