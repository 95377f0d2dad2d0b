"""The proxy and its peers, each set up to do the same: check the bearer token, take Authorization away, put the person's
GitHub token into X-GitHub-Token, keep connections to the upstream, hold nothing back, and log a line per request.

They are not quite even: the proxy reads revocations from its store once a second per login, and binds session ids to
people; nginx and HAProxy look tokens up in a table that never changes, and pass session ids on."""

import os
import subprocess

from rig import LOAD_CORES, PROXY_CORE, Process, figures, free_port, raise_limit, run
import workload

KEY = "Y2FuYXJ5LWtleS0wMTIzNDU2Nzg5YWJjZGVmZ2hpams="  # as in crowd.rs

PROXY = """
public_url: https://p.test
listen: 127.0.0.1:{port}
workers: {workers}
store: sqlite:{dir}/{store}
keys: ['{key}']
allow: anyone
github: {{client_id: bench, client_secret: bench-secret, base_url: 'http://127.0.0.1:9', api_url: 'http://127.0.0.1:9/api/v3'}}
resources: [{{path: /mcp, upstream: 'http://127.0.0.1:{upstream}/mcp', inject: {{X-GitHub-Token: '{{github_token}}'}}}}]
limits: {{streams_per_person: 100000}}
{more}
"""

NGINX = """
worker_processes {workers};
worker_rlimit_nofile {files};
pid nginx.pid;
error_log stderr error;
daemon off;
{user}
events {{ worker_connections {files}; }}
http {{
  access_log access-{port}.log combined buffer=64k flush=1s;
  client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
  map_hash_max_size 262144;
  map_hash_bucket_size 256;
  map $http_authorization $github_token {{ default ""; include tokens.nginx; }}
  keepalive_requests 1000000000;
  client_max_body_size 0;
  tcp_nodelay on;
  upstream mcp {{ server 127.0.0.1:{upstream}; keepalive 1024; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    listen 127.0.0.1:{port2} http2 backlog=4096;
    location /mcp {{
      if ($github_token = "") {{ return 401; }}
      proxy_pass http://mcp;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Host $http_host;
      proxy_set_header Authorization "";
      proxy_set_header X-GitHub-Token $github_token;
      proxy_buffering off;
      proxy_request_buffering off;
      proxy_read_timeout 1h;
    }}
  }}
}}
"""

HAPROXY = """
global
  nbthread {workers}
  maxconn {connections}
  log stderr format raw local0
defaults
  mode http
  log global
  option httplog
  option http-no-delay
  timeout connect 5s
  timeout client 1h
  timeout server 1h
  timeout http-request 30s
frontend clients
  bind 127.0.0.1:{port} backlog 4096
  bind 127.0.0.1:{port2} proto h2 backlog 4096
  http-request set-var(txn.github) req.hdr(authorization),word(2,' '),map_str({dir}/tokens.haproxy)
  http-request deny deny_status 401 unless {{ var(txn.github) -m found }}
  http-request del-header authorization
  http-request set-header x-github-token %[var(txn.github)]
  default_backend mcp
backend mcp
  http-reuse always
  server mcp 127.0.0.1:{upstream}
"""


class Contender:
    def __init__(self, name, process, port, logins, port2=None):
        self.name, self.process, self.port, self.logins = name, process, port, logins
        self.port2 = port2 or port

    @property
    def to(self):
        return f"127.0.0.1:{self.port}"


