"""What a web server says to us, said from Python: FastCGI, SCGI and AJP over any socket. Knows no site."""

import socket
import struct


def connect(address, timeout=20):
    """`address`: a path, or (host, port)."""
    if isinstance(address, tuple):
        return socket.create_connection(address, timeout)
    peer = socket.socket(socket.AF_UNIX)
    peer.settimeout(timeout)
    try:
        peer.connect(str(address))
    except OSError:
        peer.close()
        raise
    return peer


def environment(path="/", query="", **more):
    return {
        "GATEWAY_INTERFACE": "CGI/1.1", "SERVER_PROTOCOL": "HTTP/1.1", "REQUEST_METHOD": "GET", "SCRIPT_NAME": "",
        "PATH_INFO": path, "QUERY_STRING": query, "REQUEST_URI": path + (f"?{query}" if query else ""),
        "SERVER_NAME": "localhost", "SERVER_PORT": "80", **more,
    }  # fmt: skip


def fastcgi(address, path="/", query="", **more):
    """The CGI response to one request."""
    with connect(address) as peer:
        begin_fastcgi(peer, path, query, **more)
        return end_fastcgi(peer)


def begin_fastcgi(peer, path="/", query="", **more):
    pairs = b""
    for name, value in environment(path, query, **more).items():
        name, value = name.encode(), value.encode()
        for text in (name, value):
            pairs += bytes([len(text)]) if len(text) < 128 else struct.pack(">L", len(text) | 1 << 31)
        pairs += name + value
    records = [(1, b"\0\1\0\0\0\0\0\0"), (4, pairs), (4, b""), (5, b"")]
    peer.sendall(b"".join(struct.pack(">BBHHBB", 1, kind, 1, len(data), 0, 0) + data for kind, data in records))


def end_fastcgi(peer):
    received = read(peer)
    answer = b""
    ended = False
    while received:
        _, kind, _, length, padding, _ = struct.unpack_from(">BBHHBB", received)
        if kind == 6:
            answer += received[8 : 8 + length]
        ended = ended or kind == 3
        received = received[8 + length + padding :]
    assert ended, f"no FCGI_END_REQUEST after {answer!r}"
    return answer.decode()


def scgi(address, path="/", query=""):
    pairs = {"CONTENT_LENGTH": "0", "SCGI": "1", **environment(path, query)}
    head = "".join(f"{name}\0{value}\0" for name, value in pairs.items()).encode()
    with connect(address) as peer:
        peer.sendall(b"%d:%s," % (len(head), head))
        return read(peer).decode()


def ajp_ping(address):
    """The answer to a CPing."""
    with connect(address) as peer:
        peer.sendall(b"\x12\x34\0\1\x0a")
        return peer.recv(5)


def read(peer):
    """All until the peer closes."""
    received = b""
    while data := peer.recv(65536):
        received += data
    return received
