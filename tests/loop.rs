//! The child's loop: timers, descriptors, and work from other threads.

mod common;

use common::{FOREVER, Gate, Log, await_sleep, bounded, eventually, logged};
use offspring::{CallError, Caller, Loop, Panic, Poster, Rpc, Strings, Watch, Worker};
use std::cell::{Cell, RefCell};
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

const MS: Duration = Duration::from_millis(1);

/// Calls `function` in a child, and checks its answer.
fn answers(function: impl FnMut(Strings, Caller, &Loop) + 'static, want: &'static [&'static str]) {
    let me = Worker::new().deferred("do", function).run_in_test();
    bounded(move || {
        let (builder, log) = logged(me.rpc("do"));
        let rpc = builder.start().unwrap();
        for _ in 0..3 {
            assert_eq!(rpc.call(()).wait().unwrap(), want.to_vec());
        }
        drop(rpc);
        assert_eq!(log.end(), "destroy");
        assert_eq!(log.lines(), ["destroy"]);
    });
}

/// Lines that callbacks in a child added, in order: the answer to a call.
#[derive(Clone, Default)]
struct Transcript(Rc<RefCell<Vec<String>>>);

impl Transcript {
    fn add(&self, what: impl Into<String>) {
        self.0.borrow_mut().push(what.into());
    }

    fn answer(&self, caller: Caller) {
        caller.reply(self.0.take());
    }
}

#[test]
fn timers_with_the_same_time_fire_by_age() {
    answers(
        |_, caller, events| {
            let transcript = Transcript::default();
            for name in ["one", "two", "three"] {
                let transcript = transcript.clone();
                events.after(MS * 3, move |_| transcript.add(name));
            }
            events.after(MS * 3, move |_| transcript.answer(caller));
        },
        &["one", "two", "three"],
    );
}

#[test]
fn timer_does_not_fire_before_its_time() {
    answers(
        |_, caller, events| {
            let start = Instant::now();
            events.after(MS * 20, move |_| {
                caller.reply((start.elapsed() >= MS * 20).to_string());
            });
        },
        &["true"],
    );
}

#[test]
fn zero_timers_leave_room_for_everything_else() {
    let me = Worker::new()
        .deferred("spin", |request: Strings, caller: Caller, events| {
            if request == ["echo"] {
                return caller.reply(request);
            }
            // Two that repeat as often as possible, and one that sets itself again.
            let rounds = Rc::new(Cell::new(0));
            for _ in 0..2 {
                let rounds = Rc::clone(&rounds);
                events.every(Duration::ZERO, (), move |(), _| {
                    rounds.set(rounds.get() + 1);
                    Some(())
                });
            }
            fn again(events: &Loop) {
                events.after(Duration::ZERO, again);
            }
            again(events);
            let (near, far) = UnixStream::pair().unwrap();
            events.readable(near, (caller, rounds), |_, (caller, rounds), _| {
                caller.reply((rounds.get() > 0).to_string());
                None
            });
            events.after(MS, |_| drop(far));
        })
        .run_in_test();
    bounded(move || {
        let rpc = me.rpc("spin").start().unwrap();
        assert_eq!(rpc.call(()).wait().unwrap(), ["true"]);
        for _ in 0..100 {
            assert_eq!(rpc.call("echo").wait().unwrap(), ["echo"]);
        }
        // The child exits nevertheless.
        rpc.finish().unwrap();
    });
}

#[test]
fn time_that_overflows_the_clock_is_never() {
    answers(
        |_, caller, events| {
            events.after(Duration::MAX, |_| panic!("forever has passed"));
            events.every(Duration::MAX, (), |(), _| panic!("forever has passed"));
            let never = events.after(Duration::MAX - MS, |_| panic!("forever has passed"));
            never.cancel();
            events.after(MS, |_| caller.reply("soon"));
        },
        &["soon"],
    );
}

#[test]
fn thousands_of_timers_fire_in_order() {
    const TIMERS: u32 = 5000;
    answers(
        |_, caller, events| {
            // For each timer that fired, the earliest and latest time at which it was due.
            let fired: Rc<RefCell<Vec<[Instant; 2]>>> = Rc::default();
            let mut watches = Vec::new();
            for n in 0..TIMERS {
                let delay = Duration::from_micros(10) * (n * 7919 % TIMERS);
                let (fired, set) = (Rc::clone(&fired), Rc::new(Cell::new(None)));
                let (before, after) = (Instant::now(), Rc::clone(&set));
                watches.push(events.after(delay, move |_| {
                    let due = [before, after.get().unwrap()].map(|set| set + delay);
                    fired.borrow_mut().push(due);
                }));
                set.set(Some(Instant::now()));
            }
            let cancelled = watches.iter().step_by(2).map(Watch::cancel).count();
            events.after(MS * 60, move |_| {
                let (fired, mut latest) = (fired.borrow(), None);
                let all = fired.len() == TIMERS as usize - cancelled;
                let in_order = fired.iter().all(|[not_before, not_after]| {
                    latest = latest.max(Some(*not_before));
                    latest <= Some(*not_after)
                });
                caller.reply([all, in_order].map(|flag| flag.to_string()));
            });
        },
        &["true", "true"],
    );
}

#[test]
fn repeating_timer_skips_missed_ticks() {
    answers(
        |_, caller, events| {
            let (mut ticks, mut late) = (0, Instant::now());
            events.every(MS, caller, move |caller, _| {
                if ticks == 0 {
                    // Twenty ticks are missed.
                    thread::sleep(MS * 20);
                    late = Instant::now();
                }
                ticks += 1;
                if ticks < 5 {
                    return Some(caller);
                }
                caller.reply((late.elapsed() >= MS * 4).to_string());
                None
            });
        },
        &["true"],
    );
}

#[test]
fn cancelled_watch_does_not_fire() {
    answers(
        |_, caller, events| {
            let transcript = Transcript::default();
            // From the callback itself.
            let (own, mine) = (Rc::new(RefCell::new(None::<Watch>)), transcript.clone());
            let watch = events.every(MS, Rc::clone(&own), move |own, _| {
                mine.add("once");
                own.borrow().as_ref().unwrap().cancel();
                Some(own)
            });
            *own.borrow_mut() = Some(watch);
            // From another timer that is due in the same round.
            let same = |name: &'static str| {
                let transcript = transcript.clone();
                events.after(MS * 3, move |_| transcript.add(name))
            };
            let victims: Rc<RefCell<Vec<Watch>>> = Rc::default();
            let (killed, killer) = (Rc::clone(&victims), transcript.clone());
            events.after(MS * 3, move |_| {
                thread::sleep(MS * 3);
                killer.add("killer");
                killed.borrow().iter().for_each(Watch::cancel);
            });
            victims.borrow_mut().push(same("a victim"));
            same("beside them");
            victims.borrow_mut().push(same("another victim"));
            // Before it is due, twice, and by a clone.
            let early = same("early");
            early.clone().cancel();
            early.cancel();
            events.after(MS * 20, move |_| transcript.answer(caller));
        },
        &["once", "killer", "beside them"],
    );
}

