//! The pool as a transcript sees it: numbers come in, actions go out.

use crate::Machine;
use nix::unistd::Pid;
use runfcgi::config::Config;
use runfcgi::failure::Failure;
use runfcgi::request::RequestNo;
use runfcgi::workers::Action;
use runfcgi::workers::kept::Facts;
use runfcgi::workers::pool::Pool;
use runfcgi::workers::process::{Origin, ProcessNo, SlotNo};
use runfcgi::workers::scaling::Sizes;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// `max 3 minspare 1 request_timeout 30 …`; what is not named is 1 (max, slots) or as in `Config::default`.
pub(crate) fn begin(words: &str) -> Player {
    let mut config = Config::default();
    config.server.maxrequests = 0;
    config.server.max_lifetime = 0;
    let mut sizes = Sizes {
        max: 1,
        maxspare: 5,
        slots: 1,
        ..Sizes::default()
    };
    let mut room = None;
    let words: Vec<&str> = words.split(' ').collect();
    for pair in words.chunks(2) {
        let number: u64 = pair[1].parse().expect("a number");
        match pair[0] {
            "max" => sizes.max = number as usize,
            "minspare" => sizes.minspare = number as usize,
            "maxspare" => sizes.maxspare = number as usize,
            "slots" => sizes.slots = number as usize,
            "room" => room = Some(number as usize),
            "maxrequests" => config.server.maxrequests = number,
            "max_lifetime" => config.server.max_lifetime = number,
            "idle_timeout" => config.server.idle_timeout = number,
            "queue" => config.limits.queue = number as usize,
            "queue_timeout" => config.limits.queue_timeout = number,
            "request_timeout" => config.limits.request_timeout = number,
            "start_timeout" => config.limits.start_timeout = number,
            "slow_log" => config.log.slow_log = number as f64,
            other => panic!("no setting {other}"),
        }
    }
    let mut pool = Pool::new(Rc::new(config), 0);
    pool.set_bounds(sizes, room);
    Player {
        pool,
        done: Vec::new(),
    }
}

/// The pool, and whoever does what it wants done: what is killed is gone at once.
pub(crate) struct Player {
    pool: Pool,
    done: Vec<String>,
}

impl Player {
    fn act(&mut self, now: Instant) {
        while let Some(action) = self.pool.poll() {
            let killed = match action {
                Action::Kill(process) => Some(process),
                _ => None,
            };
            if let Action::Keep(process) = action {
                self.pool.take(process, now);
            }
            self.done.push(shown(action));
            if let Some(process) = killed {
                self.pool.killed(process, now);
            }
        }
    }
}

impl Machine for Player {
    fn event(&mut self, event: &str, now: Instant) {
        let words: Vec<&str> = event.split(' ').collect();
        let number = |at: usize| -> u64 {
            let word = words.get(at).expect("one word more");
            word.trim_start_matches(|c: char| c.is_alphabetic())
                .parse()
                .expect("a number")
        };
        let (request, slot) = (|| RequestNo(number(1)), || SlotNo(number(1)));
        let process = || ProcessNo(number(1));
        let pool = &mut self.pool;
        match words[0] {
            "startable" => pool.set_startable(true, words.contains(&"keeps")),
            "unstartable" => pool.set_startable(false, false),
            "submit" => pool.submit(request(), words.get(2).map_or(0, |_| number(2)), now),
            "stall" => pool.stall(number(1), true, now),
            "takes" => pool.stall(number(1), false, now),
            "hold" => pool.hold(request(), Some(now)),
            "resume" => pool.hold(request(), None),
            "abort" => pool.abort(request()),
            "fail_queued" => pool.fail_queued(&Failure::Unavailable("why".into())),
            "launched" => pool.launched(process(), Origin::Preloader, 1, now),
            "keeper" => pool.launched(process(), Origin::Keeper, 1, now),
            "child" => {
                let child = Pid::from_raw(number(2) as i32);
                pool.launched(process(), Origin::Front(child), 1, now);
            }
            "not_started" => pool.not_started(process()),
            "start_failed" => pool.start_failed(now),
            "no_room" => pool.no_room(words.get(1).map(|_| process()), now),
            "forked" => pool.forked(Some(process()), number(2) as i32, now),
            "wait_in_line" => pool.wait_in_line(&[process()], now),
            "started" => drop(pool.started(slot(), number(2) as i32, now)),
            "ended" => drop(pool.ended(slot(), words.contains(&"large"), now)),
            "send_failed" => pool.send_failed(slot(), now),
            "lost" => pool.lost(slot(), now),
            "output_ended" => pool.output_ended(process()),
            "resolve" => drop(pool.resolve(process())),
            "start" => pool.start(number(1), 1, now),
            "promote" => pool.promote(number(1), now),
            "end_trial" => pool.end_trial(number(1), now),
            "give_back" => drop(pool.give_back(None, true, now)),
            "release" => drop(pool.give_back(Some(number(1)), false, now)),
            "urgent_release" => drop(pool.give_back(Some(number(1)), true, now)),
            "keep_idle" => pool.give_up_idle(now, true, now),
            "adopted" => {
                let facts = Facts {
                    pid: number(2) as i32,
                    served: number(3),
                    served_limit: number(4),
                    ..Facts::default()
                };
                pool.adopted(process(), &facts, now);
            }
            "give_up_idle" => pool.give_up_idle(now, false, now),
            "drain" => pool.drain(),
            _ => panic!("no event {event}"),
        }
        self.act(now);
        self.time(now);
    }

