import os

import django
from django.conf import settings

where = dict(word.split("=") for word in os.environ["SERVICE"].split())
settings.configure(
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": where["dbname"],
            "USER": where["user"],
            "HOST": where["host"],
            "PORT": where["port"],
            "OPTIONS": {"sslmode": where["sslmode"]},
            "CONN_MAX_AGE": None,
        }
    }
)
django.setup()


def fetch(query):
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("SELECT %s::text", [query])
        return cursor.fetchone()[0]


assert fetch("at import") == "at import"
