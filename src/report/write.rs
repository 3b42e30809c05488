//! Writes reports to a folder.

use std::path::{Path, PathBuf};

use crate::experiment::file_name;
use crate::{Error, Result, files};

use super::html::{self, Run};
use super::view::Report;
use super::{markdown, plot};

/// What became of reports.
#[derive(Debug)]
pub struct Written {
    /// The files written, in order.
    pub paths: Vec<PathBuf>,
    /// The experiments without a report, and why.
    pub faults: Vec<(String, Error)>,
}

/// Writes `<id>.md`, its figures `<id>-<scale>.svg` and `.png` (and `<id>-<scale>-<figure>.…`) for every
/// experiment, and `index.html` over all of them.
///
/// An experiment without records has a line on the index and no page. An experiment whose report cannot be made is
/// left out, one whose page cannot be written stays on the index. Each file appears whole or not at all.
///
/// # Errors
/// [`Error::Io`] if the folder or the index cannot be written.
pub fn write_reports(experiments: &[Run], out_dir: &Path) -> Result<Written> {
    std::fs::create_dir_all(out_dir).map_err(Error::io("create", out_dir))?;
    let mut reports = Vec::new();
    let mut written = Written { paths: Vec::new(), faults: Vec::new() };
    for (experiment, scales) in experiments {
        match Report::new(experiment, scales, experiments) {
            Ok(report) => reports.push(report),
            Err(error) => written.faults.push((experiment.id.clone(), error)),
        }
    }
    for report in reports.iter().filter(|report| !report.sections.is_empty()) {
        if let Err(error) = write_page(report, out_dir, &mut written.paths) {
            written.faults.push((report.id.clone(), error));
        }
    }
    write(out_dir.join("index.html"), html::render(&reports).as_bytes(), &mut written.paths)?;
    Ok(written)
}

/// Writes a report's page and figures.
fn write_page(report: &Report, out_dir: &Path, paths: &mut Vec<PathBuf>) -> Result<()> {
    write(out_dir.join(format!("{}.md", file_name(&report.id))), markdown::render(report).as_bytes(), paths)?;
    for figure in report.sections.iter().flat_map(|section| &section.figures) {
        let path = |extension: &str| out_dir.join(format!("{}.{extension}", figure.stem));
        write(path("svg"), plot::svg(&figure.chart).as_bytes(), paths)?;
        write(path("png"), &plot::png(&figure.chart), paths)?;
    }
    for view in report.sections.iter().flat_map(|section| &section.films) {
        write(out_dir.join(format!("{}.png", view.stem)), &view.film.still(), paths)?;
        write(out_dir.join(format!("{}-film.png", view.stem)), &view.film.moving(), paths)?;
    }
    Ok(())
}

fn write(path: PathBuf, contents: &[u8], paths: &mut Vec<PathBuf>) -> Result<()> {
    files::write_atomically(&path, contents)?;
    paths.push(path);
    Ok(())
}
