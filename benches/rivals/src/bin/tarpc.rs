//! `tarpc`: tokio's current-thread runtime on both sides of a socket pair, bincode.

use futures::StreamExt;
use rivals::{Work, stamp};
use serde_bytes::ByteBuf;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tarpc::server::Channel;
use tarpc::tokio_serde::formats::Bincode;
use tarpc::{client, context, server};
use tokio::net::UnixStream;
use tokio::runtime::{Builder, Runtime};
use tokio_util::codec::{Framed, LengthDelimitedCodec};

#[tarpc::service]
trait Echo {
    async fn echo(payload: ByteBuf) -> ByteBuf;
}

#[derive(Clone)]
struct Server;

impl Echo for Server {
    async fn echo(self, _: context::Context, payload: ByteBuf) -> ByteBuf {
        payload
    }
}

fn runtime() -> Runtime {
    let runtime = Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime")
}

/// To be called in a runtime.
fn framed(socket: net::UnixStream) -> Framed<UnixStream, LengthDelimitedCodec> {
    socket.set_nonblocking(true).expect("a socket");
    let mut codec = LengthDelimitedCodec::new();
    codec.set_max_frame_length(usize::MAX >> 1);
    Framed::new(UnixStream::from_std(socket).expect("a runtime"), codec)
}

fn child() {
    let stdin = std::io::stdin().as_fd().try_clone_to_owned();
    runtime().block_on(async {
        let framed = framed(stdin.expect("descriptors are available").into());
        let transport = tarpc::serde_transport::new(framed, Bincode::default());
        server::BaseChannel::with_defaults(transport)
            .execute(Server.serve())
            .for_each(async |response| drop(tokio::spawn(response)))
            .await;
    });
}

fn main() {
    if std::env::args().nth(1).as_deref() == Some("child") {
        return child();
    }
    let work = &Work::parse();
    let (ours, theirs) = net::UnixStream::pair().expect("descriptors are available");
    let mut child = Command::new("/proc/self/exe")
        .arg("child")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .spawn()
        .expect("this program can be started");
    let took = runtime().block_on(async {
        let transport = tarpc::serde_transport::new(framed(ours), Bincode::default());
        let mut config = client::Config::default();
        config.max_in_flight_requests = work.in_flight as usize;
        config.pending_request_buffer = work.in_flight as usize;
        let client = EchoClient::new(config, transport).spawn();
        let pattern = &work.payload();
        let call = async |i| {
            let mut context = context::current();
            context.deadline = Instant::now() + Duration::from_secs(600);
            let mut payload = pattern.clone();
            stamp(&mut payload, i);
            let reply = client.echo(context, ByteBuf::from(payload)).await;
            work.check(i, &reply.expect("the child answers"), pattern);
        };
        call(0).await;
        let start = Instant::now();
        futures::stream::iter(0..work.n)
            .map(call)
            .buffer_unordered(work.in_flight as usize)
            .count()
            .await;
        start.elapsed()
    });
    work.report("tarpc", took);
    child.wait().expect("nothing else waits for it");
}
