//! See `offspring::fuzzing::control`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| offspring::fuzzing::control(data));
