"""The pool of the site: which front holds which worker, and which fronts wait for one."""

import math
import os
import signal
import struct
import time

from .kept import KeptWorker, KeptWorkers
from .output import describe_exception, log
from .private import PRIVATE
from .processes import describe_exit, is_alive
from .room import Room
from .wire import EXITED, FORKED, GIVEN, KEPT, REFUSED, URGENT, WAITING, encode_pairs, frame

ASK_WITHIN = 0.1  # seconds that other fronts have to give an idle worker before a new one is forked
LOOK_AGAIN = 0.2  # seconds after which it is looked whether there is room now
URGE_AGAIN = 1.0  # seconds after which a front is asked again for a worker that becomes idle; it remembers for longer
MOST_UNTOLD = 8  # ends of kept workers that wait for a front
GONE_WITHIN = 0.5  # seconds that a worker has to end when its lifeline was cut
MUTE_FOR = 1.0  # seconds for which a front that did not answer in time is not asked again


class Needed:
    """A worker that a front has requested and does not have yet: FORK."""

    def __init__(self, control, shape, fds, asked):
        self.control = control
        self.shape = shape
        self.fds = [PRIVATE.add(fd) for fd in fds]
        self.asked = asked  # the fronts that may give an idle one
        self.look_at = time.monotonic() + ASK_WITHIN  # when to look again
        self.told = False  # that it waits in line

    def release(self):
        """From now on a forked child has the descriptors."""
        for fd in self.fds:
            PRIVATE.held.remove(fd)

    def close(self):
        for fd in self.fds:
            PRIVATE.discard(fd)


