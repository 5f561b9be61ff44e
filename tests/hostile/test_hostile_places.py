"""Paths and URLs in tables that lead where nobody allowed them to."""

import http.server
import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.inputs.image_files import encode, photo
from transforms.images import fetch as http_fetch
from transforms.images.clean import ImageError
from transforms.images.fetch import FetchLimits, fetch, is_public
from transforms.images.places import Places
from transforms.images.plan import plan_images
from transforms.images.readers import read_unit
from transforms.images.units import IMAGE_FIELDS
from transforms.rows.tabular import BadRows

PNG = encode(photo(), "PNG")
MAPPING = {field: field for field in IMAGE_FIELDS}
LIMITS = FetchLimits(max_bytes=100_000, max_seconds=30, private_hosts=("127.0.0.1", "localhost"))


def rows_of(pattern, places):
    """Images by key, and reasons by path."""
    units = plan_images("images", [pattern], "auto", MAPPING, "stem", places=places).units
    rows, bad = {}, {}
    for batch in (batch for unit in units for batch in read_unit(unit)):
        if isinstance(batch, BadRows):
            for detail in batch.details:
                path, _, what = detail.partition(": ")
                bad[path] = batch.reason
                assert "secret" not in what
        else:
            rows |= {row["key"]: row["image"] for row in batch.to_pylist()}
    return rows, bad


@pytest.fixture
def folders(tmp_path):
    """A folder of images with a table, beside one with a secret."""
    inside, outside = tmp_path / "images", tmp_path / "outside"
    for folder in (inside / "deep", outside):
        folder.mkdir(parents=True)
    (inside / "deep" / "a.png").write_bytes(PNG)
    (outside / "secret.png").write_bytes(b"secret")
    (inside / "link.png").symlink_to(outside / "secret.png")
    (inside / "folder").symlink_to(outside)
    (inside / "good.png").symlink_to(inside / "deep" / "a.png")
    os.mkfifo(inside / "pipe.png")
    return inside, outside


FORBIDDEN = {
    "../outside/secret.png": "forbidden_path",
    "deep/../../outside/secret.png": "forbidden_path",
    "link.png": "forbidden_path",
    "folder/secret.png": "forbidden_path",
    "/etc/passwd": "forbidden_path",
    "/dev/zero": "forbidden_path",
    "file:///etc/passwd": "forbidden_url",
    "FILE:///etc/passwd": "forbidden_url",
    "ftp://example.org/a.png": "forbidden_url",
    "s3://bucket/a.png": "forbidden_url",
    "http://example.org/a.png": "forbidden_url",
    "https://example.org/a.png": "forbidden_url",
    "gs://someone/else.png": "forbidden_path",
    "gs://": "forbidden_path",
    "pipe.png": "unreadable_image",
    "file:/etc/passwd": "unreadable_image",
    "nothing.png": "unreadable_image",
    "deep": "unreadable_image",
}


def test_a_table_reads_below_its_folder_and_nothing_else(folders):
    inside, outside = folders
    good = {"a": "deep/a.png", "b": "./deep/a.png", "c": "good.png", "d": f"{inside}/deep/a.png"}
    named = {**good, **{f"bad{i}": path for i, path in enumerate(FORBIDDEN)}}
    lines = [f"{key},{path}" for key, path in named.items()]
    (inside / "t.csv").write_text("\n".join(["key,path", *lines]))
    rows, bad = rows_of(str(inside / "t.csv"), Places())
    assert rows == dict.fromkeys(good, PNG)
    assert bad == FORBIDDEN
    rows, bad = rows_of(str(inside / "t.csv"), Places(roots=(str(outside),)))
    allowed = {path for path in FORBIDDEN if path not in bad}
    assert allowed == {"link.png", "folder/secret.png"}


