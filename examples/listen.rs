//! A child that accepts connections on a socket while it answers calls: descriptors on its loop.

use offspring::{BoxError, Caller, Loop, Strings, Worker};
use std::cell::Cell;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::rc::Rc;

/// Runs in the child: `listen` replies with the address, `count` with the number of connections.
fn serve(request: Strings, caller: Caller, events: &Loop, connected: &Rc<Cell<u32>>) {
    match request.to_string().as_str() {
        "listen" => caller.answer(listen(events, Rc::clone(connected))),
        "count" => caller.reply(connected.get().to_string()),
        other => caller.fail(format!("unknown request `{other}`")),
    }
}

fn listen(events: &Loop, connected: Rc<Cell<u32>>) -> Result<String, BoxError> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?.to_string();
    events.readable(listener, (), move |listener, (), events| {
        if let Ok((stream, _)) = listener.accept() {
            connected.set(connected.get() + 1);
            greet(events, stream, connected.get());
        }
        Some(()) // keep listening
    });
    Ok(address)
}

/// Sends a line as soon as the socket is writable, and closes the connection.
fn greet(events: &Loop, stream: TcpStream, number: u32) {
    events.writable(stream, (), move |stream, (), _| {
        // If the peer has gone away, the greeting is not needed.
        let _ = writeln!(stream, "you are number {number}");
        None
    });
}

fn main() -> Result<(), BoxError> {
    let connected = Rc::default();
    let me = Worker::new()
        .deferred("serve", move |request, caller, events| {
            serve(request, caller, events, &connected);
        })
        .run();

    let rpc = me.rpc("serve").start()?;
    let address = rpc.call("listen").wait()?.to_string();
    for _ in 0..3 {
        let mut line = String::new();
        TcpStream::connect(&address)?.read_to_string(&mut line)?;
        print!("{line}");
    }
    println!("{} have connected", rpc.call("count").wait()?);
    rpc.finish()?;
    Ok(())
}
