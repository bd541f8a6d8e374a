"""Keys and proxies of the environment: used as they are meant, or named in one line."""

import socket
import ssl

import pytest

from lr_ray.config import Serving
from lr_ray.errors import UserError
from lr_ray.runtime.connection import check_environment, client, is_here, read_key, via
from lr_ray.serving import check_port
from tests.ports import free_port

REMOTE = "https://models.example.com/v1"
VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in (*VARIABLES, *(v.upper() for v in VARIABLES), "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
    for name in ("OPENAI_API_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("value", ["k", " k", "k\n", "\tk \r\n", "k\u00a0"])
def test_blanks_around_a_key_are_none_of_it(monkeypatch, value):
    monkeypatch.setenv("LR_RAY_API_KEY", value)
    assert read_key("LR_RAY_API_KEY") == "k"


def test_no_key_is_none(monkeypatch):
    monkeypatch.setenv("LR_RAY_API_KEY", "")
    assert read_key("LR_RAY_API_KEY") is None
    monkeypatch.delenv("LR_RAY_API_KEY")
    assert read_key("LR_RAY_API_KEY") is None


@pytest.mark.parametrize(
    "value",
    [
        "secret one",
        "secret\none",
        "secr\u00e9t",
        "secret\x7f",
        "secret\u200b",
        " \n",
        "\ufeffsecret",
    ],
)
def test_a_key_that_no_header_can_carry_is_named_and_not_shown(monkeypatch, value):
    monkeypatch.setenv("LR_RAY_API_KEY", value)
    with pytest.raises(UserError, match=r"^LR_RAY_API_KEY: ") as error:
        read_key("LR_RAY_API_KEY")
    assert "secr" not in str(error.value)


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"https_proxy": "socks5://h:1"}, "https_proxy: socks5://h:1: SOCKS needs the package socksio"),
        ({"ALL_PROXY": "socks5h://u:secret@h:1"}, r"ALL_PROXY: socks5h://\*\*\*@h:1: SOCKS needs"),
        ({"HTTP_PROXY": "socks4://h:1"}, "HTTP_PROXY: socks4://h:1: no proxy by socks4"),
        ({"https_proxy": "ftp://h"}, "https_proxy: ftp://h: no proxy by ftp"),
        ({"HTTPS_PROXY": "http://h:port"}, "HTTPS_PROXY: 'http://h:port' is no proxy's address"),
        ({"http_proxy": "http://u:secret@h:99999"}, "http_proxy: .* is no proxy's address"),
        ({"http_proxy": "://"}, "http_proxy: '://' is no proxy's address"),
        ({"http_proxy": "http://:80"}, "http_proxy: .* is no proxy's address"),
        ({"http_proxy": "http://h:1\n"}, "http_proxy: .* is no proxy's address"),
        ({"http_proxy": "http://[::1"}, "http_proxy: .* is no proxy's address"),
        ({"http_proxy": "http://my proxy:1"}, "http_proxy: .* is no proxy's address"),
        ({"SSL_CERT_FILE": "/no/such"}, "SSL_CERT_FILE: /no/such: no such file"),
        ({"SSL_CERT_FILE": __file__}, "SSL_CERT_FILE: .*: holds no certificates"),
        ({"SSL_CERT_FILE": "/"}, "SSL_CERT_FILE: /: "),
        ({"SSL_CERT_DIR": "/no/such"}, "SSL_CERT_DIR: /no/such: no such folder"),
        ({"OPENAI_API_KEY": "a\nb"}, "OPENAI_API_KEY: has a blank at character 2"),
        ({"OPENAI_ORG_ID": "\u00e9"}, "OPENAI_ORG_ID: has a control or non-ASCII character"),
        ({"OPENAI_PROJECT_ID": "a\x00b".replace("\x00", "\x01")}, "OPENAI_PROJECT_ID: has a control"),
    ],
)  # fmt: skip
def test_what_keeps_a_client_from_an_endpoint_is_named_by_its_variable(
    monkeypatch, variables, said
):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=f"^{said}") as error:
        check_environment(REMOTE)
    assert "\n" not in str(error.value)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    "variables",
    [
        {}, {"https_proxy": "http://h:3128"}, {"https_proxy": "h:3128"}, {"HTTPS_PROXY": ""},
        {"https_proxy": "https://u:p@[::1]:1", "NO_PROXY": "localhost,::1,10.0.0.0/8,.a.b,*.c"},
        {"https_proxy": "socks5://h", "NO_PROXY": "*"}, {"OPENAI_API_KEY": "k\n"},
        {"SSL_CERT_FILE": ssl.get_default_verify_paths().cafile or ""},
    ],
)  # fmt: skip
def test_what_is_right_is_taken(monkeypatch, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    check_environment(REMOTE)
    client(REMOTE, "k").close()


@pytest.mark.parametrize(
    ("url", "here"),
    [
        ("http://127.0.0.1:8000/v1", True), ("http://127.9.9.9/v1", True), ("http://[::1]:8/v1", True),
        ("https://localhost/v1", True), ("http://a.localhost/v1", True), ("http://0.0.0.0:1", True),
        (f"http://{socket.gethostname()}:1/v1", True), ("http://192.0.2.1/v1", False),
        (REMOTE, False), ("http://[::", False), ("http://", False), ("http://a..b/v1", False),
    ],
)  # fmt: skip
def test_addresses_of_this_machine_are_known(url, here):
    assert is_here(url) is here


def test_an_error_says_through_which_proxy_it_came(monkeypatch):
    assert via(REMOTE) == ""
    monkeypatch.setenv("all_proxy", "http://u:secret@h:1")
    assert via(REMOTE) == " (asked through all_proxy = http://***@h:1)"
    assert via("http://127.0.0.1:1/v1") == ""
    monkeypatch.setenv("no_proxy", "example.com")
    assert via(REMOTE) == ""


@pytest.mark.parametrize(
    "host", ["fe80::1", "a..b", "127.0.0.1:8000", "http://h", "192.0.2.1", "x" * 300, "::2", " "]
)
def test_a_host_that_is_none_of_this_machine_is_named_and_not_the_port(host):
    with pytest.raises(UserError, match=r"^serving\.host: .*give an address of this machine"):
        check_port(Serving(host=host, port=free_port()))
