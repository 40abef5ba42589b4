"""A cloud's metadata service, as good or as hostile as md.mode says; user-data is md.env.
usage: metadata.py [DIRECTORY ADDRESS PORT], which are /root 169.254.169.254 80"""

import gzip
import http.server
import sys
import time

HERE, ADDRESS, PORT = sys.argv[1:] or ("/root", "169.254.169.254", "80")
TOKEN = "c2Vzc2lvbi10b2tlbg=="
# Made before it is asked for: it takes longer than an asker may wait.
BOMB = gzip.compress(b"#" * (200 << 20), 1)
# What cloud-init asks EC2 for beside the user-data.
ABOUT = {"": b"instance-id\nlocal-hostname", "instance-id": b"i-0123456789abcdef0", "local-hostname": b"shop"}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, code, body=b"", **headers):
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def endless(self, pause, chunk):
        self.send_response(200)
        self.send_header("Connection", "close")
        self.end_headers()
        while True:
            self.wfile.write(chunk)
            time.sleep(pause)

    def hostile(self, mode):
        if mode == "hang":
            time.sleep(60)
        elif mode == "drip":
            self.endless(0.2, b"#")
        elif mode == "drip-headers":
            self.wfile.write(b"HTTP/1.1 200 OK\r\n")
            for number in range(300):
                self.wfile.write(b"X-%d: y\r\n" % number)
                time.sleep(0.2)
        elif mode == "endless":
            self.endless(0, b"#" * 65536)
        elif mode == "redirect":
            self.answer(302, Location="http://169.254.169.254/elsewhere")
        elif mode == "html":
            self.answer(200, b"<!DOCTYPE html><title>Please log in</title>", Content_Type="text/html")
        elif mode == "500":
            self.answer(500, b"internal error")
        elif mode == "cut":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n#cloud")
            self.close_connection = True
        elif mode == "noise":
            self.wfile.write(bytes(range(256)) * 40)
            self.close_connection = True
        else:
            return False
        return True

    def serve(self, method):
        mode = open(f"{HERE}/md.mode").read().strip()
        data = open(f"{HERE}/md.env", "rb").read()
        open(f"{HERE}/md.log", "a").write(f"{method} {self.path}\n")
        if self.hostile(mode):
            return
        token = self.headers.get("X-aws-ec2-metadata-token")
        if method == "PUT" and mode == "v1-hanging-token":
            time.sleep(60)
        elif method == "PUT" and self.path == "/latest/api/token" and mode in ("v2", "v2-gzip", "v2-bomb"):
            self.answer(200, TOKEN.encode() if self.headers.get("X-aws-ec2-metadata-token-ttl-seconds") else b"")
        elif method == "PUT" and mode == "bad-token":
            self.answer(200, b"line\nbreak: in a header")
        elif method == "GET" and mode == "v2" and self.path.startswith("/2009-04-04/"):
            about = data if self.path.endswith("/user-data") else ABOUT.get(self.path.partition("/meta-data/")[2])
            self.answer(401) if token != TOKEN else self.answer(200 if about else 404, about or b"")
        elif method == "GET" and self.path == "/latest/user-data" and mode.startswith("v2"):
            if token != TOKEN:
                self.answer(401)
            elif mode == "v2-bomb":
                self.answer(200, BOMB)
            else:
                self.answer(200, gzip.compress(data) if mode == "v2-gzip" else data)
        elif method == "GET" and self.path == "/latest/user-data" and mode in ("v1", "v1-hanging-token", "bad-token"):
            self.answer(401 if token else 200, b"" if token else data)
        elif method == "GET" and self.path.startswith("/computeMetadata/v1/") and mode == "gce":
            if self.headers.get("Metadata-Flavor") != "Google":
                self.answer(403)
            elif self.path == "/computeMetadata/v1/instance/attributes/user-data":
                self.answer(200, data, Metadata_Flavor="Google")
            else:
                self.answer(404, Metadata_Flavor="Google")
        else:
            self.answer(404)

    def do_GET(self):
        self.serve("GET")

    def do_PUT(self):
        self.serve("PUT")

    def log_message(self, *_):
        pass


http.server.ThreadingHTTPServer((ADDRESS, int(PORT)), Handler).serve_forever()
