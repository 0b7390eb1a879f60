//! What runs programs elsewhere, for real: servers of SSH, hosts on a network of their own, and a
//! cluster of one machine. Where this machine cannot have one, `start` returns `None`.

use super::{FOREVER, children_of, eventually, is_gone, state};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, DirBuilder, File};
use std::io::Write;
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// Between a port's being found free and its use, another process may take it.
const ATTEMPTS: usize = 5;

/// A server of SSH that lets this user in by key. When it is dropped, what it runs is killed.
pub struct Sshd {
    leash: Leash,
    server: u32,
    address: String,
    port: u16,
    /// What runs a client where it can reach the server.
    client: Vec<String>,
}

impl Sshd {
    /// On the loopback interface.
    pub fn start() -> Option<Self> {
        has(&["sshd", "ssh", "ssh-keygen"]).then(|| Sshd::launch("127.0.0.1", &[], &[]))
    }

    /// `server` and `client` are commands that run the rest of their arguments as a command.
    fn launch(address: &str, server: &[&str], client: &[&str]) -> Self {
        if rustix::process::geteuid().is_root() {
            // Without it, root's server does not start. A distribution's service makes it.
            let made = DirBuilder::new().mode(0o755).create("/run/sshd");
            made.or_else(|_| fs::metadata("/run/sshd").map(drop))
                .unwrap();
        }
        let mut leash = Leash::new("OFFSPRING_SSHD", "");
        let keygen = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f"];
        for name in ["host", "user", "other"] {
            succeed(command(&keygen).arg(leash.dir.join(name)));
        }
        for _ in 0..ATTEMPTS {
            let port = free_port();
            let id = Sshd::listen(&mut leash, address, port, server);
            if let Some(server) = id {
                return Sshd {
                    leash,
                    server,
                    address: address.to_owned(),
                    port,
                    client: client.iter().map(|&part| part.to_owned()).collect(),
                };
            }
        }
        let log = fs::read_to_string(leash.dir.join("log"));
        panic!("sshd does not start: {log:?}");
    }

    /// Returns the process id, unless the server does not get this port.
    fn listen(leash: &mut Leash, address: &str, port: u16, server: &[&str]) -> Option<u32> {
        let (dir, mark) = (leash.dir.display(), &leash.mark);
        // Shells do not read the user's files, which may do anything.
        let config = format!(
            "ListenAddress {address}:{port}\n\
             HostKey {dir}/host\nAuthorizedKeysFile {dir}/user.pub\n\
             PidFile none\nUsePAM no\nStrictModes no\nPermitRootLogin yes\n\
             SetEnv {mark} HOME={dir}\n\
             PasswordAuthentication no\nKbdInteractiveAuthentication no\n\
             MaxStartups 1000\nMaxSessions 1000\nPrintMotd no\nPrintLastLog no\n"
        );
        fs::write(leash.conf(), config).unwrap();
        for (file, key) in [
            ("known_hosts", "host.pub"),
            ("known_otherwise", "other.pub"),
        ] {
            let key = fs::read_to_string(leash.dir.join(key)).unwrap();
            let line = format!("[{address}]:{port} {key}");
            fs::write(leash.dir.join(file), line).unwrap();
        }
        // It has to be run by its path.
        let sshd = find("sshd").expect("it was found before");
        let (sshd, conf) = (sshd.display().to_string(), leash.conf());
        let sshd = [&sshd, "-D", "-e", "-f", conf.to_str().unwrap()];
        let log = leash.dir.join("log");
        let id = leash.run(&[server, &sshd].concat(), &log);
        let listens = || {
            let log = fs::read_to_string(&log).unwrap();
            log.contains("Server listening on ")
        };
        eventually("sshd listens, or has ended", || listens() || is_zombie(id));
        listens().then_some(id)
    }

    /// The command that runs the rest of its arguments there.
    pub fn command(&self) -> Vec<String> {
        self.ssh("-T", "user", "known_hosts")
    }

    /// As [`command`](Self::command), with a terminal.
    pub fn terminal_command(&self) -> Vec<String> {
        self.ssh("-tt", "user", "known_hosts")
    }

