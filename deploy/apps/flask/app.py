"""A Flask application. Its URLs are right at the document root and in a subdirectory, without ProxyFix."""

from flask import Flask, url_for

app = Flask(__name__)


@app.route('/')
def home():
    return f'Hello from {url_for("home")}'
