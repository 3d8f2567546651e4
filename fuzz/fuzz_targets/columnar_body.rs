#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| nobat_gateway::fuzz::columnar_body(data));
