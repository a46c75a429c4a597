"""A server on this machine that hands out one file, and fails as it is told to."""

import http.server
import threading
import time
from contextlib import contextmanager


class Web:
    """What the server does and what it was asked.

    Attributes:
        content: the file.
        faults: what to do wrong, one a request, from the first; then all goes well. Words such as
            `status=404`, `no-range`, `another-range`, `endless`, `cut=1000` and `wait=0.5`.
        asked: the `Range` header of every request, None for one without.
    """

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.faults: list[str] = []
        self.asked: list[str | None] = []
        self.url = ""


@contextmanager
def serve(content: bytes):
    web = Web(content)

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            asked = self.headers["Range"]
            web.asked.append(asked)
            words = (web.faults.pop(0) if web.faults else "").split()
            fault = dict(word.partition("=")[::2] for word in words)
            time.sleep(float(fault.get("wait", 0)))
            if "status" in fault:
                self.send_error(int(fault["status"]))
                return
            content = web.content
            start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
            if "no-range" in fault:
                start = 0
            if start >= len(content):
                self.send_error(416)
                return
            ranged = asked is not None and "no-range" not in fault
            self.send_response(206 if ranged else 200)
            if ranged:
                first = start + 1 if "another-range" in fault else start
                self.send_header(
                    "Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}"
                )
            body = content[start:]
            if "endless" in fault:
                body += bytes(1 << 20)
            else:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if "cut" in fault:
                body = body[: int(fault["cut"])]
            self.wfile.write(body)
            self.close_connection = True

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        web.url = f"http://127.0.0.1:{server.server_port}/Tiny.zip"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield web
        finally:
            server.shutdown()
            thread.join()
