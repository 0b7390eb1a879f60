//! Hands a child a frame of 64 MiB in two ways: as sealed memory, which the child maps, and through the
//! socket. The child reads all of it either way.
//!
//! ```text
//! cargo run --release --example shared
//! ```

use memmap2::Mmap;
use offspring::{BoxError, Fd, Outcome, Strings, Worker};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, memfd_create};
use std::fs::File;
use std::io::Write;
use std::time::{Duration, Instant};

const FRAME: usize = 64 << 20;

/// What makes memory safe to map: nobody can write to it or shorten it any more.
const SEALED: SealFlags = SealFlags::WRITE.union(SealFlags::SHRINK);

fn main() -> Result<(), BoxError> {
    let me = Worker::new()
        .function("brightness", |mut request, _caller| {
            let brightness = match request.take_all_fds()?.pop() {
                Some(memory) => brightness(&map(memory)?),
                None => brightness(&request[0]),
            };
            Ok(brightness.to_string())
        })
        .run();
    let rpc = me.rpc("brightness").start()?;

    let frame: Vec<u8> = (0..FRAME).map(|at| (at >> 18) as u8).collect();
    let memory = sealed(&frame)?;
    let (brightness, took) = shortest(|| rpc.call(&memory).wait())?;
    println!("shared memory: brightness {brightness}, {took:.1?}");
    let (brightness, took) = shortest(|| rpc.call([&frame]).wait())?;
    println!("through the socket: brightness {brightness}, {took:.1?}");
    rpc.finish()?;
    Ok(())
}

/// Memory with these contents, which can be read for ever.
fn sealed(frame: &[u8]) -> Result<Fd, BoxError> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut memory = File::from(memfd_create("frame", flags)?);
    memory.write_all(frame)?;
    fcntl_add_seals(&memory, SEALED)?;
    Ok(Fd::from(memory))
}

#[expect(unsafe_code, reason = "files can be mapped in no other way")]
fn map(memory: Fd) -> Result<Mmap, BoxError> {
    // What comes from another process need not be what it should be.
    if !fcntl_get_seals(&memory)?.contains(SEALED) {
        return Err("the memory is not sealed".into());
    }
    // SAFETY: the seals make sure that the contents do not change while they are mapped.
    Ok(unsafe { Mmap::map(&memory.into_owned()?)? })
}

fn brightness(frame: &[u8]) -> u64 {
    let sum: u64 = frame.iter().map(|pixel| u64::from(*pixel)).sum();
    sum / frame.len() as u64
}

/// The reply to a call, and how long the shortest of a few takes.
fn shortest(call: impl Fn() -> Outcome) -> Result<(Strings, Duration), BoxError> {
    let mut reply = call()?;
    let mut shortest = Duration::MAX;
    for _ in 0..5 {
        let start = Instant::now();
        reply = call()?;
        shortest = shortest.min(start.elapsed());
    }
    Ok((reply, shortest))
}
