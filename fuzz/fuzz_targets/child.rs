//! See `offspring::fuzzing::child`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| offspring::fuzzing::child(data));
