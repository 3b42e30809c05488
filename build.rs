//! Tells the program which commit it was built from, and gives it the files of `experiments`.
//!
//! The script runs again when the sources change, which rebuilds the crate anyway, and when HEAD
//! moves; edits elsewhere in the tree do not touch it.

use std::path::Path;
use std::process::Command;

/// What the program is made of; a change in one of these makes a build dirty.
const SOURCES: [&str; 5] = ["src", "experiments", "build.rs", "Cargo.toml", "Cargo.lock"];

fn main() {
    for path in SOURCES {
        println!("cargo:rerun-if-changed={path}");
    }
    let branch = git(&["symbolic-ref", "-q", "HEAD"]).unwrap_or_default();
    for name in ["HEAD", "logs/HEAD", &branch] {
        let path = git(&["rev-parse", "--git-path", name]);
        // A path that does not exist would make cargo run this script on every build.
        if let Some(path) = path.filter(|path| Path::new(path).exists()) {
            println!("cargo:rerun-if-changed={path}");
        }
    }
    if let Err(error) = embed_experiments() {
        println!("cargo:error=cannot list the folder experiments: {error}");
    }
    let target = std::env::var("CARGO_CFG_TARGET_OS");
    if std::env::var_os("CARGO_FEATURE_CUDA").is_some() && target.is_ok_and(|target| target == "linux") {
        // CUDA's libraries may stand beside the program, in a folder of their own.
        println!("cargo:rustc-link-arg-bins=-Wl,-rpath,$ORIGIN/lib");
    }
    println!("cargo:rustc-env=DEEPZERO_COMMIT={}", commit().unwrap_or_else(|| "unknown".into()));
}

/// Writes a Rust expression: the (id, text) of every experiment file, sorted by id.
fn embed_experiments() -> std::io::Result<()> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir("experiments")? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            paths.push(path.canonicalize()?);
        }
    }
    paths.sort();
    let entries = paths.iter().map(|path| {
        let id = path.file_stem().unwrap_or_default().to_string_lossy();
        format!("({id:?}, include_str!({:?})),", path.display().to_string())
    });
    let list = format!("&[{}]", entries.collect::<String>());
    let folder = std::env::var_os("OUT_DIR").ok_or(std::io::ErrorKind::NotFound)?;
    std::fs::write(Path::new(&folder).join("experiments.rs"), list)
}

/// The commit, with `-dirty` when sources differ from it; `None` outside git, or inside a
/// repository that merely contains this package's folder.
fn commit() -> Option<String> {
    let top = Path::new(&git(&["rev-parse", "--show-toplevel"])?).canonicalize().ok()?;
    let here = Path::new(&std::env::var_os("CARGO_MANIFEST_DIR")?).canonicalize().ok()?;
    if top != here {
        return None;
    }
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    let status = [&["status", "--porcelain", "--"], SOURCES.as_slice()].concat();
    let dirty = if git(&status)?.is_empty() { "" } else { "-dirty" };
    Some(format!("{commit}{dirty}"))
}

/// Output of a git command, or `None` when git is missing or fails.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git")
        .args(arguments)
        .env_remove("GIT_DIR")
        .env_remove("GIT_INDEX_FILE")
        .env_remove("GIT_WORK_TREE")
        // Reading the status must not write the index, which others may be using.
        .env("GIT_OPTIONAL_LOCKS", "0")
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
