import os

import psycopg
import sqlalchemy
from sqlalchemy import Column, MetaData, Table, Text, create_engine, text

ENGINE = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(os.environ["SERVICE"]))
METADATA = MetaData()
Table("notes", METADATA, Column("text", Text, primary_key=True))
METADATA.create_all(ENGINE)
MEMORY = create_engine("sqlite://")
with MEMORY.begin() as connection:
    connection.execute(text("CREATE TABLE kept (text)"))
    connection.execute(text("INSERT INTO kept VALUES ('kept')"))


def fetch(query):
    with MEMORY.connect() as connection:
        kept = connection.execute(text("SELECT text FROM kept")).scalar()
    assert kept == "kept"
    with ENGINE.connect() as connection:
        return connection.execute(sqlalchemy.select(sqlalchemy.literal(query))).scalar()
