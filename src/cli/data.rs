//! `data`: fetch, describe, verify.

use anyhow::Result;
use clap::{Args, Subcommand};
use deepzero::data::{self, Info};
use serde_json::json;

use super::progress::DownloadProgress;
use super::{Common, Exit, say};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  deepzero data fetch --data-dir data     download CIFAR-10 from the hub
  deepzero data info                      what would be used, with checksums
  deepzero data verify                    decode every image")]
pub(super) struct DataArgs {
    #[command(subcommand)]
    verb: DataVerb,
}

#[derive(Debug, Subcommand)]
enum DataVerb {
    /// Download CIFAR-10 unless it is there.
    Fetch,
    /// Say where CIFAR-10 is, with sizes, checksums and class counts.
    Info,
    /// Decode every image and check every row.
    Verify,
}

pub(super) fn run(common: &Common, args: &DataArgs) -> Result<Exit> {
    let location = common.location();
    let info = match args.verb {
        DataVerb::Fetch => data::fetch(&location, &DownloadProgress::default())?,
        DataVerb::Info => data::info(&location)?,
        DataVerb::Verify => data::verify(&location)?,
    };
    if common.json {
        say!("{}", serde_json::to_string_pretty(&as_json(&info))?)?;
    } else {
        say!("{info}")?;
    }
    Ok(if info.is_sound() { Exit::Ok } else { Exit::Error })
}

fn as_json(info: &Info) -> serde_json::Value {
    let files: Vec<_> = info
        .files
        .iter()
        .map(|file| {
            json!({
                "path": file.path.to_string_lossy(), "bytes": file.size_bytes, "sha256": file.sha256,
                "canonical": file.canonical, "recorded": file.recorded,
            })
        })
        .collect();
    let split = |split: &data::SplitInfo| json!({ "rows": split.n_rows, "classes": split.class_counts, "sha256": split.checksum });
    json!({
        "root": info.root.to_string_lossy(), "format": info.format.to_string(), "files": files,
        "train": split(&info.train), "test": split(&info.test), "problems": info.problems,
    })
}
