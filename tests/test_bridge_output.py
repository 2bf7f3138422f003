"""Tests of src/workers/bridge/output.py on every interpreter found (see bridge.py)."""

import os
import tempfile
import unittest

from bridge import HELLO_APP, RICH_APP, TIMEOUT, Preloader, Worker, each_python, wait_for


class OutputTest(unittest.TestCase):
    @each_python
    def test_log_belongs_to_its_request(self, python):
        worker = Worker(self, python, RICH_APP).started()
        answer = worker.ask(PATH_INFO='/logs')
        lines = ['to errors', 'ab', 'to stdout 1', 'to stderr \\udcff', 'raw \\xff', 'unended']
        self.assertEqual(answer.log.splitlines(), lines)
        wait_for(lambda: 'from a thread' in worker.log, 'the text of a thread')
        self.assertNotIn('unended', worker.log)

    @each_python
    def test_a_line_without_an_end_comes_in_pieces(self, python):
        app = 'for _ in range(30000):\n    print(".", end="")\n' + HELLO_APP
        worker = Worker(self, python, app).started()
        wait_for(lambda: worker.log.count('.') >= 20000, 'the dots')
        self.assertEqual(worker.ask().body, b'hello')

    @each_python
    def test_standard_output_is_kept_apart(self, python):
        app = RICH_APP + '\nimport atexit\natexit.register(print, "good night")\nassert sys.stdout.fileno() == 1\n'
        worker = Worker(self, python, app, outlog='1').started()
        answer = worker.ask(PATH_INFO='/logs')
        self.assertEqual(answer.log.splitlines(), ['to errors', 'ab', 'to stderr \\udcff'])
        self.assertEqual(answer.of(b'O').decode().splitlines(), ['to stdout 1', 'raw \\xff', 'unended'])
        wait_for(lambda: 'from a thread' in worker.log, 'the text of a thread')
        worker.slot.close()
        self.assertEqual(worker.process.wait(TIMEOUT), 0)
        self.assertIn('good night', worker.log)

    @each_python
    def test_what_an_import_writes_is_told_apart(self, python):
        app = 'import os, sys\nprint("out")\nos.write(1, b"more\\n")\nprint("err", file=sys.stderr)\n' + HELLO_APP
        with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
            preloader = Preloader(self, python, app, outputs=(output, errors), outlog='1')
            told = preloader.hello()[1]
            self.assertEqual((told['output'], told['errors']), ('out\nmore\n', 'err\n'))
            self.assertEqual([os.fstat(file.fileno()).st_size for file in (output, errors)], [0, 0])
            told = Preloader(self, python, app, outputs=(output, output)).hello()[1]
            self.assertEqual((told.get('output'), told['errors']), (None, 'out\nmore\nerr\n'))


if __name__ == '__main__':
    unittest.main()
