//! A small HTTP server: copies of a template accept connections on one listener. Ctrl-C or SIGTERM stops it
//! in order; a child that dies, as by `kill -9`, is replaced.
//!
//! ```text
//! cargo run --example prefork [ADDRESS [CHILDREN]]
//! ```

use offspring::{BoxError, Error, Fd, Loop, Rpc, Watch, Worker};
use std::cell::{OnceCell, RefCell};
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::mpsc;

/// The longest request that is read.
const LONGEST_REQUEST: usize = 8 << 10;

/// What the parent is told.
enum News {
    Stop,
    /// The child in this place.
    Died(usize, Error),
}

fn main() -> Result<(), BoxError> {
    let listener: &OnceCell<TcpListener> = Box::leak(Box::default());
    let accepting = Rc::<RefCell<Option<Watch>>>::default();
    let stop = Rc::clone(&accepting);
    let me = Worker::new()
        .setup("listener", |mut request| {
            let [socket] = request.take_fds()?;
            listener
                .set(socket.into())
                .map_err(|_| "there is one".into())
        })
        .deferred("serve", move |_request, caller, events| {
            let watch = accept(listener, events).map(|watch| *accepting.borrow_mut() = Some(watch));
            caller.answer(watch);
        })
        // At the end: no more connections. Those that are open are answered, and then the child exits.
        .done(move |_events| {
            if let Some(watch) = stop.take() {
                watch.cancel();
            }
        })
        .run();

    let mut args = std::env::args().skip(1);
    let socket = TcpListener::bind(args.next().unwrap_or("127.0.0.1:0".into()))?;
    socket.set_nonblocking(true)?;
    println!("serving on http://{}", socket.local_addr()?);
    let template = me.setup("listener", Fd::from(socket)).template();

    let (sender, news) = mpsc::channel();
    let on_signal = sender.clone();
    ctrlc::set_handler(move || drop(on_signal.send(News::Stop)))?;
    let start = |place| -> Result<Rpc, BoxError> {
        let sender = sender.clone();
        let on_error = move |error| drop(sender.send(News::Died(place, error)));
        let rpc = template.rpc("serve").on_error(on_error).start()?;
        rpc.call(()).wait()?;
        Ok(rpc)
    };
    let count = args.next().map_or(Ok(4), |count| count.parse())?;
    let mut children = (0..count).map(start).collect::<Result<Vec<_>, _>>()?;
    for news in news {
        match news {
            News::Stop => break,
            News::Died(place, error) => {
                eprintln!("{error}");
                children[place] = start(place)?;
            }
        }
    }
    for child in children {
        child.finish()?;
    }
    println!("stopped");
    Ok(())
}

/// Accepts connections from here on. They go to whichever child is the first.
fn accept(listener: &OnceCell<TcpListener>, events: &Loop) -> Result<Watch, BoxError> {
    let listener = listener.get().ok_or("there is no listener")?.try_clone()?;
    Ok(events.readable(listener, (), |listener, (), events| {
        match listener.accept() {
            Ok((stream, _)) => answer(stream, events),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {} // another child was first
            Err(error) => eprintln!("cannot accept a connection: {error}"),
        }
        Some(()) // keep listening
    }))
}

/// Answers the request, when it has come, and closes the connection.
fn answer(stream: TcpStream, events: &Loop) {
    events.readable(stream, Vec::new(), |stream, mut request: Vec<u8>, _events| {
        let mut some = [0; 1024];
        match stream.read(&mut some) {
            Ok(n @ 1..) => request.extend_from_slice(&some[..n]),
            Ok(0) | Err(_) => return None,
        }
        if request.windows(4).any(|end| end == b"\r\n\r\n") {
            let text = format!("hello from {}\n", std::process::id());
            let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\nContent-Length";
            // If the client has gone away, it needs no answer.
            let _ = write!(stream, "{head}: {}\r\n\r\n{text}", text.len());
            return None;
        }
        (request.len() < LONGEST_REQUEST).then_some(request) // read on
    });
}
