//! See `offspring::fuzzing::greeting`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| offspring::fuzzing::greeting(data));
