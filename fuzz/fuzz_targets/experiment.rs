#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = deepzero::fuzzing::experiment(&String::from_utf8_lossy(bytes));
});
