"""Stands before Pebble and, while the file `limit` holds a number, answers every new order with 429 and that Retry-After.
usage: limits.py DIRECTORY   (holds api.pem, api.key, ca.pem, limit; requests.log is written there)"""
import http.client, os, ssl, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

home = sys.argv[1]
upstream = ssl.create_default_context(cafile=f"{home}/ca.pem")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with open(f"{home}/requests.log", "a") as log:
            log.write(f"{self.command} {self.path}\n")
        if self.path == "/order-plz" and os.path.exists(f"{home}/limit"):
            self.send_response(429)
            self.send_header("Retry-After", open(f"{home}/limit").read().strip())
            text = b'{"type": "urn:ietf:params:acme:error:rateLimited", "detail": "too many orders", "status": 429}'
            self.send_header("Content-Type", "application/problem+json")
            headers = []
        else:
            server = http.client.HTTPSConnection("localhost", 14000, context=upstream, timeout=30)
            server.request(self.command, self.path, body, {key: value for key, value in self.headers.items() if key.lower() != "content-length"})
            answer = server.getresponse()
            text, headers = answer.read(), answer.getheaders()
            self.send_response(answer.status)
        for key, value in headers:
            if key.lower() not in ("content-length", "connection", "date", "transfer-encoding"):
                self.send_header(key, value)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    do_GET = do_POST = do_HEAD = answer

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 14001), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(f"{home}/api.pem", f"{home}/api.key")
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
