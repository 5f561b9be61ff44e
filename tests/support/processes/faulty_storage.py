"""A Cloud Storage that fails: a proxy before its emulator, in a process of its own.

  python -m tests.support.processes.faulty_storage --port=8001 --upstream=8000 --log=LOG

Answers a share of all requests with a status of trouble, half of them after the request was done;
or so many of the requests that match a pattern, by a status or never (`--status=hang`), and not
done unless `--done`. Writes a line for each request to the log: its fault or "-", its method and
its path.
"""

import argparse
import http.client
import random
import re
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length"}


class Faults:
    """Which requests fail, in the order in which they come."""

    def __init__(self, args: argparse.Namespace):
        self._args, self._rng = args, random.Random(args.seed)
        self._to_come, self._left, self._lock = args.after, args.times, threading.Lock()

    def next(self, request: str) -> tuple[str, bool]:
        """The fault of a request ("-" for none), and whether the request is done first."""
        with self._lock:
            fault, done = "-", self._rng.random() < 0.5
            if self._args.match:
                matches = re.search(self._args.match, request)
                if matches and self._to_come:
                    self._to_come -= 1
                elif matches and self._left:
                    self._left -= 1
                    fault, done = self._args.status, self._args.done
            elif self._rng.random() < self._args.share:
                fault = self._args.status
            with open(self._args.log, "a") as f:
                f.write(f"{fault} {request}\n")
            return fault, done


def handler(upstream: int, faults: Faults) -> type[BaseHTTPRequestHandler]:
    uploaded: dict[str, tuple[list[tuple[str, str]], bytes]] = {}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.body()
            if self.headers.get("Content-Range") == "bytes */*":
                return self.tell_progress()
            fault, done = faults.next(f"{self.command} {self.path}")
            if fault == "hang":
                time.sleep(3600)
            if fault == "-" or done:
                status, headers, data = self.forward(body)
                if status == 200 and self.command == "PUT":
                    uploaded[self.path] = headers, data
            if fault != "-":
                status, headers, data = int(fault), [], b"trouble"
            self.reply(status, headers, data)

        def tell_progress(self) -> None:
            """Of a resumable upload: all of it came, or nothing; the emulator cannot say."""
            headers, data = uploaded.get(self.path, ([], b""))
            self.reply(200 if data else 308, headers, data)

        def reply(self, status: int, headers: list[tuple[str, str]], data: bytes) -> None:
            self.send_response(status)
            for name, value in headers:
                if name.lower() not in HOP_BY_HOP:
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = answer

        def body(self) -> bytes:
            if "chunked" not in self.headers.get("Transfer-Encoding", ""):
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            data = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return data

        def forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
            connection = http.client.HTTPConnection("localhost", upstream, timeout=60)
            kept = {k: v for k, v in self.headers.items() if k.lower() not in HOP_BY_HOP}
            connection.request(self.command, self.path, body, kept)
            response = connection.getresponse()
            data = response.read()
            connection.close()
            return response.status, response.getheaders(), data

        def log_message(self, *args) -> None:
            pass

    return Handler


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--upstream", type=int, required=True)
    parser.add_argument("--log", required=True)
    parser.add_argument("--share", type=float, default=0.0, help="of all requests that fail")
    parser.add_argument("--match", default="", help="a pattern of the requests that fail")
    parser.add_argument("--after", type=int, default=0, help="how many of those go well first")
    parser.add_argument("--times", type=int, default=1, help="how many of those fail")
    parser.add_argument("--status", default="503", help="their status, or hang")
    parser.add_argument("--done", action="store_true", help="they are done, then they fail")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    server = ThreadingHTTPServer(("localhost", args.port), handler(args.upstream, Faults(args)))
    server.daemon_threads = True
    server.serve_forever()


if __name__ == "__main__":
    sys.exit(main())
