//! See `offspring::fuzzing::pool`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| offspring::fuzzing::pool(data));
