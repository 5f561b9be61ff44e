"""Fetching from hosts that ask for patience, counted at a server of this machine."""

import email.utils
import http.server
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.inputs.image_tables import MAPPING
from transforms.images import fetch as http_fetch
from transforms.images.fetch import FetchLimits, fetch
from transforms.images.places import Places
from transforms.images.plan import plan_images
from transforms.images.readers import read_unit
from transforms.rows.tabular import BadRows

LIMITS = FetchLimits(private_hosts=("127.0.0.1",))


class _Handler(http.server.BaseHTTPRequestHandler):
    """/refusals/status/retry after/name: refuses so many times before it answers."""

    def do_GET(self):
        refusals, status, after, _ = self.path.strip("/").split("/")
        with self.server.lock:
            self.server.asked.append((self.path, time.monotonic()))
            asked = sum(path == self.path for path, _ in self.server.asked)
        is_refused = asked <= int(refusals)
        self.send_response(int(status) if is_refused else 200)
        if is_refused and after != "-":
            moment = email.utils.formatdate(time.time() + 2, usegmt=True)
            self.send_header("Retry-After", moment if after == "date" else after)
        self.end_headers()
        self.wfile.write(b"refused" if is_refused else b"an image")

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(http_fetch, "_GATES", [http_fetch._Gate() for _ in range(256)])
    monkeypatch.setattr(http_fetch, "_FIRST_WAIT_SECONDS", 0.01)
    served = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    served.asked, served.lock = [], threading.Lock()
    threading.Thread(target=served.serve_forever, daemon=True).start()
    served.url = f"http://127.0.0.1:{served.server_port}"
    yield served
    served.shutdown()
    served.server_close()


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_host_that_refuses_is_asked_again(server, status):
    assert fetch(f"{server.url}/3/{status}/-/a.png", LIMITS) == b"an image"
    assert len(server.asked) == 4


@pytest.mark.parametrize("status", [403, 404, 500])
def test_what_will_not_change_is_asked_once(server, status):
    with pytest.raises(OSError, match=str(status)):
        fetch(f"{server.url}/1/{status}/-/a.png", LIMITS)
    assert len(server.asked) == 1


@pytest.mark.parametrize("after", ["1", "date"])
def test_it_is_asked_when_it_said(server, after):
    assert fetch(f"{server.url}/1/429/{after}/a.png", LIMITS) == b"an image"
    first, second = (moment for _, moment in server.asked)
    assert second - first >= 0.95, "an HTTP date has whole seconds"


def test_others_wait_for_the_host_too(server):
    """What one thread was told holds for all of them."""
    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(fetch, f"{server.url}/1/503/1/a.png", LIMITS)
        while not server.asked:
            time.sleep(0.01)
        time.sleep(0.1)
        other = pool.submit(fetch, f"{server.url}/0/200/-/b.png", LIMITS)
        assert one.result() == other.result() == b"an image"
    moments = [moment for _, moment in server.asked]
    assert min(moments[1:]) - moments[0] >= 0.95


@pytest.mark.parametrize(("after", "asked"), [("-", 4), ("61", 1), ("nonsense", 4)])
def test_tries_have_a_bound(server, after, asked):
    with pytest.raises(OSError, match="HTTP status 429"):
        fetch(f"{server.url}/99/429/{after}/a.png", LIMITS)
    assert len(server.asked) == asked


def test_a_host_that_never_answers_costs_one_request_an_image(server):
    for number in range(20):
        with pytest.raises(OSError, match="HTTP status 503"):
            fetch(f"{server.url}/99/503/-/{number}.png", LIMITS)
    assert len(server.asked) == 8 * 4 + 12
    assert fetch(f"{server.url}/0/200/-/a.png", LIMITS) == b"an image"
    assert fetch(f"{server.url}/1/503/-/b.png", LIMITS) == b"an image", "there is hope again"


def test_requests_a_second(server):
    limits = FetchLimits(private_hosts=("127.0.0.1",), requests_per_second=20)
    with ThreadPoolExecutor(8) as pool:
        urls = [f"{server.url}/0/200/-/{number}.png" for number in range(11)]
        assert set(pool.map(lambda url: fetch(url, limits), urls)) == {b"an image"}
    moments = [moment for _, moment in server.asked]
    assert max(moments) - min(moments) >= 0.48, "ten pauses of 1/20 s"


def test_an_image_that_could_not_be_had_is_the_same_dead_letter(server, tmp_path):
    table = tmp_path / "t.csv"
    urls = {"a": f"{server.url}/2/429/-/a.png", "b": f"{server.url}/99/503/-/b.png"}
    table.write_text("\n".join(["key,path", *(f"{key},{url}" for key, url in urls.items())]))
    places = Places(http=LIMITS)
    (unit,) = plan_images("images", [str(table)], "auto", MAPPING, "stem", places=places).units
    bad, images = sorted(read_unit(unit), key=lambda batch: not isinstance(batch, BadRows))
    assert (bad.reason, bad.path) == ("unreadable_image", "b")
    assert bad.details == [f"{urls['b']}: HTTP status 503"]
    assert images.to_pylist() == [{"key": "a", "image": b"an image"}]
