import os

from pymemcache.client.base import Client

CLIENT = Client(os.environ["SERVICE"])
CLIENT.set("at-import", "1")


def fetch(query):
    CLIENT.set("key-" + query, query, noreply=False)
    return CLIENT.get("key-" + query).decode()
