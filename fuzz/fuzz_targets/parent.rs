//! See `offspring::fuzzing::parent`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| offspring::fuzzing::parent(data));