def test_roots_are_whole_folders(tmp_path):
    for name in ("photos", "photos-private"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(PNG)
    places = Places(roots=(f"{tmp_path}/photos",))
    assert places.read(f"{tmp_path}/photos/a.png", "/nowhere") == PNG
    with pytest.raises(ImageError, match="forbidden_path"):
        places.read(f"{tmp_path}/photos-private/a.png", "/nowhere")
    with pytest.raises(ImageError, match="forbidden_path"):
        Places(roots=("gs://mine/photos",)).read("gs://mine/photos-private/a.png", "gs://mine/t")


def test_links_among_image_files_stay_in_their_folder(folders):
    inside, _ = folders
    (inside / "pipe.png").unlink()
    for pattern in (str(inside), f"{inside}/**", f"{inside}/*.png"):
        rows, bad = rows_of(pattern, Places())
        assert set(rows.values()) == {PNG}
        assert bad[f"{inside}/link.png"] == "forbidden_path"
    rows, bad = rows_of(f"{inside}/link.png", Places())  # which a person named
    assert (rows, bad) == ({"link": b"secret"}, {})


def test_large_files_are_not_read(tmp_path):
    with open(tmp_path / "a.png", "wb") as file:
        file.truncate(1 << 40)
    assert rows_of(str(tmp_path), Places())[1] == {f"{tmp_path}/a.png": "too_many_bytes"}


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.9.9.9", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254"),
        *("100.64.0.1", "0.0.0.0", "255.255.255.255", "224.0.0.1", "192.0.0.1", "198.18.0.1"),
        *("240.0.0.1", "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "fec0::1", "ff02::1"),
        *("::ffff:127.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "64:ff9b::7f00:1"),
        *("2002:7f00:1::", "2001:0:4136:e378:8000:63bf:80ff:fffe", "2001:db8::1"),
    ],
)
def test_no_public_address(address):
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700:4700::1111", "::ffff:8.8.8.8"])
def test_public_address(address):
    assert is_public(address)


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.path)
        name = self.path.strip("/")
        if name.startswith("to="):
            self.send_response(302)
            self.send_header("Location", name.removeprefix("to="))
            self.end_headers()
            return
        self.send_response(404 if name == "missing" else 200)
        if name == "gzip":
            self.send_header("Content-Encoding", "gzip")
        if name == "cut":
            self.send_header("Content-Length", str(len(PNG) + 9))
        self.end_headers()
        if name == "slow":
            for _ in range(1_000):
                if self.server.stopped.wait(0.05):
                    break
                self.wfile.write(b"x")
        elif name == "endless":
            while not self.server.stopped.is_set():
                self.wfile.write(bytes(50_000))
        else:
            self.wfile.write(PNG)

    def handle(self):
        try:
            super().handle()
        except OSError:  # it hung up, as it should
            self.server.hung_up.append(True)

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def server():
    served = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    served.asked, served.hung_up, served.stopped = [], [], threading.Event()
    threading.Thread(target=served.serve_forever, daemon=True).start()
    yield served
    served.stopped.set()
    served.shutdown()
    served.server_close()


@pytest.fixture
def url(server):
    server.asked.clear()
    return f"http://127.0.0.1:{server.server_port}"


def refused(url, limits=LIMITS):
    with pytest.raises(ImageError) as error:
        fetch(url, limits)
    return error.value.reason, error.value.detail


def test_an_image_of_an_allowed_host(url):
    assert fetch(f"{url}/a.png", LIMITS) == PNG
    assert fetch(f"{url}/to={url}/to=/a.png", LIMITS) == PNG


def test_private_addresses_are_refused_in_every_spelling(server, url):
    public = FetchLimits(max_bytes=100_000)
    assert refused(f"{url}/a.png", public)[0] == "forbidden_url"
    hosts = ["127.0.0.1", "localhost", "2130706433", "0x7f000001", "0177.0.0.1", "127.1", "0"]
    hosts += ["[::1]", "[::ffff:127.0.0.1]", "[::ffff:a9fe:a9fe]", "169.254.169.254", "10.0.0.1"]
    hosts += ["127.0.0.1.", "127。0。0。1", "①②⑦.0.0.1"]
    for host in hosts:
        reason, detail = refused(f"http://{host}/a.png", public)
        assert reason == "forbidden_url"
        assert "no public address" in detail, host
    assert server.asked == []


@pytest.mark.parametrize(
    "target",
    [
        "http://169.254.169.254/computeMetadata/v1/",
        "http://[::1]/a.png",
        "http://[::ffff:127.0.0.1]/a.png",
        "http://2130706433/a.png",
        "http://0177.0.0.1/a.png",
        "http://10.0.0.1/a.png",
        "http://127.0.0.2/a.png",
        "//127.0.0.2/a.png",
        "file:///etc/passwd",
        "ftp://127.0.0.1/a",
        "gopher://127.0.0.1:70/x",
    ],
)
def test_no_redirect_leads_around_the_checks(server, url, target):
    assert refused(f"{url}/to={target}")[0] == "forbidden_url"
    assert len(server.asked) == 1


def test_redirects_end(url):
    with pytest.raises(OSError, match="redirects"):
        fetch(f"{url}/to={url}/to={url}/to={url}/to={url}/to={url}/a.png", LIMITS)


def test_link_local_is_refused_even_for_an_allowed_host():
    hosts = FetchLimits(private_hosts=("169.254.169.254",))
    assert refused("http://169.254.169.254/", hosts)[0] == "forbidden_url"


