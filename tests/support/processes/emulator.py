"""The emulator of Cloud Storage, with the one promise that it lacks: preconditions are kept.

An upload that names a generation (`ifGenerationMatch`; 0 for no object) is refused with 412 unless
the object has that generation, as Cloud Storage does. One request is answered after the other, so
that nothing comes between the look and the write; but each connection has a thread, because Arrow
may open one, ask on another, and only then go on with the first.

It counts what it is asked for: GET /requests answers with the requests so far, by kind, and the
bytes of objects that went each way.

  python -m tests.support.processes.emulator start --host=localhost --port=PORT --in-memory
"""

import collections
import re
import sys
import threading
import types
from http import HTTPStatus
from http.server import ThreadingHTTPServer

from gcp_storage_emulator import __main__ as emulator
from gcp_storage_emulator import server
from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers import objects


def _generation(storage, bucket: str, name: str) -> str:
    try:
        return storage.get_file_obj(bucket, name)["generation"]
    except NotFound:
        return "0"


def keep_precondition(upload):
    def checked(request, response, storage):
        wanted = request.query.get("ifGenerationMatch")
        names = request.query.get("name")
        if wanted:
            name = names[0] if names else request.data["meta"]["name"]
            found = _generation(storage, request.params["bucket_name"], name)
            if found != wanted[0]:
                message = f"generation is {found}, not {wanted[0]}"
                response.status = HTTPStatus.PRECONDITION_FAILED
                error = {"reason": "conditionNotMet", "message": message}
                response.json({"error": {"code": 412, "message": message, "errors": [error]}})
                return None
        return upload(request, response, storage)

    return checked


def one_after_the_other(handle):
    turn = threading.Lock()

    def in_turn(router, method):
        with turn:
            handle(router, method)

    return in_turn


# What a request is, by its method and path; the first that fits. A download in ranges is one each.
KINDS = {
    "looks": r"GET .*/o/[^?]*(\?(?!.*alt=media).*)?",
    "lists": r"GET .*/o\?.*",
    "reads": r"GET (.*[?&]alt=media.*|/download/.*|/(?!storage/|b/|requests).*)",
    "copies": r"POST .*/(rewriteTo|copyTo)/.*",
    "batches": r"POST /batch.*",
    "writes": r"(POST|PUT) .*/o(/|\?).*",
    "deletes": r"DELETE .*",
}


def kind_of(method: str, path: str) -> str:
    """The kind of a request, one of KINDS or "others"."""
    found = (kind for kind, of in KINDS.items() if re.fullmatch(of, f"{method} {path}"))
    return next(found, "others")


class Counted:
    """Requests by kind, and bytes of objects that were read and written.

    Deletes in one batch count one by one, beside the batch: the service does each.
    """

    def __init__(self) -> None:
        self.counts: collections.Counter[str] = collections.Counter()

    def counting(self, handle):
        def counted(router, method):
            asked = router._request_handler
            kind = kind_of(method, asked.path)
            self.counts[kind] += 1
            if kind == "writes":
                self.counts["bytes_written"] += int(asked.headers.get("Content-Length") or 0)
            handle(router, method)

        return counted

    def closing(self, close):
        def closed(response):
            asked = response._handler
            if kind_of(asked.command, asked.path) == "reads":
                self.counts["bytes_read"] += len(response._content)
            close(response)

        return closed

    def batching(self, batch):
        def counted(request, response, storage):
            self.counts["deletes"] += sum(i.get("method") == "DELETE" for i in request.data)
            batch(request, response, storage)

        return counted

    def answer(self, request, response, storage):
        response.json(self.counts)


if __name__ == "__main__":
    counted = Counted()
    asked = (r"^/requests$", {server.GET: counted.answer})
    batches = (
        rf"^{server.settings.BATCH_API_ENDPOINT}$",
        {server.POST: counted.batching(objects.batch)},
    )
    server.HANDLERS = (asked, batches, *server.HANDLERS)
    server.Response.close = counted.closing(server.Response.close)
    server.Router.handle = one_after_the_other(counted.counting(server.Router.handle))
    server.server = types.SimpleNamespace(HTTPServer=ThreadingHTTPServer)
    for how in ("_media_upload", "_multipart_upload"):
        setattr(objects, how, keep_precondition(getattr(objects, how)))
    emulator.main(sys.argv[1:])
