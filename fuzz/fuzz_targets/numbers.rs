#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = deepzero::fuzzing::numbers(bytes);
});
