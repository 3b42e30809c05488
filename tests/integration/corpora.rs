//! Every file of the fuzzers' corpora through the function that it is for, as a fuzzer would call it.

use std::path::Path;

use deepzero::fuzzing;

type Reader = (&'static str, fn(&[u8]));

/// By the name of the corpus, which is also that of the target in `fuzz/fuzz_targets`.
const READERS: [Reader; 9] = [
    ("checkpoint", |bytes| drop(fuzzing::checkpoint(bytes))),
    ("cifar_parquet", |bytes| drop(fuzzing::cifar_parquet(bytes))),
    ("experiment", |bytes| drop(fuzzing::experiment(&String::from_utf8_lossy(bytes)))),
    ("numbers", |bytes| drop(fuzzing::numbers(bytes).unwrap())),
    ("pickle", |bytes| drop(fuzzing::pickle(bytes))),
    ("prose", |bytes| {
        let html = fuzzing::prose(&String::from_utf8_lossy(bytes)).to_lowercase();
        assert!(!html.contains("<script") && !html.contains("href=\"javascript"), "{html}");
    }),
    ("record", |bytes| drop(fuzzing::record(bytes).unwrap())),
    ("settings", |bytes| drop(fuzzing::settings(bytes))),
    ("tensors", fuzzing::tensors),
];

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn corpora_are_replayed() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let targets: Vec<String> = READERS.iter().map(|(name, _)| format!("{name}.rs")).collect();
    assert_eq!(names(&fuzz.join("fuzz_targets")), targets);
    let corpora: Vec<&str> = READERS.iter().map(|(name, _)| *name).collect();
    assert_eq!(names(&fuzz.join("corpus")), corpora);
    for (name, read) in READERS {
        let corpus = fuzz.join("corpus").join(name);
        let files = names(&corpus);
        assert!(files.len() >= 3, "{name} has {} files", files.len());
        for file in files {
            read(&std::fs::read(corpus.join(file)).unwrap());
        }
    }
    // Those that are sound are read.
    let records = names(&fuzz.join("corpus/record"));
    let is_read = |name: &String| {
        let file = std::fs::read(fuzz.join("corpus/record").join(name)).unwrap();
        fuzzing::record(&file).unwrap().is_some()
    };
    assert!(records.iter().any(is_read));
    for idx in 0..fuzzing::RECIPES.len() {
        let sound = std::fs::read(fuzz.join(format!("corpus/checkpoint/sound-{idx}"))).unwrap();
        assert!(fuzzing::checkpoint(&sound).is_ok(), "{}", fuzzing::RECIPES[idx]);
    }
}
