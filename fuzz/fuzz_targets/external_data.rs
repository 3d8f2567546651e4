#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| nobat_worker::fuzz::external_data(data));
