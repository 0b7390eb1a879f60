//! The workloads, with the library on both sides: the child is this program.

use crate::carrier::{Bytes, Carrier, Pool};
use crate::laps::Measured;
use crate::payload::{self, Large, check_small, small};
use crate::pools;
use offspring::{Caller, Fd, Name, Process, Reactor, Rpc, RpcBuilder, Worker};
use std::fs::File;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

pub(crate) const KIB64: usize = 64 << 10;
pub(crate) const MIB: usize = 1 << 20;

/// The limit of queued bytes when large payloads are queued without waiting for replies: a program
/// that limits its memory sets such a limit, and one whose writer blocks does not need it.
const QUEUED_BYTES: usize = 4 << 20;

/// How many threads share a handle.
const THREADS: u32 = 4;

/// How many children share a reactor.
pub(crate) const CHILDREN: usize = 1000;

/// How to do the work.
#[derive(Clone, Copy, Default)]
pub(crate) struct Variant {
    /// With deferred functions instead of returning ones.
    pub(crate) deferred: bool,
    /// With a codec that passes bytes unchanged instead of octet strings.
    pub(crate) bytes: bool,
    /// Children share one reactor.
    pub(crate) shared: bool,
    /// Without a limit for queued bytes.
    pub(crate) unbounded: bool,
}

/// In a child, serves and does not return. To be called before anything else.
pub(crate) fn worker() -> Process {
    let worker = Worker::new();
    let worker = with_functions::<Name>(worker, OCTETS)
        .function(TAKE, |mut request, _| {
            let [_descriptor] = request.take_fds()?;
            Ok(request)
        })
        .function(BURN, |request, _| {
            let start = Instant::now();
            while start.elapsed() < Duration::from_millis(1) {}
            Ok(request)
        })
        .setup(FILL, |bytes| {
            let [bytes] = bytes.texts()?;
            vec![1_u8; bytes.parse()?].leak();
            Ok(())
        });
    with_functions::<Bytes>(worker, BYTES).run()
}

/// The name of a function that returns its request.
pub(crate) const ECHO: &str = OCTETS[0][0];

/// The name of a function that computes for a millisecond.
pub(crate) const BURN: &str = "burn";

/// The name of a function that takes a descriptor.
const TAKE: &str = "take";

/// The name of a setup that fills memory.
const FILL: &str = "fill";

