//! See `offspring::fuzzing::octets`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| offspring::fuzzing::octets(data));