class SitePool:
    """Gives each front the worker that it has requested: one that nobody uses, or a new one if there is room for it."""

    def __init__(self, settings, poll, become_worker):
        self.become_worker = become_worker  # what a forked child does with its descriptors
        self.children = {}  # pid: the control connection of the front that holds it, or None
        self.overdue = {}  # pid: when it is killed, and the front that may need it until then
        self.needed = []
        self.kept = KeptWorkers(poll)
        self.room = Room(settings)
        self.untold = []  # how kept workers have ended: EXITED, for the next front
        self.is_open = False
        self.plain = False

    def opens(self, plain):
        """From now on there are workers. `plain`: they import the application."""
        self.is_open, self.plain = True, plain
        if plain:
            self.room.expect_imports()

    def request(self, control, payload, fds):
        """FORK: this front needs a worker."""
        shape, _, serving = payload.decode().partition('\0')
        control.serving = int(serving or 0)
        self.needed.append(Needed(control, shape, fds, self.ask_others(control)))

    def busy(self, control):
        """BUSY: this front has no idle worker."""
        control.ask_after = time.monotonic() + ASK_WITHIN
        self.answered(control)

    def forget(self, control):
        """This front is gone, and with it the workers that it held."""
        for pid in [pid for pid, holder in self.children.items() if holder is control]:
            self.children[pid] = None
            self.expect_end(pid, control.front)
        for needed in [needed for needed in self.needed if needed.control is control]:
            self.needed.remove(needed)
            needed.close()
        self.answered(control)

    def gone(self, control, pid):
        """GONE: this front has cut the lifeline of its worker."""
        if self.children.get(pid) is control:
            self.expect_end(pid)

    def expect_end(self, pid, front=None):
        """This worker ends at once, or, if a `front` is named that may still need it, when that has ended. One that the
        application has made deaf to its lifeline is killed."""
        self.overdue[pid] = (time.monotonic() + GONE_WITHIN, front)

    def keep(self, control, facts, fds):
        """KEEP: this front needs its worker no more."""
        worker = KeptWorker(facts, fds)
        if self.children.get(worker.pid) is not control:
            worker.close(list(worker.fds))
            return
        self.children[worker.pid] = None
        control.serving -= 1
        control.urge_after = 0.0
        self.kept.keep(worker)
        self.needed.sort(key=lambda needed: needed.control is control)  # whoever gives one away does not get it back
        self.answered(control)

    def serve(self):
        """Gives the fronts the workers that they have requested, first come first served: a kept one, else one that
        another front gives, else a new one, if there is room for it."""
        while self.needed:
            needed, now = self.needed[0], time.monotonic()
            worker = self.kept.take(needed.shape)
            if worker is None:
                if needed.asked and now < needed.look_at:
                    return
                for mute in needed.asked:
                    mute.ask_after = now + MUTE_FOR
                if needed.told and now < needed.look_at:
                    return
                refusal = self.room.refusal(self.count_serving(), self.children)
                if refusal:
                    if self.kept.idle:  # it has another shape
                        self.kept.end(self.kept.idle[0])
                    needed.look_at = now + LOOK_AGAIN
                    self.wait_in_line(refusal)
                    return
            self.needed.pop(0)
            if self.fork(needed) if worker is None else self.give(needed.control, worker):
                needed.control.serving += 1
            needed.close()  # afterwards, so that the front learns of the answer before its slots end

    def count_serving(self):
        """The workers of the site that serve or are kept; those that are about to exit do not count."""
        held = list(self.children.values())
        return len(self.kept.idle) + sum(min(held.count(control), control.serving) for control in self.holders())

    def count_waiting(self):
        """The fronts that wait in line."""
        return len({needed.control for needed in self.needed if needed.told})

    def holders(self):
        """The fronts that have workers."""
        return {control for control in self.children.values() if control is not None}

    def wait_in_line(self, refusal):
        """WAITING: tells the fronts that there is no room for a further worker, and asks the others for those that become
        idle. One that waits in line may have idle ones, too: since its visitors have left."""
        for needed in self.needed:
            if not needed.told:
                needed.told = True
                needed.control.send(frame(WAITING, refusal.encode()))
        waiting = {needed.control for needed in self.needed}
        self.urge(self.holders() - waiting)
        self.urge(self.holders() & waiting, 0)

    def urge(self, fronts, flags=URGENT):
        """Asks these fronts for the workers that become idle; without URGENT, for those that are."""
        now = time.monotonic()
        for front in fronts:
            if front.urge_after <= now:
                front.urge_after = now + URGE_AGAIN
                front.ask_release(flags)

    def make_room(self, control):
        """MAKE_ROOM: the system has refused this front a process, so one of ours has to go."""
        if self.kept.idle:
            self.kept.end(self.kept.idle[0])
        else:
            self.urge(self.holders() - {control})

    def give(self, control, worker):
        """GIVEN: a kept worker for this front. Whether it has it."""
        data = frame(GIVEN, encode_pairs(*[text for pair in worker.update().items() for text in pair]))
        given = control.send(data, worker.fds)
        if given:
            self.children[worker.pid] = control
        worker.close(list(worker.fds))
        return given

    def fork(self, needed):
        """FORKED: a new worker for this front. Whether it has it."""
        control, fds = needed.control, needed.fds
        needed.release()
        try:
            pid = os.fork()
        except OSError as error:
            control.send(frame(REFUSED, 'fork was refused: {}'.format(error).encode()))
            for other in self.holders() - {control}:
                other.ask_release(URGENT)
            return False
        if pid == 0:
            try:
                self.become_worker(fds[0], fds[1], fds[2], fds[3:])
            except BaseException:
                log('runfcgi: the worker could not start\n' + describe_exception())
            finally:
                os._exit(1)
        self.children[pid] = control
        return control.send(frame(FORKED, struct.pack('>I', pid)))

    def ask_others(self, control):
        """RELEASE: asks the other fronts that have workers for an idle one. Returns those asked."""
        if self.kept.idle:
            return set()
        now = time.monotonic()
        return {other for other in self.holders() - {control} if other.ask_after <= now and other.ask_release(0)}

    def answered(self, control):
        """This front has given what it can."""
        for needed in self.needed:
            needed.asked.discard(control)

    def reap(self):
        """Reaps those that have ended, never another child of the application; EXITED tells their front how."""
        for child in list(self.children):
            try:
                pid, status = os.waitpid(child, os.WNOHANG)
            except ChildProcessError:
                pid, status = child, 0
            if pid:
                lost = self.kept.reaped(pid)
                self.overdue.pop(pid, None)
                control, words = self.children.pop(pid), describe_exit(status)
                if os.WIFSIGNALED(status) and self.room.killed(self.count_serving()):
                    words = 'was killed by the kernel, since the memory of the account is used up'
                if words and lost:
                    words += '; it was idle, kept for the next front'
                sent = frame(EXITED, struct.pack('>II', pid, status) + (words or '').encode(), KEPT if lost else 0)
                if control is not None and (words or self.plain):
                    control.send(sent)
                elif words and lost:
                    self.untold.append(sent)

    def tell(self, controls):
        """Tells one of these fronts how kept workers have ended."""
        self.untold = self.untold[-MOST_UNTOLD:]
        while self.untold and any(control.send(self.untold[0]) for control in controls if control.greeted):
            self.untold.pop(0)

    def on_time(self):
        """Does what is due."""
        self.reap()
        for pid in self.kept.expire():
            self.expect_end(pid)
        self.kill_overdue(time.monotonic())
        self.serve()

    def kill_overdue(self, now):
        """Kills those that should be gone. Their pids are theirs until they are reaped."""
        for pid, front in [(pid, front) for pid, (at, front) in self.overdue.items() if at <= now]:
            if front is not None and is_alive(*front):
                self.expect_end(pid, front)
            else:
                del self.overdue[pid]
                os.kill(pid, signal.SIGKILL)

    def deadline(self):
        """When `on_time` has something to do; None: not before something happens."""
        times = [self.kept.deadline(), self.needed[0].look_at if self.needed else None]
        times += [at for at, _ in self.overdue.values()]
        return min((at for at in times if at is not None), default=None)

    def end(self):
        """Ends those that are kept, and waits for them."""
        self.kept.end_all()
        while self.kept.ending:
            time.sleep(0.01)
            self.reap()
            for pid in self.kept.expire():
                self.expect_end(pid)
        self.kill_overdue(math.inf)
