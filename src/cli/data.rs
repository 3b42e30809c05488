//! `data`: fetch, describe, verify.

use anyhow::Result;
use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand};
use deepzero::data::wake::{self, Simulation, Wake};
use deepzero::data::{self, Info};
use deepzero::experiment::settings;
use serde_json::json;

use super::progress::DownloadProgress;
use super::{Common, Exit, key_value, say};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  deepzero data fetch --data-dir data     download CIFAR-10 from the hub
  deepzero data fetch imagenette --data-dir data
                                          download ten classes of ImageNet, brought to 64x64 pixels
  deepzero data info                      what would be used, with checksums
  deepzero data verify                    decode every image
  deepzero data flow --set resolution=16  the simulated flows of these settings")]
pub(super) struct DataArgs {
    #[command(subcommand)]
    verb: DataVerb,
}

#[derive(Debug, Subcommand)]
enum DataVerb {
    /// Download a data set unless it is there.
    Fetch(Which),
    /// Say where a data set is, with sizes, checksums and class counts.
    Info(Which),
    /// Decode every image and check every row.
    Verify(Which),
    /// Compute simulated flows unless they are there; say where they are, with their checksum.
    Flow {
        /// Change a setting of the flows; repeatable.
        #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_value)]
        overrides: Vec<(String, String)>,
    },
}

#[derive(Debug, Args)]
struct Which {
    /// The data set.
    #[arg(default_value = "cifar10", value_name = "NAME",
        value_parser = PossibleValuesParser::new(data::COLLECTIONS.iter().map(|known| known.source.name())))]
    name: String,
}

pub(super) fn run(common: &Common, args: &DataArgs) -> Result<Exit> {
    let location = common.location();
    let info = match &args.verb {
        DataVerb::Fetch(Which { name }) => {
            data::fetch(data::collection(name)?, &location, &DownloadProgress::default())?
        }
        DataVerb::Info(Which { name }) => data::info(data::collection(name)?, &location)?,
        DataVerb::Verify(Which { name }) => data::verify(data::collection(name)?, &location)?,
        DataVerb::Flow { overrides } => return flow(common, overrides),
    };
    if common.json {
        say!("{}", serde_json::to_string_pretty(&as_json(&info))?)?;
    } else {
        say!("{info}")?;
    }
    Ok(if info.is_sound() { Exit::Ok } else { Exit::Error })
}

/// The flows of these settings.
fn flow(common: &Common, overrides: &[(String, String)]) -> Result<Exit> {
    let pairs = overrides.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    let settings = settings::from_pairs([("task", "solver-alone")].into_iter().chain(pairs))?;
    let (config, location): (wake::Config, _) = (settings.read()?, common.location());
    let flows = Wake::load(&config, &location, &DownloadProgress::default())?;
    let path = wake::path(&config, &location);
    let frames = flows.train.first().map_or(0, |simulation| simulation.frames.len());
    let re =
        |simulations: &[Simulation]| simulations.iter().map(Simulation::published_re).collect::<Vec<_>>();
    let (train, test) = (re(&flows.train), re(&flows.test));
    if common.json {
        let value = json!({
            "path": path.to_string_lossy(), "sha256": flows.checksum, "resolution": config.resolution,
            "frames": frames, "train": train, "test": test,
        });
        say!("{}", serde_json::to_string_pretty(&value)?)?;
    } else {
        let list = |res: &[f64]| res.iter().map(|re| format!("{re:.1}")).collect::<Vec<_>>().join(", ");
        say!("{}", path.display())?;
        say!("  {frames} frames each of {} x {} cells", 2 * config.resolution, config.resolution)?;
        say!("  Reynolds numbers to train on: {}", list(&train))?;
        say!("  Reynolds numbers to test on: {}", list(&test))?;
        say!("  sha256 {}", flows.checksum)?;
    }
    Ok(Exit::Ok)
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
