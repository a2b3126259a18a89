"""The server as a process: start, end, connections, what it remembers."""

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing

import pytest
import simulated_provider
from simulated_provider import MODULE, PATIENCE_S, ROOT, model

HELLO = [{"role": "user", "content": "hello"}]
PARENT = """
import os, subprocess, sys
child = subprocess.Popen([sys.executable, "-m", sys.argv[1], "--parent-pid", str(os.getpid())], stdout=subprocess.PIPE)
sys.stdout.buffer.write(child.stdout.readline())
print(child.pid, flush=True)
sys.stdin.read()
os._exit(0)
"""


@pytest.fixture(scope="module")
def server():
    with simulated_provider.running() as running:
        yield running


@pytest.fixture
def provider(server):
    server.reset()
    return server


def raw(provider, data):
    """A connection on which these bytes were sent."""
    connection = socket.create_connection(("127.0.0.1", provider.port), PATIENCE_S)
    connection.sendall(data)
    return connection


def request(name="sim", extra="", **fields):
    body = json.dumps({"model": name, "messages": HELLO} | fields)
    return f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n{extra}\r\n{body}".encode()


def received(connection, enough):
    data = b""
    while not enough(data):
        piece = connection.recv(65536)
        if not piece:
            break
        data += piece
    return data


def refused(port):
    """Whether nobody listens there."""
    try:
        socket.create_connection(("127.0.0.1", port), PATIENCE_S).close()
    except ConnectionError:
        return True
    return False


def becomes(true, within_s=PATIENCE_S):
    until = time.monotonic() + within_s
    while not true() and time.monotonic() < until:
        time.sleep(0.01)
    return true()


@pytest.mark.parametrize("name", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_with_exit_code_zero_when_told_to(name):
    with simulated_provider.running() as provider:
        with closing(raw(provider, request(model(hang_at=1), stream=True))) as client:
            assert received(client, lambda data: b"content" in data)
            provider.process.send_signal(name)
            assert provider.process.wait(PATIENCE_S) == 0
        assert refused(provider.port)


@pytest.mark.parametrize("how", [signal.SIGKILL, None], ids=["killed", "ends"])
def test_it_ends_when_its_parent_ends(how):
    command = [sys.executable, "-c", PARENT, MODULE]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        port = json.loads(parent.stdout.readline())["port"]
        assert int(parent.stdout.readline()) > 0
        assert not refused(port)
        if how is not None:
            parent.send_signal(how)
    assert becomes(lambda: refused(port))


def test_it_ends_at_once_when_its_parent_has_ended_before():
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait(PATIENCE_S)
    command = [sys.executable, "-m", MODULE, "--parent-pid", str(gone.pid)]
    assert subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, timeout=PATIENCE_S, check=False).returncode == 0


def test_it_serves_an_inherited_socket_whose_clients_came_before_it():
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname(), PATIENCE_S) as early,
    ):
        early.sendall(request(extra="connection: close\r\n"))
        fd = listener.fileno()
        command = [sys.executable, "-m", MODULE, "--fd", str(fd), "--parent-pid", str(os.getpid())]
        with subprocess.Popen(command, cwd=ROOT, pass_fds=[fd], stdout=subprocess.PIPE) as process:
            assert b"You said" in received(early, lambda _: False)
            process.terminate()
            assert process.stdout.read() == b""


@pytest.mark.parametrize("behaviour", ['{"text":"set"}', "file"])
def test_its_behaviour_is_json_or_a_file_of_json(tmp_path, behaviour):
    if behaviour == "file":
        path = tmp_path / "behaviour.json"
        path.write_text('{"text":"set"}')
        behaviour = str(path)
    command = [sys.executable, "-m", MODULE, "--behaviour", behaviour, "--parent-pid", str(os.getpid())]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
    provider = simulated_provider.Provider(process, json.loads(process.stdout.readline())["port"])
    try:
        assert provider.chat("ollama").json()["message"]["content"] == "set"
    finally:
        provider.stop()


def test_a_wrong_behaviour_ends_it_with_a_message():
    command = [sys.executable, "-m", MODULE, "--behaviour", '{"speed":1}']
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=PATIENCE_S, check=False)
    assert (ended.returncode, b"speed" in ended.stderr) == (2, True)


def test_the_helper_starts_with_models_a_key_and_a_behaviour():
    with simulated_provider.running(models=["gpt-4o", "llama3.2:latest"], key="k", text="hi") as provider:
        key = {"authorization": "Bearer k"}
        assert provider.chat("openai", "gpt-4o", headers=key).json()["choices"][0]["message"]["content"] == "hi"
        assert provider.chat("ollama", "llama3.2:latest", headers=key).status == 200
        assert provider.chat("openai", "sim", headers=key).status == 404
        assert provider.base_url() == f"http://127.0.0.1:{provider.port}/v1"


@pytest.mark.parametrize("wrong", [{}, {"authorization": "Bearer no", "x-api-key": "no"}], ids=["none", "wrong"])
@pytest.mark.parametrize("dialect", ["openai", "anthropic", "ollama"])
def test_a_required_key_is_required(dialect, wrong):
    with simulated_provider.running(key="right") as provider:
        assert provider.chat(dialect, headers=wrong).status == 401
        assert provider.send("GET", "/v1/models", headers=wrong).status == 401
        assert provider.chat(dialect, headers={"authorization": "Bearer right", "x-api-key": "right"}).status == 200


