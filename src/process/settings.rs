//! What a process is held to, as data: described in the parent, and applied by a worker to itself, or by the
//! parent to a plain command.

use super::Limit;
use crate::sys::{self, MOST_CPUS, Resource, ResourceLimit};
use crate::wire::octets;
use std::io;
use std::ops::RangeInclusive;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

/// What a setting is of. The order is that in which they are applied: with few open files, or little
/// memory, the others might fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Umask,
    Nice,
    OomScoreAdj,
    Cpus,
    Memory,
    CpuTime,
    FileSize,
    OpenFiles,
    Processes,
    Core,
}

impl Kind {
    const ALL: [Kind; 10] = [
        Kind::Umask,
        Kind::Nice,
        Kind::OomScoreAdj,
        Kind::Cpus,
        Kind::Memory,
        Kind::CpuTime,
        Kind::FileSize,
        Kind::OpenFiles,
        Kind::Processes,
        Kind::Core,
    ];

    /// Its name in messages to a child.
    const fn name(self) -> &'static str {
        match self {
            Kind::Umask => "umask",
            Kind::Nice => "nice",
            Kind::OomScoreAdj => "oom_score_adj",
            Kind::Cpus => "cpus",
            Kind::Memory => "memory",
            Kind::CpuTime => "cpu_time",
            Kind::FileSize => "file_size",
            Kind::OpenFiles => "open_files",
            Kind::Processes => "processes",
            Kind::Core => "core",
        }
    }

    /// The method that sets it.
    fn method(self) -> &'static str {
        match self {
            Kind::Umask => "umask()",
            Kind::Nice => "nice()",
            Kind::OomScoreAdj => "oom_score_adj()",
            Kind::Cpus => "cpus()",
            _ => "limit()",
        }
    }

    /// Applies it to this process, or to a child that is not reaped.
    fn apply(self, value: &[u8], pid: Option<u32>) -> io::Result<()> {
        let resource = match self {
            Kind::Cpus => return apply_cpus(value, pid),
            Kind::Umask => {
                debug_assert_eq!(pid, None, "there is no call for another process");
                sys::set_umask(number(value)? as u32);
                return Ok(());
            }
            Kind::Nice => return sys::set_nice(pid, number(value)? as i32),
            Kind::OomScoreAdj => return sys::set_oom_score_adj(pid, number(value)? as i32),
            Kind::Memory => Resource::Data,
            Kind::CpuTime => Resource::CpuSeconds,
            Kind::FileSize => Resource::FileSize,
            Kind::OpenFiles => Resource::OpenFiles,
            Kind::Processes => Resource::Processes,
            Kind::Core => Resource::Core,
        };
        let soft = number(value)?;
        let old = sys::resource_limit(pid, resource)?.hard;
        let hard = match self {
            Kind::CpuTime => hard_cpu_time(soft, old),
            _ => soft,
        };
        let set = sys::set_resource_limit(pid, resource, ResourceLimit { soft, hard });
        set.map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied if hard > old => {
                io::Error::new(error.kind(), format!("{error}; the hard limit is {old}"))
            }
            _ => error,
        })
    }
}

/// The kernel kills at the hard limit, and looks at that first: a second is for the signal. It need not be
/// raised for that.
fn hard_cpu_time(soft: u64, old: u64) -> u64 {
    let later = soft.saturating_add(1);
    if soft <= old { later.min(old) } else { later }
}

fn apply_cpus(mask: &[u8], pid: Option<u32>) -> io::Result<()> {
    let missing = |cpu| {
        let message = format!("there is no CPU {cpu} that it may run on");
        io::Error::new(io::ErrorKind::InvalidInput, message)
    };
    let may_run_on = match sys::set_cpus(pid, mask) {
        // On none of them.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Vec::new(),
        result => result?,
    };
    let is_missing = |cpu: &usize| is_set(mask, *cpu) && !is_set(&may_run_on, *cpu);
    match (0..mask.len() * 8).find(is_missing) {
        Some(cpu) => Err(missing(cpu)),
        None if may_run_on.is_empty() => Err(malformed()),
        None => Ok(()),
    }
}

fn is_set(mask: &[u8], bit: usize) -> bool {
    mask.get(bit / 8)
        .is_some_and(|byte| byte & (1 << (bit % 8)) != 0)
}

/// The value of a setting that is a number.
fn number(value: &[u8]) -> io::Result<u64> {
    let bytes = value.try_into().map_err(|_| malformed())?;
    Ok(u64::from_be_bytes(bytes))
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "it is malformed, or unknown")
}

/// What a process is held to in one respect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Setting {
    kind: Kind,
    /// As it is sent: a number of eight bytes, or one bit for each CPU.
    value: Vec<u8>,
    /// As the program wrote it.
    shown: String,
    /// What is wrong with it, for any process.
    fault: Option<String>,
}

