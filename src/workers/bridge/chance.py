"""Reseeds random number generators after a fork, so that no two workers draw the same numbers."""

import gc
import os
import sys

from .output import attempt, describe_exception, log


def find_generators():
    """The random number generators that the application has made."""
    kinds, numpy = set(), sys.modules.get('numpy.random')
    more = [sys.modules['random'].Random] if 'random' in sys.modules else []
    while more:
        kinds.update(more)
        more = [kind for parent in more for kind in parent.__subclasses__() if kind not in kinds]
    for name in ('Generator', 'RandomState'):
        if hasattr(numpy, name):
            kinds.add(getattr(numpy, name))
    frozen = hasattr(gc, 'freeze')
    if frozen:
        gc.unfreeze()
    found = [item for item in gc.get_objects() if type(item) in kinds]
    if frozen:
        gc.freeze()
    return found


def reseed(generators):
    """Gives this worker random numbers of its own."""
    for generator in generators:
        try:
            if hasattr(generator, 'seed'):
                generator.seed()
            else:
                generator.bit_generator.state = type(generator.bit_generator)().state
        except Exception:
            log('runfcgi: cannot reseed a {}\n{}'.format(type(generator), describe_exception()))
    if 'numpy.random' in sys.modules:
        attempt('seeding numpy', sys.modules['numpy.random'].seed)
    generate = getattr(sys.modules.get('uuid'), '_generate_time_safe', None)
    if generate is not None:
        sys.modules['uuid']._generate_time_safe = own_clock_sequence(generate)


def own_clock_sequence(generate):
    """libuuid picks a clock sequence once per process; workers that shared it would hand out equal uuid1s."""
    drawn = os.urandom(2)
    sequence = bytes((0x80 | drawn[0] & 0x3F, drawn[1]))

    def generate_time_safe():
        data, safe = generate()
        return (data if safe == 0 else data[:8] + sequence + data[10:]), safe

    return generate_time_safe