class Field:
    """An upstream, a crowd, and contenders in front of them."""

    def __init__(self, rig, programs, people):
        self.rig, self.people = rig, people
        self.proxy_program, self.load, self.crowd_program = programs
        self.templates = workload.write(rig)
        self.upstream = self.start_upstream()
        self.stores = 0
        self.peers_are_told = False

    def start_upstream(self):
        process = Process(self.rig, "upstream", [self.load, "upstream"], LOAD_CORES, stdout=subprocess.PIPE, text=True)
        return int(figures(process.child.stdout.readline())["port"])

    def crowd(self, people=None):
        """A new store with people in it: its name, and the file of their access tokens. A credential that was not
        looked at for a quarter of an hour would be checked at GitHub, so that each part gets one of its own."""
        self.stores += 1
        name, people = f"proxy-{self.stores}.db", people or self.people
        printed = run([self.crowd_program, self.rig.dir / name, people])
        access = [line.split(" ")[0] for line in printed.splitlines()]
        return name, self.rig.write(f"tokens-{self.stores}", "\n".join(access) + "\n")

    def proxy(self, workers=1, core=PROXY_CORE, people=None, more="", greet=True):
        store, tokens = self.crowd(people)
        port = free_port()
        yaml = PROXY.format(
            port=port, workers=workers, dir=self.rig.dir, store=store, key=KEY, upstream=self.upstream, more=more
        )
        config = self.rig.write(f"proxy-{port}.yaml", yaml)
        process = Process(self.rig, "proxy", [self.proxy_program, "--config", config], core).answers(port)
        logins = self.rig.dir / f"logins-{port}"
        contender = Contender("proxy", process, port, logins)
        contender.config, contender.tokens = config, tokens
        if greet:
            self.greet(contender)
            if not self.peers_are_told:
                self.tell_peers(logins)
        return contender

    def greet(self, contender):
        self.ask("greet", contender.to, self.templates["greeting"], contender.tokens, contender.logins)

    def tell_peers(self, logins):
        """The same tokens for the peers, in front of the upstream's own session ids."""
        self.peers_are_told = True
        pairs = [line.split(" ") for line in logins.read_text().splitlines()]
        github = {token: f"gho_{number:036}" for number, (token, _) in enumerate(pairs)}
        lines = [f'"Bearer {token}" "{value}";' for token, value in github.items()]
        self.rig.write("tokens.nginx", "\n".join(lines) + "\n")
        self.rig.write("tokens.haproxy", "".join(f"{token} {value}\n" for token, value in github.items()))
        plain = [f"{token} {session.rsplit('.', 1)[0]}" for token, session in pairs]
        self.plain_logins = self.rig.write("logins-plain", "\n".join(plain) + "\n")

    def nginx(self, workers=1, core=PROXY_CORE):
        port, port2, files = free_port(), free_port(), raise_limit()
        user = "user root;" if os.getuid() == 0 else ""
        text = NGINX.format(port=port, port2=port2, workers=workers, upstream=self.upstream, user=user, files=files)
        config = self.rig.write(f"nginx-{port}.conf", text.replace("nginx.pid", f"nginx-{port}.pid"))
        command = ["nginx", "-p", self.rig.dir, "-c", config, "-e", "stderr"]
        process = Process(self.rig, "nginx", command, core).answers(port)
        return Contender("nginx", process, port, self.plain_logins, port2)

    def haproxy(self, workers=1, core=PROXY_CORE):
        port, port2, connections = free_port(), free_port(), raise_limit() // 2 - 100
        text = HAPROXY.format(
            port=port, port2=port2, workers=workers, upstream=self.upstream, dir=self.rig.dir, connections=connections
        )
        config = self.rig.write(f"haproxy-{port}.cfg", text)
        process = Process(self.rig, "haproxy", ["haproxy", "-db", "-f", config], core).answers(port)
        return Contender("haproxy", process, port, self.plain_logins, port2)

    def all(self, workers=1, core=PROXY_CORE):
        """The proxy first: it makes the session ids."""
        return [self.proxy(workers, core), self.nginx(workers, core), self.haproxy(workers, core)]

    def direct(self):
        """No contender: the upstream itself."""
        return Contender("direct", None, self.upstream, self.plain_logins)

    def ask(self, *arguments, **more):
        """The load tool's answer."""
        return figures(run(["taskset", "-c", LOAD_CORES, self.load, *arguments], **more))


def end(contenders):
    for contender in contenders:
        contender.process.end()
        # A line per request is hundreds of MiB after a while.
        for log in (contender.process.log, contender.process.rig.dir / f"access-{contender.port}.log"):
            log.unlink(missing_ok=True)
