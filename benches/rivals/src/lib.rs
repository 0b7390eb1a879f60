//! Shared by the programs: each is run as `PROGRAM echo-LENGTH-IN_FLIGHT N`, echoes `N` payloads of
//! that length, and prints one line of JSON with the microseconds per echo.

use std::sync::{Condvar, Mutex};
use std::time::Duration;

/// The work to do.
pub struct Work {
    workload: String,
    pub len: usize,
    pub in_flight: u32,
    pub n: u32,
}

impl Work {
    /// Parses the arguments.
    pub fn parse() -> Self {
        let args: Vec<String> = std::env::args().skip(1).collect();
        let [workload, n] = &args[..] else {
            panic!("usage: PROGRAM echo-LENGTH-IN_FLIGHT N");
        };
        let (len, in_flight) = workload
            .strip_prefix("echo-")
            .and_then(|what| what.split_once('-'))
            .expect("the workload is echo-LENGTH-IN_FLIGHT");
        Work {
            workload: workload.clone(),
            len: len.parse().expect("LENGTH is a number"),
            in_flight: in_flight.parse().expect("IN_FLIGHT is a number"),
            n: n.parse().expect("N is a number"),
        }
    }

    /// Prints the result.
    pub fn report(&self, peer: &str, took: Duration) {
        let Work { workload, n, .. } = self;
        let seconds = took.as_secs_f64();
        let each = seconds * 1e6 / f64::from(*n);
        println!(
            r#"{{"peer":"{peer}","workload":"{workload}","n":{n},"seconds":{seconds:.6},"unit":"us","unit_value":{each:.3}}}"#
        );
    }

    /// The pattern of all payloads.
    pub fn payload(&self) -> Vec<u8> {
        (0..self.len).map(|n| (n * 31 + 7) as u8).collect()
    }

    /// Compares the length and both ends, and all bytes of the first and the last payload.
    pub fn check(&self, i: u32, reply: &[u8], pattern: &[u8]) {
        let end = self.len - 4;
        assert_eq!(reply.len(), self.len, "reply {i}: wrong length");
        assert_eq!(reply[..4], i.to_le_bytes(), "reply {i}: wrong start");
        assert_eq!(reply[end..], i.to_le_bytes(), "reply {i}: wrong end");
        if i == 0 || i + 1 == self.n {
            assert!(reply[4..end] == pattern[4..end], "reply {i}: wrong middle");
        }
    }
}

/// Writes the number to both ends.
pub fn stamp(payload: &mut [u8], i: u32) {
    let end = payload.len() - 4;
    payload[..4].copy_from_slice(&i.to_le_bytes());
    payload[end..].copy_from_slice(&i.to_le_bytes());
}

/// Limits the number of calls in flight.
pub struct Window(Mutex<u32>, Condvar);

impl Window {
    pub fn new(in_flight: u32) -> Self {
        Window(Mutex::new(in_flight), Condvar::new())
    }

    pub fn enter(&self) {
        let room = self.0.lock().expect("nothing panics under this lock");
        let room = self.1.wait_while(room, |room| *room == 0);
        *room.expect("as above") -= 1;
    }

    pub fn leave(&self) {
        let mut room = self.0.lock().expect("nothing panics under this lock");
        *room += 1;
        if *room == 1 {
            self.1.notify_one();
        }
    }
}
