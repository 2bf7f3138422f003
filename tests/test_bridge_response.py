"""Tests of src/workers/bridge/request.py and head.py on every interpreter found (see bridge.py)."""

import contextlib
import os
import signal
import struct
import tempfile
import unittest

from bridge import (
    ABORT,
    RICH_APP,
    TIMEOUT,
    Answer,
    Worker,
    each_python,
    read_frame,
    receive,
    request,
    send_fds,
    wait_for,
)


def spool_count(pid):
    """How many unlinked files the process has open."""
    links = []
    for fd in os.listdir('/proc/{}/fd'.format(pid)):
        with contextlib.suppress(OSError):
            links.append(os.readlink('/proc/{}/fd/{}'.format(pid, fd)))
    return sum(link.endswith(' (deleted)') for link in links)


class ResponseTest(unittest.TestCase):
    @each_python
    def test_response_forms(self, python):
        worker = Worker(self, python, RICH_APP).started()
        answer = worker.ask(PATH_INFO='/generator')
        self.assertEqual((answer.order, answer.body, answer.log), ('HDLDE', b'onetwo', 'between\n'))
        self.assertNotIn('Content-Length', answer.fields)
        answer = worker.ask(PATH_INFO='/late_start')
        self.assertEqual((answer.order, answer.status), ('HE', '201 Created'))
        answer = worker.ask(PATH_INFO='/write')
        self.assertEqual((answer.order, answer.body), ('HDDDE', b'abc'))
        answer = worker.ask(PATH_INFO='/exc_info')
        self.assertEqual((answer.status, answer.fields['X-Kept'], answer.body), ('500 Oops', 'no', b'sorry'))
        answer = worker.ask(PATH_INFO='/exc_info_late')
        self.assertEqual((answer.status, answer.body, answer.truncated), ('200 OK', b'begun', True))
        self.assertIn("KeyError: 'spoon'", answer.error)
        answer = worker.ask(PATH_INFO='/big')
        self.assertEqual((answer.body, answer.fields['Content-Length']), (b'0123456789' * 300000 + b'tail', '3000004'))
        self.assertLessEqual(max(len(f[1]) for f in answer.frames), 1 << 20)

    @each_python
    def test_head_and_end_name_their_request(self, python):
        worker = Worker(self, python, RICH_APP).started()
        for serial in (7, 65535):
            for path in ('/big', '/exc_info_late'):
                worker.slot.sendall(request(PATH_INFO=path, serial=serial))
                named, kind = {}, b''
                while kind != b'E':
                    kind, _, number, size = struct.unpack('>cBHI', receive(worker.slot, 8)[0])
                    receive(worker.slot, size)
                    named[kind] = number
                self.assertEqual((named[b'H'], named[b'E']), (serial, serial))

    @each_python
    def test_body_may_be_left_out(self, python):
        worker = Worker(self, python, RICH_APP).started()
        answer = worker.ask(PATH_INFO='/big', REQUEST_METHOD='HEAD')
        self.assertEqual((answer.order, answer.fields['Content-Length']), ('HE', '3000004'))
        answer = worker.ask(PATH_INFO='/endless', REQUEST_METHOD='HEAD')
        self.assertEqual((answer.order, answer.truncated, answer.log), ('HLE', False, 'generator closed\n'))
        for code in ('204', '304'):
            answer = worker.ask(PATH_INFO='/status', QUERY_STRING=code)
            self.assertEqual((answer.order, 'Content-Length' in answer.fields), ('HE', False))

    @each_python
    def test_content_length_is_kept(self, python):
        worker = Worker(self, python, RICH_APP).started()
        answer = worker.ask(PATH_INFO='/longer')
        self.assertEqual((answer.body, answer.truncated), (b'abcd', False))
        self.assertEqual(answer.log.count('longer than its Content-Length 4'), 1)
        answer = worker.ask(PATH_INFO='/shorter')
        self.assertEqual((answer.body, answer.truncated), (b'abc', True))
        self.assertIn('6 bytes shorter', answer.log)

    @each_python
    def test_known_to_be_short_is_an_error(self, python):
        worker = Worker(self, python, RICH_APP).started()
        for path, size, of in (
            ('/short_list', 6, 9), ('/short_single', 3, 9), ('/short_file', 100000, 100001), ('/no_body', 0, 9),
        ):  # fmt: skip
            answer = worker.ask(PATH_INFO=path)
            self.assertEqual(answer.order, 'XE', path)
            text = 'the response has {} bytes, but its Content-Length says {}'.format(size, of)
            self.assertEqual(answer.error, 'ValueError: ' + text + '\n')
            answer = worker.ask(PATH_INFO=path, REQUEST_METHOD='HEAD')
            self.assertEqual((answer.order, answer.fields['Content-Length'], answer.truncated), ('HE', str(of), False))

    @each_python
    def test_iteration_ends_with_the_content_length(self, python):
        worker = Worker(self, python, RICH_APP).started()
        for path, body in (('/enough', b'nine here'), ('/enough_by_write', b'nine here'), ('/enough_of_nothing', b'')):
            answer = worker.ask(PATH_INFO=path)
            self.assertEqual((answer.body, answer.truncated), (body, False))
            # A generator that was never begun has nothing to close.
            self.assertEqual(answer.log, '' if path == '/enough_by_write' else 'generator closed\n')
        answer = worker.ask(PATH_INFO='/not_modified')
        self.assertEqual((answer.order, answer.log), ('HLE', 'generator closed\n'))

    @each_python
    def test_a_head_above_the_limit_is_an_error(self, python):
        worker = Worker(self, python, RICH_APP).started()
        for count in (14, 15, 40):
            answer = worker.ask(PATH_INFO='/long_head', QUERY_STRING=str(count))
            if count == 14:
                self.assertEqual(answer.status, '200 OK')
                continue
            self.assertEqual(answer.order, 'XE')
            size = len('200 OK\0Content-Type\0text/plain\0') + count * len('X-Long\0\0') + count * 70000
            self.assertIn('ValueError: the response head has {} bytes, more than 1048512'.format(size), answer.error)
        self.assertEqual(worker.ask(PATH_INFO='/echo').status, '200 OK')

    @each_python
    def test_errors(self, python):
        worker = Worker(self, python, RICH_APP).started()
        for path, error in (
            ('/twice', 'AssertionError: start_response was called a second time'),
            ('/never', 'AssertionError: the application did not call start_response'),
            ('/leave', 'SystemExit: 3'),
            ('/interrupt', 'KeyboardInterrupt'),
            ('/odd_types', 'TypeError: a header value is not a str'),
            ('/text_body', 'TypeError: the response body must be bytes, not str'),
            ('/missing', "KeyError: 'missing'"),
        ):
            answer = worker.ask(PATH_INFO=path)
            self.assertEqual(answer.order, 'XE', path)
            self.assertIn(error, answer.error)
            self.assertNotIn(
                '<runfcgi>', answer.error.partition('\n')[2].partition('\n')[0] if 'app.py' in answer.error else ''
            )
        answer = worker.ask(PATH_INFO='/fail_first')
        self.assertEqual((answer.order, answer.log), ('LXE', 'closed\n'))
        self.assertIn('ValueError: before the head', answer.error)
        answer = worker.ask(PATH_INFO='/fail_later')
        self.assertEqual((answer.body, answer.truncated), (b'some', True))
        self.assertIn('ValueError: after the head', answer.error)
        self.assertEqual(answer.log, 'closed\n')

    @each_python
    def test_head_is_checked(self, python):
        worker = Worker(self, python, RICH_APP).started()
        for bad in (
            {'HTTP_VALUE': 'a\r\nX-Injected: b'}, {'HTTP_VALUE': 'a\nb'}, {'HTTP_VALUE': 'a\x7f'}, {'HTTP_NAME': 'X:A'},
            {'HTTP_NAME': 'X A'}, {'HTTP_NAME': ''}, {'HTTP_NAME': 'X-\xe9'}, {'HTTP_STATUS': '200 OK\r\nX: y'},
            {'HTTP_STATUS': '200'}, {'HTTP_STATUS': 'OK'}, {'HTTP_STATUS': '99 X'},
            {'HTTP_NAME': 'Content-Length', 'HTTP_VALUE': '-1'},
        ):  # fmt: skip
            for _ in range(2):
                self.assertEqual(worker.ask(PATH_INFO='/header', **bad).order, 'XE', bad)
        answer = worker.ask(PATH_INFO='/header', HTTP_NAME='Connection', HTTP_VALUE='close')
        self.assertEqual(answer.fields, {'Content-Length': '1'})
        answer = worker.ask(PATH_INFO='/header', HTTP_VALUE='caf\xe9')
        self.assertEqual(answer.fields['X-A'], 'caf\xe9')

    @each_python
    def test_input_methods(self, python):
        worker = Worker(self, python, RICH_APP).started()
        body = b'first line\nsecond\nthird\nfourth\nfifth'
        expected = repr(
            [b'fir', b'st line\n', [b'second\n'], b'th', [b'ird\n', b'fourth\n', b'fifth'], b'', 1, b'irst']
        )
        self.assertEqual(worker.ask(body, PATH_INFO='/methods').body.decode(), expected)
        with tempfile.TemporaryFile() as spool:
            spool.write(body)
            spool.seek(0)
            send_fds(worker.slot, request(body, fd=True, PATH_INFO='/methods'), [spool.fileno()])
            self.assertEqual(Answer(worker.slot).body.decode(), expected)
        wait_for(lambda: spool_count(worker.pid) == 0, 'the body file to be closed')

    @each_python
    def test_file_wrapper(self, python):
        worker = Worker(self, python, RICH_APP).started()
        answer = worker.ask(PATH_INFO='/file')
        self.assertEqual((answer.order, answer.fields['Content-Length']), ('HFE', '99000'))
        _, extent, _, (fd,) = answer.frames[1]
        self.assertEqual(struct.unpack('>QQ', extent), (1000, 99000))
        self.assertEqual(os.pread(fd, 3, 1001), b'\x01\x02\x03')
        os.close(fd)
        answer = worker.ask(PATH_INFO='/file_cut')
        self.assertEqual((struct.unpack('>QQ', answer.of(b'F')), answer.truncated), ((0, 7), False))
        os.close(answer.frames[1][3][0])
        self.assertEqual(worker.ask(PATH_INFO='/file', REQUEST_METHOD='HEAD').order, 'HE')
        answer = worker.ask(PATH_INFO='/file_memory')
        self.assertEqual((answer.order, answer.body), ('HDDDE', b'in memory'))
        self.assertEqual(worker.ask(PATH_INFO='/file_gzip').body, b'unpacked')

    @each_python
    def test_validator(self, python):
        worker = Worker(self, python, RICH_APP).started()
        self.assertEqual(worker.ask(PATH_INFO='/valid').body, b'<>')
        answer = worker.ask(b'some\nlines\nhere', PATH_INFO='/valid')
        self.assertEqual((answer.body, answer.log, answer.error), (b'<some\nlines\nhere>', 'valid\n', ''))
        answer = worker.ask(PATH_INFO='/valid', REQUEST_METHOD='HEAD')
        self.assertEqual((answer.order, answer.fields['Content-Length']), ('LHE', '2'))

    @each_python
    def test_abort_closes_generator(self, python):
        worker = Worker(self, python, RICH_APP).started()
        worker.slot.sendall(request(PATH_INFO='/endless') + ABORT)
        answer = Answer(worker.slot)
        self.assertEqual((answer.truncated, answer.log), (True, 'generator closed\n'))
        worker.slot.sendall(request(PATH_INFO='/endless'))
        for _ in range(50):
            read_frame(worker.slot)
        worker.slot.sendall(ABORT)
        self.assertTrue(Answer(worker.slot).truncated)
        self.assertEqual(worker.ask(PATH_INFO='/write').body, b'abc')
        worker.slot.sendall(request(PATH_INFO='/endless'))
        read_frame(worker.slot)
        worker.slot.close()
        self.assertEqual(worker.process.wait(TIMEOUT), 0)
        self.assertIn('generator closed', worker.log)

    @each_python
    def test_requests_in_any_pieces(self, python):
        worker = Worker(self, python, RICH_APP).started()
        whole = request(b'body', PATH_INFO='/echo')
        for byte in whole[:40]:
            worker.slot.sendall(bytes([byte]))
        worker.slot.sendall(whole[40:])
        self.assertEqual(Answer(worker.slot).body, b'body')
        worker.slot.sendall(ABORT + ABORT + whole + ABORT)
        self.assertEqual(Answer(worker.slot).body, b'body')
        for size in (70000, 3000000):
            self.assertEqual(len(worker.ask(b'z' * size, PATH_INFO='/echo').body), size)
        self.assertEqual(worker.ask(PATH_INFO='/echo', HTTP_X='y' * 200000).status, '200 OK')

    @each_python
    def test_environ_and_signals(self, python):
        worker = Worker(self, python, RICH_APP, slots=2, multiprocess='0').started()
        told = worker.ask(PATH_INFO='/environ', HTTPS='on').body.decode()
        for part in (
            "('wsgi.multithread', True)", "('wsgi.multiprocess', False)", "('wsgi.url_scheme', 'https')",
            "('wsgi.version', (1, 0))", "('wsgi.run_once', False)", "('wsgi.input_terminated', True)",
        ):  # fmt: skip
            self.assertIn(part, told)
        ignored = int(worker.ask(PATH_INFO='/signals').body, 16)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
            self.assertFalse(ignored >> (number - 1) & 1, number)
        self.assertEqual(worker.ask(PATH_INFO='/write').body, b'abc')


if __name__ == '__main__':
    unittest.main()
