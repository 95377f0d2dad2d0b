"""The proxy between a stand-in for GitHub and an upstream that records every byte; nginx as a second opinion."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
import urllib.parse

import h11

UPSTREAM_PATH = "/up?tenant=1"
VERIFIER = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
CHALLENGE = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
CALLBACK = "http://127.0.0.1:1/cb"
PATIENCE = 10


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


class Message:
    """One HTTP message as somebody understood it."""

    def __init__(self, method, target, headers, body):
        self.method, self.target, self.headers, self.body = method, target, headers, body

    def all(self, name):
        return [value for known, value in self.headers if known == name]

    def __repr__(self):
        return f"<{self.method} {self.target} {self.body[:80]!r}>"


def lives_on(head):
    """HTTP/1.0 has no kept connections to h11, but it has (RFC 9112 §9.3)."""
    return head.http_version == b"1.0" and dict(head.headers).get(b"connection", b"").lower() == b"keep-alive"


def read_by_h11(data):
    """The whole messages in these bytes, and why there are no more: None at a clean end."""
    messages = []
    while data:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
        connection.receive_data(data)
        connection.receive_data(b"")
        head, body, event = None, b"", None
        try:
            while not isinstance(event, h11.EndOfMessage):
                event = connection.next_event()
                if isinstance(event, h11.Request):
                    head = event
                elif isinstance(event, h11.Data):
                    body += bytes(event.data)
                elif isinstance(event, h11.ConnectionClosed):
                    # Nothing but empty lines.
                    return messages, None
        except h11.RemoteProtocolError as error:
            return messages, str(error)
        headers = [(name.decode(), value.decode("latin-1")) for name, value in head.headers]
        messages.append(Message(head.method.decode(), head.target.decode("latin-1"), headers, body))
        if connection.their_state is h11.MUST_CLOSE and not lives_on(head):
            # What follows is nobody's.
            return messages, None
        data = connection.trailing_data[0]
    return messages, None


def read_answers(data, method="POST"):
    """(status, headers, body) of the whole answers in these bytes, and why there are no more: None at a clean end."""
    answers = []
    while data:
        connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
        connection.send(h11.Request(method=method, target="/", headers=[("Host", "x"), ("Content-Length", "0")]))
        connection.send(h11.EndOfMessage())
        connection.receive_data(data)
        connection.receive_data(b"")
        head, body, event = None, b"", None
        try:
            while not isinstance(event, h11.EndOfMessage):
                event = connection.next_event()
                if isinstance(event, h11.Response):
                    head = event
                elif isinstance(event, h11.Data):
                    body += bytes(event.data)
                elif event is h11.PAUSED or isinstance(event, h11.ConnectionClosed):
                    return answers, "no answer"
        except h11.RemoteProtocolError as error:
            return answers, str(error)
        answers.append((head.status_code, dict(head.headers), body))
        data = connection.trailing_data[0]
        if data and connection.their_state is h11.MUST_CLOSE and not lives_on(head):
            return answers, f"{data[:80]!r} after the end"
    return answers, None


class Recorder:
    """The upstream: keeps every byte, and answers each message that h11 finds in them."""

    def __init__(self):
        self.server = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self.server.getsockname()[1]
        self.lock = threading.Lock()
        self.connections = []
        self.count = 0
        # What was answered, by number.
        self.answered = {}
        # Bytes to say instead of an answer, and whether to close then.
        self.hostile = None
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            stream, _ = self.server.accept()
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = {"bytes": bytearray(), "closed": False, "idle": True}
            with self.lock:
                self.connections.append(connection)
            threading.Thread(target=self.serve, args=(stream, connection), daemon=True).start()

    def serve(self, stream, connection):
        reader = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
        head, body = None, b""
        try:
            while data := stream.recv(1 << 16):
                with self.lock:
                    connection["bytes"] += data
                    connection["idle"] = False
                reader.receive_data(data)
                while (event := reader.next_event()) is not h11.NEED_DATA:
                    if isinstance(event, h11.Request):
                        head, body = event, b""
                    elif isinstance(event, h11.Data):
                        body += bytes(event.data)
                    if not isinstance(event, h11.EndOfMessage):
                        continue
                    if not self.answer(stream, reader, head, body):
                        return
                    reader.start_next_cycle()
                    with self.lock:
                        connection["idle"] = not reader.trailing_data[0]
        except (OSError, h11.RemoteProtocolError):
            pass
        finally:
            with self.lock:
                connection["closed"] = True
            stream.close()

    def answer(self, stream, reader, head, received):
        """Says what is to be said; whether the connection lives on."""
        asked = dict(head.headers).get(b"x-request-id", b"")
        with self.lock:
            self.count += 1
            headers = [(name.decode(), value.decode("latin-1")) for name, value in head.headers]
            message = Message(head.method.decode(), head.target.decode("latin-1"), headers, received)
            self.answered[self.count] = message
            body = json.dumps({"number": self.count, "asked": asked.decode("latin-1")}).encode()
            hostile, self.hostile = (self.hostile, None) if asked != b"ping" else (None, self.hostile)
        answer = reader.send(h11.Response(
            status_code=200,
            headers=[("Content-Type", "application/json"), ("Content-Length", str(len(body)))],
        ))
        answer += reader.send(h11.Data(data=body)) + reader.send(h11.EndOfMessage())
        if hostile is not None:
            answer, close = hostile
            stream.sendall(answer)
            return not close
        stream.sendall(answer)
        return reader.our_state is h11.DONE

    def mark(self):
        """From here on is new; gone connections are forgotten."""
        with self.lock:
            self.connections = [connection for connection in self.connections if not connection["closed"]]
            for connection in self.connections:
                connection["bytes"].clear()
            self.answered.clear()

    def heard(self):
        """What came on each connection since the mark, and whether it ended in mid-message."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            with self.lock:
                if all(connection["idle"] or connection["closed"] for connection in self.connections):
                    break
            time.sleep(0.002)
        with self.lock:
            return [
                (bytes(connection["bytes"]), connection["closed"])
                for connection in self.connections
                if connection["bytes"]
            ]


