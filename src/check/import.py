# `check`: imports the application as the preloader does, and tells what follows. Follows the bridge; the mark tells our
# lines from the application's.


def check_import(app_path, settings, wsgi, warm):
    settings = {'app_path': app_path, 'settings': settings, 'wsgi': wsgi, 'warm': warm}
    began, before = time.time(), list_descriptors()
    prepare(settings)
    os.chdir(app_path)
    app = load_app(settings)
    warm_up(app, settings)
    seconds = '{:.2f}'.format(time.time() - began)
    django = django_settings()
    if django is not None:
        say('django', sys.modules['django'].get_version())
        if django.DEBUG:
            say('debug')
        elif not django.ALLOWED_HOSTS:
            say('hosts')
    threads = sorted(t.name for t in threading.enumerate() if t is not threading.main_thread())
    if threads:
        say('threads', ', '.join(threads))
    opened = describe_opened(before)
    if opened:
        say('open', opened)
    say('seconds', seconds)


def say(*words):
    sys.stdout.write('\nrunfcgi-check ' + ' '.join(words) + '\n')


try:
    check_import(*sys.argv[1:])
except BaseException:
    sys.stdout.write(describe_exception())
try:
    end_processes(find_descendants([os.getpid()]))
    sys.stdout.flush()
finally:
    os._exit(0)
