//! What a kind of child cannot have. It must not be ignored: the program may rely on it.

use super::{Group, Process, Target};
use std::time::Duration;

impl Process {
    /// Why it cannot be started as it is described.
    pub(crate) fn refusal(&self) -> Option<String> {
        if let Some((after, dead)) = self.ping
            && self.connects()
            && dead <= after
            && dead != Duration::MAX
        {
            return Some(format!(
                "{self} cannot have Process::ping({after:?}, {dead:?}): the second must be longer"
            ));
        }
        let (option, why) = self.unsupported()?;
        Some(format!("{self} cannot have Process::{option}: {why}"))
    }

    /// An option that is set and that this kind of child cannot have, and why.
    fn unsupported(&self) -> Option<(&'static str, &'static str)> {
        let has_env = self.env_clear || !self.env.is_empty();
        let of_programs = [
            (!self.args.is_empty(), "arg()"),
            (has_env, "env()"),
            (self.dir.is_some(), "current_dir()"),
            (!self.stdout.is_inherit(), "stdout()"),
            (!self.stderr.is_inherit(), "stderr()"),
            (self.group != Group::Own, "group()"),
        ];
        let first = |options: &[(bool, &'static str)]| {
            let set = options.iter().find(|(is_set, _)| *is_set);
            set.map(|(_, name)| *name)
        };
        if self.huge_pages.is_some() && !self.is_template {
            return Some(("huge_pages()", "only a template can, before template()"));
        }
        if !self.connects() {
            let of_connections = [
                (self.patience.is_some(), "patience()"),
                (self.ping.is_some(), "ping()"),
            ];
            if let Some(option) = first(&of_connections) {
                let why = "only what connects to another machine can, before template()";
                return Some((option, why));
            }
        }
        let no_setups = || {
            let is_set = !self.setups.is_empty();
            is_set.then_some(("setup()", "a plain peer has no setups"))
        };
        let is_plain = self.plain.is_some();
        match self.target {
            Target::ThisProgram(..) | Target::Test(..) | Target::Exe(_) | Target::Template(_)
                if is_plain =>
            {
                Some(("plain()", "it serves a Worker"))
            }
            Target::ThisProgram(..) | Target::Test(..) | Target::Exe(_) => None,
            Target::Template(_) => {
                let of_programs = [(!self.args.is_empty(), "arg()"), (has_env, "env()")];
                let why =
                    "it has those of its template, where they are to be set before template()";
                Some((first(&of_programs)?, why))
            }
            Target::Connect(..) => {
                let of_programs = [
                    (!self.args.is_empty(), "arg()"),
                    (has_env, "env()"),
                    (self.dir.is_some(), "current_dir()"),
                    (self.group != Group::Own, "group()"),
                ];
                let why = match is_plain {
                    true => {
                        return Some((
                            "plain()",
                            "it connects to a worker; plain peers are streams",
                        ));
                    }
                    false => "it only makes a connection, and starts no program",
                };
                Some((first(&of_programs)?, why))
            }
            Target::Command(..) if !is_plain => None,
            Target::Command(..) | Target::Stream(_) if is_plain && self.is_template => {
                Some(("template()", "a plain peer cannot be copied"))
            }
            Target::Command(..) if !self.stdout.is_inherit() => {
                Some(("stdout()", "its standard output is the connection"))
            }
            Target::Command(..) if self.settings.has_umask() => {
                Some(("umask()", "only a process itself can set it"))
            }
            Target::Command(..) => no_setups(),
            Target::Stream(_) => {
                let of_processes = || self.settings.method().filter(|_| is_plain);
                match first(&of_programs).or_else(of_processes) {
                    Some(option) => {
                        Some((option, "it only connects to a peer, and starts no program"))
                    }
                    None if is_plain && self.outlive => {
                        Some(("outlive_parent()", "a plain peer is not killed"))
                    }
                    None if is_plain => no_setups(),
                    None => None,
                }
            }
        }
    }
}