    /// As the loop does it: at each deadline, and as often as something has changed.
    fn time(&mut self, now: Instant) {
        for _ in 0..100 {
            let deadline = self.pool.deadline().filter(|at| *at <= now);
            let at = match deadline {
                Some(at) => at,
                None if self.pool.is_due(now) => now,
                None => return,
            };
            self.pool.on_time(at);
            self.act(at);
        }
        panic!("it is due again and again");
    }

    fn outputs(&mut self) -> Vec<String> {
        std::mem::take(&mut self.done)
    }
}

fn shown(action: Action) -> String {
    match action {
        Action::Start(process, generation, slots) => {
            let slots: Vec<_> = slots.iter().map(|slot| format!("s{}", slot.0)).collect();
            format!("start p{} of {generation}: {}", process.0, slots.join(" "))
        }
        Action::Send(slot, request) => format!("send s{} r{}", slot.0, request.0),
        Action::Keep(process) => format!("keep p{}", process.0),
        Action::Abort(slot) => format!("abort s{}", slot.0),
        Action::Close(slot) => format!("close s{}", slot.0),
        Action::WriteStack(pid) => format!("stack {pid}"),
        Action::Kill(process) => format!("kill p{}", process.0),
        Action::Fail(request, failure) => {
            format!("fail r{} {}: {failure}", request.0, failure.status())
        }
        Action::Forget(request) => format!("forget r{}", request.0),
        Action::Slow(request, waited) => format!("slow r{} {}s", request.0, waited.as_secs()),
        Action::Unstarted(process, seconds) => format!("unstarted p{} {seconds}s", process.0),
        Action::Lost(pid) => format!("lost {pid}"),
        Action::Live => "live".into(),
    }
}

#[test]
fn a_request_that_an_idle_worker_takes_leaves_the_pool_at_rest() {
    let mut player = begin("max 2 minspare 1 queue_timeout 20 request_timeout 30");
    let mut now = Instant::now();
    for event in ["startable", "launched p1", "started s1 11"] {
        player.event(event, now);
    }
    for event in ["submit r1", "launched p2", "started s2 12", "ended s1"] {
        player.event(event, now);
    }
    player.outputs();
    for number in 2..10 {
        now += Duration::from_millis(10);
        player.pool.submit(RequestNo(number), number, now);
        player.pool.ended(SlotNo(1), false, now);
        assert!(!player.pool.is_due(now), "request {number}");
        assert!(player.pool.deadline().is_some_and(|at| at > now));
    }
}

#[test]
fn a_worker_that_becomes_idle_is_looked_at_in_time() {
    for limits in ["maxspare 0 idle_timeout 5", "max_lifetime 11"] {
        let mut player = begin(&format!("{limits} slow_log 0"));
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        for event in ["startable", "launched p1", "started s1 11", "submit r1"] {
            player.event(event, now);
        }
        // It is busy when it would be due.
        player.time(now + 6 * second);
        player.event("no_room", now + 6 * second);
        player.event("ended s1", now + 6 * second);
        player.outputs();
        let due = now + 11 * second;
        assert!(
            player.pool.deadline().is_some_and(|at| at <= due),
            "{limits}"
        );
        player.time(due);
        assert_eq!(player.outputs()[0], "close s1", "{limits}");
    }
}
