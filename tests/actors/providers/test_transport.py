import pytest

from actors.providers.http import ConnectFailed, ConnectionLost, Endpoint
from actors.providers.transport import framed, joined
from protocols.dialects.dialect import HttpRequest

KEY = (("authorization", "Bearer sk-secret"),)


@pytest.mark.parametrize(
    ("url", "origin", "host_header", "target"),
    [
        ("https://api.openai.com/v1", "https://api.openai.com:443", "api.openai.com", "/v1/x"),
        ("https://api.openai.com/v1/", "https://api.openai.com:443", "api.openai.com", "/v1/x"),
        ("http://localhost:11434", "http://localhost:11434", "localhost:11434", "/x"),
        ("http://localhost:80", "http://localhost:80", "localhost", "/x"),
        ("http://localhost:443", "http://localhost:443", "localhost:443", "/x"),
        ("https://EXAMPLE.org:8443/a/b", "https://example.org:8443", "example.org:8443", "/a/b/x"),
        ("http://[::1]:8080/v1", "http://[::1]:8080", "[::1]:8080", "/v1/x"),
        ("http://[0:0::1]", "http://[::1]:80", "[::1]", "/x"),
        ("http://bücher.example", "http://xn--bcher-kva.example:80", "xn--bcher-kva.example", "/x"),
    ],
)
def test_an_endpoint_knows_origin_host_header_and_prefix(url, origin, host_header, target):
    endpoint = Endpoint(url)
    request = HttpRequest("/x", b"")
    assert (endpoint.origin, endpoint.headers(request)["host"], endpoint.target(request)) == (
        origin,
        host_header,
        target,
    )


@pytest.mark.parametrize(
    "url",
    [
        "ftp://host",
        "host:80",
        "https://",
        "",
        "https://user:sk-secret@host",
        "https://sk-secret:x@host",
        "https://host:sk-secret",
        "https://host:0",
        "https://host:70000",
        "https://ho st",
        "https://host/\r\nx: sk-secret",
        "https://host/a b",
        "https://host/ä",
        "https://host/?q=sk-secret",
        "https://host/#sk-secret",
        "https://[::zz]",
        "https://ho\nst/",
    ],
)
def test_what_is_no_base_url_is_refused_without_quoting_it(url):
    with pytest.raises(ValueError, match="URL") as caught:
        Endpoint(url)
    assert "sk-secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("x", "sk-secret\r\ninjected: yes"),
        ("x", "sk-secret\n"),
        ("x", "sk-secret\0"),
        ("x", "sk-secret\u2028"),
        ("x\r\ny", "v"),
        ("x:", "v"),
        ("", "v"),
        ("x y", "v"),
        ("Content-Length", "3"),
        ("transfer-encoding", "chunked"),
        ("Host", "elsewhere"),
    ],
)
def test_a_header_that_could_smuggle_is_refused_in_endpoint_and_request(name, value):
    with pytest.raises(ValueError, match="header") as caught:
        Endpoint("https://host", ((name, value),))
    assert "secret" not in str(caught.value)
    with pytest.raises(ValueError, match="header"):
        Endpoint("https://host").head(HttpRequest("/", b"", ((name, value),)))


@pytest.mark.parametrize(
    "path", ["", "x", "/a b", "/a\r\nx: y", "/a\n", "/ä", "/#x", "/\0", "/../admin", "/a/../b", "/./a", '/"', "//\\"]
)
def test_a_path_that_could_smuggle_is_refused(path):
    with pytest.raises(ValueError, match="path"):
        Endpoint("https://host/v1").head(HttpRequest(path, b""))


@pytest.mark.parametrize("method", ["", "GET /x HTTP/1.1\r\n", "G T"])
def test_a_method_is_one_word(method):
    with pytest.raises(ValueError, match="method"):
        Endpoint("https://host").head(HttpRequest("/", b"", method=method))


def test_the_head_is_what_goes_onto_the_wire():
    endpoint = Endpoint("https://host:444/v1", (("X-Api-Key", "k"),))
    assert endpoint.head(HttpRequest("/chat", b"{}")) == (
        b"POST /v1/chat HTTP/1.1\r\n"
        b"host: host:444\r\nuser-agent: quorumd\r\naccept-encoding: identity\r\nconnection: keep-alive\r\n"
        b"content-type: application/json\r\nx-api-key: k\r\ncontent-length: 2\r\n\r\n"
    )
    assert b"content-length: 0\r\n\r\n" in endpoint.head(HttpRequest("/chat", b""))
    assert b"content-length" not in endpoint.head(HttpRequest("/models", b"", (), "GET"))


def test_a_request_does_not_change_who_we_are():
    head = Endpoint("https://host", KEY).head(HttpRequest("/", b"", (("Authorization", "Bearer other"),)))
    assert head.count(b"authorization") == 1
    assert b"Bearer sk-secret" in head


def test_the_key_is_in_no_repr():
    endpoint = Endpoint("https://host/v1", KEY, proxy="http://user:sk-secret@proxy:3128")
    endpoint.head(HttpRequest("/", b""))
    assert repr(endpoint) == "<Endpoint https://host:443/v1>"
    assert "secret" not in f"{endpoint}"
    assert not hasattr(endpoint, "__dict__")


def test_invented_paths_do_not_fill_the_memory():
    endpoint = Endpoint("https://host")
    for n in range(2000):
        endpoint.head(HttpRequest(f"/models/{n}", b""))
    assert len(endpoint._heads) <= 256


@pytest.mark.parametrize("proxy", ["socks5://host", "host:3128", "http://host\r\n"])
def test_what_is_no_proxy_is_refused(proxy):
    with pytest.raises(ValueError, match="URL"):
        Endpoint("https://host", proxy=proxy)


@pytest.mark.parametrize(
    ("status", "headers", "expected"),
    [
        (200, {"content-length": "0"}, True),
        (200, {"transfer-encoding": "chunked"}, True),
        (200, {"transfer-encoding": "gzip, Chunked"}, True),
        (200, {"transfer-encoding": "gzip"}, False),
        (200, {}, False),
        (204, {}, True),
        (304, {}, True),
    ],
)
def test_framing_is_told_from_the_head(status, headers, expected):
    assert framed(status, headers) is expected


def test_repeated_headers_are_joined():
    assert joined([(b"A", b"1"), (b"b", b"\xe4"), (b"a", b"2")]) == {"a": "1, 2", "b": "ä"}


def test_errors_say_whether_something_was_sent():
    assert not ConnectFailed("x").sent
    assert ConnectionLost("x").sent
    assert not ConnectionLost("x").reused
