"""An app that tells what reached it: headers, uploads, WebSocket frames; and answers late or at length when asked to."""
import base64, hashlib, json, signal, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
LAST = {}


class Mirror(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 600

    def say(self, text, kind="application/json", status=200):
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        path, _, query = self.path.partition("?")
        if path == "/ws":
            return self.websocket()
        if path == "/slow":
            time.sleep(float(query))
            return self.say('"late"')
        if path == "/long":
            return self.say("0123456789abcdef\n" * 20000, "text/plain")
        if path == "/first":
            return self.say(json.dumps(LAST))
        if path == "/unwell":
            return self.say('"unwell"', status=503)
        self.say(json.dumps({"path": self.path, "headers": [[key.lower(), value] for key, value in self.headers.items()]}))

    def do_POST(self):
        count, left = 0, self.headers.get("Content-Length")
        LAST.clear()
        while left is None or count < int(left):
            if left is None:
                size = int(self.rfile.readline().strip() or b"0", 16)
                piece = self.rfile.read(size) if size else b""
                self.rfile.readline()
            else:
                piece = self.rfile.read1(min(1 << 20, int(left) - count))
            if not piece:
                break
            count += len(piece)
            LAST["seen"] = count
        self.say(json.dumps({"bytes": count}))

    do_PUT = do_POST

    def websocket(self):
        key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(key.encode()).digest()).decode())
        self.end_headers()
        # One short masked text frame comes, and goes back in capitals.
        head = self.rfile.read(2)
        mask = self.rfile.read(4)
        text = bytes(byte ^ mask[i % 4] for i, byte in enumerate(self.rfile.read(head[1] & 0x7F)))
        self.wfile.write(bytes([0x81, len(text)]) + text.upper())
        self.close_connection = True

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 2048
    daemon_threads = True


Server(("0.0.0.0", 5000), Mirror).serve_forever()