@pytest.mark.parametrize(
    "target",
    [
        "http://me:secret@127.0.0.1/a",
        "http:///a.png",
        "http://exa mple.org/",
        "http://127.0.0.1\r\nHost: x/",
        "http://127.0.0.1:99999/",
        "http://[::1/",
        "http://example.org:22/",
        "http://" + "a" * 70 + ".org/",
    ],
)
def test_what_is_no_url(target):
    assert refused(target)[0] == "forbidden_url"


def test_a_name_that_is_resolved_anew_leads_nowhere_else(monkeypatch):
    answers, connected = ["8.8.8.8", "127.0.0.1"], []

    def resolve(host, port, **_):
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (answers.pop(0), port))]

    def connect(address, **_):
        connected.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr(http_fetch.socket, "getaddrinfo", resolve)
    monkeypatch.setattr(http_fetch.socket, "create_connection", connect)
    with pytest.raises(ConnectionRefusedError):
        fetch("http://rebinding.example/a.png", FetchLimits())
    assert connected == [("8.8.8.8", 80)]
    assert refused("http://rebinding.example/a.png", FetchLimits())[0] == "forbidden_url"
    assert len(connected) == 1


def test_the_next_address_is_tried_where_one_does_not_answer(server, monkeypatch):
    connect = socket.create_connection
    asked = []

    def second_only(address, **options):
        asked.append(address[0])
        if address[0] == "127.0.0.9":
            raise ConnectionRefusedError
        return connect(address, **options)

    real = socket.getaddrinfo

    def resolve(host, port, *args, **options):
        hosts = ("127.0.0.9", "127.0.0.1") if host == "images.intranet" else (host,)
        return [found for address in hosts for found in real(address, port, *args, **options)]

    monkeypatch.setattr(http_fetch.socket, "getaddrinfo", resolve)
    monkeypatch.setattr(http_fetch.socket, "create_connection", second_only)
    limits = FetchLimits(private_hosts=("images.intranet",))
    assert fetch(f"http://images.intranet:{server.server_port}/a.png", limits) == PNG
    assert asked == ["127.0.0.9", "127.0.0.1"]


def test_a_host_with_one_private_address_is_refused(monkeypatch):
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (a, 80)) for a in ("8.8.8.8", "10.0.0.1")]
    monkeypatch.setattr(http_fetch.socket, "getaddrinfo", lambda *_, **__: found)
    assert refused("http://half.example/a.png", FetchLimits())[0] == "forbidden_url"


METADATA = "169.254.169.254 ::ffff:169.254.169.254 64:ff9b::a9fe:a9fe 2002:a9fe:a9fe::1 fe80::1"
METADATA += " fd20:ce::254 fd00:ec2::254"


@pytest.mark.parametrize("address", METADATA.split())
def test_metadata_servers_are_refused_to_private_hosts_too(monkeypatch, address):
    found = [(socket.AF_INET6, socket.SOCK_STREAM, 6, "", (address, 80))]
    monkeypatch.setattr(http_fetch.socket, "getaddrinfo", lambda *_, **__: found)
    limits = FetchLimits(private_hosts=("images.intranet",))
    assert refused("http://images.intranet/a.png", limits)[0] == "forbidden_url"


def test_waiting_for_other_fetches_is_not_fetching(monkeypatch):
    """Eight threads ask one host, which serves two at once."""
    left = []

    def ask(*args):
        left.append(args[-1] - time.monotonic())
        time.sleep(0.2)
        return b"an image"

    monkeypatch.setattr(http_fetch, "_ask", ask)
    with ThreadPoolExecutor(8) as pool:
        args = ["http://busy.example/a.png"] * 8, [FetchLimits(max_seconds=0.5)] * 8
        assert list(pool.map(fetch, *args)) == [b"an image"] * 8
    assert min(left) > 0.4


def test_a_body_has_a_limit_of_bytes(url):
    assert refused(f"{url}/endless")[0] == "too_many_bytes"


def test_a_server_that_drips_is_left(url):
    hasty = FetchLimits(max_seconds=0.5, private_hosts=LIMITS.private_hosts)
    with pytest.raises(TimeoutError, match="fetch_seconds"):
        fetch(f"{url}/slow", hasty)


@pytest.mark.parametrize(("name", "what"), [("missing", "404"), ("gzip", "encoding"), ("cut", "9")])
def test_answers_that_are_no_image(url, name, what):
    with pytest.raises(OSError, match=what):
        fetch(f"{url}/{name}", LIMITS)


def test_a_table_of_urls(tmp_path, url):
    table = tmp_path / "t.csv"
    table.write_text(f"key,path\na,{url}/a.png\nb,{url}/missing\nc,http://169.254.169.254/x\n")
    rows, bad = rows_of(str(table), Places(http=LIMITS))
    assert rows == {"a": PNG}
    assert bad == {
        f"{url}/missing": "unreadable_image",
        "http://169.254.169.254/x": "forbidden_url",
    }
