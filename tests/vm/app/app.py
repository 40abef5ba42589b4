"""Notes, as small as an app with a database can be: for an emulated machine."""
import http.server, json, os, sys, urllib.parse, urllib.request
import psycopg2


def database():
    connection = psycopg2.connect(os.environ["DATABASE_URL"], connect_timeout=5)
    connection.autocommit = True
    return connection.cursor()


class Notes(http.server.BaseHTTPRequestHandler):
    def answer(self, code, value):
        body = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        cursor = database()
        cursor.execute("SELECT text FROM note ORDER BY id")
        self.answer(200, {"version": VERSION, "notes": [text for (text,) in cursor.fetchall()]})

    def do_POST(self):
        form = urllib.parse.parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        cursor = database()
        cursor.execute("INSERT INTO note (text) VALUES (%s)", (form["text"][0],))
        self.answer(201, {})


VERSION = "v1"
match sys.argv[1]:
    case "migrate":
        database().execute("CREATE TABLE IF NOT EXISTS note (id serial PRIMARY KEY, text text NOT NULL)")
    case "check":
        urllib.request.urlopen("http://127.0.0.1:8000/notes", timeout=20)
    case "serve":
        http.server.ThreadingHTTPServer(("", 8000), Notes).serve_forever()
