# Runs pip for another version of Python, which pip must take into account in markers such as `python_version < "3.11"`,
# too: it would evaluate them for the Python that runs it. Arguments: the version as X.Y, and pip's own.
import runpy
import sys

from pip._vendor.packaging import markers

VERSION = sys.argv.pop(1)
default_environment = markers.default_environment


def target_environment():
    environment = default_environment()
    environment.update(
        python_version=VERSION,
        python_full_version=VERSION + '.0',
        implementation_name='cpython',
        platform_python_implementation='CPython',
        os_name='posix',
        sys_platform='linux',
        platform_system='Linux',
    )
    return environment


markers.default_environment = target_environment
runpy.run_module('pip', run_name='__main__', alter_sys=True)
