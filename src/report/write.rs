//! Writes reports to a folder.

use std::path::{Path, PathBuf};

use rayon::prelude::*;

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
    let shown: Vec<&Report> = reports.iter().filter(|report| !report.sections.is_empty()).collect();
    let pages: Vec<_> = shown.par_iter().map(|report| write_page(report, out_dir)).collect();
    for (report, page) in shown.iter().zip(pages) {
        match page {
            Ok(paths) => written.paths.extend(paths),
            Err(error) => written.faults.push((report.id.clone(), error)),
        }
    }
    written.paths.push(write(out_dir.join("index.html"), html::render(&reports).as_bytes())?);
    Ok(written)
}

/// Writes the page and the figures of one of these experiments, without those of others and the index, as
/// [`write_reports`] does: for whoever goes on with other trials before that. Returns the files written, in order; none if
/// there are no records.
///
/// # Errors
/// If its report cannot be made, or a file cannot be written.
pub fn write_page_of(
    (experiment, scales): &Run,
    experiments: &[Run],
    out_dir: &Path,
) -> Result<Vec<PathBuf>> {
    let report = Report::new(experiment, scales, experiments)?;
    if report.sections.is_empty() {
        return Ok(Vec::new());
    }
    std::fs::create_dir_all(out_dir).map_err(Error::io("create", out_dir))?;
    write_page(&report, out_dir)
}

/// Writes a report's page and figures.
fn write_page(report: &Report, out_dir: &Path) -> Result<Vec<PathBuf>> {
    let page = out_dir.join(format!("{}.md", file_name(&report.id)));
    let mut paths = vec![write(page, markdown::render(report).as_bytes())?];
    let figures: Vec<_> = report.sections.iter().flat_map(|section| &section.figures).collect();
    let drawn = figures.par_iter().map(|figure| {
        let path = |extension: &str| out_dir.join(format!("{}.{extension}", figure.stem));
        Ok([
            write(path("svg"), plot::svg(&figure.chart).as_bytes())?,
            write(path("png"), &plot::png(&figure.chart))?,
        ])
    });
    paths.extend(drawn.collect::<Result<Vec<_>>>()?.into_iter().flatten());
    for view in report.sections.iter().flat_map(|section| &section.films) {
        paths.push(write(out_dir.join(format!("{}.png", view.stem)), &view.film.still())?);
        paths.push(write(out_dir.join(format!("{}-film.png", view.stem)), &view.film.moving())?);
    }
    Ok(paths)
}

fn write(path: PathBuf, contents: &[u8]) -> Result<PathBuf> {
    files::write_atomically(&path, contents)?;
    Ok(path)
}