#[test]
fn descriptor_that_is_cancelled_in_the_same_round_does_not_fire() {
    answers(
        |_, caller, events| {
            let (transcript, caller) = (Transcript::default(), Rc::new(Cell::new(Some(caller))));
            let all: Rc<RefCell<Vec<Watch>>> = Rc::default();
            // They become readable simultaneously. Whichever is first cancels the others.
            let mut far_ends = Vec::new();
            for _ in 0..3 {
                let (near, far) = UnixStream::pair().unwrap();
                far_ends.push(far);
                let (transcript, caller, others) =
                    (transcript.clone(), Rc::clone(&caller), Rc::clone(&all));
                let watch = events.readable(near, (), move |_, (), events| {
                    transcript.add("first");
                    others.borrow().iter().for_each(Watch::cancel);
                    let (transcript, caller) = (transcript.clone(), caller.take());
                    events.after(Duration::ZERO, move |_| transcript.answer(caller.unwrap()));
                    Some(())
                });
                all.borrow_mut().push(watch);
            }
            events.after(MS, |_| drop(far_ends));
        },
        &["first"],
    );
}

#[test]
fn watch_is_cancelled_from_another_thread_while_the_loop_sleeps() {
    let me = Worker::new()
        .deferred("do", |request: Strings, caller: Caller, events| {
            let [verb, gate] = request.texts().unwrap();
            let parent = caller.parent().clone();
            let (near, far) = UnixStream::pair().unwrap();
            let watch = match verb {
                "timer" => events.after(FOREVER, |_| caller.reply("too late")),
                "descriptor" => events.readable(near, (caller, far), |_, keep, _| Some(keep)),
                _ => panic!("no `{verb}`"),
            };
            let gate = gate.to_owned();
            thread::spawn(move || {
                Gate::enter(&gate);
                watch.cancel();
                // The parent may have got the answer before this.
                parent.event("cancelled");
            });
        })
        .run_in_test();
    bounded(move || {
        let (builder, _log) = logged(me.rpc("do"));
        let rpc = builder.start().unwrap();
        for verb in ["timer", "descriptor"] {
            let gate = Gate::new();
            let call = rpc.call([verb, gate.name()]).start();
            let inside = gate.entered();
            await_sleep(rpc.pid().unwrap());
            inside.open();
            // The callback's captures are dropped immediately, not when it would have fired.
            assert!(matches!(call.wait(), Err(CallError::Unanswered)), "{verb}");
        }
        rpc.finish().unwrap();
    });
}

