"""The least that a site with a database needs: it is imported hundreds of times."""

from pathlib import Path

HOME = Path(__file__).resolve().parent.parent.parent

SECRET_KEY = "only for tests, served on 127.0.0.1"
ALLOWED_HOSTS = ["127.0.0.1"]
ROOT_URLCONF = "shop.urls"
WSGI_APPLICATION = "shop.wsgi.application"
INSTALLED_APPS = ["django.contrib.sessions"]
MIDDLEWARE = ["django.middleware.common.CommonMiddleware", "django.contrib.sessions.middleware.SessionMiddleware"]
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "DIRS": [HOME / "app" / "templates"]}]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": HOME / "db" / "db.sqlite3"}}
USE_TZ = True
SILENCED_SYSTEM_CHECKS = ["security.W001", "security.W002", "security.W003", "security.W012"]
