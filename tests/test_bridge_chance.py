"""Tests of src/workers/bridge/chance.py, on every interpreter found (see bridge.py)."""

import unittest

from bridge import Answer, Preloader, each_python, read_frame, request

DRAWING_APP = """
import random
GENERATORS = random.Random(), random.Random(7)

def app(environ, start_response):
    start_response('200 OK', [('Content-Type', 'text/plain')])
    return [' '.join(str(generator.getrandbits(64)) for generator in GENERATORS).encode()]
"""


class ChanceTest(unittest.TestCase):
    @each_python
    def test_generators_made_at_import_draw_anew(self, python):
        preloader = Preloader(self, python, DRAWING_APP)
        preloader.hello()
        drawn = set()
        for _ in range(3):
            _, (slot,), _, _ = preloader.fork()
            read_frame(slot)
            slot.sendall(request())
            drawn.update(Answer(slot).body.split())
        self.assertEqual(len(drawn), 6)

if __name__ == '__main__':
    unittest.main()