#[test]
fn descriptors_are_readable_and_writable() {
    answers(
        |_, caller, events| {
            let (near, far) = UnixStream::pair().unwrap();
            near.set_nonblocking(true).unwrap();
            far.set_nonblocking(true).unwrap();
            // Much is written whenever there is room, and read as it arrives.
            const BYTES: usize = 3 << 20;
            let block = vec![7; 1 << 16];
            events.writable(near, BYTES, move |near, left, _| {
                match near.write(&block[..left.min(block.len())]) {
                    Ok(n) if n < left => Some(left - n),
                    Ok(_) => None,
                    Err(error) => panic!("it is writable: {error}"),
                }
            });
            let mut read = 0;
            let mut buffer = vec![0; 1000];
            events.readable(far, caller, move |far, caller, _| {
                // The callback runs again for the rest.
                let n = far.read(&mut buffer).unwrap();
                read += n;
                if n > 0 {
                    return Some(caller);
                }
                caller.reply((read == BYTES).to_string());
                None
            });
        },
        &["true"],
    );
}

#[test]
fn same_file_is_watched_for_both() {
    answers(
        |_, caller, events| {
            let (near, far) = UnixStream::pair().unwrap();
            let transcript = Transcript::default();
            let writable = transcript.clone();
            let other = near.try_clone().unwrap();
            events.writable(other, (), move |other, (), _| {
                writable.add("writable");
                other.write_all(b"x").unwrap();
                None
            });
            events.readable(
                near,
                (transcript, caller),
                |near, (transcript, caller), _| {
                    let n = near.read(&mut [0; 9]).unwrap();
                    transcript.add(format!("{n} readable"));
                    if n > 0 {
                        return Some((transcript, caller));
                    }
                    transcript.answer(caller);
                    None
                },
            );
            events.readable(far, (), |far, (), _| {
                let n = far.read(&mut [0; 9]).unwrap();
                far.write_all(&b"reply"[..n]).unwrap();
                None
            });
        },
        &["writable", "1 readable", "0 readable"],
    );
}

/// A descriptor that is owned elsewhere.
struct Number(RawFd);

impl AsFd for Number {
    #[expect(unsafe_code, reason = "a program that breaks the rules")]
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: it is not closed while the number is requested.
        unsafe { BorrowedFd::borrow_raw(self.0) }
    }
}

#[test]
fn descriptor_that_is_closed_elsewhere_is_reported_and_dropped() {
    answers(
        |_, caller, events| {
            let (near, far) = UnixStream::pair().unwrap();
            let number = Number(near.as_raw_fd());
            let (transcript, mut caller) = (Transcript::default(), Some(caller));
            events.readable(number, far, move |number, far, events| {
                let open = std::fs::exists(format!("/proc/self/fd/{}", number.0)).unwrap();
                transcript.add(format!("open: {open}"));
                // Called once, to report it, and not repeatedly until the timer fires.
                if let Some(caller) = caller.take() {
                    let transcript = transcript.clone();
                    events.after(MS * 5, move |_| transcript.answer(caller));
                }
                Some(far)
            });
            events.after(MS, move |_| drop(near));
        },
        &["open: false"],
    );
}

