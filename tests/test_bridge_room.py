"""Tests of src/workers/bridge/room.py on every interpreter found, with files as the kernel writes them."""

import shutil
import subprocess
import tempfile
import unittest

from bridge import WORKER, each_python

SCRIPT = """
import os, sys, time
sys.path.insert(0, sys.argv[1])
from bridge import room

directory = sys.argv[2]
ME = {os.getpid(): None}
MB = 1 << 20

def write(name, text):
    with open(os.path.join(directory, name), 'w') as file:
        file.write(str(text))

def group(limit, used, cache=0, kills=0, name='inactive_file'):
    write('limit', limit)
    write('used', used)
    write('stat', 'anon 5\\n%s %d\\nfile 7\\n' % (name, cache))
    write('kills', 'low 0\\noom 9\\noom_kill %d\\n' % kills)

def settings(most=''):
    files = [os.path.join(directory, name) for name in ('limit', 'used', 'stat', 'kills')]
    return {'maxchildren': most, 'memory': '\t'.join(files)}

assert room.Room({}).refusal(1000, ME) == ''
assert room.Room({'maxchildren': '3'}).refusal(2, ME) == ''
assert '3 workers ([server] maxchildren)' in room.Room({'maxchildren': '3'}).refusal(3, ME)

group(300 * MB, 100 * MB)
bounded = room.Room(settings())
assert bounded.refusal(1, ME) == '', bounded.refusal(1, ME)
assert bounded.largest > MB, 'it has measured this process'
group(300 * MB, 290 * MB)
why = bounded.refusal(1, ME)
assert why.startswith('the site may have 1 worker (the account may use 300 MB'), why
assert 'may use 300 MB of memory, 290 MB are in use' in why, why
assert bounded.refusal(0, {}) == '', 'the first one is always allowed'
for name in ('inactive_file', 'total_inactive_file'):
    group(300 * MB, 290 * MB, 200 * MB, name=name)
    assert bounded.refusal(1, ME) == '', 'what the kernel can take back is left'
group('max', 290 * MB)
assert bounded.refusal(1, ME) == '' and bounded.bound(1, ME) is None, 'no limit'

# The least bound counts.
group(300 * MB, 100 * MB)
both = room.Room(settings('1000'))
assert both.bound(1, ME)[0] < 300 and 'MB of memory' in both.bound(1, ME)[1]
assert room.Room(settings('3')).bound(1, ME) == (3, '[server] maxchildren')
assert room.Room(settings()).bound(0, {}) is None

# What others may still grow by is not left.
group(300 * MB, 200 * MB)
bounded.sizes = {pid: (0, time.monotonic()) for pid in range(8)}
bounded.largest = 12 * MB
assert bounded.refusal(8, bounded.sizes.copy()) != ''

group(300 * MB, 100 * MB, kills=4)
lowered = room.Room(settings())
assert not lowered.killed(5), 'by somebody else'
group(300 * MB, 100 * MB, kills=5)
assert lowered.killed(1) and 'killed for want of memory' in lowered.refusal(1, ME)
lowered.lowered = (1, time.monotonic() - 1)
assert lowered.refusal(1, ME) == ''

# Nothing to read is no limit.
for name in ('limit', 'used', 'stat', 'kills'):
    os.remove(os.path.join(directory, name))
assert room.Room(settings()).refusal(1, ME) == ''
print('well')
"""


class RoomTest(unittest.TestCase):
    @each_python
    def test_room(self, python):
        directory = tempfile.mkdtemp(prefix='bridge-room-')
        self.addCleanup(shutil.rmtree, directory)
        command = [python, '-B', '-c', SCRIPT, WORKER, directory]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60)
        self.assertEqual(done.stdout.decode(), 'well\n')


if __name__ == '__main__':
    unittest.main()