    /// As [`command`](Self::command), with a key that the server does not know.
    pub fn denied_command(&self) -> Vec<String> {
        self.ssh("-T", "other", "known_hosts")
    }

    /// As [`command`](Self::command), for a client that knows another key of the server's.
    pub fn unverified_command(&self) -> Vec<String> {
        self.ssh("-T", "user", "known_otherwise")
    }

    fn ssh(&self, terminal: &str, key: &str, known_hosts: &str) -> Vec<String> {
        let (port, dir) = (self.port.to_string(), self.leash.dir.display());
        let (key, known_hosts) = (
            format!("{dir}/{key}"),
            format!("UserKnownHostsFile={dir}/{known_hosts}"),
        );
        let mut command = self.client.clone();
        let ssh = ["ssh", terminal, "-F", "none", "-i", &key, "-p", &port];
        command.extend(ssh.map(str::to_owned));
        for option in [
            "BatchMode=yes",
            "IdentitiesOnly=yes",
            "IdentityAgent=none",
            "StrictHostKeyChecking=yes",
            "GlobalKnownHostsFile=none",
            &known_hosts,
        ] {
            command.extend(["-o".to_owned(), option.to_owned()]);
        }
        command.push(self.address.clone());
        command
    }

    /// The server's process, which listens.
    pub fn pid(&self) -> u32 {
        self.server
    }

    /// The server's process of each connection.
    pub fn sessions(&self) -> Vec<u32> {
        let mut sessions = children_of(self.server);
        sessions.retain(|pid| !is_gone(*pid));
        sessions
    }

    /// What clients run there, also if their connection is gone.
    pub fn commands(&self) -> Vec<u32> {
        self.leash.marked()
    }

    /// Stops the server's processes, also those of connections. What clients run is not stopped.
    pub fn stop(&self) {
        eventually("the server is stopped", || {
            let processes = self.processes();
            let runs = |pid: &u32| state(*pid).is_some_and(|state| state != "T" && state != "Z");
            let running: Vec<_> = processes.iter().copied().filter(runs).collect();
            running.iter().for_each(|pid| send(*pid, Signal::STOP));
            // A process may have started another before it stopped.
            !processes.iter().any(runs) && self.processes() == processes
        });
    }

    /// Lets the server continue.
    pub fn cont(&self) {
        let processes = self.processes();
        processes.iter().for_each(|pid| send(*pid, Signal::CONT));
    }

    /// All processes of the server, but not what clients run.
    fn processes(&self) -> Vec<u32> {
        let mut all = vec![self.server];
        let mut n = 0;
        while let Some(pid) = all.get(n) {
            all.extend(children_of(*pid).into_iter().filter(|pid| {
                let name = fs::read_to_string(format!("/proc/{pid}/comm"));
                name.is_ok_and(|name| name.starts_with("sshd"))
            }));
            n += 1;
        }
        all
    }
}

/// Hosts, each with a server of SSH, and links to them from where the clients run. No other process
/// can reach them, or is reached by them.
pub struct Network {
    hosts: Vec<Sshd>,
    names: Vec<String>,
    // Dropped last: the servers run in what it removes.
    _leash: Leash,
}