class Nginx:
    """Reads raw bytes as a server would and logs what it understood."""

    def __init__(self, folder):
        self.port = free_port()
        self.log = os.path.join(folder, "nginx-seen.log")
        open(self.log, "w").close()
        self.read = 0
        self.sentinels = 0
        config = os.path.join(folder, "nginx.conf")
        with open(config, "w") as file:
            # Its worker must reach the folder, whoever that belongs to.
            user = "user root;" if os.geteuid() == 0 else ""
            file.write(f"""{user}
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/nginx-errors.log;
events {{ worker_connections 256; }}
http {{
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  client_body_buffer_size 1m; client_max_body_size 64m; client_header_buffer_size 64k; large_client_header_buffers 8 64k;
  merge_slashes off; lingering_close off; keepalive_requests 1000; underscores_in_headers on; ignore_invalid_headers off;
  log_format seen escape=json '{{"method":"$request_method","target":"$request_uri","body":"$request_body","status":"$status","sentinel":"$http_x_sentinel"}}';
  server {{
    listen 127.0.0.1:{self.port};
    access_log {self.log} seen;
    location / {{ proxy_pass http://unix:{folder}/back.sock; proxy_set_header Connection ""; proxy_ignore_client_abort on; }}
  }}
  server {{ listen unix:{folder}/back.sock; access_log off; return 204; }}
}}
""")
        self.process = subprocess.Popen([os.environ["NGINX"], "-c", config, "-p", folder], stderr=subprocess.DEVNULL)
        wait_for(self.port)

    def understood(self, data):
        """The log lines for these bytes, in order."""
        with socket.create_connection(("127.0.0.1", self.port)) as stream:
            stream.settimeout(PATIENCE)
            try:
                stream.sendall(data)
                stream.shutdown(socket.SHUT_WR)
                while stream.recv(1 << 16):
                    pass
            except OSError:
                pass
        self.sentinels += 1
        name = f"sentinel-{self.sentinels}"
        with socket.create_connection(("127.0.0.1", self.port)) as stream:
            stream.settimeout(PATIENCE)
            stream.sendall(f"GET / HTTP/1.1\r\nHost: x\r\nX-Sentinel: {name}\r\nConnection: close\r\n\r\n".encode())
            while stream.recv(1 << 16):
                pass
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            with open(self.log, "rb") as file:
                file.seek(self.read)
                lines = file.read()
            if f'"{name}"'.encode() in lines and lines.endswith(b"\n"):
                self.read += len(lines)
                seen = [json.loads(line.decode("latin-1")) for line in lines.splitlines()]
                return [line for line in seen if line["sentinel"] != name]
            time.sleep(0.002)
        raise AssertionError("nginx does not write its log")


def wait_for(port):
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            time.sleep(0.05)
    raise SystemExit(f"nothing listens on port {port}")


