"""Webhooks at 127.0.0.1:8099 and a mail server at 127.0.0.1:2525; each line of webhook.jsonl (/hook), NAME.jsonl (/NAME) and mail.jsonl is
one that was taken. /alive is asked by GET.
usage: receivers.py DIRECTORY   (while DIRECTORY/fail is there, all refuse; DIRECTORY/secret is what requests are signed with)"""
import email, hashlib, hmac, json, os, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from aiosmtpd.controller import Controller

home = sys.argv[1]
secret = open(f"{home}/secret", "rb").read()


def keep(name, line):
    with open(f"{home}/{name}.jsonl", "a") as log:
        log.write(json.dumps({"arrived": time.time(), **line}) + "\n")
        log.flush()
        os.fsync(log.fileno())


class Webhook(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        parts = dict(part.split("=", 1) for part in self.headers.get("X-Appliance-Signature", "t=0,v1=").split(","))
        right = hmac.new(secret, parts["t"].encode() + b"." + body, hashlib.sha256).hexdigest()
        is_signed = hmac.compare_digest(right, parts["v1"]) and abs(time.time() - int(parts["t"])) < 60
        status = 503 if os.path.exists(f"{home}/fail") else 202 if is_signed else 401
        if status == 202:
            name = "webhook" if self.path == "/hook" else self.path[1:]
            keep(name, {"id": self.headers["Idempotency-Key"], **json.loads(body)})
        self.answer(status, b"queued\n" if status == 202 else b"no\n")

    def do_GET(self):
        is_fine = self.path == "/alive" and not os.path.exists(f"{home}/dead")
        if is_fine:
            keep("alive", {})
        self.answer(200 if is_fine else 503, b"")

    def answer(self, status, text):
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


class Mail:
    async def handle_DATA(self, server, session, envelope):
        if os.path.exists(f"{home}/fail"):
            return "451 4.3.0 come back later"
        mail = email.message_from_bytes(envelope.content)
        body = mail.get_payload(decode=True).decode()
        keep("mail", {"id": mail["Message-ID"].strip("<>").split("@")[0], "subject": mail["Subject"], "to": envelope.rcpt_tos, "body": body})
        return "250 2.0.0 queued as 4711"


Controller(Mail(), hostname="127.0.0.1", port=2525).start()
ThreadingHTTPServer(("127.0.0.1", 8099), Webhook).serve_forever()