impl Network {
    /// Also returns `None` in CI if this process may not make network namespaces.
    pub fn start(n: usize) -> Option<Self> {
        if !has(&["ip", "sshd", "ssh", "ssh-keygen"]) {
            return None;
        }
        let prefix = unique("offspring");
        let hub = format!("{prefix}-hub");
        let names: Vec<_> = (0..n).map(|i| format!("{prefix}-{i}")).collect();
        let leash = Leash::new(
            "OFFSPRING_NETWORK",
            &format!(
                "for name in {hub} {}; do
                    while pids=$(ip netns pids $name 2>/dev/null) && [ -n \"$pids\" ]; do
                        kill -KILL $pids 2>/dev/null
                    done
                    ip netns del $name 2>/dev/null
                done",
                names.join(" ")
            ),
        );
        let output = command(&["ip", "netns", "add", &hub]).output().unwrap();
        if !output.status.success() {
            let error = String::from_utf8_lossy(&output.stderr);
            println!("skipped: no network namespaces: {}", error.trim());
            return None;
        }
        let hosts = names.iter().enumerate().map(|(i, name)| {
            let ip = |arguments: &str| {
                let arguments: Vec<_> = arguments.split(' ').collect();
                succeed(command(&["ip"]).args(arguments));
            };
            // Addresses for tests of networks: RFC 2544.
            let address = format!("198.18.{i}.2");
            ip(&format!("netns add {name}"));
            ip(&format!(
                "-n {hub} link add host{i} type veth peer name hub netns {name}"
            ));
            ip(&format!("-n {hub} address add 198.18.{i}.1/30 dev host{i}"));
            ip(&format!("-n {name} address add {address}/30 dev hub"));
            ip(&format!("-n {name} link set lo up"));
            ip(&format!("-n {name} link set hub up"));
            ip(&format!("-n {hub} link set host{i} up"));
            let [server, client] = [name, &hub].map(|name| ["ip", "netns", "exec", name]);
            Sshd::launch(&address, &server, &client)
        });
        let hosts = hosts.collect();
        Some(Network {
            hosts,
            names,
            _leash: leash,
        })
    }

    /// The server on a host, and the commands that run something there.
    pub fn host(&self, i: usize) -> &Sshd {
        &self.hosts[i]
    }

    /// Cuts or mends the link to a host, at the host's end: a client is not told.
    pub fn link(&self, i: usize, up: bool) {
        let to = if up { "up" } else { "down" };
        succeed(&mut command(&[
            "ip",
            "-n",
            &self.names[i],
            "link",
            "set",
            "hub",
            to,
        ]));
    }
}

/// A Slurm of one node that runs up to 16 tasks at a time. When it is dropped, what it runs is
/// killed.
pub struct Slurm {
    leash: Leash,
}

impl Slurm {
    /// Also returns `None` in CI if this process is not root's.
    pub fn start() -> Option<Self> {
        if !has(&["munged", "slurmctld", "slurmd", "srun"]) {
            return None;
        }
        if !rustix::process::geteuid().is_root() {
            println!("skipped: only root can start Slurm");
            return None;
        }
        (0..ATTEMPTS)
            .find_map(|_| Slurm::launch())
            .or_else(|| panic!("Slurm does not start"))
    }

    /// Returns `None` if it does not get its ports.
    fn launch() -> Option<Self> {
        // All its tasks have this variable, and so do the clients.
        let slurm = Slurm {
            leash: Leash::new("SLURM_CONF", ""),
        };
        slurm.configure();
        slurm.run_daemons()
    }

    fn configure(&self) {
        let (dir, conf) = (self.leash.dir.display(), self.conf());
        let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
        let name = name.trim().split('.').next().expect("there is a first one");
        let (port, node_port) = (free_port(), free_port());
        let text = format!(
            "ClusterName=offspring\nSlurmctldHost={name}(127.0.0.1)\n\
             SlurmctldPort={port}\nSlurmdPort={node_port}\nSlurmUser=root\nSlurmdUser=root\n\
             AuthType=auth/munge\nAuthInfo=socket={dir}/munge.socket\nCredType=cred/munge\n\
             ProctrackType=proctrack/linuxproc\nTaskPlugin=task/none\nSwitchType=switch/none\n\
             MpiDefault=none\nSelectType=select/cons_tres\nSelectTypeParameters=CR_CPU\n\
             SlurmdParameters=config_overrides\nReturnToService=2\nStateSaveLocation={dir}/state\n\
             SlurmdSpoolDir={dir}/spool\nSlurmctldPidFile={dir}/slurmctld.pid\n\
             SlurmdPidFile={dir}/slurmd.pid\nNodeName={name} NodeAddr=127.0.0.1 CPUs=16\n\
             PartitionName=all Nodes=ALL Default=YES\n"
        );
        fs::write(conf, text).unwrap();
        fs::create_dir(self.leash.dir.join("state")).unwrap();
        fs::create_dir(self.leash.dir.join("spool")).unwrap();
        let key = File::options()
            .write(true)
            .create_new(true)
            .mode(0o400)
            .open(self.leash.dir.join("munge.key"));
        key.unwrap()
            .write_all(&[7; 64])
            .expect("a file can be written");
    }