impl Setting {
    pub(super) fn umask(mask: u32) -> Self {
        let fault = (mask > 0o777).then(|| "it is above 0o777".to_owned());
        let shown = format!("Process::umask({mask:#o})");
        Setting::new(Kind::Umask, u64::from(mask), shown, fault)
    }

    pub(super) fn nice(nice: i32) -> Self {
        let shown = format!("Process::nice({nice})");
        Setting::within(-20..=19, Kind::Nice, nice, shown)
    }

    pub(super) fn oom_score_adj(adjustment: i32) -> Self {
        let shown = format!("Process::oom_score_adj({adjustment})");
        Setting::within(-1000..=1000, Kind::OomScoreAdj, adjustment, shown)
    }

    pub(super) fn limit(limit: Limit) -> Self {
        let (kind, value) = match limit {
            Limit::Memory(bytes) => (Kind::Memory, bytes),
            // The kernel takes 0 for 1.
            Limit::CpuTime(time) => {
                let begun = u64::from(time.subsec_nanos() > 0);
                (Kind::CpuTime, time.as_secs().saturating_add(begun).max(1))
            }
            Limit::FileSize(bytes) => (Kind::FileSize, bytes),
            Limit::OpenFiles(number) => (Kind::OpenFiles, number),
            Limit::Processes(number) => (Kind::Processes, number),
            Limit::Core(bytes) => (Kind::Core, bytes),
        };
        let shown = format!("Process::limit(Limit::{limit:?})");
        Setting::new(kind, value, shown, None)
    }

    pub(super) fn cpus(cpus: &[usize]) -> Self {
        let mut mask = Vec::new();
        for cpu in cpus.iter().filter(|cpu| **cpu < MOST_CPUS) {
            let len = mask.len().max(cpu / 8 + 1);
            mask.resize(len, 0);
            mask[cpu / 8] |= 1 << (cpu % 8);
        }
        // There may be thousands.
        const SHOWN: usize = 8;
        let first: Vec<_> = cpus.iter().take(SHOWN).map(usize::to_string).collect();
        let more = if cpus.len() > SHOWN { ", .." } else { "" };
        let fault = match cpus.iter().find(|cpu| **cpu >= MOST_CPUS) {
            Some(cpu) => Some(format!("there is no CPU {cpu}")),
            None => cpus.is_empty().then(|| "no CPU is given".to_owned()),
        };
        Setting {
            kind: Kind::Cpus,
            value: mask,
            shown: format!("Process::cpus([{}{more}])", first.join(", ")),
            fault,
        }
    }

    fn within(range: RangeInclusive<i32>, kind: Kind, value: i32, shown: String) -> Self {
        let fault = (!range.contains(&value)).then(|| format!("it is not in {range:?}"));
        Setting::new(kind, i64::from(value) as u64, shown, fault)
    }

    fn new(kind: Kind, value: u64, shown: String, fault: Option<String>) -> Self {
        Setting {
            kind,
            value: value.to_be_bytes().to_vec(),
            shown,
            fault,
        }
    }
}

/// All settings of a child: at most one of each kind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Settings(Vec<Setting>);

impl Settings {
    /// Adds a setting. It replaces one of its kind.
    pub(super) fn set(&mut self, setting: Setting) {
        match self.0.binary_search_by_key(&setting.kind, |old| old.kind) {
            Ok(at) => self.0[at] = setting,
            Err(at) => self.0.insert(at, setting),
        }
    }

    /// The first method that has added one.
    pub(super) fn method(&self) -> Option<&'static str> {
        Some(self.0.first()?.kind.method())
    }

    /// Whether there is one that cannot be applied to another process.
    pub(super) fn has_umask(&self) -> bool {
        matches!(self.0.first(), Some(setting) if setting.kind == Kind::Umask)
    }

    /// What is wrong with one of them, for any process.
    pub(super) fn fault(&self) -> Option<String> {
        let fault = |setting: &Setting| Some([&*setting.shown, setting.fault.as_ref()?].join(": "));
        self.0.iter().find_map(fault)
    }

    /// What [`apply_settings`] reads: three octet strings for each setting. `None` if there are none.
    pub(super) fn encode(&self) -> Option<Vec<u8>> {
        let mut strings = Vec::new();
        for setting in &self.0 {
            octets::push(&mut strings, setting.kind.name().as_bytes());
            octets::push(&mut strings, &setting.value);
            octets::push(&mut strings, setting.shown.as_bytes());
        }
        (!strings.is_empty()).then_some(strings)
    }

    /// Which limit may have ended a process like that, to be put behind its status. Anybody may have sent
    /// these signals.
    pub(super) fn cause_of(&self, status: ExitStatus) -> Option<String> {
        let signal = status.signal()?;
        let may_be = |setting: &&Setting| match setting.kind {
            // A program can handle the first, until it gets the other.
            Kind::CpuTime => matches!(signal, sys::SIGXCPU | sys::SIGKILL),
            Kind::FileSize => signal == sys::SIGXFSZ,
            Kind::Memory => matches!(signal, sys::SIGABRT | sys::SIGSEGV),
            _ => false,
        };
        let setting = self.0.iter().find(may_be)?;
        Some(format!(", perhaps because of {}", setting.shown))
    }
}

