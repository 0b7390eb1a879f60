//! See `offspring::fuzzing::channels`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| offspring::fuzzing::channels(data));