/// Names of functions: echo and events, returning and deferred.
type Names = [[&'static str; 2]; 2];
const OCTETS: Names = [["echo", "events"], ["deferred echo", "deferred events"]];
const BYTES: Names = [
    ["echo of bytes", "events of bytes"],
    ["deferred echo of bytes", "deferred events of bytes"],
];

fn with_functions<S: Carrier>(worker: Worker, [returning, deferred]: Names) -> Worker {
    worker
        .function(S::named(returning[0]), |data, _| Ok(data))
        .function(S::named(returning[1]), |count, caller| {
            send_events(&count, caller);
            Ok(count)
        })
        .deferred(S::named(deferred[0]), |data, caller, _| caller.reply(data))
        .deferred(S::named(deferred[1]), |count, caller, _| {
            send_events(&count, &caller);
            caller.reply(count);
        })
}

fn send_events<S: Carrier>(count: &S::Data, caller: &Caller<S>) {
    let count = S::bytes(count).try_into().expect("a number has four bytes");
    for i in 0..u32::from_le_bytes(count) {
        caller.event([small(i)]);
    }
}

/// Runs `n` operations of the workload of this name.
///
/// # Errors
///
/// If there is no such workload.
pub(crate) fn measure(
    me: &Process,
    variant: Variant,
    workload: &str,
    n: u32,
) -> Result<Measured, String> {
    if let Some(measured) = pools::measure(me, workload, n) {
        return Ok(measured);
    }
    if workload == "descriptor" {
        return Ok(descriptor(me, n));
    }
    if variant.bytes {
        Bench::<Bytes>::new(me, variant, BYTES).measure(workload, n)
    } else {
        Bench::<Name>::new(me, variant, OCTETS).measure(workload, n)
    }
}

/// How much memory a large template has.
const LARGE_TEMPLATE: usize = 256 << 20;

/// A template that has filled so much memory.
fn template(me: &Process, bytes: usize) -> Process {
    let template = me.clone().setup(FILL, bytes.to_string()).template();
    template.warm().expect("this program can be started");
    template
}

/// Blocking calls of 16 bytes, each with a descriptor, which the child closes.
fn descriptor(me: &Process, n: u32) -> Measured {
    let rpc = started(me.rpc(TAKE));
    let file = Fd::from(File::open("/dev/null").expect("it is there"));
    let call = |i| {
        let reply = rpc.call((small(i), &file)).wait().expect("an echo");
        check_small(i, &reply[0]);
    };
    call(0);
    let measured = Measured::each(n, call);
    finish(rpc);
    measured
}

/// Runs `then` with the process id of a child that has answered a call and is idle.
pub(crate) fn idle(me: &Process, variant: Variant, then: impl FnOnce(u32)) {
    let bench = Bench::<Name>::new(me, variant, OCTETS);
    let rpc = bench.start();
    then(rpc.pid().expect("the child is a process"));
    finish(rpc);
}

struct Bench<'a, S> {
    me: &'a Process,
    unbounded: bool,
    reactor: Option<Reactor>,
    echo: S,
    events: S,
}

impl<'a, S: Carrier> Bench<'a, S> {
    fn new(me: &'a Process, variant: Variant, names: Names) -> Self {
        let [echo, events] = names[usize::from(variant.deferred)].map(S::named);
        let reactor = variant.shared.then(Reactor::new);
        Bench {
            me,
            unbounded: variant.unbounded,
            reactor: reactor.map(|reactor| reactor.expect("descriptors are available")),
            echo,
            events,
        }
    }

    fn measure(&self, workload: &str, n: u32) -> Result<Measured, String> {
        Ok(match workload {
            "pingpong" => self.pingpong(n),
            "threads" => self.threads(n),
            "pipeline" => self.pipeline(n),
            "bulk1m" => self.bulk_in_turn(MIB, n),
            "bulk64k" => {
                let bytes = if self.unbounded {
                    usize::MAX
                } else {
                    QUEUED_BYTES
                };
                self.bulk_pipelined(KIB64, n, (usize::MAX, bytes))
            }
            "events" => self.events(n),
            "spawn" => self.spawn(self.me, n),
            "fork" => self.spawn(&template(self.me, 0), n),
            "fork-large" => self.spawn(&template(self.me, LARGE_TEMPLATE), n),
            "child" => self.in_turn(1, n),
            "children" => self.in_turn(CHILDREN, n),
            "child-callbacks" => self.by_callbacks(1, n),
            "children-callbacks" => self.by_callbacks(CHILDREN, n),
            other => match payload::echo(other) {
                Some((len, 1)) => self.bulk_in_turn(len, n),
                Some((len, calls)) => self.bulk_pipelined(len, n, (calls as usize, usize::MAX)),
                None => return Err(format!("unknown workload {other}")),
            },
        })
    }

    fn pingpong(&self, n: u32) -> Measured {
        let rpc = self.start();
        let measured = Measured::each(n, |i| call(&rpc, i));
        finish(rpc);
        measured
    }

    /// Blocking calls by several threads on one handle.
    fn threads(&self, n: u32) -> Measured {
        let rpc = self.start();
        let each = n / THREADS;
        let measured = Measured::all(each * THREADS, || {
            thread::scope(|scope| {
                for t in 0..THREADS {
                    let rpc = &rpc;
                    scope.spawn(move || (t * each..(t + 1) * each).for_each(|i| call(rpc, i)));
                }
            });
        });
        finish(rpc);
        measured
    }

    fn pipeline(&self, n: u32) -> Measured {
        let rpc = self.start();
        let arrivals = Arrivals::expect(n);
        let measured = Measured::all(n, || {
            for i in 0..n {
                rpc.call(S::wrap(&small(i))).then(move |reply| {
                    check_small(i, S::bytes(&reply.expect("an echo")));
                    arrivals.count();
                });
            }
            arrivals.wait();
        });
        finish(rpc);
        measured
    }

    fn bulk_in_turn(&self, len: usize, n: u32) -> Measured {
        let rpc = self.start();
        let mut large = Large::new(len, n);
        let mut payload = large.stamp(0).to_vec();
        let measured = Measured::all(n, || {
            for i in 0..n {
                payload::stamp(&mut payload, i);
                let sent = std::mem::take(&mut payload);
                payload = S::echo(&rpc, sent, |reply| large.check(i, reply));
            }
        });
        finish(rpc);
        measured
    }

    /// Queues calls without waiting, except for room in a queue of this many calls and bytes.
    fn bulk_pipelined(&self, len: usize, n: u32, (calls, bytes): (usize, usize)) -> Measured {
        let rpc = started(self.options(&self.echo).max_queue(calls, bytes));
        call(&rpc, 0);
        let mut large = Large::new(len, n);
        let check: &Large = Box::leak(Box::new(large.clone()));
        let arrivals = Arrivals::expect(n);
        let pool: &Pool = Box::leak(Box::default());
        let measured = Measured::all(n, || {
            for i in 0..n {
                rpc.call(S::large(&mut large, i, pool)).then(move |reply| {
                    let reply = reply.expect("an echo");
                    check.check(i, S::bytes(&reply));
                    S::reuse(reply, pool);
                    arrivals.count();
                });
            }
            arrivals.wait();
        });
        finish(rpc);
        measured
    }

    fn events(&self, n: u32) -> Measured {
        let arrivals = Arrivals::expect(n);
        let mut next = 0;
        let rpc = started(self.options(&self.events).on_event(move |event| {
            check_small(next, &event[0]);
            next += 1;
            arrivals.count();
        }));
        let send = |count: u32| rpc.call(S::wrap(&count.to_le_bytes()));
        send(0).wait().expect("no events");
        let measured = Measured::all(n, || {
            send(n).then(|reply| drop(reply.expect("the number of events")));
            arrivals.wait();
        });
        finish(rpc);
        measured
    }

    /// Start, one call, finish.
    fn spawn(&self, process: &Process, n: u32) -> Measured {
        let once = |i| {
            let rpc = started(self.with_reactor(process.rpc(self.echo.clone())));
            call(&rpc, i);
            finish(rpc);
        };
        (0..5).for_each(once);
        Measured::all(n, || (0..n).for_each(once))
    }

    /// One call to each of the children in turn, until there are `n`.
    fn in_turn(&self, children: usize, n: u32) -> Measured {
        let all = self.start_many(children);
        let measured = Measured::all(n, || {
            for (rpc, i) in all.iter().cycle().zip(0..n) {
                call(rpc, i);
            }
        });
        all.into_iter().for_each(finish);
        measured
    }

    /// One call to each of the children, without waiting in between; when all are answered, again,
    /// until there are `n`.
    fn by_callbacks(&self, children: usize, n: u32) -> Measured {
        let all = self.start_many(children);
        let children = children as u32;
        let rounds = n / children;
        let measured = Measured::all(rounds * children, || {
            for round in 0..rounds {
                let arrivals = Arrivals::expect(children);
                for (rpc, i) in all.iter().zip(round * children..) {
                    rpc.call(S::wrap(&small(i))).then(move |reply| {
                        check_small(i, S::bytes(&reply.expect("an echo")));
                        arrivals.count();
                    });
                }
                arrivals.wait();
            }
        });
        all.into_iter().for_each(finish);
        measured
    }

    /// Children that have answered a call.
    fn start_many(&self, count: usize) -> Vec<Rpc<S>> {
        let all: Vec<Rpc<S>> = (0..count)
            .map(|_| started(self.options(&self.echo)))
            .collect();
        for (rpc, i) in all.iter().zip(0..) {
            call(rpc, i);
        }
        all
    }

    /// A child that has answered a call.
    fn start(&self) -> Rpc<S> {
        let rpc = started(self.options(&self.echo));
        call(&rpc, 0);
        rpc
    }

    fn options(&self, service: &S) -> RpcBuilder<S> {
        self.with_reactor(self.me.rpc(service.clone()))
    }

    fn with_reactor(&self, options: RpcBuilder<S>) -> RpcBuilder<S> {
        match &self.reactor {
            Some(reactor) => options.reactor(reactor),
            None => options,
        }
    }
}

fn started<S: Carrier>(options: RpcBuilder<S>) -> Rpc<S> {
    options.start().expect("this program can be started")
}

/// A blocking call of 16 bytes.
fn call<S: Carrier>(rpc: &Rpc<S>, i: u32) {
    let reply = rpc.call(S::wrap(&small(i))).wait().expect("an echo");
    check_small(i, S::bytes(&reply));
}

fn finish<S: Carrier>(rpc: Rpc<S>) {
    let exit = rpc.finish().expect("the child exits cleanly");
    assert!(exit.status().is_some_and(|status| status.success()));
}

/// Counts replies or events on one thread, while another waits for all of them.
pub(crate) struct Arrivals {
    expected: u32,
    count: AtomicU32,
    waiter: Thread,
}

impl Arrivals {
    /// The calling thread is the one that will wait. Leaked, so that callbacks capture a plain
    /// reference: reference counting should not be measured.
    pub(crate) fn expect(expected: u32) -> &'static Self {
        Box::leak(Box::new(Arrivals {
            expected,
            count: AtomicU32::new(0),
            waiter: thread::current(),
        }))
    }

    pub(crate) fn count(&self) {
        // ORDERING: no other thread changes it. A thread that reads the last count also sees what
        // was done before it.
        let count = self.count.load(Ordering::Relaxed) + 1;
        self.count.store(count, Ordering::Release);
        if count == self.expected {
            self.waiter.unpark();
        }
    }

    pub(crate) fn wait(&self) {
        // ORDERING: see `count`.
        while self.count.load(Ordering::Acquire) < self.expected {
            thread::park();
        }
    }
}
