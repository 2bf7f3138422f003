"""A small HTTP client that sends what it is told, byte for byte. Knows no web server."""

import http.client
import json
import time
from dataclasses import dataclass
from http.cookies import SimpleCookie


@dataclass
class Response:
    """An answer, read to its end."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes
    seconds: float

    @property
    def text(self):
        return self.body.decode()

    @property
    def json(self):
        return json.loads(self.body)


class Client:
    """Requests to one address, each over a connection of its own, with the cookies that it was given."""

    def __init__(self, port, timeout=40):
        self.port = port
        self.timeout = timeout
        self.cookies = {}

    def get(self, path, **headers):
        return self.request("GET", path, headers=headers)

    def post(self, path, body=b"", **headers):
        return self.request("POST", path, body=body, headers=headers)

    def request(self, method, path, body=None, headers=None, chunked=False):
        """`_` in the name of a header stands for `-`."""
        headers = {name.replace("_", "-"): value for name, value in (headers or {}).items()}
        if self.cookies:
            headers["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=self.timeout)
        begin = time.monotonic()
        try:
            if chunked:
                headers["Transfer-Encoding"] = "chunked"
            connection.request(method, path, body, headers, encode_chunked=chunked)
            reply = connection.getresponse()
            response = Response(reply.status, reply.headers, reply.read(), time.monotonic() - begin)
        finally:
            connection.close()
        for line in response.headers.get_all("Set-Cookie", []):
            for name, morsel in SimpleCookie(line).items():
                self.cookies[name] = morsel.value
        return response
