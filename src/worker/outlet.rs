//! The child's writing end.

use crate::codec::{Codec, CodecError, Output};
use crate::service::Service;
use crate::sys::{self, Readiness};
use crate::wire::{self, Failure, Framing};
use crate::{Argument, Plain};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Where frames to the parent are written, whole and in order, by whichever thread.
#[derive(Debug)]
pub(crate) struct Outlet {
    /// Locked while a frame is written. `None` once that failed: nobody is there to read.
    file: Mutex<Option<File>>,
    plain: Option<Plain>,
    /// The longest payload that the parent takes.
    max_frame: AtomicUsize,
}

/// A frame in the making: the payload goes behind the room for the header.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) output: Output,
}

const HEADER: usize = Framing::Tagged.header_len();

impl Frame {
    /// An empty frame that uses the memory of `buffer`.
    pub(crate) fn new(mut buffer: Vec<u8>) -> Self {
        buffer.clear();
        buffer.resize(HEADER, 0);
        Frame {
            output: Output::after(buffer),
        }
    }

    /// Sets the header. The payload's length must fit into it.
    fn finish(self, id: u32) -> Vec<u8> {
        let mut bytes = self.output.into_vec();
        let len = u32::try_from(bytes.len() - HEADER).expect("above max_frame it is not sent");
        let (header, n) = wire::header(Framing::Tagged, id, len);
        bytes[..n].copy_from_slice(&header[..n]);
        bytes
    }
}

impl Outlet {
    pub(crate) fn new(fd: OwnedFd, plain: Option<Plain>) -> Self {
        Outlet {
            file: Mutex::new(Some(fd.into())),
            plain,
            max_frame: AtomicUsize::new(u32::MAX as usize),
        }
    }

    pub(crate) fn set_max_frame(&self, max_frame: usize) {
        // ORDERING: set before functions run; threads they start see it by being started.
        self.max_frame.store(max_frame, Ordering::Relaxed);
    }

    /// Whether the parent knows control frames and failed replies.
    pub(crate) fn is_plain(&self) -> bool {
        self.plain.is_some()
    }

    /// Writes a reply. Returns the frame's buffer for further use.
    ///
    /// # Errors
    ///
    /// If it is longer than the parent takes; nothing is written then.
    pub(crate) fn reply(&self, id: u32, frame: Frame) -> Result<Vec<u8>, Failure> {
        // ORDERING: see `set_max_frame`.
        let limit = self.max_frame.load(Ordering::Relaxed);
        let len = frame.output.as_bytes().len();
        if len > limit {
            let message =
                format!("a reply of {len} bytes is above the limit (max_frame) of {limit}");
            return Err(Failure::Malformed { message });
        }
        let bytes = frame.finish(id);
        self.write(&bytes);
        Ok(bytes)
    }

    /// Writes a failed reply.
    pub(crate) fn fail(&self, id: u32, failure: &Failure) {
        // ORDERING: see `set_max_frame`.
        let limit = self.max_frame.load(Ordering::Relaxed);
        let mut payload = failure.encode();
        if payload.len() > limit {
            let message = "the error is longer than the limit (max_frame)".to_owned();
            payload = Failure::Malformed { message }.encode();
        }
        self.control(id | wire::FAILED, &payload);
    }

    /// Writes a frame that is not for the codec.
    pub(crate) fn control(&self, id: u32, payload: &[u8]) {
        let mut frame = Frame::new(Vec::new());
        frame.output.extend(payload);
        self.write(&frame.finish(id));
    }

    /// Writes an event.
    ///
    /// # Panics
    ///
    /// If the codec cannot encode it, or it is longer than the parent takes: the function that
    /// sends it has a bug, and its call is to fail.
    pub(crate) fn event<S: Service>(&self, event: impl Argument<S::Event, S::Codec>) {
        let mut frame = Frame::new(Vec::new());
        if let Err(error) = event.encode_to(&mut frame.output) {
            panic!("an event cannot be encoded: {error}");
        }
        if let Err(Failure::Malformed { message }) = self.reply(wire::EVENT, frame) {
            panic!("an event cannot be sent: {message}");
        }
    }

    /// Whether all that was sent so far could be written.
    pub(crate) fn is_open(&self) -> bool {
        self.lock().is_some()
    }

    /// Writes all bytes, waiting while the parent is slow.
    fn write(&self, bytes: &[u8]) {
        let mut file = self.lock();
        if let Some(open) = &mut *file
            && write_all(open, bytes).is_err()
        {
            *file = None;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<File>> {
        self.file.lock().expect("nothing panics under this lock")
    }
}

fn write_all(file: &mut File, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => bytes = &bytes[n..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Somebody who shares the descriptor made it so.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                sys::wait_for(&*file, Readiness::Writable)?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// What a codec has to say of a value of the other side's, as a failure.
pub(crate) fn malformed(what: &str, error: &CodecError) -> Failure {
    Failure::Malformed {
        message: format!("{what}: {error}"),
    }
}

/// An error of the function, as a failure: its text for all, and its encoding.
pub(crate) fn failed<S: Service>(error: &S::Error) -> Failure {
    let mut output = Output::default();
    match S::Codec::encode(error, &mut output) {
        Ok(()) => Failure::Error {
            message: error.to_string(),
            encoded: output.into_vec(),
        },
        Err(codec_error) => malformed(&format!("the error ({error})"), &codec_error),
    }
}
