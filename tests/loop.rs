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

/// Has a child run `function`, which answers, and checks the answer.
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

/// What callbacks in a child said, in order: the answer to a call.
#[derive(Clone, Default)]
struct Said(Rc<RefCell<Vec<String>>>);

impl Said {
    fn add(&self, what: impl Into<String>) {
        self.0.borrow_mut().push(what.into());
    }

    fn answer(&self, caller: Caller) {
        caller.reply(self.0.take());
    }
}

#[test]
fn timers_of_the_same_time_fire_by_age() {
    answers(
        |_, caller, events| {
            let said = Said::default();
            for name in ["one", "two", "three"] {
                let said = said.clone();
                events.after(MS * 3, move |_| said.add(name));
            }
            events.after(MS * 3, move |_| said.answer(caller));
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
            // Two that repeat as often as they can, and one that sets itself again.
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
        // It exits all the same.
        rpc.finish().unwrap();
    });
}

#[test]
fn time_that_overflows_the_clock_is_never() {
    answers(
        |_, caller, events| {
            events.after(Duration::MAX, |_| panic!("for ever has passed"));
            events.every(Duration::MAX, (), |(), _| panic!("for ever has passed"));
            let never = events.after(Duration::MAX - MS, |_| panic!("for ever has passed"));
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
            // Between which moments each that fired was due.
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
fn repeating_timer_does_not_make_up_for_what_it_missed() {
    answers(
        |_, caller, events| {
            let (mut beats, mut late) = (0, Instant::now());
            events.every(MS, caller, move |caller, _| {
                if beats == 0 {
                    // Twenty beats are missed.
                    thread::sleep(MS * 20);
                    late = Instant::now();
                }
                beats += 1;
                if beats < 5 {
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
fn watch_that_is_cancelled_does_not_fire_any_more() {
    answers(
        |_, caller, events| {
            let said = Said::default();
            // From the callback itself.
            let (own, mine) = (Rc::new(RefCell::new(None::<Watch>)), said.clone());
            let watch = events.every(MS, Rc::clone(&own), move |own, _| {
                mine.add("once");
                own.borrow().as_ref().unwrap().cancel();
                Some(own)
            });
            *own.borrow_mut() = Some(watch);
            // From another one that is due in the same round.
            let same = |name: &'static str| {
                let said = said.clone();
                events.after(MS * 3, move |_| said.add(name))
            };
            let victims: Rc<RefCell<Vec<Watch>>> = Rc::default();
            let (killed, killer) = (Rc::clone(&victims), said.clone());
            events.after(MS * 3, move |_| {
                thread::sleep(MS * 3);
                killer.add("killer");
                killed.borrow().iter().for_each(Watch::cancel);
            });
            victims.borrow_mut().push(same("a victim"));
            same("beside them");
            victims.borrow_mut().push(same("another victim"));
            // Before it was ever due, twice, and by a clone.
            let early = same("early");
            early.clone().cancel();
            early.cancel();
            events.after(MS * 20, move |_| said.answer(caller));
        },
        &["once", "killer", "beside them"],
    );
}

#[test]
fn descriptor_that_is_cancelled_in_the_same_round_does_not_fire() {
    answers(
        |_, caller, events| {
            let (said, caller) = (Said::default(), Rc::new(Cell::new(Some(caller))));
            let all: Rc<RefCell<Vec<Watch>>> = Rc::default();
            // They become readable at once. Whichever is first ends the others.
            let mut far_ends = Vec::new();
            for _ in 0..3 {
                let (near, far) = UnixStream::pair().unwrap();
                far_ends.push(far);
                let (said, caller, others) = (said.clone(), Rc::clone(&caller), Rc::clone(&all));
                let watch = events.readable(near, (), move |_, (), events| {
                    said.add("first");
                    others.borrow().iter().for_each(Watch::cancel);
                    let (said, caller) = (said.clone(), caller.take());
                    events.after(Duration::ZERO, move |_| said.answer(caller.unwrap()));
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
                // It may have heard of that before.
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
            // What the callback owned is dropped at once, not when it would have fired.
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
            // Much is written as there is room, and read as it comes.
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
                // It comes again for what is left.
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
fn same_descriptor_is_watched_for_both() {
    answers(
        |_, caller, events| {
            let (near, far) = UnixStream::pair().unwrap();
            let said = Said::default();
            let writable = said.clone();
            let other = near.try_clone().unwrap();
            events.writable(other, (), move |other, (), _| {
                writable.add("writable");
                other.write_all(b"x").unwrap();
                None
            });
            events.readable(near, (said, caller), |near, (said, caller), _| {
                let n = near.read(&mut [0; 9]).unwrap();
                said.add(format!("{n} readable"));
                if n > 0 {
                    return Some((said, caller));
                }
                said.answer(caller);
                None
            });
            events.readable(far, (), |far, (), _| {
                let n = far.read(&mut [0; 9]).unwrap();
                far.write_all(&b"reply"[..n]).unwrap();
                None
            });
        },
        &["writable", "1 readable", "0 readable"],
    );
}

/// A descriptor that somebody else owns.
struct Number(RawFd);

impl AsFd for Number {
    #[expect(unsafe_code, reason = "a program that breaks the rules")]
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: it is not closed while the number is asked for.
        unsafe { BorrowedFd::borrow_raw(self.0) }
    }
}

#[test]
fn descriptor_that_is_closed_behind_its_owners_back_is_told_and_dropped() {
    answers(
        |_, caller, events| {
            let (near, far) = UnixStream::pair().unwrap();
            let number = Number(near.as_raw_fd());
            let (said, mut caller) = (Said::default(), Some(caller));
            events.readable(number, far, move |number, far, events| {
                let open = std::fs::exists(format!("/proc/self/fd/{}", number.0)).unwrap();
                said.add(format!("open: {open}"));
                // Once, to tell, and not again and again until then.
                if let Some(caller) = caller.take() {
                    let said = said.clone();
                    events.after(MS * 5, move |_| said.answer(caller));
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
                // Its buffer is full, or it would be writable before.
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
                static SAID: Said = Said::default();
            }
            let poster: Poster = events.poster();
            let main = thread::current().id();
            thread::spawn(move || {
                for n in 0..3 {
                    poster.post(move |_| {
                        assert_eq!(thread::current().id(), main);
                        SAID.with(|said| said.add(n.to_string()));
                    });
                }
                let last = poster.clone();
                poster.post(move |events| {
                    // One that posts, and one that sets a timer.
                    last.post(|_| SAID.with(|said| said.add("nested")));
                    events.after(MS, |_| SAID.with(|said| said.answer(caller)));
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
            // Not Send, and it need not be.
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

/// Panics where the request says, with the call in hand or without.
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
fn panic_in_a_callback_fails_the_call_that_it_owns_and_no_other() {
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
        assert_eq!(log.lines(), ["destroy"], "they belong to calls");
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
            let told = lines[0].strip_prefix("error: a callback panicked at ");
            let told = told.unwrap_or_else(|| panic!("{lines:?}"));
            assert!(told.contains("loop.rs:"), "{told}");
            assert!(told.ends_with(&format!(": in a {place}")), "{told}");
        }
    });
}

#[test]
fn callbacks_set_others_while_they_run() {
    answers(
        |_, caller, events| {
            let said = Said::default();
            events.after(Duration::ZERO, move |events| {
                said.add("timer");
                let (near, far) = UnixStream::pair().unwrap();
                drop(far);
                events.readable(near, (said, caller), |_, (said, caller), events| {
                    said.add("descriptor");
                    events.poster().post(|_| ());
                    events.after(Duration::ZERO, move |_| {
                        said.add("timer in a descriptor");
                        said.answer(caller);
                    });
                    None
                });
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
