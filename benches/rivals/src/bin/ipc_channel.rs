//! `ipc-channel`: byte channels, one each way; one thread sends, another receives.

use ipc_channel::ipc::{self, IpcBytesReceiver, IpcBytesSender, IpcOneShotServer, IpcSender};
use rivals::{Window, Work, stamp};
use std::process::Command;
use std::thread;
use std::time::Instant;

/// The ends for sending requests and receiving replies.
type Ends = (IpcBytesSender, IpcBytesReceiver);

fn child(server: String) {
    let (to_child, requests) = ipc::bytes_channel().expect("a channel");
    let (replies, to_parent) = ipc::bytes_channel().expect("a channel");
    let ends: Ends = (to_child, to_parent);
    let parent = IpcSender::<Ends>::connect(server).expect("the parent waits");
    parent.send(ends).expect("the parent waits");
    while let Ok(request) = requests.recv() {
        replies.send(&request).expect("the parent reads");
    }
}

fn main() {
    let mut args = std::env::args().skip(1);
    if args.next().as_deref() == Some("child") {
        return child(args.next().expect("the server's name"));
    }
    let work = Work::parse();
    let (server, name) = IpcOneShotServer::<Ends>::new().expect("a server");
    let mut child = Command::new("/proc/self/exe")
        .args(["child", &name])
        .spawn()
        .expect("this program can be started");
    let (_, (requests, replies)) = server.accept().expect("the child connects");
    let pattern = work.payload();
    let mut payload = pattern.clone();
    let mut send = |i| {
        stamp(&mut payload, i);
        requests.send(&payload).expect("the child reads");
    };
    let receive = |i| {
        let reply = replies.recv().expect("the child answers");
        work.check(i, &reply, &pattern);
    };
    send(0);
    receive(0);
    let start = Instant::now();
    if work.in_flight == 1 {
        for i in 0..work.n {
            send(i);
            receive(i);
        }
    } else {
        let window = Window::new(work.in_flight);
        thread::scope(|scope| {
            scope.spawn(|| {
                for i in 0..work.n {
                    window.enter();
                    send(i);
                }
            });
            for i in 0..work.n {
                receive(i);
                window.leave();
            }
        });
    }
    work.report("ipc-channel", start.elapsed());
    drop(requests);
    child.wait().expect("nothing else waits for it");
}
