"""The code that the tests change."""

VERSION = "0"
