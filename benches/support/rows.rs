//! The rows of `ratios`.

use crate::work::Variant;
use std::fmt;

/// One line of the table.
pub(crate) struct Row {
    pub(crate) key: &'static str,
    pub(crate) title: &'static str,
    pub(crate) ours: Run,
    pub(crate) baseline: Option<Run>,
    pub(crate) figure: Figure,
    /// The value to reach at least, and the goal.
    pub(crate) goal: &'static str,
    /// Whether one round is enough, because it is slow or does not vary.
    pub(crate) once: bool,
    /// Whether it is skipped unless requested.
    pub(crate) slow: bool,
}

impl Row {
    pub(crate) fn needs_strace(&self) -> bool {
        matches!(self.ours.workload, "syscalls" | "traced idle")
    }
}

/// One measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Run {
    pub(crate) side: Side,
    pub(crate) workload: &'static str,
    pub(crate) n: u32,
    pub(crate) one_cpu: bool,
}

/// The implementation that does the work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Side {
    Offspring,
    /// All children on one reactor.
    OffspringShared,
    /// Deferred functions.
    OffspringDeferred,
    /// A codec that copies nothing.
    OffspringBytes,
    Raw,
    /// With a send buffer that a large payload fits into.
    RawLargeBuffer,
}

const SIDES: [(Side, &str); 6] = [
    (Side::Offspring, "offspring"),
    (Side::OffspringShared, "offspring-shared"),
    (Side::OffspringDeferred, "offspring-deferred"),
    (Side::OffspringBytes, "offspring-bytes"),
    (Side::Raw, "raw"),
    (Side::RawLargeBuffer, "raw-large-buffer"),
];

impl Side {
    /// The variant of the library. `None` for a bare socket pair.
    pub(crate) fn variant(self) -> Option<Variant> {
        match self {
            Side::Raw | Side::RawLargeBuffer => None,
            _ => Some(Variant {
                shared: self == Side::OffspringShared,
                deferred: self == Side::OffspringDeferred,
                bytes: self == Side::OffspringBytes,
                ..Variant::default()
            }),
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = SIDES.iter().find(|(side, _)| side == self);
        f.write_str(name.expect("all sides have names").1)
    }
}

impl Run {
    const fn new(side: Side, workload: &'static str, n: u32) -> Self {
        Run {
            side,
            workload,
            n,
            one_cpu: false,
        }
    }

    const fn on_one_cpu(mut self) -> Self {
        self.one_cpu = true;
        self
    }

    pub(crate) fn to_args(self) -> [String; 4] {
        let cpu = if self.one_cpu { "one-cpu" } else { "any-cpu" };
        let side = self.side.to_string();
        [
            side,
            cpu.to_owned(),
            self.workload.to_owned(),
            self.n.to_string(),
        ]
    }

    pub(crate) fn from_args(args: &[String]) -> Result<Self, String> {
        let [side, cpu, workload, n] = args else {
            return Err(format!("not a measurement: {args:?}"));
        };
        let (side, _) = SIDES
            .into_iter()
            .find(|(_, name)| name == side)
            .ok_or(format!("unknown side {side}"))?;
        Ok(Run {
            side,
            workload: workload.clone().leak(),
            n: n.parse().map_err(|error| format!("{n}: {error}"))?,
            one_cpu: cpu == "one-cpu",
        })
    }
}

/// Which value of a measurement is shown, and how.
pub(crate) struct Figure {
    pub(crate) value: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) factor: f64,
    /// Whether more is better. The ratio is always that of costs.
    pub(crate) is_rate: bool,
}

const fn cost(value: &'static str, unit: &'static str) -> Figure {
    Figure {
        value,
        unit,
        factor: 1.0,
        is_rate: false,
    }
}

const fn rate(factor: f64, unit: &'static str) -> Figure {
    Figure {
        value: "rate",
        unit,
        factor,
        is_rate: true,
    }
}

use Side::{Offspring, OffspringBytes, OffspringDeferred, OffspringShared, Raw, RawLargeBuffer};

