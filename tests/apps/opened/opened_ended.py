import multiprocessing
import time

CHILD = multiprocessing.get_context("fork").Process(target=time.sleep, args=(0.1,))
CHILD.start()
time.sleep(0.5)


def fetch(query):
    return query
