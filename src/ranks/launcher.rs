//! What launchers of jobs tell their processes: Open MPI's, those that speak PMI, Slurm.

use super::Ranks;

/// Processes of the job that a launcher started this one in, as its environment tells: Open MPI's, one that speaks PMI,
/// or a step of Slurm. One if there is none.
pub(super) fn job_size(variable: impl Fn(&str) -> Option<String>) -> usize {
    let number = |name: &str| variable(name)?.parse::<usize>().ok();
    let slurm = || number("SLURM_STEP_ID").and(number("SLURM_STEP_NUM_TASKS"));
    number("OMPI_COMM_WORLD_SIZE").or_else(|| number("PMI_SIZE")).or_else(slurm).unwrap_or(1)
}

/// Variables of a job's launcher begin so: who starts another job takes them away.
const OF_LAUNCHERS: [&str; 6] = ["OMPI_COMM", "OMPI_MCA_ess", "OMPI_MCA_orte", "PMIX_", "PMI_", "ORTE_"];

/// Whether an environment variable tells a process which job it is part of.
#[must_use]
pub fn is_of_job(variable: &str) -> bool {
    OF_LAUNCHERS.iter().any(|prefix| variable.starts_with(prefix))
}

/// Environment variables in which launchers tell a process its number among those on its machine, and how many these
/// are: Open MPI, Slurm.
const LOCAL: [[&str; 2]; 2] =
    [["OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"], ["SLURM_LOCALID", "SLURM_TASKS_PER_NODE"]];

/// A process's number among those of its job on this machine, and how many these are.
pub fn local_rank() -> Option<(usize, usize)> {
    // Slurm's list of machines begins with its first, such as `8(x4)`.
    let number =
        |name: &str| std::env::var(name).ok()?.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok();
    LOCAL.iter().find_map(|[rank, size]| Some((number(rank)?, number(size)?)))
}

/// Threads of a rank if the user names none: its part of the machine's cores, unless the launcher has given it its own
/// already.
pub fn threads_of_rank(ranks: &Ranks) -> Option<usize> {
    let (_, n_local) = local_rank().filter(|_| !ranks.is_alone())?;
    let available = std::thread::available_parallelism().ok()?.get();
    (available >= n_cores()? && n_local > 1).then(|| (available / n_local).max(1))
}

/// Cores of this machine over the processes of the job on it; NaN where that is unknown.
pub(crate) fn part_of_cores() -> f64 {
    let n_local = local_rank().map_or(1, |(_, n_local)| n_local);
    n_cores().map_or(f64::NAN, |n| n as f64 / n_local as f64)
}

/// Cores of this machine, whatever part of them is this process's.
fn n_cores() -> Option<usize> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    Some(text.lines().filter(|line| line.starts_with("processor")).count()).filter(|&n| n > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Oracle: what launchers set, by their documentation.
    #[test]
    fn launchers_tell_the_size() {
        let size = |pairs: &'static [(&str, &str)]| {
            job_size(|name| pairs.iter().find(|pair| pair.0 == name).map(|pair| pair.1.to_owned()))
        };
        assert_eq!(size(&[]), 1);
        assert_eq!(size(&[("OMPI_COMM_WORLD_SIZE", "3")]), 3);
        assert_eq!(size(&[("PMI_SIZE", "2")]), 2);
        assert_eq!(size(&[("SLURM_STEP_ID", "0"), ("SLURM_STEP_NUM_TASKS", "8")]), 8);
        // A batch script itself is no step.
        assert_eq!(size(&[("SLURM_NTASKS", "8")]), 1);
    }
}