    fn run_daemons(mut self) -> Option<Self> {
        let file = |name: &str| self.leash.dir.join(name).to_str().unwrap().to_owned();
        let socket = file("munge.socket");
        let munged = [
            "munged".to_owned(),
            "--foreground".to_owned(),
            // Whoever else may write to the directories above.
            "--force".to_owned(),
            format!("--key-file={}", file("munge.key")),
            format!("--socket={socket}"),
            format!("--pid-file={}", file("munge.pid")),
            format!("--seed-file={}", file("munge.seed")),
            format!("--log-file={}", file("munge.log")),
        ];
        self.daemon(&munged.each_ref().map(String::as_str), || {
            Path::new(&socket).exists()
        })?;
        let conf = self.conf().to_str().unwrap().to_owned();
        let mut ping = self.client("scontrol");
        ping.arg("ping");
        self.daemon(&["slurmctld", "-D", "-c", "-f", &conf], || {
            let output = ping.output().unwrap();
            String::from_utf8_lossy(&output.stdout).contains(" is UP")
        })?;
        let mut sinfo = self.client("sinfo");
        sinfo.args(["--noheader", "--format=%T"]);
        self.daemon(&["slurmd", "-D", "-f", &conf], || {
            sinfo.output().unwrap().stdout == b"idle\n"
        })?;
        succeed(self.client("srun").args(["-n1", "true"]));
        Some(self)
    }

    /// Waits until it is ready. Returns `None` if it ends.
    fn daemon(&mut self, daemon: &[&str], mut is_ready: impl FnMut() -> bool) -> Option<()> {
        let log = self.leash.dir.join(format!("{}.stderr", daemon[0]));
        let id = self.leash.run(daemon, &log);
        let start = Instant::now();
        while !is_ready() {
            if is_zombie(id) {
                let log = fs::read_to_string(log).unwrap();
                println!("{} has ended: {log}", daemon[0]);
                return None;
            }
            assert!(
                start.elapsed() < FOREVER,
                "{} is not ready: {:?}",
                daemon[0],
                fs::read_to_string(log)
            );
        }
        Some(())
    }

    /// What the variable `SLURM_CONF` is to be.
    pub fn conf(&self) -> PathBuf {
        self.leash.conf()
    }

    /// The command that runs the rest of its arguments as one task.
    pub fn command(&self) -> Vec<String> {
        let command = ["env", &self.leash.mark, "srun", "-n1", "-u"];
        command.map(str::to_owned).to_vec()
    }

    /// A command of Slurm's, for this one.
    pub fn client(&self, name: &str) -> Command {
        let mut client = command(&[name]);
        client.env("SLURM_CONF", self.conf());
        client
    }

