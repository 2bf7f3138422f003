"""Views that start processes, and numbers drawn by generators that were made at import."""

import multiprocessing
import os
import random
import signal
import time
import uuid

import numpy

FORK = multiprocessing.get_context("fork")
GENERATOR, CHANCE = random.Random(), numpy.random.default_rng()
GENERATOR.random(), CHANCE.random(), uuid.uuid1()


def fetch(query):
    return globals()[query]()


def pool():
    with FORK.Pool(2) as workers:
        return sum(workers.map(abs, range(-3, 0)))


def terminate():
    child = FORK.Process(target=time.sleep, args=(60,))
    child.start()
    child.terminate()
    child.join(10)
    return child.exitcode == -signal.SIGTERM


def own():
    """A handler of the application's own stays."""
    signal.signal(signal.SIGTERM, lambda *_: os._exit(7))
    child = FORK.Process(target=time.sleep, args=(60,))
    child.start()
    time.sleep(0.1)
    child.terminate()
    child.join(10)
    return child.exitcode


def drawn():
    time.sleep(0.1)
    return "{} {} {}".format(GENERATOR.getrandbits(64), CHANCE.integers(1 << 62), uuid.uuid1().clock_seq)
