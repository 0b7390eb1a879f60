//! See `offspring::fuzzing::ledger`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| offspring::fuzzing::ledger(data));
