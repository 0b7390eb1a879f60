//! The workloads of pools.

use crate::laps::Measured;
use crate::payload::{check_small, small};
use crate::work::{Arrivals, BURN, ECHO};
use offspring::{Pool, PoolBuilder, Process};
use std::process::Command;

/// How many children are started at once.
const MANY: usize = 16;

/// Runs `n` operations of the workload of this name, if it is one of pools.
pub(crate) fn measure(me: &Process, workload: &str, n: u32) -> Option<Measured> {
    Some(match workload {
        "pool-pingpong" => in_turn(me, n),
        "pool-pipeline-1" => pipeline(me, 1, n),
        "pool-pipeline-2" => pipeline(me, 2, n),
        "pool-burn-1" => burn(me, 1, n),
        "pool-burn-2" => burn(me, 2, n),
        "pool-start" => start(me, n),
        "pool-start-copies" => {
            let template = me.clone().template();
            template.warm().expect("this program can be started");
            start(&template, n)
        }
        "pool-after-kill" => after_kill(me, n),
        _ => return None,
    })
}

/// A pool whose children all serve.
fn started(builder: PoolBuilder, children: usize) -> Pool {
    let pool = builder
        .max(children)
        .idle(children)
        .start()
        .expect("it can be started");
    for call in pool.everywhere((small(0),)) {
        call.wait().expect("an echo");
    }
    pool
}

fn finish(pool: Pool) {
    pool.finish().expect("nothing fails");
}

fn call(pool: &Pool, i: u32) {
    let reply = pool.call((small(i),)).wait().expect("an echo");
    check_small(i, &reply[0]);
}

/// One call at a time.
fn in_turn(me: &Process, n: u32) -> Measured {
    let pool = started(me.pool(ECHO), 1);
    let measured = Measured::each(n, |i| call(&pool, i));
    finish(pool);
    measured
}

fn pipeline(me: &Process, children: usize, n: u32) -> Measured {
    let pool = started(me.pool(ECHO).load(n as usize), children);
    let arrivals = Arrivals::expect(n);
    let measured = Measured::all(n, || {
        for i in 0..n {
            pool.call((small(i),)).then(move |reply| {
                check_small(i, &reply.expect("an echo")[0]);
                arrivals.count();
            });
        }
        arrivals.wait();
    });
    finish(pool);
    measured
}

/// Jobs of a millisecond of CPU time.
fn burn(me: &Process, children: usize, n: u32) -> Measured {
    let pool = started(me.pool(ECHO), children);
    let burn = pool.function(BURN);
    let measured = Measured::all(n, || {
        let all = burn.map((0..n).map(|_| ()));
        all.for_each(|done| drop(done.expect("it ends")));
    });
    finish(pool);
    measured
}

/// Start of many children, a call to each, finish.
fn start(process: &Process, n: u32) -> Measured {
    Measured::each(n, |_| finish(started(process.pool(ECHO), MANY)))
}

/// The first call after the only child was killed.
fn after_kill(me: &Process, n: u32) -> Measured {
    let pool = started(me.pool(ECHO), 1);
    let measured = Measured::each(n, |i| {
        let pid = pool.stats().children[0].pid.expect("it serves");
        let killed = Command::new("kill")
            .args(["-KILL", &pid.to_string()])
            .status();
        assert!(killed.expect("there is a kill(1)").success());
        call(&pool, i);
    });
    finish(pool);
    measured
}
