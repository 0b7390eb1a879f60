//! The codec `Compact`, with any bytes.

#![no_main]

mod value;

libfuzzer_sys::fuzz_target!(|data: &[u8]| value::check::<offspring::Compact>(data));
