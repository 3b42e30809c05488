//! Writes reports to a folder.

use std::path::{Path, PathBuf};

use crate::{Error, Result, files};

use super::html::{self, Run};
use super::view::Report;
use super::{markdown, plot};

/// Writes `<id>.md`, its figures `<id>-<scale>.svg` and `.png` (and `<id>-<scale>-<figure>.…`) for every
/// experiment, and `index.html` over all of them. Returns the paths written, in that order.
///
/// An experiment without records has a line on the index and no page. Each file appears whole or not
/// at all.
///
/// # Errors
/// [`Error::Setting`] if a figure's y axis names no known metric, [`Error::Io`] if a file cannot be
/// written.
pub fn write_reports(experiments: &[Run], out_dir: &Path) -> Result<Vec<PathBuf>> {
    std::fs::create_dir_all(out_dir).map_err(Error::io("create", out_dir))?;
    let mut reports = Vec::new();
    for (experiment, scales) in experiments {
        reports.push(Report::new(experiment, scales)?);
    }
    let mut written = Vec::new();
    let mut write = |name: String, contents: &[u8]| -> Result<()> {
        let path = out_dir.join(name);
        files::write_atomically(&path, contents)?;
        written.push(path);
        Ok(())
    };
    for report in reports.iter().filter(|report| !report.sections.is_empty()) {
        write(format!("{}.md", report.id), markdown::render(report).as_bytes())?;
        for figure in report.sections.iter().flat_map(|section| &section.figures) {
            write(format!("{}.svg", figure.stem), plot::svg(&figure.chart).as_bytes())?;
            write(format!("{}.png", figure.stem), &plot::png(&figure.chart))?;
        }
    }
    write("index.html".into(), html::render(&reports).as_bytes())?;
    Ok(written)
}
