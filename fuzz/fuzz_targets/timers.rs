//! See `offspring::fuzzing::timers`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| offspring::fuzzing::timers(data));