const CALL: Run = Run::new(Offspring, "pingpong", 10_000);
const CALL_1: Run = Run::new(Offspring, "pingpong", 20_000).on_one_cpu();
const RAW_CALL: Run = Run::new(Raw, "pingpong", 10_000);
const RAW_CALL_1: Run = Run::new(Raw, "pingpong", 20_000).on_one_cpu();
const CALL_WITH_1: Run = Run::new(Offspring, "descriptor", 20_000).on_one_cpu();
const RAW_CALL_WITH_1: Run = Run::new(Raw, "descriptor", 20_000).on_one_cpu();
const THREADS: Run = Run::new(Offspring, "threads", 20_000);
const PIPELINE: Run = Run::new(Offspring, "pipeline", 1_000_000);
// Many, as each takes only 16 ns.
const RAW_PIPELINE: Run = Run::new(Raw, "pipeline", 5_000_000);
const BULK_1M: Run = Run::new(Offspring, "bulk1m", 200);
const BULK_64K: Run = Run::new(Offspring, "bulk64k", 8000);
const RAW_BULK_64K: Run = Run::new(Raw, "bulk64k", 8000);
const SPAWN: Run = Run::new(Offspring, "spawn", 100);
const RAW_SPAWN: Run = Run::new(Raw, "spawn", 100);
const FORK: Run = Run::new(Offspring, "fork", 300);
const RAW_FORK: Run = Run::new(Raw, "fork", 300);
const CHILDREN: Run = Run::new(OffspringShared, "children", 10_000);
const CHILD: Run = Run::new(OffspringShared, "child", 10_000);
const RAW_CHILDREN: Run = Run::new(Raw, "children", 10_000);
const RAW_CHILD: Run = Run::new(Raw, "child", 10_000);
const CHILDREN_CALLBACKS: Run = Run::new(OffspringShared, "children-callbacks", 10_000);
const CHILD_CALLBACKS: Run = Run::new(OffspringShared, "child-callbacks", 10_000);
const SYSCALLS: Run = Run::new(Offspring, "syscalls", 10_000);
const RAW_SYSCALLS: Run = Run::new(Raw, "syscalls", 10_000);

const MEDIAN: Figure = cost("median", "us");
const MEAN: Figure = cost("mean", "us");
const MIB_64K: Figure = rate(1.0 / 16.0, "MiB/s");
const MILLIONS: Figure = rate(1e-6, "M/s");

/// A row that is measured in every round.
const fn row(
    key: &'static str,
    title: &'static str,
    ours: Run,
    baseline: Run,
    figure: Figure,
    goal: &'static str,
) -> Row {
    Row {
        key,
        title,
        ours,
        baseline: Some(baseline),
        figure,
        goal,
        once: false,
        slow: false,
    }
}

impl Row {
    const fn once(mut self) -> Self {
        self.once = true;
        self
    }

    const fn slow(mut self) -> Self {
        self.slow = true;
        self
    }

    const fn alone(mut self) -> Self {
        self.baseline = None;
        self
    }
}

