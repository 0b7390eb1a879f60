//! See `offspring::fuzzing::descriptors`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| offspring::fuzzing::descriptors(data));
