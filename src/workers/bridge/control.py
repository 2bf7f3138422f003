"""A front's control connection: the preloader's end of it."""

from .private import PRIVATE
from .wire import DATA_LIMIT, FRAME_HEADER, RELEASE, frame, receive_with_fds, send_with_fds


class Control:
    """A front's control connection."""

    def __init__(self, sock):
        self.sock = PRIVATE.add(sock)
        self.sock.setblocking(False)
        self.data = b''
        self.fds = []
        self.ask_after = 0.0  # until then it has no idle worker
        self.urge_after = 0.0  # until then it knows that others wait in line
        self.front = None  # its pid and start time
        self.serving = 0  # workers that serve it
        self.greeted = False  # it knows how the import went

    def read_frame(self):
        """(type, payload, descriptors), or None while the frame is incomplete. EOFError at the end.

        Never reads past a frame, so that descriptors stay with their frame.
        """
        while True:
            need = FRAME_HEADER.size
            if len(self.data) >= need:
                kind, _, size = FRAME_HEADER.unpack_from(self.data)
                if size > DATA_LIMIT:
                    raise EOFError
                need += size
                if len(self.data) == need:
                    payload, fds = self.data[FRAME_HEADER.size :], self.fds
                    self.data, self.fds = b'', []
                    return kind, payload, fds
            try:
                more, fds = receive_with_fds(self.sock, need - len(self.data))
            except BlockingIOError:
                return None
            if not more:
                raise EOFError
            self.data += more
            self.fds += fds

    def send(self, data, fds=()):
        """Sends a frame, with descriptors. Whether it could be sent: an error shows when the connection is read."""
        try:
            send_with_fds(self.sock, data, fds) if fds else self.sock.sendall(data)
        except OSError:
            return False
        return True

    def ask_release(self, flags):
        """RELEASE: asks this front to give a worker back."""
        return self.send(frame(RELEASE, flags=flags))