#[rustfmt::skip]
pub(crate) const ROWS: &[Row] = &[
    row("call@1", "blocking call, one CPU", CALL_1, RAW_CALL_1, MEDIAN, "x1.15 / x1.05"),
    row("call@1-mean", "  the mean", CALL_1, RAW_CALL_1, MEAN, ""),
    row("call", "blocking call", CALL, RAW_CALL, MEDIAN, "x0.30 / x0.08"),
    row("call-mean", "  the mean", CALL, RAW_CALL, MEAN, ""),
    row("call-cpu", "  its CPU time", CALL, RAW_CALL, cost("cpu", "us"), ""),
    row("descriptor@1", "  with a descriptor, one CPU", CALL_WITH_1, RAW_CALL_WITH_1, MEDIAN, ""),
    row("threads", "4 threads, one handle, per call", THREADS, RAW_CALL, MEAN, "x0.50 / x0.15"),
    row("threads@1", "  on one CPU", THREADS.on_one_cpu(), RAW_CALL_1, MEAN, ""),
    row("pipeline-deferred", "pipelined calls, callbacks, deferred", Run { side: OffspringDeferred, ..PIPELINE },
        RAW_PIPELINE, MILLIONS, "10 / 18 M/s"),
    row("pipeline", "  returning", PIPELINE, RAW_PIPELINE, MILLIONS, "5 / 12 M/s"),
    row("pipeline@1", "  on one CPU", PIPELINE.on_one_cpu(), RAW_PIPELINE.on_one_cpu(), MILLIONS, ""),
    row("events", "events from the child", Run::new(Offspring, "events", 1_000_000),
        Run::new(Raw, "events", 5_000_000), MILLIONS, "25 / 70 M/s"),
    row("bulk1m", "1 MiB echo, one at a time, vs a large buffer", BULK_1M,
        Run::new(RawLargeBuffer, "bulk1m", 400), rate(1.0, "MiB/s"), "x1.10 / x0.95"),
    row("bulk1m-bytes", "  with a codec that copies nothing", Run { side: OffspringBytes, ..BULK_1M },
        Run::new(RawLargeBuffer, "bulk1m", 400), rate(1.0, "MiB/s"), "x1.10 / x0.95"),
    row("bulk1m-default", "  vs a default buffer", BULK_1M,
        Run::new(Raw, "bulk1m", 400), rate(1.0, "MiB/s"), ""),
    row("bulk64k", "64 KiB echo, pipelined", BULK_64K, RAW_BULK_64K, MIB_64K, "x1.05 / x0.95"),
    row("bulk64k-bytes", "  with a codec that copies nothing", Run { side: OffspringBytes, ..BULK_64K },
        RAW_BULK_64K, MIB_64K, "x1.05 / x0.95"),
    row("bulk64k@1", "  on one CPU", BULK_64K.on_one_cpu(), RAW_BULK_64K.on_one_cpu(), MIB_64K, ""),
    row("bulk64k-bytes@1", "  both of these", Run { side: OffspringBytes, ..BULK_64K.on_one_cpu() },
        RAW_BULK_64K.on_one_cpu(), MIB_64K, ""),
    row("spawn", "start, one call, finish", SPAWN, RAW_SPAWN, rate(1.0, "/s"), "x1.15 / x1.05"),
    row("spawn-shared", "  on a shared reactor", Run { side: OffspringShared, ..SPAWN }, RAW_SPAWN,
        rate(1.0, "/s"), ""),
    row("fork", "start of a copy, one call, finish", FORK, RAW_FORK, rate(1.0, "/s"), "x1.25"),
    row("fork-exec", "  compared with an executed child", FORK, SPAWN, rate(1.0, "/s"), "x0.40"),
    row("fork-large", "  of 256 MiB, compared with an executed child", Run::new(Offspring, "fork-large", 200), SPAWN,
        rate(1.0, "/s"), "x1.00"),
    row("pool", "a pool's call, one at a time, vs its child's", Run::new(Offspring, "pool-pingpong", 10_000), CALL,
        MEDIAN, "x1.10"),
    row("pool@1", "  on one CPU", Run::new(Offspring, "pool-pingpong", 20_000).on_one_cpu(), CALL_1, MEDIAN, ""),
    row("pool-pipeline", "  pipelined to two children, vs to one by itself",
        Run::new(Offspring, "pool-pipeline-2", 1_000_000), PIPELINE, MILLIONS, "x1.25"),
    row("pool-burn", "  jobs of 1 ms on two children, vs on one", Run::new(Offspring, "pool-burn-2", 1000),
        Run::new(Offspring, "pool-burn-1", 500), rate(1.0, "/s"), "x0.55"),
    row("pool-start", "  start of 16 children, a call to each, finish", Run::new(Offspring, "pool-start", 5),
        SPAWN, MEAN, ""),
    row("pool-start-copies", "  of copies of a template", Run::new(Offspring, "pool-start-copies", 10), FORK, MEAN, ""),
    row("pool-after-kill", "  a call after its child was killed, vs a start", Run::new(Offspring, "pool-after-kill", 50),
        SPAWN, MEAN, ""),
    row("memory", "idle child, private memory", Run::new(Offspring, "memory", 1),
        Run::new(Raw, "memory", 1), cost("private", "KiB"), "150 / 125 KiB").once(),
    row("memory-deferred", "  deferred", Run::new(OffspringDeferred, "memory", 1),
        Run::new(Raw, "memory", 1), cost("private", "KiB"), "").once(),
    row("idle", "idle for 2 s, wake-ups", Run::new(Offspring, "idle", 1),
        Run::new(Raw, "idle", 1), cost("wake-ups", ""), "0").once(),
    row("idle-strace", "idle for 2 s, system calls", Run::new(Offspring, "traced idle", 1),
        Run::new(Raw, "traced idle", 1), cost("syscalls", ""), "0").once(),
    row("children", "1,000 children in turn, vs one child", CHILDREN, CHILD, MEAN, "x1.50 / x1.20").once(),
    row("children@1", "  on one CPU", CHILDREN.on_one_cpu(), CHILD.on_one_cpu(), MEAN, "").once(),
    row("children-raw", "  with a bare socket pair each", RAW_CHILDREN, RAW_CHILD, MEAN, "").once(),
    row("children-raw@1", "  and on one CPU", RAW_CHILDREN.on_one_cpu(), RAW_CHILD.on_one_cpu(), MEAN, "").once(),
    row("children-callbacks", "1,000 children, a call to each, callbacks", CHILDREN_CALLBACKS, CHILD_CALLBACKS,
        MEAN, "x1.50 / x1.20").once(),
    row("children-callbacks@1", "  on one CPU", CHILDREN_CALLBACKS.on_one_cpu(), CHILD_CALLBACKS.on_one_cpu(),
        MEAN, "").once(),
    row("outstanding", "1,000,000 outstanding calls, each",
        Run::new(Offspring, "outstanding", 1_000_000), CALL, cost("bytes", "B"), "120 / 80 B").alone().once(),
    row("calls-parent", "10,000 pipelined, system calls, parent", SYSCALLS, RAW_SYSCALLS,
        cost("parent", ""), "").once(),
    row("calls-child", "  child", SYSCALLS, RAW_SYSCALLS, cost("child", ""), "").once(),
    row("calls-parent-deferred", "  deferred: parent", Run { side: OffspringDeferred, ..SYSCALLS }, RAW_SYSCALLS,
        cost("parent", ""), "").once(),
    row("calls-child-deferred", "  child", Run { side: OffspringDeferred, ..SYSCALLS }, RAW_SYSCALLS,
        cost("child", ""), "").once(),
    row("size", "size it adds to a program", Run::new(Offspring, "size", 1), CALL,
        cost("size", "KiB"), "250 / 150 KiB").alone().once().slow(),
    row("build", "clean release build", Run::new(Offspring, "build", 1), CALL,
        cost("seconds", "s"), "15 / 8 s").alone().once().slow(),
];
