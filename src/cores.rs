//! How many cores there are for children.

use std::collections::BTreeSet;
use std::fs;
use std::num::NonZeroUsize;
use std::ops::RangeInclusive;
use std::thread::available_parallelism;

/// How many physical cores the calling thread, and the children that it starts, may run on. Hyperthreads
/// of one core count once.
///
/// It is a good number of children for work that computes. [`available_parallelism`] counts each
/// hyperthread: that many children would share the caches and arithmetic units of the cores, and do little
/// more work in twice the memory. It is the better number for children that also wait, for files or the
/// network.
///
/// What sched_setaffinity(2) or a control group forbids does not count. Where the system does not tell which
/// CPUs are one core, each counts; where it tells nothing, this is 1. It is found out anew each time, from a
/// file for each CPU.
///
/// # Examples
///
/// ```
/// # fn main() -> Result<(), offspring::BoxError> {
/// let me = offspring::Worker::new()
///     .function("factor", |number, _caller| {
///         let [number] = number.texts()?;
///         let number: u64 = number.parse()?;
///         Ok((2..).find(|n| number % n == 0).unwrap_or(1).to_string())
///     })
///     .run();
/// let children = (0..offspring::cores().get()).map(|_| me.rpc("factor").start());
/// let children = children.collect::<Result<Vec<_>, _>>()?;
/// let numbers = ["91", "323", "437"].iter().zip(children.iter().cycle());
/// let calls: Vec<_> = numbers.map(|(number, child)| child.call(*number).start()).collect();
/// for (call, factor) in calls.into_iter().zip(["7", "17", "19"]) {
///     assert_eq!(call.wait()?, [factor]);
/// }
/// # Ok(())
/// # }
/// ```
#[doc(alias = "physical_cores")]
#[must_use]
pub fn cores() -> NonZeroUsize {
    let cpus = available_parallelism().unwrap_or(NonZeroUsize::MIN);
    // A control group may allow less time than that of all cores.
    physical_cores().map_or(cpus, |cores| cores.min(cpus))
}

fn physical_cores() -> Option<NonZeroUsize> {
    // The name of the program, which is in it, may be cut inside a character.
    let status = fs::read("/proc/thread-self/status").ok()?;
    let allowed = allowed_cpus(&String::from_utf8_lossy(&status))?;
    count_cores(allowed.into_iter().flatten(), |cpu| {
        let siblings = format!("/sys/devices/system/cpu/cpu{cpu}/topology/core_cpus_list");
        fs::read_to_string(siblings).ok()
    })
}

/// The CPUs that a `status` in `/proc` allows, as in `Cpus_allowed_list: 0-3,8`.
fn allowed_cpus(status: &str) -> Option<Vec<RangeInclusive<usize>>> {
    let mut lines = status.lines();
    let list = lines.find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    let ranges = list.trim().split(',').map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(first.parse().ok()?..=last.parse().ok()?)
    });
    ranges.collect()
}

/// How many cores these CPUs are. All CPUs of a core, and no others, have the same `siblings`; one that is
/// offline has none. Ids of cores would not do: two dies of one package may have the same.
fn count_cores(
    cpus: impl Iterator<Item = usize>,
    siblings: impl FnMut(usize) -> Option<String>,
) -> Option<NonZeroUsize> {
    let cores: BTreeSet<String> = cpus.filter_map(siblings).collect();
    NonZeroUsize::new(cores.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allowed_cpus_are_read_as_the_kernel_writes_them() {
        let allowed = |list: &str| {
            let status = format!("Name:\tx\nCpus_allowed:\tff\n{list}Mems_allowed_list:\t9\n");
            let ranges = allowed_cpus(&status)?;
            Some(ranges.into_iter().flatten().collect::<Vec<_>>())
        };
        for (list, cpus) in [
            ("0", &[0][..]),
            ("0-3", &[0, 1, 2, 3]),
            ("0-1,8,10-11", &[0, 1, 8, 10, 11]),
        ] {
            let line = format!("Cpus_allowed_list:\t{list}\n");
            assert_eq!(allowed(&line).as_deref(), Some(cpus), "{list}");
        }
        for line in [
            "",
            "Cpus_allowed_list:\n",
            "Cpus_allowed_list:\t0-\n",
            "Cpus_allowed_list:\t0,x\n",
        ] {
            assert_eq!(allowed(line), None, "{line:?}");
        }
    }

    #[test]
    fn cores_are_counted_once_of_which_a_cpu_is_allowed() {
        // Four cores of two hyperthreads, of which that of 3 and 7 is offline.
        let count = |cpus: &[usize]| {
            let cores = count_cores(cpus.iter().copied(), |cpu| {
                (cpu < 8 && cpu % 4 != 3).then(|| format!("{},{}\n", cpu % 4, cpu % 4 + 4))
            });
            cores.map(NonZeroUsize::get)
        };
        assert_eq!(count(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]), Some(3));
        assert_eq!(count(&[0, 4]), Some(1));
        assert_eq!(count(&[5, 6]), Some(2));
        // Each CPU counts then.
        assert_eq!(count(&[]), None);
        assert_eq!(count(&[3, 7, 8]), None);
    }

    #[test]
    fn there_are_no_more_cores_than_cpus() {
        let cpus = available_parallelism().unwrap();
        assert!(physical_cores().is_none_or(|cores| cores <= cpus));
        assert!(cores() <= cpus);
    }
}