    /// Cancels all jobs.
    pub fn scancel(&self) {
        succeed(self.client("scancel").arg("--me"));
    }
}

/// Kills daemons, and all that they started, when it is dropped, or when this process ends in
/// whatever way. Has a directory for them.
struct Leash {
    /// A shell that waits for its standard input to end.
    guard: Child,
    daemons: Vec<Child>,
    dir: PathBuf,
    /// A variable, as `NAME=VALUE`: who has it in its environment is killed, too.
    mark: String,
}

impl Leash {
    /// The value of the variable is the path of a file, which may be made. The script `finally` is
    /// run when all are dead.
    fn new(variable: &str, finally: &str) -> Self {
        let dir = std::env::temp_dir().join(unique("offspring-far"));
        DirBuilder::new().mode(0o755).create(&dir).unwrap();
        let mark = format!("{variable}={}", dir.join("conf").display());
        let guard = command(&[
            "sh",
            "-c",
            GUARD,
            "guard",
            &mark,
            dir.to_str().unwrap(),
            finally,
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        // What ends the tests does not end it.
        .process_group(0)
        .spawn()
        .unwrap();
        Leash {
            guard,
            daemons: Vec::new(),
            dir,
            mark,
        }
    }

    fn conf(&self) -> PathBuf {
        self.dir.join("conf")
    }

    /// Starts a daemon. Its process id is not reused while this lives.
    fn run(&mut self, daemon: &[&str], stderr: &Path) -> u32 {
        let program = find(daemon[0]).expect("it was found before");
        let pipe = self.guard.stdin.as_ref().expect("it is piped").as_fd();
        // It reports itself, so that the guard knows it if this process ends now.
        let daemon = Command::new("sh")
            .args(["-c", "echo $$; exec \"$@\" >/dev/null", "sh"])
            .arg(program)
            .args(&daemon[1..])
            .envs(self.mark.split_once('='))
            .stdin(Stdio::null())
            .stdout(pipe.try_clone_to_owned().unwrap())
            .stderr(File::create(stderr).unwrap())
            .process_group(0)
            .spawn()
            .unwrap();
        let id = daemon.id();
        self.daemons.push(daemon);
        id
    }

    /// The processes that have the variable in their environment.
    fn marked(&self) -> Vec<u32> {
        let has_mark = |pid: &u32| {
            let variables = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            let mut variables = variables.split(|byte| *byte == 0);
            variables.any(|variable| variable == self.mark.as_bytes())
        };
        let processes = fs::read_dir("/proc").unwrap();
        processes
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter(has_mark)
            .collect()
    }
}

impl Drop for Leash {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        let _ = self.guard.wait();
        for daemon in &mut self.daemons {
            let _ = daemon.wait();
        }
    }
}

/// Reads process ids. Daemons are stopped before their children are killed, so that they start no
/// others.
const GUARD: &str = r#"
    mark=$1 dir=$2 finally=$3 daemons=
    trap '' HUP INT TERM
    while read -r pid; do daemons="$daemons $pid"; done
    below() {
        cat /proc/[0-9]*/stat 2>/dev/null | sed 's/(.*) //' | awk -v daemons="$daemons " '
            { state[$1] = $2; parent[$1] = $3 }
            END {
                for (pid in parent) {
                    for (up = parent[pid]; up > 1 && !index(daemons, " " up " "); up = parent[up]);
                    if (up > 1 && state[pid] != "Z") print pid
                }
            }'
    }
    marked() { grep -lszxF -e "$mark" /proc/[0-9]*/environ | cut -d/ -f3; }
    kill -STOP $daemons 2>/dev/null
    round=0
    # Most are killed at once. What cannot be killed is given up.
    while [ $((round += 1)) -le 1000 ] && pids=$(below; marked) && [ -n "$pids" ]; do
        kill -KILL $pids 2>/dev/null
    done
    kill -KILL $daemons 2>/dev/null
    eval "$finally"
    rm -rf "$dir"
"#;

/// Whether this machine has these programs. That it has not is an error if CI is set.
fn has(programs: &[&str]) -> bool {
    let Some(missing) = programs.iter().find(|program| find(program).is_none()) else {
        return true;
    };
    assert!(std::env::var_os("CI").is_none(), "{missing} is missing");
    println!("skipped: {missing} is missing");
    false
}

/// The path of a program. Not everyone has daemons in `PATH`.
fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let more = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    let mut paths = std::env::split_paths(&path).chain(more);
    paths.find_map(|dir| Some(dir.join(program)).filter(|path| path.is_file()))
}

/// The program is found where [`find`] finds it.
fn command(words: &[&str]) -> Command {
    let mut command = Command::new(find(words[0]).unwrap_or(words[0].into()));
    command.args(&words[1..]);
    command
}

fn succeed(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    output
}

/// A name that no other process has, nor this one again.
fn unique(prefix: &str) -> String {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{prefix}-{}-{count}", std::process::id())
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

fn is_zombie(pid: u32) -> bool {
    state(pid).is_none_or(|state| state == "Z")
}

/// Sends a signal to a process, which may have ended.
fn send(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(pid as i32).expect("no process has the number 0");
    let _ = kill_process(pid, signal);
}
