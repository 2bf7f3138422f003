import os

import psycopg

CONNECTION = psycopg.connect(os.environ["SERVICE"], autocommit=True)


def fetch(query):
    return CONNECTION.execute("SELECT %s::text, pg_sleep(0.002)", (query,)).fetchone()[0]
