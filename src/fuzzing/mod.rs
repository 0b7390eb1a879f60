//! The fuzz targets of `fuzz/`: functions that take any bytes and panic if the code is wrong.
//!
//! Not part of the library: compiled with `--cfg fuzzing` and into its tests, which run the
//! functions on the seeds in `fuzz/corpus/` and a few thousand random inputs. Each function reads
//! its options from the first bytes and compares the real implementation with a naive one.

mod channels;
mod child;
mod control;
mod descriptors;
mod frames;
mod greeting;
mod ledger;
mod octets;
mod parent;
mod pool;
mod timers;

pub use channels::channels;
pub use child::child;
pub use control::control;
pub use descriptors::descriptors;
pub use frames::frames;
pub use greeting::greeting;
pub use ledger::ledger;
pub use octets::octets;
pub use parent::parent;
pub use pool::pool;
pub use timers::timers;

use crate::wire::Plain;
use crate::wire::{BUFFER, Space};

/// The most that a decoder may reserve before bytes arrive.
const RESERVE: usize = 1 << 20;

/// The input as a list of decisions. Past its end, it reads as zeros.
struct Script<'a>(&'a [u8]);

impl<'a> Script<'a> {
    fn byte(&mut self) -> u8 {
        self.bytes(1).first().copied().unwrap_or(0)
    }

    /// The next `n` bytes, or fewer at the end.
    fn bytes(&mut self, n: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(n.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// At most 255 bytes, preceded by their number.
    fn string(&mut self) -> &'a [u8] {
        let n = self.byte();
        self.bytes(n.into())
    }

    fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[usize::from(self.byte()) % choices.len()]
    }

    fn mode(&mut self) -> Option<Plain> {
        self.pick(&[
            None,
            Some(Plain::Tagged),
            Some(Plain::Ordered),
            Some(Plain::Fallible),
        ])
    }
}

/// A stream of bytes, and the pieces in which it arrives.
struct Stream {
    bytes: Vec<u8>,
    /// The length of the part at the end that only fills large frames: it arrives in larger pieces.
    filler: usize,
    /// The sizes of the pieces, cycled. Empty: as much as fits.
    pieces: Vec<usize>,
}

impl Stream {
    /// The rest of the script, which begins with the sizes of the pieces and the amount of filler.
    fn read(script: &mut Script<'_>) -> Self {
        let pieces = script.string().iter().map(|n| usize::from(*n) + 1);
        let pieces = pieces.collect();
        let filler = usize::from(script.byte()) << 10;
        let mut bytes = script.0.to_vec();
        bytes.extend((0..filler).map(|n| n as u8));
        Stream {
            bytes,
            filler,
            pieces,
        }
    }

    /// The same stream in as few pieces as the decoder allows.
    fn whole(&self) -> Self {
        Stream {
            bytes: self.bytes.clone(),
            filler: self.filler,
            pieces: Vec::new(),
        }
    }

    /// Feeds a decoder until it fails or everything has arrived. Calls `step` after each piece.
    fn feed<D, E>(
        &self,
        decoder: &mut D,
        allowed: impl Fn(usize) -> usize,
        space: impl Fn(&mut D) -> Space<'_>,
        mut step: impl FnMut(&mut D) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut sizes = self.pieces.iter().cycle();
        let mut at = 0;
        while at < self.bytes.len() {
            let size = match sizes.next() {
                Some(size) if at >= self.bytes.len() - self.filler => size << 8,
                Some(size) => *size,
                None => usize::MAX,
            };
            let mut space = space(decoder);
            assert!(space.limit > 0, "no space to read into");
            let first = (&*space.buf, space.limit);
            let behind = space.behind.as_ref().map(|(buf, limit)| (&**buf, *limit));
            for (buf, limit) in [first].into_iter().chain(behind) {
                let memory = buf.capacity();
                assert!(memory - buf.len() >= limit, "no space to read into");
                assert!(memory <= allowed(at), "{memory} bytes of memory");
            }
            let rest = &self.bytes[at..];
            at += space.fill(&rest[..size.min(rest.len())]);
            step(decoder)?;
        }
        Ok(())
    }
}

/// The largest buffer that a decoder may have when `arrived` bytes have arrived.
fn allowed(buflen: usize, max_frame: usize, arrived: usize) -> usize {
    let shared = buflen.clamp(BUFFER, RESERVE) + 8;
    let large = max_frame.min(2 * arrived + RESERVE);
    shared.max(large)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    type Target = (&'static str, fn(&[u8]));

    const TARGETS: [Target; 11] = [
        ("frames", super::frames),
        ("octets", super::octets),
        ("parent", super::parent),
        ("child", super::child),
        ("control", super::control),
        ("ledger", super::ledger),
        ("timers", super::timers),
        ("descriptors", super::descriptors),
        ("pool", super::pool),
        ("channels", super::channels),
        ("greeting", super::greeting),
    ];

    /// The seeds of a target. None outside the repository: the package does not include `fuzz/`.
    fn seeds(name: &str) -> Vec<Vec<u8>> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let Ok(files) = fs::read_dir(root.join("fuzz/corpus").join(name)) else {
            return Vec::new();
        };
        files
            .map(|file| fs::read(file.unwrap().path()).unwrap())
            .collect()
    }

    #[test]
    fn seeds_pass() {
        for (name, target) in TARGETS {
            for seed in seeds(name) {
                // Every prefix is an input, too.
                (0..=seed.len()).for_each(|n| target(&seed[..n]));
            }
        }
    }

    /// Seeds with random changes, which are the same in every run.
    #[test]
    fn changed_seeds_pass() {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 33) as usize % below
        };
        for (name, target) in TARGETS {
            let mut inputs = seeds(name);
            inputs.push((0..200).map(|_| random(256) as u8).collect());
            for _ in 0..1000 {
                let mut input = inputs[random(inputs.len())].clone();
                for _ in 0..=random(8) {
                    let at = random(input.len().max(1));
                    match random(3) {
                        0 if at < input.len() => input[at] = random(256) as u8,
                        1 if at < input.len() => drop(input.remove(at)),
                        _ => input.insert(at, random(12) as u8),
                    }
                }
                target(&input);
            }
        }
    }
}
