import os
import socket

KEPT = []


def fetch(query):
    if not KEPT:
        KEPT.append(socket.socket(socket.AF_UNIX))
        KEPT[0].connect(os.environ["SERVICE"])
    KEPT[0].sendall(b"set %s 0 0 %d\r\n%s\r\n" % (b"k" + query.encode(), len(query), query.encode()))
    assert KEPT[0].recv(100) == b"STORED\r\n"
    return query
