"""The emulator of Cloud Storage, with the one promise that it lacks: preconditions are kept.

An upload that names a generation (`ifGenerationMatch`; 0 for no object) is refused with 412 unless
the object has that generation, as Cloud Storage does. One request is answered after the other, so
that nothing comes between the look and the write; but each connection has a thread, because Arrow
may open one, ask on another, and only then go on with the first.

  python -m tests.support.processes.emulator start --host=localhost --port=PORT --in-memory
"""

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


if __name__ == "__main__":
    server.Router.handle = one_after_the_other(server.Router.handle)
    server.server = types.SimpleNamespace(HTTPServer=ThreadingHTTPServer)
    for how in ("_media_upload", "_multipart_upload"):
        setattr(objects, how, keep_precondition(getattr(objects, how)))
    emulator.main(sys.argv[1:])
