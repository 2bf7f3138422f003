"""Audit: what `check` asks Django itself, in the interpreter and with the settings of the site. Changes nothing.

Each function yields (kind, text) pairs. The kinds are listed in src/check/app.rs.
"""

import os

from .hints import hint
from .warm import warm_host

SHOWN = 5  # names in one text


def audit(django, settings):
    """Everything that is wrong with a Django site although it can be imported."""
    for ask in (ask_secret_key, ask_checks, ask_databases, ask_static_files, find_pages):
        try:
            yield from ask(django, settings)
        except Exception as error:
            yield 'unasked', '{}: {}'.format(ask.__name__.replace('_', ' '), hint(error, settings))


def ask_secret_key(django, settings):
    try:
        missing = not django.SECRET_KEY
    except Exception:  # Django refuses to hand out an empty one
        missing = True
    if missing:
        yield 'secret_key', 'settings.SECRET_KEY is empty: sessions, logins and forms fail'


def ask_checks(django, _settings):
    """`manage.py check --deploy`."""
    from django.core import checks

    found = checks.run_checks(include_deployment_checks=True)
    words = {True: [], False: []}
    for message in found:
        if message.id in ('security.W009', 'security.W018', 'security.W020') or message.is_silenced():
            continue  # told elsewhere, or by the owner's wish not at all
        if message.level < checks.WARNING:
            continue
        words[message.level >= checks.ERROR].append('{}: {}'.format(message.id or '?', message.msg.split('. ')[0]))
    for kind, texts in (('check_errors', words[True]), ('check_warnings', words[False])):
        if texts:
            yield kind, shorten(texts, '\n')


def ask_databases(django, settings):
    from django.db import connections
    from django.db.migrations.executor import MigrationExecutor

    for alias in connections:
        connection = connections[alias]
        name = str(connection.settings_dict.get('NAME') or '')
        if connection.vendor == 'sqlite' and name and 'memory' not in name:
            wrong = examine_sqlite(name)
            if wrong:
                yield wrong
            if not os.path.exists(name):
                continue  # connecting would make it
        try:
            connection.ensure_connection()
        except Exception as error:
            yield 'database', '{}: {}'.format(alias, hint(error, settings))
            continue
        try:
            executor = MigrationExecutor(connection)
            plan = executor.migration_plan(executor.loader.graph.leaf_nodes())
            if plan and (alias == 'default' or executor.loader.applied_migrations):
                names = ['{}.{}'.format(migration.app_label, migration.name) for migration, _ in plan]
                yield 'migrations', '{} migrations are not applied to {}: {}'.format(
                    len(names), alias, shorten(names, ', ')
                )
        finally:
            connection.close()


def examine_sqlite(name):
    folder = os.path.dirname(os.path.abspath(name))
    if not os.path.isdir(folder):
        return 'database', 'the directory of the database is not there: {}'.format(folder)
    if not os.path.exists(name):
        return 'migrations', 'the database is not there yet: {}'.format(name)
    for path in (name, folder):
        if not os.access(path, os.W_OK):
            return 'database', 'user {} may not write {}: SQLite needs the file and its directory'.format(
                os.geteuid(), path
            )
    return None


def ask_static_files(django, _settings):
    if 'django.contrib.staticfiles' not in django.INSTALLED_APPS or django.DEBUG:
        return
    from django.contrib.staticfiles import finders

    root = django.STATIC_ROOT
    if not root:
        yield 'static', 'settings.STATIC_ROOT is not set, so collectstatic has no place to put the static files'
        return
    there, missing = 0, []
    for finder in finders.get_finders():
        for path, _storage in finder.list([]):
            if os.path.exists(os.path.join(str(root), path)):
                there += 1
            else:
                missing.append(path)
    if missing:
        yield 'static', '{} of {} static files are not in {}: {}'.format(
            len(missing), there + len(missing), root, shorten(missing, ', ')
        )


def find_pages(django, _settings):
    """A host that the site answers to, and the login page of the admin: for the rehearsal."""
    from django.urls import NoReverseMatch, reverse

    host = warm_host(django)
    if host:
        yield 'host', host
    try:
        yield 'login', reverse('admin:login')
    except NoReverseMatch:
        pass


def shorten(texts, between):
    more = len(texts) - SHOWN
    return between.join(texts[:SHOWN]) + ('{}and {} more'.format(between, more) if more > 0 else '')
