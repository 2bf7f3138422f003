import multiprocessing
import os

OURS, THEIRS = multiprocessing.Pipe()


def echo():
    while True:
        THEIRS.send(THEIRS.recv())


CHILD = multiprocessing.get_context("fork").Process(target=echo, daemon=True)
CHILD.start()
with open(os.path.join(os.environ["MARKS"], "children"), "a") as file:
    file.write("%d %d\n" % (CHILD.pid, os.getpid()))


def fetch(query):
    OURS.send(query)
    return OURS.recv()
