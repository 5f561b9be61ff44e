"""Fetches images that a table names by URL, from public addresses alone.

A table is written by strangers, and a worker stands inside of a network that trusts it: a URL
must not reach what only the worker can. The name is resolved once, all of its addresses are
checked, and the connection goes to the address that was checked, so that a name which is
resolved anew (DNS rebinding) leads nowhere else. Each redirect goes through the same checks.

A host that asks for patience (429, 502, 503, 504) gets it, and is asked a few times at most.
"""

import contextlib
import dataclasses
import email.utils
import http.client
import ipaddress
import random
import re
import socket
import ssl
import threading
import time
import urllib.parse
import zlib
from collections.abc import Iterator

from transforms.images.clean import ImageError

_PORTS = {"http": 80, "https": 443}
_REDIRECTS = (301, 302, 303, 307, 308)
_MAX_REDIRECTS = 3
_PIECE_BYTES = 64 << 10
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
# Google's and Amazon's, which answer at IPv6 addresses that are private but not link-local.
_METADATA = tuple(map(ipaddress.ip_address, ("fd20:ce::254", "fd00:ec2::254")))
_SAFE = "/%:=&?~#+!$,;'@()*[]"
_CONNECTIONS = 2  # of a process to one host at once
_LATER = (429, 502, 503, 504)  # statuses of a host that may answer another time
_TRIES = 4
_FIRST_WAIT_SECONDS = 0.5  # before the second try; twice as long before each further one
_MAX_WAIT_SECONDS = 60  # who asks for more is not asked again
_MAX_REFUSALS = 8  # images in a row after which a host is asked once for each further one


@dataclasses.dataclass(frozen=True)
class FetchLimits:
    """What one fetch may do.

    Attributes:
      max_bytes: of the body.
      max_seconds: on the clock for all of it, redirects too, but not for waiting until other
        fetches from the host have ended. A worker's resolver has limits of its own.
      private_hosts: whose private addresses, and other ports than 80 and 443, are allowed.
      requests_per_second: of this process to one host, on average; 0 for any number.
    """

    max_bytes: int = 64 << 20
    max_seconds: float = 20
    private_hosts: tuple[str, ...] = ()
    requests_per_second: float = 0


class _Gate:
    """Through which requests to a host go: so many at once, and none before its time."""

    def __init__(self) -> None:
        self._connections = threading.Semaphore(_CONNECTIONS)
        self._lock, self._next = threading.Lock(), 0.0
        self._refusals = 0  # images in a row

    @contextlib.contextmanager
    def open(self, per_second: float) -> Iterator[None]:
        """Waits for its turn, at most `per_second` a second."""
        with self._connections:
            with self._lock:
                now = time.monotonic()
                start = max(self._next, now)
                self._next = start + (1 / per_second if per_second else 0)
            time.sleep(start - now)
            yield

    def close_for(self, seconds: float) -> None:
        """Lets nobody through for a while."""
        with self._lock:
            self._next = max(self._next, time.monotonic() + seconds)

    def note(self, is_refused: bool) -> None:
        """Remembers how the last try for an image ended."""
        with self._lock:
            self._refusals = self._refusals + 1 if is_refused else 0

    @property
    def is_hopeless(self) -> bool:
        """Whether waiting has been of no use for many images."""
        return self._refusals >= _MAX_REFUSALS


# Hosts share them by their hash: a table may name millions of hosts.
_GATES = [_Gate() for _ in range(256)]


def _gate(host: str) -> _Gate:
    return _GATES[zlib.crc32(host.encode()) % len(_GATES)]


class _LaterError(OSError):
    """A host that asks for patience: `seconds`, or 0 where it does not say for how long."""

    def __init__(self, what: str, host: str, seconds: float):
        super().__init__(what)
        self.host, self.seconds = host, seconds


def fetch(url: str, limits: FetchLimits) -> bytes:
    """The body behind an http(s) URL.

    Raises:
      ImageError: the URL, or one that it redirects to, is forbidden; or the body too large.
      OSError: it could not be had.
    """
    for number in range(_TRIES):
        try:
            return _fetch(url, limits)
        except _LaterError as error:
            gate = _gate(error.host)
            is_last = number == _TRIES - 1 or error.seconds > _MAX_WAIT_SECONDS
            if is_last or gate.is_hopeless:
                gate.note(is_refused=True)
                raise
            # Those who were refused together must not come back together.
            wait = _FIRST_WAIT_SECONDS * 2**number * random.uniform(1, 2)
            gate.close_for(max(error.seconds, wait))
    raise AssertionError("the last try returns or raises")


def _fetch(url: str, limits: FetchLimits) -> bytes:
    seconds = limits.max_seconds
    for _ in range(_MAX_REDIRECTS + 1):
        parts, host, port = _parsed(url, limits)
        with _gate(host).open(limits.requests_per_second):
            start = time.monotonic()  # To wait for others is no fault of this host.
            found = _ask(parts, host, port, limits, start + seconds)
            seconds -= time.monotonic() - start
        if isinstance(found, bytes):
            _gate(host).note(is_refused=False)
            return found
        url = urllib.parse.urljoin(url, found)
    raise OSError(f"more than {_MAX_REDIRECTS} redirects")


