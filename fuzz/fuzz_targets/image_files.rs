#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| nobat_image::fuzz::image_files(data));