#[test]
fn call_that_waits_on_a_closed_descriptor_is_unanswered() {
    let me = Worker::new()
        .deferred("do", |request: Strings, caller: Caller, events| {
            let (near, far) = UnixStream::pair().unwrap();
            let number = Number(near.as_raw_fd());
            let keep = (caller, far);
            if request == ["readable"] {
                events.readable(number, keep, |_, keep, _| Some(keep));
            } else {
                // With its buffer full, so that it is not writable before.
                near.set_nonblocking(true).unwrap();
                while (&near).write(&[0; 1000]).is_ok() {}
                events.writable(number, keep, |_, keep, _| Some(keep));
            }
            events.after(MS, move |_| drop(near));
        })
        .run_in_test();
    bounded(move || {
        let rpc = me.rpc("do").start().unwrap();
        for interest in ["readable", "writable"] {
            let outcome = rpc.call(interest).wait();
            assert!(matches!(outcome, Err(CallError::Unanswered)), "{outcome:?}");
        }
        rpc.finish().unwrap();
    });
}

#[test]
fn posts_run_on_the_loop_in_order() {
    answers(
        |_, caller, events| {
            thread_local! {
                static TRANSCRIPT: Transcript = Transcript::default();
            }
            let poster: Poster = events.poster();
            let main = thread::current().id();
            thread::spawn(move || {
                for n in 0..3 {
                    poster.post(move |_| {
                        assert_eq!(thread::current().id(), main);
                        TRANSCRIPT.with(|transcript| transcript.add(n.to_string()));
                    });
                }
                let last = poster.clone();
                poster.post(move |events| {
                    // A post from a post, and a timer from a post.
                    last.post(|_| TRANSCRIPT.with(|transcript| transcript.add("nested")));
                    events.after(MS, |_| {
                        TRANSCRIPT.with(|transcript| transcript.answer(caller))
                    });
                });
            });
        },
        &["0", "1", "2", "nested"],
    );
}

#[test]
fn offloaded_work_runs_beside_the_loop() {
    let me = Worker::new()
        .deferred("do", |request: Strings, caller: Caller, events| {
            if request == ["echo"] {
                return caller.reply(request);
            }
            let main = thread::current().id();
            // Not Send, and need not be.
            let here = Rc::new("here");
            events.offload(
                move || {
                    Gate::enter(request.texts::<1>().unwrap()[0]);
                    thread::current().id() != main
                },
                move |elsewhere, _| {
                    assert_eq!(thread::current().id(), main);
                    caller.reply([elsewhere.to_string(), here.to_string()]);
                },
            );
        })
        .run_in_test();
    bounded(move || {
        let rpc = me.rpc("do").start().unwrap();
        let gate = Gate::new();
        let calls = [(); 5].map(|()| rpc.call(gate.name()).start());
        let inside = [(); 5].map(|()| gate.entered());
        assert_eq!(rpc.call("echo").wait().unwrap(), ["echo"]);
        drop(inside);
        for call in calls {
            assert_eq!(call.wait().unwrap(), ["true", "here"]);
        }
        rpc.finish().unwrap();
    });
}

/// Panics in the place that the request names, in a callback that owns the call or does not.
fn panics(request: Strings, caller: Caller, events: &Loop) {
    let [place, owner] = request.texts().unwrap();
    let owned = match owner {
        "call" => Some(caller),
        "nobody" => {
            caller.reply(());
            None
        }
        _ => return caller.reply(()),
    };
    let text = format!("in a {place}");
    match place {
        "timer" => {
            events.after(MS, move |_| {
                let _owned = owned;
                panic!("{text}")
            });
        }
        "repeating timer" => {
            events.every(MS, (owned, 0), move |(owned, n), _| {
                assert!(n < 3, "{text}");
                Some((owned, n + 1))
            });
        }
        "captured repeating timer" => {
            events.every(MS, (), move |(), _| {
                let _ = &owned;
                panic!("{text}")
            });
        }
        "descriptor" => {
            let (near, _) = UnixStream::pair().unwrap();
            events.readable(near, owned, move |_, _, _| panic!("{text}"));
        }
        "post" => {
            let poster = events.poster();
            thread::spawn(move || {
                poster.post(move |_| {
                    let _owned = owned;
                    panic!("{text}")
                });
            });
        }
        "offload" => events.offload(
            move || {
                if !text.is_empty() {
                    panic!("{text}");
                }
            },
            move |(), _| drop(owned),
        ),
        "then of an offload" => events.offload(
            || (),
            move |(), _| {
                let _owned = owned;
                panic!("{text}")
            },
        ),
        "destructor" => {
            struct Panics(String);
            impl Drop for Panics {
                fn drop(&mut self) {
                    panic!("{}", self.0);
                }
            }
            let watch = events.after(FOREVER, {
                let kept = (owned, Panics(text));
                move |_| drop(kept)
            });
            watch.cancel();
        }
        _ => unreachable!(),
    }
}

