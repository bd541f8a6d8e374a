"""How endpoints are reached: keys and proxies of the environment, and this machine without a proxy.

Exercised by `pytest tests/unit/test_connection.py`.
"""

import importlib.util
import os
import re
import socket
import ssl
import urllib.request
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from lr_ray.errors import UserError

if TYPE_CHECKING:
    from openai import AsyncOpenAI, OpenAI

OPENAI_KEY = "OPENAI_API_KEY"
_HEADERS = ("OPENAI_ORG_ID", "OPENAI_PROJECT_ID")  # which the client sends along
PROXIES = ("http", "https", "socks5", "socks5h")  # that the client takes (httpx2/_config.py)


def read_key(variable: str) -> str | None:
    """The key in an environment variable, without blanks around it; None where it is unset or empty.

    Raises UserError naming the variable, but not its value, for a value that no header can carry.
    """
    value = os.environ.get(variable, "")
    key = value.strip()
    if value and not key:
        raise UserError(f"{variable}: is blank; give a key, or unset it")
    wrong = re.search(r"[^\x21-\x7e]", key)
    if wrong:
        kind = "a blank" if wrong[0].isspace() else "a control or non-ASCII character"
        raise UserError(
            f"{variable}: has {kind} at character {wrong.start() + 1}; give the key alone, which is "
            "ASCII without blanks"
        )
    return key or None


def client(base_url: str, key: str | None, **options: Any) -> "OpenAI":
    """Of an OpenAI-compatible API; past any proxy where it is on this machine."""
    from openai import DefaultHttpxClient, OpenAI

    direct = DefaultHttpxClient(**_direct()) if is_here(base_url) else None
    return OpenAI(base_url=base_url, api_key=key or "none", http_client=direct, **options)


def async_client(base_url: str, key: str | None, **options: Any) -> "AsyncOpenAI":
    """The same for asyncio."""
    from openai import AsyncOpenAI, DefaultAsyncHttpxClient

    direct = DefaultAsyncHttpxClient(**_direct()) if is_here(base_url) else None
    return AsyncOpenAI(base_url=base_url, api_key=key or "none", http_client=direct, **options)


def _direct() -> dict[str, Any]:
    """Ignores proxies and what else httpx reads from the environment, except certificates that exist."""
    file = os.environ.get("SSL_CERT_FILE", "")
    trusted = ssl.create_default_context(cafile=file) if _is_certificates(file) else True
    return {"trust_env": False, "verify": trusted}


def is_here(base_url: str) -> bool:
    """Whether a URL is of this machine: localhost, or an address or one-word name that is its own."""
    try:
        host = urlsplit(base_url).hostname or ""
    except ValueError:
        return False
    if host in ("localhost", socket.gethostname().lower()) or host.endswith(".localhost"):
        return True
    if "." in host and re.search(r"[a-z]", host) and ":" not in host:
        return False  # asking for names of the network may take long where there is a proxy
    try:
        found = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)
        for family, kind, protocol, _, address in found:
            with socket.socket(family, kind, protocol) as listener:
                listener.bind(address)
    except (OSError, UnicodeError):
        return False
    return bool(found)


def check_environment(base_url: str) -> None:
    """Raises UserError naming the environment variable that keeps a client from reaching the URL."""
    for variable in (OPENAI_KEY, *_HEADERS):
        read_key(variable)
    if is_here(base_url):
        return
    file = os.environ.get("SSL_CERT_FILE", "")
    if file and not _is_certificates(file):
        why = "holds no certificates" if os.path.isfile(file) else "no such file"
        raise UserError(f"SSL_CERT_FILE: {file}: {why}; give a file of certificates, or unset it")
    folder = os.environ.get("SSL_CERT_DIR", "")
    if folder and not file and not os.path.isdir(folder):
        raise UserError(f"SSL_CERT_DIR: {folder}: no such folder; give one, or unset it")
    if "*" in [host.strip() for host in urllib.request.getproxies().get("no", "").split(",")]:
        return
    for scheme, proxy in urllib.request.getproxies().items():
        if scheme in ("http", "https", "all"):
            _check_proxy(_variable(scheme), proxy)
    try:
        client(base_url, None).close()
    except Exception as error:  # of httpx and ssl; what is left to be wrong is this one
        reason = " ".join(str(error).split())
        raise UserError(f"{_variable('no')}: cannot be read: {reason}; give host names") from None


def via(base_url: str) -> str:
    """Which proxy a URL is asked through, as words to append to an error; empty without one."""
    parts, proxies = urlsplit(base_url), urllib.request.getproxies()
    scheme = next((scheme for scheme in (parts.scheme, "all") if proxies.get(scheme)), None)
    if not scheme or is_here(base_url) or urllib.request.proxy_bypass(parts.hostname or ""):
        return ""
    return f" (asked through {_variable(scheme)} = {without_user(proxies[scheme])})"


def scheme_of(proxy: str) -> tuple[str, bool]:
    """Scheme of a proxy's address, http where it states none, and whether it is an address at all."""
    try:
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
        whole = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return "", False
    return parts.scheme, whole and not re.search(r"[^\x21-\x7e]", proxy)


def _check_proxy(variable: str, proxy: str) -> None:
    right = "give http://HOST:PORT, or unset it"
    scheme, good = scheme_of(proxy)
    if not good:
        raise UserError(f"{variable}: {without_user(proxy)!r} is no proxy's address; {right}")
    if scheme not in PROXIES:
        raise UserError(f"{variable}: {without_user(proxy)}: no proxy by {scheme}; {right}")
    if scheme.startswith("socks") and importlib.util.find_spec("socksio") is None:
        raise UserError(
            f"{variable}: {without_user(proxy)}: SOCKS needs the package socksio (pip install socksio); "
            f"install it, or {right}"
        )


def _variable(scheme: str) -> str:
    """The name that a proxy was given under: urllib prefers lower case."""
    lower = f"{scheme}_proxy"
    return lower if os.environ.get(lower) else lower.upper()


def without_user(address: str) -> str:
    """As it may be shown: without what may be a password."""
    return re.sub(r"(^|//)[^/]*@", r"\1***@", address)


def _is_certificates(file: str) -> bool:
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cafile=file)
    except (OSError, ValueError):  # ssl.SSLError is an OSError
        return False
    return True
