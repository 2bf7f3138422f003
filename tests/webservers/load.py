"""Visitors that ask for one page again and again, and remember every answer. Bounded: threads, a pause, an end."""

import http.client
import time
from dataclasses import dataclass

from .together import Together


@dataclass
class Answer:
    """What one request gave: `status` 0 means that no answer came, and `body` says why."""

    begin: float
    end: float
    status: int
    body: str


def visit(connection, method, path, body=None):
    """One request on a connection that is kept, or made again."""
    begin = time.monotonic()
    try:
        connection.request(method, path, body)
        reply = connection.getresponse()
        status, body = reply.status, reply.read().decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        connection.close()
        status, body = 0, repr(error)
    return Answer(begin, time.monotonic(), status, body)


class Load(Together):
    """`with Load(port, "/page/") as load:` runs eight visitors; afterwards `load.answers` has it all."""

    def __init__(self, port, path, visitors=8, pause=0.01, timeout=60, keep_alive=True):
        super().__init__([self._visit] * visitors, patience=timeout + 5)
        self.port, self.path, self.pause, self.timeout = port, path, pause, timeout
        # A web server that is reloaded ends idle connections, which only a visitor who kept one could take for a failure.
        self.keep_alive = keep_alive
        self.answers = []

    @property
    def failures(self):
        return [answer for answer in self.answers if answer.status != 200]

    def _visit(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=self.timeout)
        while not self.over.is_set():
            self.answers.append(visit(connection, "GET", self.path))
            if not self.keep_alive:
                connection.close()
            self.over.wait(self.pause)
        connection.close()