def is_public(address: str) -> bool:
    """Whether an IP address is one of the internet, whatever form it is written in."""
    ip = _plain(address)
    if isinstance(ip, ipaddress.IPv6Address) and ip.is_site_local:
        return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved)


def is_never_allowed(address: str) -> bool:
    """Whether an IP address is link-local or a cloud's metadata server, in whatever form."""
    ip = _plain(address)
    return ip.is_link_local or ip in _METADATA


def _plain(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """An IP address; the IPv4 one where it is wrapped into one of IPv6."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        return inner or ip
    return ip


def _ask(
    parts: urllib.parse.SplitResult, host: str, port: int, limits: FetchLimits, deadline: float
) -> bytes | str:
    """The body, or where a redirect leads."""
    addresses = _resolved(host, port, host in limits.private_hosts)
    connection = _connected(addresses, port, deadline)
    with contextlib.closing(connection), _ended_at(connection, deadline):
        return _answer(connection, parts, host, port, limits)


def _parsed(url: str, limits: FetchLimits) -> tuple[urllib.parse.SplitResult, str, int]:
    if any(character <= " " or character == "\x7f" for character in url):
        raise ImageError("forbidden_url", "a space or control character in the URL")
    try:
        parts = urllib.parse.urlsplit(url)
        host = (parts.hostname or "").rstrip(".")
        host = host if ":" in host else host.encode("idna").decode()
        port = parts.port or _PORTS.get(parts.scheme, 0)
    except ValueError as error:
        raise ImageError("forbidden_url", f"no URL: {error}") from error
    if parts.scheme not in _PORTS or not host or "@" in parts.netloc:
        raise ImageError("forbidden_url", f"{parts.scheme}: expected http(s)://HOST/… without user")
    if port not in _PORTS.values() and host not in limits.private_hosts:
        raise ImageError("forbidden_url", f"port {port}: expected 80 or 443")
    return parts, host, port


def _resolved(host: str, port: int, is_private_allowed: bool) -> list[str]:
    """The addresses of a host, all of which are allowed."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError as error:
        raise ImageError("forbidden_url", f"no host: {error}") from error
    addresses = [str(info[4][0]) for info in found]
    for address in addresses:
        is_allowed = is_private_allowed or is_public(address)
        if not is_allowed or is_never_allowed(address):
            raise ImageError("forbidden_url", f"{host} is {address}, which is no public address")
    return addresses


def _connected(addresses: list[str], port: int, deadline: float) -> socket.socket:
    """A connection to the first address that answers: a host may have IPv6, and this one none."""
    failure: OSError = OSError("no address")
    for address in addresses:
        try:
            return socket.create_connection((address, port), timeout=_left(deadline))
        except OSError as error:
            failure = error
    raise failure


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("it took longer than --fetch_seconds")
    return left


@contextlib.contextmanager
def _ended_at(connection: socket.socket, deadline: float) -> Iterator[None]:
    """Cuts a connection at a moment: a server that sends a byte a second would go on for ever."""
    guard = connection.dup()  # TLS takes the connection's own descriptor
    is_late = threading.Event()

    def end() -> None:
        is_late.set()
        with contextlib.suppress(OSError):
            guard.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(_left(deadline), end)
    timer.start()
    try:
        yield
    except OSError:
        if not is_late.is_set():
            raise
    finally:
        timer.cancel()
        timer.join()
        guard.close()
    if is_late.is_set():
        raise TimeoutError("it took longer than --fetch_seconds")


def _answer(
    connection: socket.socket,
    parts: urllib.parse.SplitResult,
    host: str,
    port: int,
    limits: FetchLimits,
) -> bytes | str:
    if parts.scheme == "https":
        connection = ssl.create_default_context().wrap_socket(connection, server_hostname=host)
    client = http.client.HTTPConnection(host, port)
    client.sock = connection
    target = urllib.parse.quote(urllib.parse.urlunsplit(("", "", *parts[2:4], "")) or "/", _SAFE)
    headers = {"Accept": "image/*", "User-Agent": "PhraseLens", "Connection": "close"}
    try:
        client.request("GET", target, headers=headers)
        response = client.getresponse()
        location = response.headers.get("Location")
        if response.status in _REDIRECTS and location:
            return location
        if response.status in _LATER:
            wait = _retry_after(response.headers.get("Retry-After", ""))
            raise _LaterError(f"HTTP status {response.status}", host, wait)
        return _body(response, limits)
    except (http.client.HTTPException, ValueError) as error:
        raise OSError(f"no HTTP: {type(error).__name__}") from error
    finally:
        client.close()


def _retry_after(text: str) -> float:
    """Seconds that the header asks to wait, which names a number of them or a moment; or 0."""
    if re.fullmatch(r"\d{1,9}", text.strip()):
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0.0


def _body(response: http.client.HTTPResponse, limits: FetchLimits) -> bytes:
    if response.status != 200:
        raise OSError(f"HTTP status {response.status}")
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise OSError("an encoding that nobody asked for")
    pieces, held = [], 0
    while piece := response.read(_PIECE_BYTES):
        held += len(piece)
        if held > limits.max_bytes:
            raise ImageError("too_many_bytes", f"more than {limits.max_bytes:,} bytes")
        pieces.append(piece)
    if response.length:
        raise OSError(f"the body is cut: {response.length:,} bytes are missing")
    return b"".join(pieces)
