//! Why a program cannot be executed: the system reports the same error for a missing directory, program
//! or interpreter.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

/// How often a program is tried again that is still open for writing: for 127 ms in all.
const PAUSES: u32 = 7;

/// What was to be executed.
pub(super) struct Attempt<'a> {
    /// `None` if it was searched for in `PATH`.
    pub(super) program: Option<&'a Path>,
    /// The directory that it was to start in.
    pub(super) dir: Option<&'a Path>,
    /// Whether the program is a name for this process's own.
    pub(super) is_own: bool,
}

impl Attempt<'_> {
    /// Adds to an error which file it is about.
    pub(super) fn explain(&self, error: io::Error) -> io::Error {
        match self.cause(&error) {
            Some(cause) => io::Error::new(error.kind(), cause),
            None => error,
        }
    }

    fn cause(&self, error: &io::Error) -> Option<String> {
        if let Some(lack) = lack_of_processes(error) {
            return Some(lack);
        }
        if let Some(dir) = self.dir
            // Without the dot a directory that must not be entered would be found.
            && let Err(error) = fs::metadata(dir.join("."))
        {
            return Some(format!("its current_dir() `{}`: {error}", dir.display()));
        }
        let Some(program) = self.program else {
            return match error.kind() {
                ErrorKind::NotFound => Some(format!("it is not in PATH: {error}")),
                _ => None,
            };
        };
        let file = match fs::metadata(program) {
            Ok(file) => file,
            Err(error) if self.is_own => {
                return Some(format!("{}: {error}; is /proc mounted?", program.display()));
            }
            Err(error) => return Some(format!("there is no such program: {error}")),
        };
        let what = match error.kind() {
            ErrorKind::NotFound => match interpreter(program) {
                Some(name) => return Some(format!("its interpreter `{name}`: {error}")),
                None => "the program exists, but not its dynamic loader",
            },
            ErrorKind::PermissionDenied if file.is_dir() => "it is a directory",
            ErrorKind::PermissionDenied if file.permissions().mode() & 0o111 == 0 => {
                "it is not executable"
            }
            ErrorKind::ExecutableFileBusy => "it is open for writing",
            _ => return None,
        };
        Some(format!("{what}: {error}"))
    }
}

/// What an error of a fork is about, if it is `EAGAIN` of fork(2), which the system calls "temporarily
/// unavailable".
pub(crate) fn lack_of_processes(error: &io::Error) -> Option<String> {
    (error.kind() == ErrorKind::WouldBlock).then(|| {
        format!(
            "there are too many processes: this user may have no more (RLIMIT_NPROC), or this control \
             group (pids.max), or the system: {error}"
        )
    })
}

/// The interpreter that a script names in its first line.
fn interpreter(program: &Path) -> Option<String> {
    let mut start = Vec::new();
    // As much as the kernel reads.
    let file = File::open(program).ok()?;
    file.take(256).read_to_end(&mut start).ok()?;
    let line = start
        .strip_prefix(b"#!")?
        .split(|byte| *byte == b'\n')
        .next()?;
    let text = String::from_utf8_lossy(line);
    text.split_whitespace().next().map(str::to_owned)
}

/// Tries again while the program is open for writing. If another thread has just written it, and
/// closed it, a process that a third thread has forked meanwhile has it open until it executes its own
/// program.
pub(super) fn retry_while_busy<T>(
    mut attempt: impl FnMut() -> io::Result<T>,
    mut pause: impl FnMut(Duration),
) -> io::Result<T> {
    for n in 0..PAUSES {
        match attempt() {
            Err(error) if error.kind() == ErrorKind::ExecutableFileBusy => {
                pause(Duration::from_millis(1 << n));
            }
            result => return result,
        }
    }
    attempt()
}

/// The pause of [`retry_while_busy`].
pub(super) fn pause(duration: Duration) {
    thread::sleep(duration);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_proc_is_told_from_a_missing_program() {
        let missing = Path::new("/nowhere/self/exe");
        let explain = |is_own| {
            let (program, dir) = (Some(missing), None);
            let attempt = Attempt {
                program,
                dir,
                is_own,
            };
            attempt.explain(ErrorKind::NotFound.into()).to_string()
        };
        let own = explain(true);
        assert!(own.contains("/nowhere/self/exe: No such file"), "{own}");
        assert!(own.ends_with("is /proc mounted?"));
        assert!(explain(false).starts_with("there is no such program: No such file"));
    }

    #[test]
    fn other_errors_are_left_alone() {
        let attempt = Attempt {
            program: Some(Path::new("/bin/sh")),
            dir: Some(Path::new("/")),
            is_own: false,
        };
        let error = attempt.explain(ErrorKind::OutOfMemory.into());
        assert_eq!(error.to_string(), ErrorKind::OutOfMemory.to_string());
    }

    #[test]
    fn busy_program_is_tried_again_for_a_while() {
        let busy = || io::Error::from(ErrorKind::ExecutableFileBusy);
        let mut pauses = Vec::new();
        let mut left = 3;
        let result = retry_while_busy(
            || {
                left -= 1;
                if left > 0 { Err(busy()) } else { Ok("started") }
            },
            |pause| pauses.push(pause.as_millis()),
        );
        assert_eq!((result.unwrap(), pauses), ("started", vec![1, 2]));

        let mut pauses = 0;
        let result = retry_while_busy(|| Err::<(), _>(busy()), |_| pauses += 1);
        assert_eq!(pauses, PAUSES);
        assert_eq!(result.unwrap_err().kind(), ErrorKind::ExecutableFileBusy);

        let result = retry_while_busy(
            || Err::<(), _>(ErrorKind::NotFound.into()),
            |_| unreachable!("it will not change"),
        );
        assert_eq!(result.unwrap_err().kind(), ErrorKind::NotFound);
    }
}
