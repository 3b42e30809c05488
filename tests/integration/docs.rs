//! The documentation's own commands, experiment files and snippets.

use std::path::{Path, PathBuf};
use std::process::Command;

use deepzero::experiment::Experiment;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The pages that a reader follows.
fn pages() -> Vec<PathBuf> {
    let mut pages: Vec<PathBuf> =
        ["README.md", "results/README.md", "experiments/README.md", "data/README.md"]
            .map(|p| root().join(p))
            .into();
    let docs = std::fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    pages.extend(docs.filter(|path| path.extension().is_some_and(|extension| extension == "md")));
    pages.sort();
    pages
}

/// The blocks of a language, with the page and line where each begins.
fn blocks(language: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for page in pages() {
        let text = std::fs::read_to_string(&page).unwrap();
        let mut block: Option<(String, String)> = None;
        for (idx, line) in text.lines().enumerate() {
            match &mut block {
                Some(_) if line.trim() == "```" => found.extend(block.take()),
                Some((_, text)) => text.push_str(&format!("{line}\n")),
                None if line.trim() == format!("```{language}") => {
                    let place = page.strip_prefix(root()).unwrap().display();
                    block = Some((format!("{place}:{}", idx + 1), String::new()));
                }
                None => {}
            }
        }
    }
    found
}

/// The arguments of every `deepzero` command in the console blocks.
fn commands() -> Vec<(String, Vec<String>)> {
    let mut commands = Vec::new();
    for (place, block) in blocks("console") {
        for line in block.replace("\\\n", " ").lines() {
            let Some(line) = line.trim().strip_prefix("$ ") else { continue };
            let plain = |line: &str| line.split_whitespace().map(str::to_owned).collect();
            let words: Vec<String> = shell_words::split(line).unwrap_or_else(|_| plain(line));
            let words: Vec<&str> = words
                .iter()
                .map(String::as_str)
                .take_while(|word| !["|", ">", "&", "&&", ";", "#"].contains(word))
                .collect();
            let program = |word: &&str| word.rsplit('/').next() == Some("deepzero");
            let start = match words.iter().position(program) {
                // An argument of another program.
                Some(_) if words[0].starts_with("scripts/") => continue,
                Some(at) => at + 1,
                None if words.starts_with(&["cargo", "run"]) => {
                    words.iter().position(|word| *word == "--").map_or(words.len(), |at| at + 1)
                }
                None => continue,
            };
            let has_placeholder = words.iter().any(|word| word.contains(['…', '<', '$']));
            if start < words.len() && !has_placeholder {
                let words = words[start..].iter().map(|word| word.trim_matches(['\'', '"']).to_owned());
                commands.push((place.clone(), words.collect()));
            }
        }
    }
    commands
}

/// Oracle: the program's own parser. `--help` behind them has the arguments parsed and nothing done, but does not look
/// at values; `--json` twice is refused after the values have been looked at, and before anything is done.
#[test]
fn the_commands_in_the_documentation_parse() {
    let commands = commands();
    assert!(commands.len() > 10, "{}", commands.len());
    for (place, args) in commands {
        let mut command = Command::new(env!("CARGO_BIN_EXE_deepzero"));
        let output = command.args(&args).args(["--json", "--json", "--json"]).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        let is_parsed = stderr.contains("'--json' cannot be used multiple times");
        let is_help = args.iter().any(|arg| ["--help", "-h", "--version"].contains(&arg.as_str()));
        assert!(is_parsed || is_help, "{place}: deepzero {}: {stderr}", args.join(" "));
    }
}

/// Oracle: the parser of experiment files, for blocks that are whole ones; others are at least TOML.
#[test]
fn the_experiment_files_in_the_documentation_parse() {
    for (place, block) in blocks("toml") {
        let table: Result<toml::Table, _> = toml::from_str(&block);
        let table = table.unwrap_or_else(|error| panic!("{place}: {error}"));
        if table.contains_key("id") && table.contains_key("figure") && table.contains_key("scale") {
            Experiment::parse(&place, &block).unwrap();
        }
    }
}

/// Oracle: the snippets run as they stand, in the repository, if Python and what a snippet imports are here.
#[test]
fn the_python_and_sql_of_the_documentation_run() {
    let python = |code: &str| {
        Command::new("python3")
            .args(["-c", code])
            .current_dir(root())
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .output()
    };
    let mut snippets = blocks("python");
    for (place, sql) in blocks("sql") {
        snippets.push((place, format!("import duckdb\nprint(duckdb.sql(\"\"\"{sql}\"\"\"))")));
    }
    assert!(snippets.len() >= 3, "{}", snippets.len());
    for (place, snippet) in snippets {
        let is_import = |line: &&str| line.starts_with("import ") || line.starts_with("from ");
        let imports: Vec<&str> = snippet.lines().filter(is_import).collect();
        if !python(&imports.join("\n")).is_ok_and(|output| output.status.success()) {
            println!("{place}: skipped, since Python or what it imports is not here: {}", imports.join("; "));
            continue;
        }
        let output = python(&snippet).unwrap();
        assert!(output.status.success(), "{place}: {}", String::from_utf8_lossy(&output.stderr));
        println!("{place}: runs");
    }
}

/// The pages and the numbers in README and docs/REPRODUCING.md are what the committed results give now.
#[test]
fn pages_are_those_of_the_results() {
    let folder = tempfile::tempdir().unwrap();
    let texts = ["README.md", "docs/REPRODUCING.md"];
    std::fs::create_dir(folder.path().join("docs")).unwrap();
    for text in texts {
        std::fs::copy(root().join(text), folder.path().join(text)).unwrap();
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_deepzero"));
    command.current_dir(root()).arg("report").arg("--reports").arg(folder.path().join("reports"));
    for text in texts {
        command.arg("--fill").arg(folder.path().join(text));
    }
    let ran = command.output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    assert!(ran.stderr.is_empty(), "{}", String::from_utf8_lossy(&ran.stderr));
    let same = |made: &Path, committed: &Path| {
        let [made, old] = [made, committed].map(|path| std::fs::read_to_string(path).unwrap_or_default());
        assert!(
            made == old,
            "{} is out of date: `deepzero report --fill {}`",
            committed.display(),
            texts.join(" --fill ")
        );
    };
    for text in texts {
        same(&folder.path().join(text), &root().join(text));
    }
    let mut n_pages = 0;
    for entry in std::fs::read_dir(folder.path().join("reports")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "md") {
            same(&path, &root().join("reports").join(path.file_name().unwrap()));
            n_pages += 1;
        }
    }
    assert!(n_pages > 20, "{n_pages} pages");
}
