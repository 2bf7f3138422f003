import os

import requests

SESSION = requests.Session()
assert SESSION.get(os.environ["SERVICE"] + "?at-import").text == "at-import"


def fetch(query):
    return SESSION.get(os.environ["SERVICE"] + "?" + query).text