class Rig:
    def __init__(self, folder):
        self.folder = folder
        self.processes = []
        self.recorder = Recorder()
        self.github, self.port = free_port(), free_port()
        self.start("standin", [
            os.environ["STANDIN"], "--listen", f"127.0.0.1:{self.github}", "--client-id", "differential",
            "--client-secret", "differential-secret",
        ], self.github)
        config = os.path.join(folder, "proxy.yaml")
        with open(config, "w") as file:
            file.write(f"""
public_url: http://localhost:{self.port}
listen: 127.0.0.1:{self.port}
workers: 1
github:
  client_id: differential
  client_secret: differential-secret
  base_url: http://127.0.0.1:{self.github}
  api_url: http://127.0.0.1:{self.github}/api/v3
allow: anyone
store: "memory:"
resources:
  - path: /mcp
    upstream: http://127.0.0.1:{self.recorder.port}{UPSTREAM_PATH}
    github_scopes: [read:user]
    response_timeout: 5s
    inject: {{X-GitHub-Token: "{{github_token}}"}}
""")
        self.start("proxy", [os.environ["MCP_AUTH_PROXY"], "--config", config], self.port)
        self.nginx = Nginx(folder)
        self.processes.append(self.nginx.process)
        self.token = self.login()

    def start(self, name, command, port):
        log = open(os.path.join(self.folder, f"{name}.log"), "wb")
        self.processes.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log))
        wait_for(port)

    def stop(self):
        for process in self.processes:
            process.send_signal(signal.SIGTERM)
        for process in self.processes:
            process.wait(timeout=20)

    def login(self):
        jar = {}

        def call(method, url, body=None, kind="application/x-www-form-urlencoded"):
            parts = urllib.parse.urlsplit(url)
            origin = f"http://localhost:{self.port}"
            cookies = jar.setdefault(parts.netloc, {})
            headers = {"Host": parts.netloc}
            if cookies:
                headers["Cookie"] = "; ".join(f"{name}={value}" for name, value in cookies.items())
            if body is not None:
                headers |= {"Content-Type": kind, "Origin": origin, "Sec-Fetch-Site": "same-origin"}
            connection = http.client.HTTPConnection("127.0.0.1", parts.port)
            connection.request(method, parts._replace(scheme="", netloc="").geturl(), body, headers)
            answer = connection.getresponse()
            for name, value in answer.getheaders():
                if name.lower() == "set-cookie":
                    name, _, value = value.split(";")[0].partition("=")
                    cookies[name] = value
            text = answer.read().decode()
            connection.close()
            return answer, text

        base = f"http://localhost:{self.port}"
        registration = json.dumps({"redirect_uris": [CALLBACK], "client_name": "Differential"})
        client = json.loads(call("POST", f"{base}/register", registration, "application/json")[1])["client_id"]
        query = urllib.parse.urlencode({
            "response_type": "code", "client_id": client, "redirect_uri": CALLBACK, "state": "s",
            "code_challenge": CHALLENGE, "code_challenge_method": "S256",
        })
        page = call("GET", f"{base}/authorize?{query}")[1]
        flow = re.search(r'name="flow" value="([^"]+)"', page)[1]
        page = call("POST", f"{base}/consent", urllib.parse.urlencode({"flow": flow, "decision": "approve"}))[1]
        onward = re.search(r'href="(http[^"]+)"', page)[1].replace("&#38;", "&").replace("&amp;", "&")
        callback = call("GET", onward)[0].getheader("Location")
        answer, page = call("GET", callback)
        back = answer.getheader("Location") or re.search(r'href="(http[^"]+)"', page)[1].replace("&#38;", "&")
        code = urllib.parse.parse_qs(urllib.parse.urlsplit(back).query)["code"][0]
        form = urllib.parse.urlencode({
            "grant_type": "authorization_code", "code": code, "client_id": client, "redirect_uri": CALLBACK,
            "code_verifier": VERIFIER,
        })
        return json.loads(call("POST", f"{base}/token", form)[1])["access_token"]

    def say(self, data):
        """Everything the proxy says to these bytes, and whether it closed by itself."""
        heard, clean = b"", True
        with socket.create_connection(("127.0.0.1", self.port)) as stream:
            stream.settimeout(QUIET)
            try:
                stream.sendall(data)
            except OSError:
                pass
            while True:
                try:
                    piece = stream.recv(1 << 16)
                except TimeoutError:
                    if not clean:
                        raise
                    # It waits for more; there is none.
                    clean = False
                    stream.settimeout(PATIENCE)
                    stream.shutdown(socket.SHUT_WR)
                    continue
                except OSError:
                    return heard, clean
                if not piece:
                    return heard, clean
                heard += piece

    def ping(self):
        """An honest call; its answer must be its own."""
        heard, _ = self.say(
            f"POST /mcp HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {self.token}\r\nX-Request-Id: ping\r\n"
            "Content-Length: 2\r\nConnection: close\r\n\r\n{}".encode()
        )
        return read_answers(heard)


# Longer than the proxy ever thinks about what it has; then the client half-closes.
QUIET = 0.3