/// Applies settings to this process, or to a child that is not reaped.
///
/// # Errors
///
/// Names the setting that cannot be applied.
pub(crate) fn apply_settings(encoded: &[u8], pid: Option<u32>) -> io::Result<()> {
    let mut strings = octets::iter(encoded);
    while let Some(name) = strings.next() {
        let mut next = || strings.next()?.ok();
        let (name, value, shown) = (name.ok(), next().unwrap_or_default(), next());
        let kind = |name: &[u8]| {
            Kind::ALL
                .into_iter()
                .find(|kind| kind.name().as_bytes() == name)
        };
        let applied = match (name.and_then(kind), shown) {
            (Some(kind), Some(_)) => kind.apply(value, pid),
            _ => Err(malformed()),
        };
        if let Err(error) = applied {
            let shown = String::from_utf8_lossy(shown.unwrap_or(b"a setting"));
            return Err(io::Error::new(error.kind(), format!("{shown}: {error}")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn all() -> Settings {
        let mut settings = Settings::default();
        for setting in [
            Setting::limit(Limit::OpenFiles(0)),
            Setting::cpus(&[3, 0, MOST_CPUS - 1]),
            Setting::limit(Limit::Memory(u64::MAX)),
            Setting::oom_score_adj(-1000),
            Setting::nice(-20),
            Setting::umask(0o777),
            Setting::limit(Limit::CpuTime(Duration::from_secs(7))),
            Setting::limit(Limit::FileSize(1)),
            Setting::limit(Limit::Processes(2)),
            Setting::limit(Limit::Core(3)),
        ] {
            settings.set(setting);
        }
        settings
    }

    /// A message with one setting. It would be applied to this process if nothing were wrong with it.
    fn error_of(strings: &[&[u8]]) -> String {
        let mut message = Vec::new();
        strings
            .iter()
            .for_each(|string| octets::push(&mut message, string));
        apply_settings(&message, None).unwrap_err().to_string()
    }

    #[test]
    fn each_kind_is_sent_under_its_name_once() {
        let settings = all();
        assert_eq!(settings.fault(), None);
        let encoded = settings.encode().unwrap();
        let strings: Vec<_> = octets::iter(&encoded).map(Result::unwrap).collect();
        let names = Kind::ALL.map(|kind| kind.name().as_bytes());
        assert!(strings.iter().step_by(3).eq(&names));
        let number = |at: usize| u64::from_be_bytes(strings[at].try_into().unwrap());
        let value = |kind: Kind| number(3 * (kind as usize) + 1);
        assert_eq!(value(Kind::Umask), 0o777);
        assert_eq!(value(Kind::Nice) as i64, -20);
        assert_eq!(value(Kind::OomScoreAdj) as i64, -1000);
        assert_eq!(value(Kind::Memory), u64::MAX);
        assert_eq!(value(Kind::CpuTime), 7);
        let small = [Kind::OpenFiles, Kind::FileSize, Kind::Processes, Kind::Core];
        assert_eq!(small.map(value), [0, 1, 2, 3]);
        let cpus = strings[3 * Kind::Cpus as usize + 1];
        assert_eq!((cpus.len(), cpus[0]), (MOST_CPUS / 8, 0b1001));
        assert_eq!(cpus[MOST_CPUS / 8 - 1], 0x80);
        assert_eq!(strings[5], b"Process::nice(-20)");
        let eight: Vec<usize> = (0..8).collect();
        let shown = |cpus| Setting::cpus(cpus).shown;
        let text = "Process::cpus([0, 1, 2, 3, 4, 5, 6, 7";
        assert_eq!(shown(&eight), format!("{text}])"));
        assert_eq!(shown(&[&eight[..], &[1]].concat()), format!("{text}, ..])"));
        assert_eq!(Settings::default().encode(), None);
    }

    #[test]
    fn what_a_parent_would_not_send_is_refused() {
        let text = "Process::nice(1): it is malformed, or unknown";
        let shown = &b"Process::nice(1)"[..];
        assert_eq!(error_of(&[b"nice", b"1", shown]), text);
        assert_eq!(error_of(&[b"nice", b"", shown]), text);
        assert_eq!(error_of(&[b"stack", &[0; 8], shown]), text);
        assert_eq!(error_of(&[b"memory", &[0; 9], shown]), text);
        let text = "a setting: it is malformed, or unknown";
        assert_eq!(error_of(&[b"nice", &[0; 8]]), text);
        assert_eq!(error_of(&[b"nice"]), text);
        assert_eq!(error_of(&[b""]), text);
        let malformed = apply_settings(b"\x09x", None).unwrap_err();
        assert_eq!(malformed.to_string(), text);
    }

    #[test]
    fn last_of_a_kind_counts() {
        let mut settings = all();
        settings.set(Setting::nice(1));
        settings.set(Setting::limit(Limit::OpenFiles(5)));
        assert_eq!(settings.0.len(), 10);
        assert!(settings.0.is_sorted_by_key(|setting| setting.kind));
        assert_eq!(settings.0[1], Setting::nice(1));
        assert!(settings.0.contains(&Setting::limit(Limit::OpenFiles(5))));
        settings.set(Setting::limit(Limit::OpenFiles(6)));
        assert!(!settings.0.contains(&Setting::limit(Limit::OpenFiles(5))));
    }

    #[test]
    fn fault_names_the_setting_as_it_was_written() {
        let range = |shown: &str, range| Some(format!("Process::{shown}: it is not in {range}"));
        for (setting, text) in [
            (Setting::umask(0o777), None),
            (
                Setting::umask(0o1000),
                Some("Process::umask(0o1000): it is above 0o777".to_owned()),
            ),
            (Setting::nice(19), None),
            (Setting::nice(20), range("nice(20)", "-20..=19")),
            (Setting::nice(-21), range("nice(-21)", "-20..=19")),
            (Setting::oom_score_adj(1000), None),
            (
                Setting::oom_score_adj(1001),
                range("oom_score_adj(1001)", "-1000..=1000"),
            ),
            (
                Setting::oom_score_adj(-1001),
                range("oom_score_adj(-1001)", "-1000..=1000"),
            ),
            (
                Setting::cpus(&[]),
                Some("Process::cpus([]): no CPU is given".to_owned()),
            ),
            (
                Setting::cpus(&[0, 65536]),
                Some("Process::cpus([0, 65536]): there is no CPU 65536".to_owned()),
            ),
            (Setting::cpus(&[7; 1000]), None),
        ] {
            assert_eq!(Settings(vec![setting]).fault(), text);
        }
    }

    #[test]
    fn cpu_time_is_in_whole_seconds_with_one_for_the_signal() {
        let seconds = |time| number(&Setting::limit(Limit::CpuTime(time)).value).unwrap();
        assert_eq!(seconds(Duration::ZERO), 1);
        assert_eq!(seconds(Duration::from_nanos(1)), 1);
        assert_eq!(seconds(Duration::from_secs(3)), 3);
        assert_eq!(seconds(Duration::from_millis(3001)), 4);
        assert_eq!(seconds(Duration::MAX), u64::MAX);
        assert_eq!(hard_cpu_time(3, u64::MAX), 4);
        assert_eq!(hard_cpu_time(3, 4), 4);
        assert_eq!(hard_cpu_time(3, 3), 3);
        assert_eq!(hard_cpu_time(4, 3), 5, "which it may not be");
        assert_eq!(hard_cpu_time(u64::MAX, u64::MAX), u64::MAX);
    }

    #[test]
    fn cause_is_a_limit_that_may_be() {
        let time = Limit::CpuTime(Duration::from_secs(2));
        let (memory, size) = (Limit::Memory(9), Limit::FileSize(9));
        for (limit, signal, may_be) in [
            (time, sys::SIGXCPU, true),
            (time, sys::SIGKILL, true),
            (size, sys::SIGXFSZ, true),
            (memory, sys::SIGABRT, true),
            (memory, sys::SIGSEGV, true),
            (memory, sys::SIGXCPU, false),
            (memory, sys::SIGKILL, false),
            (size, sys::SIGKILL, false),
            (time, sys::SIGABRT, false),
            (Limit::OpenFiles(9), sys::SIGABRT, false),
            // An exit, not a signal.
            (memory, 6 << 8, false),
        ] {
            let settings = Settings(vec![Setting::nice(1), Setting::limit(limit)]);
            let cause = settings.cause_of(ExitStatus::from_raw(signal));
            let want = format!(", perhaps because of Process::limit(Limit::{limit:?})");
            assert_eq!(cause, may_be.then_some(want), "{limit:?} {signal}");
        }
    }
}
