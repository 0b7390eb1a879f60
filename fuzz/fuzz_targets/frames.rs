//! See `offspring::fuzzing::frames`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| offspring::fuzzing::frames(data));
