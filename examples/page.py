"""A back end for page.html: it holds the key, and the page holds a token for one stream.

    RUNLEDGER_API_KEY=secret python3 examples/page.py
    open http://127.0.0.1:8000/page.html?ask=/ask

RUNLEDGER_URL says where the service is. It must know this page's origin: start it with
RUNLEDGER_CORS_ORIGINS=http://127.0.0.1:8000 (see examples/README.md).
"""

import json
import os
import pathlib
import sys
import urllib.request
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

URL = os.environ.get("RUNLEDGER_URL", "http://127.0.0.1:8080")
KEY = os.environ.get("RUNLEDGER_API_KEY", "none")
PAGE = pathlib.Path(sys.argv[2] if len(sys.argv) > 2 else pathlib.Path(__file__).with_name("page.html"))
AGENT = {"name": "Assistant", "tools": [{"type": "builtin", "name": "calculator"}]}


def post(path, body, **headers):
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json", **headers}
    request = urllib.request.Request(URL + path, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


class BackEnd(BaseHTTPRequestHandler):
    def answer(self, kind, body):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.answer("text/html; charset=utf-8", PAGE.read_bytes())

    def do_POST(self):
        """The user's words in, the address of a stream out. Here is where you ask who the user is."""
        words = self.rfile.read(int(self.headers["Content-Length"])).decode()
        key = {"Idempotency-Key": str(uuid.uuid4())}
        run = post("/runs", {"agent": AGENT, "input": words}, **key)
        token = post(f"/runs/{run['run_id']}/stream_tokens", {"ttl": 600})
        self.answer("application/json", json.dumps({"stream": URL + token["url"]}).encode())

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1] if len(sys.argv) > 1 else 8000)), BackEnd)
    print(f"http://127.0.0.1:{server.server_port}/page.html?ask=/ask", flush=True)
    server.serve_forever()
