"""An authorisation server on loopback, over https: the authorisation code with PKCE, the device flow, and refresh.

``script`` maps a step to what happens there, one answer for each time, the last for all further times:
``device token refresh code page``. An answer is an OAuth error, an ``HTTP 503``, or None for the usual.
"""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import secrets
import ssl
import threading
from collections import Counter
from urllib.parse import parse_qs, urlencode, urlsplit
from urllib.request import HTTPRedirectHandler, HTTPSHandler, build_opener

DEVICE = "urn:ietf:params:oauth:grant-type:device_code"
CLIENT, SECRET = "desktop-client", "not-so-secret"


class Authority:
    """Use as a context manager.

    Args:
        ca: A trustme authority.
        folder: Where its certificate and the client's file are written.
        script: What happens at which step.
        life: How many seconds an access token holds.
        rotates: Whether a refresh gives a new refresh token, and ends the old one.
        grants_refresh: Whether a refresh token is given at all.
        interval: How many seconds a device waits between two questions.
    """

    def __init__(self, ca, folder, script=None, *, life=3600, rotates=False, grants_refresh=True, interval=5):
        self.script = dict(script or {})
        self.life, self.rotates, self.grants_refresh = life, rotates, grants_refresh
        self.interval = interval
        self.ca_file = str(folder / "authority.pem")
        ca.cert_pem.write_to_path(self.ca_file)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        ca.issue_cert("localhost").configure_cert(self._context)
        self._folder = folder
        self.client_context = ssl.create_default_context(cafile=self.ca_file)
        self.requests = []
        self.issued = []
        self.ended = set()
        self.refresh_tokens = set()
        self.gate = lambda: None
        self.approved = threading.Event()
        self.approved.set()
        self._codes = {}
        self._times = Counter()
        self._lock = threading.Lock()

    def __enter__(self):
        authority = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                authority.page(self)

            def do_POST(self):
                authority.post(self)

            def log_message(self, *_):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None
        self._server.socket = self._context.wrap_socket(self._server.socket, server_side=True)
        self.url = f"https://localhost:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        self.client_file = self._folder / "client.json"
        self.client_file.write_text(json.dumps({"installed": {
            "client_id": CLIENT, "client_secret": SECRET, "auth_uri": f"{self.url}/auth", "token_uri": f"{self.url}/token",
        }}))  # fmt: skip
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    # ---------------------------------------------------------------------------------------- people

    def visit(self, address, **changes):
        """Be the person's browser: open the page, agree, and follow where it leads; return the last page's text."""
        parts = urlsplit(address)
        assert address.startswith(self.url)
        asked = {k: v[0] for k, v in parse_qs(parts.query).items()} | changes
        opener = build_opener(HTTPSHandler(context=self.client_context), HTTPRedirectHandler())
        with opener.open(f"{self.url}{parts.path}?{urlencode(asked)}", timeout=10) as page:
            return page.read().decode()

    def led_to(self, address):
        """Be a browser on another machine: agree, and return the address to which it is led."""
        asked = {k: v[0] for k, v in parse_qs(urlsplit(address).query).items()}
        return self._back(asked)

    def knows(self, _user, token):
        """Tell whether an access token is one of ours that was not ended."""
        return token in self.issued and token not in self.ended

    def end_all(self):
        """End every access token that was issued, as a revocation does."""
        self.ended.update(self.issued)

    # ----------------------------------------------------------------------------------------- pages

    def _next(self, step):
        planned = self.script.get(step)
        if not planned:
            return None
        with self._lock:
            self._times[step] += 1
            return planned[min(self._times[step], len(planned)) - 1]

    def page(self, handler):
        parts = urlsplit(handler.path)
        asked = {k: v[0] for k, v in parse_qs(parts.query).items()}
        self.requests.append(("GET", parts.path, asked))
        handler.send_response(302)
        handler.send_header("Location", self._back(asked))
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    def _back(self, asked):
        back = {"state": asked["state"]}
        if error := self._next("page"):
            back |= {"error": error, "error_description": "the person said no"}
        else:
            back["code"] = secrets.token_urlsafe(8)
            self._codes[back["code"]] = asked
        return f"{asked['redirect_uri']}?{urlencode(back)}"

    def post(self, handler):
        length = int(handler.headers["Content-Length"])
        form = {k: v[0] for k, v in parse_qs(handler.rfile.read(length).decode()).items()}
        path = urlsplit(handler.path).path
        self.requests.append(("POST", path, form))
        status, answer = self._device() if path.endswith("/devicecode") else self._token(form)
        body = json.dumps(answer).encode()
        handler.send_response(status)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    def _device(self):
        if error := self._next("device"):
            return self._error(error)
        answer = {
            "device_code": "the-device",
            "user_code": "ABCD-EFGH",
            "verification_uri": f"{self.url}/device",
        }
        return 200, {**answer, "expires_in": 900, "interval": self.interval}

    def _token(self, form):
        step = {"refresh_token": "refresh", "authorization_code": "code", DEVICE: "token"}[form["grant_type"]]
        if error := self._next(step):
            return self._error(error)
        self.gate()
        if step == "token" and not self.approved.is_set():
            return self._error("authorization_pending")
        if step == "code":
            asked = self._codes.pop(form["code"], None)
            digest = hashlib.sha256(form["code_verifier"].encode()).digest()
            proof = base64.urlsafe_b64encode(digest).decode().rstrip("=")
            if asked is None or (proof, form["redirect_uri"]) != (
                asked["code_challenge"],
                asked["redirect_uri"],
            ):
                return self._error("invalid_grant")
        if step == "refresh" and form["refresh_token"] not in self.refresh_tokens:
            return self._error("invalid_grant")
        return 200, self._granted(form if step == "refresh" else None)

    def _granted(self, renewal):
        with self._lock:
            access = f"access-{len(self.issued)}-{secrets.token_urlsafe(12)}"
            self.issued.append(access)
            answer = {"access_token": access, "token_type": "Bearer", "expires_in": self.life}
            if self.grants_refresh and (renewal is None or self.rotates):
                if renewal is not None:
                    self.refresh_tokens.discard(renewal["refresh_token"])
                # Longer than one entry of Windows' keyring.
                answer["refresh_token"] = f"refresh-{secrets.token_urlsafe(1200)}"
                self.refresh_tokens.add(answer["refresh_token"])
            return answer

    @staticmethod
    def _error(error):
        if error.startswith("HTTP"):
            return int(error.split()[1]), {}
        return 400, {"error": error, "error_description": f"words of the server\r\nTrace ID: {error}"}