def test_a_hang_up_is_seen_within_a_second(provider):
    with closing(raw(provider, request(model(chunks=1000, pace_ms=5), stream=True))) as client:
        assert received(client, lambda data: data.count(b"data:") > 3)
    [chat] = provider.wait_for(lambda chats: chats[0]["outcome"] == "client_closed", within_s=1)
    assert 3 <= chat["chunks_sent"] < 1000
    assert chat["ended_ms"] < 5000
    provider.chat("openai", model(latency_ms=20))
    assert provider.chats()[0] == chat
    assert provider.counters()["in_flight"] == 0


def test_a_hang_up_before_the_head_is_seen(provider):
    raw(provider, request(model(latency_ms=60_000))).close()
    [chat] = provider.wait_for(lambda chats: chats and chats[0]["outcome"] == "client_closed")
    assert (chat["status"], chat["chunks_sent"]) == (200, 0)


def test_it_remembers_requests_but_no_key(provider):
    provider.chat("openai", headers={"authorization": "Bearer secret-1"})
    provider.chat("anthropic", headers={"x-api-key": "secret-2"})
    answered = provider.send("GET", "/simulated/requests?bodies=1")
    assert b"secret" not in answered.body
    log = answered.json()["requests"]
    seen = [(row["dialect"], row["model"], row["path"], row["key_sha256"], row["outcome"]) for row in log]
    marks = [hashlib.sha256(key).hexdigest()[:12] for key in (b"secret-1", b"secret-2")]
    assert seen == [
        ("openai", "sim", "/v1/chat/completions", marks[0], "completed"),
        ("anthropic", "sim", "/v1/messages", marks[1], "completed"),
    ]
    assert log[0]["body"]["messages"] == HELLO
    assert "body" not in provider.requests()[0]


def test_it_remembers_the_last_thousand_requests_and_counts_all(provider):
    with closing(raw(provider, b"")) as client:
        for _ in range(1010):
            client.sendall(request())
            received(client, lambda data: data.endswith(b"}"))
    assert len(provider.requests()) == 1000
    counters = provider.counters()
    assert (counters["chats"], counters["in_flight"], counters["outcomes"]) == (1010, 0, {"completed": 1010})


def test_requests_sent_ahead_are_answered_in_order(provider):
    names = [model(text="first", latency_ms=20), model(text="second"), model(text="third")]
    with closing(raw(provider, b"".join(request(name) for name in names))) as client:
        data = received(client, lambda data: b"third" in data)
    assert data.index(b"first") < data.index(b"second") < data.index(b"third")


def test_a_request_may_come_byte_by_byte_and_in_chunks(provider):
    body = json.dumps({"model": "sim", "messages": HELLO}).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n"
    whole = head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    with closing(raw(provider, b"")) as client:
        for byte in whole:
            client.send(bytes([byte]))
        assert received(client, lambda _: False).startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize("extra", ["connection: close\r\n", ""], ids=["close", "keep-alive"])
def test_a_connection_lives_as_long_as_the_client_wants(provider, extra):
    with closing(raw(provider, request(extra=extra))) as client:
        received(client, lambda data: data.endswith(b"}"))
        if extra:
            assert client.recv(1) == b""
        else:
            client.sendall(request())
            assert received(client, lambda data: data.endswith(b"}"))


def test_a_client_that_asks_first_is_told_to_continue(provider):
    head, _, body = request(extra="expect: 100-continue\r\n").partition(b"\r\n\r\n")
    with closing(raw(provider, head + b"\r\n\r\n")) as client:
        assert received(client, lambda data: b"\r\n\r\n" in data) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(body)
        assert b"200 OK" in received(client, lambda data: data.endswith(b"}"))


def test_what_is_not_http_is_told_so(provider):
    with closing(raw(provider, b"hello\r\n\r\n")) as client:
        assert received(client, lambda _: False).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("length", [f"content-length: {33 * 2**20}", "transfer-encoding: chunked"])
def test_a_body_above_32_mb_is_refused_in_the_dialects_words(provider, length):
    piece = b"%x\r\n%b\r\n" % (2**20, b" " * 2**20)
    with closing(raw(provider, f"POST /v1/messages HTTP/1.1\r\nhost: x\r\n{length}\r\n\r\n".encode())) as client:
        for _ in range(33):
            client.sendall(piece if "chunked" in length else b" " * 2**20)
        data = received(client, lambda data: data.endswith(b"}"))
    assert data.startswith(b"HTTP/1.1 413 ")
    assert b"request_too_large" in data


def test_a_body_of_30_mb_is_read(provider):
    long = [{"role": "user", "content": "x" * (30 * 2**20)}]
    assert provider.chat("openai", messages=long).json()["usage"]["prompt_tokens"] == 30 * 2**20 // 4


def test_it_imports_nothing_of_the_daemon():
    code = f"import sys, {MODULE}.__main__; print([name for name in sys.modules if name in {{'pykka', 'httpx', 'anyio', 'protocols'}}])"
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert told.stdout == "[]\n"
