//! Calls a worker that a command reaches.
//!
//! ```text
//! cargo run --example remote
//! cargo run --example remote -- --children 3 ssh -T host env OFFSPRING=serve ./remote
//! ```
//!
//! Without a command, it is a shell on this machine that greets like a login. With `--children N`, there are
//! N children behind one connection.

use offspring::{BoxError, Process, Rpc, Worker};
use std::time::{Duration, Instant};
use std::{env, fs, process};

fn main() -> Result<(), BoxError> {
    // The relay and its children serve here, on whichever machine they are.
    let _me = Worker::new()
        .function("who", |request, caller| {
            caller.event(format!("{request} has come"));
            println!("what is printed does not get between the replies");
            let host = fs::read_to_string("/proc/sys/kernel/hostname")?;
            Ok([process::id().to_string(), host.trim().to_owned()])
        })
        .function("echo", |request, _caller| Ok(request))
        .run();

    let mut args = env::args_os().skip(1).peekable();
    let mut children = 1;
    if args.next_if(|arg| arg == "--children").is_some() {
        let number = args.next().and_then(|number| number.into_string().ok());
        children = number.ok_or("--children needs a number")?.parse()?;
    }
    let far = match args.next() {
        Some(program) => Process::command(program).args(args),
        None => Process::command("sh")
            .args([
                "-c",
                "echo 'Welcome! You have new mail.'; OFFSPRING=serve exec \"$0\"",
            ])
            .arg(env::current_exe()?),
    };

    let start = |far: &Process| {
        far.rpc("who")
            .on_event(|event| println!("event: {event}"))
            .start()
    };
    if children == 1 {
        return call(start(&far)?);
    }
    let many = far.template();
    let all: Vec<Rpc> = (0..children)
        .map(|_| start(&many))
        .collect::<Result<_, _>>()?;
    all.into_iter().try_for_each(call)
}

fn call(rpc: Rpc) -> Result<(), BoxError> {
    let reply = rpc.call("a call").wait()?;
    let [pid, host] = reply.texts()?;
    let echo = rpc.function("echo");
    let start = Instant::now();
    let rounds = 100;
    for _ in 0..rounds {
        echo.call(()).wait()?;
    }
    let cost = start.elapsed() / rounds;
    drop(echo);
    println!("process {pid} on {host}: {} us a call", cost.as_micros());
    rpc.finish_timeout(Duration::from_secs(10))?;
    Ok(())
}
