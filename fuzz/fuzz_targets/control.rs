#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| drop(drystone::control::fuzz::request(data)));