const PLACES: [&str; 7] = [
    "timer",
    "repeating timer",
    "captured repeating timer",
    "descriptor",
    "post",
    "offload",
    "then of an offload",
];

fn panicked(outcome: Result<Strings, CallError>) -> Panic {
    match outcome {
        Err(CallError::Panicked(panic)) => panic,
        other => panic!("it should have panicked: {other:?}"),
    }
}

#[test]
fn panic_in_a_callback_fails_only_the_call_that_it_owns() {
    let me = Worker::new().deferred("do", panics).run_in_test();
    bounded(move || {
        let (builder, log) = logged(me.rpc("do"));
        let rpc = builder.start().unwrap();
        for place in PLACES {
            let calls: Vec<_> = (0..5).map(|_| rpc.call([place, "call"]).start()).collect();
            for call in calls {
                let panic = panicked(call.wait());
                assert_eq!(panic.message(), format!("in a {place}"));
                assert!(panic.location().contains("loop.rs:"), "{panic}");
            }
            rpc.call(["echo", ""]).wait().unwrap();
        }
        drop(rpc);
        assert_eq!(log.end(), "destroy");
        assert_eq!(log.lines(), ["destroy"], "the panics belong to calls");
    });
}

#[test]
fn panic_that_belongs_to_no_call_is_an_error_event() {
    let me = Worker::new().deferred("do", panics).run_in_test();
    bounded(move || {
        for place in PLACES.into_iter().chain(["destructor"]) {
            let log = Log::default();
            let events = log.clone();
            let rpc: Rpc = me
                .rpc("do")
                .on_event(move |event| {
                    let [word, message] = event.texts().unwrap();
                    events.add(format!("{word}: {message}"));
                })
                .on_error(|error| panic!("{error}"))
                .start()
                .unwrap();
            rpc.call([place, "nobody"]).wait().unwrap();
            eventually("the error event", || !log.lines().is_empty());
            rpc.call(["echo", ""]).wait().unwrap();
            rpc.finish().unwrap();
            let lines = log.lines();
            assert_eq!(lines.len(), 1, "{lines:?}");
            let text = lines[0].strip_prefix("error: a callback panicked at ");
            let text = text.unwrap_or_else(|| panic!("{lines:?}"));
            assert!(text.contains("loop.rs:"), "{text}");
            assert!(text.ends_with(&format!(": in a {place}")), "{text}");
        }
    });
}

#[test]
fn callbacks_register_others_while_they_run() {
    answers(
        |_, caller, events| {
            let transcript = Transcript::default();
            events.after(Duration::ZERO, move |events| {
                transcript.add("timer");
                let (near, far) = UnixStream::pair().unwrap();
                drop(far);
                events.readable(
                    near,
                    (transcript, caller),
                    |_, (transcript, caller), events| {
                        transcript.add("descriptor");
                        events.poster().post(|_| ());
                        events.after(Duration::ZERO, move |_| {
                            transcript.add("timer in a descriptor");
                            transcript.answer(caller);
                        });
                        None
                    },
                );
            });
        },
        &["timer", "descriptor", "timer in a descriptor"],
    );
}

#[test]
fn thousands_of_posts_from_many_threads_all_run() {
    const THREADS: usize = 8;
    const POSTS: usize = 1000;
    answers(
        |_, caller, events| {
            let ran = Arc::new(AtomicUsize::new(0));
            let (send, posted) = mpsc::channel();
            for _ in 0..THREADS {
                let (poster, ran, send) = (events.poster(), Arc::clone(&ran), send.clone());
                thread::spawn(move || {
                    for _ in 0..POSTS {
                        let ran = Arc::clone(&ran);
                        poster.post(move |_| {
                            ran.fetch_add(1, Ordering::Relaxed);
                        });
                    }
                    send.send(()).unwrap();
                });
            }
            events.offload(
                move || (0..THREADS).for_each(|_| posted.recv().unwrap()),
                move |(), _| {
                    let all = ran.load(Ordering::Relaxed) == THREADS * POSTS;
                    caller.reply(all.to_string());
                },
            );
        },
        &["true"],
    );
}
