import os
import sqlite3

CONNECTION = sqlite3.connect(os.environ["SERVICE"], timeout=30, isolation_level=None)
CONNECTION.execute("CREATE TABLE IF NOT EXISTS notes (text PRIMARY KEY)")


def fetch(query):
    CONNECTION.execute("INSERT INTO notes VALUES (?)", (query,))
    return CONNECTION.execute("SELECT text FROM notes WHERE text = ?", (query,)).fetchone()[0]
