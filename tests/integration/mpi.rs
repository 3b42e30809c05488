//! Jobs of several processes. The oracle is the same command in one process: the same bits.

use std::process::{Command, Stdio};

use assert_cmd::Command as Timed;
use deepzero::metric::{CORES, EXCHANGE_BYTES, QUERIES, SPEED_UP, STEPS_PER_HOUR};
use deepzero::results::{TrialRecord, compare_ignoring_time};

use crate::cli::{Place, TIME_LIMIT, experiment};
use crate::flow;
use crate::resume::{Running, checkpoint_in, in_time, signal};

/// A small CNN, few images, several epochs.
const TINY: &str = "depth = 2\nwidth = 4\naugment = true\nn-train = 160";
/// What methods read that follow gradients.
const OF_DESCENT: &str = "layer-ratios = \"zo-grasp\"\ngrasp-queries = 8\ngrasp-images-per-class = 2\n\
                          redraw-every = 3\nwarmup-epochs = 1";

fn place(settings: &str) -> Place {
    let of_descent = if settings.contains("pattern-search") { "" } else { OF_DESCENT };
    let all = format!("{TINY}\n{of_descent}\n{settings}");
    Place::with(&[("tiny", experiment("tiny", "batch-size", "[32]", &all))])
}

/// Tests may run as root.
const AS_ROOT: [(&str, &str); 2] = [("OMPI_ALLOW_RUN_AS_ROOT", "1"), ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")];

/// `mpirun` with parts of a job: ranks, variables, arguments.
fn job(place: &Place, parts: &[(usize, &[&str], &str)]) -> Command {
    let mut command = Command::new("mpirun");
    // On fewer cores than ranks, too.
    command.envs(AS_ROOT);
    command.args(["--oversubscribe", "--mca", "mpi_yield_when_idle", "1"]);
    for (idx, (ranks, variables, args)) in parts.iter().enumerate() {
        let alone = place.command(args);
        if idx > 0 {
            command.arg(":");
        }
        command.arg("-n").arg(ranks.to_string());
        if !variables.is_empty() {
            command.arg("env").args(*variables);
        }
        command.arg(alone.get_program()).args(alone.get_args());
        for (name, value) in alone.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
    }
    command
}

/// Exit code and stderr of a job that ends by itself.
fn run(place: &Place, parts: &[(usize, &[&str], &str)]) -> (Option<i32>, String) {
    let output = Timed::from_std(job(place, parts)).timeout(TIME_LIMIT).output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn reproduce(place: &Place, ranks: usize) -> Vec<TrialRecord> {
    let (code, stderr) = run(place, &[(ranks, &[], "reproduce tiny --scale smoke --threads 1")]);
    assert_eq!(code, Some(0), "{stderr}");
    // One rank speaks.
    assert_eq!(stderr.matches("trials, 1 to run").count(), 1, "{stderr}");
    place.records("tiny")
}

/// Every method, with sparsity, for 1, 2 and 3 ranks.
#[test]
fn ranks_do_not_change_bits() {
    for settings in [
        "method = \"cge\"\nsparsity = 0.5\nepochs = 3",
        "method = \"cge\"\nsparsity = 0.5\nepochs = 2\nevaluator = \"reuse\"",
        "method = \"rge\"\nqueries = 7\nsparsity = 0.5\nepochs = 2",
        "method = \"cocd\"\nqueries = 30\nsparsity = 0.0\ndecay = 0.9\nepochs = 2",
        "method = \"pattern-search\"\nqueries = 20\nepochs = 2",
        // Run by the first rank alone.
        "method = \"fo\"\nsparsity = 0.0\nepochs = 2",
    ] {
        let alone = place(settings);
        alone.run("reproduce tiny --scale smoke --threads 1").ok();
        let [expected] = &alone.records("tiny")[..] else { panic!("one record") };
        for ranks in [1, 2, 3] {
            let records = reproduce(&place(settings), ranks);
            let [found] = &records[..] else { panic!("one record") };
            compare_ignoring_time(expected, found).unwrap();
        }
    }
}

/// Weights too, through the verb `train`.
#[test]
fn trained_weights_are_the_same() {
    let place = Place::new();
    let args = |out: &str| {
        format!(
            "train --set data=synthetic --set model=cnn --set depth=1 --set width=4 --set n-train=64 --set n-test=32 \
             --set batch-size=32 --set epochs=2 --set warmup-epochs=0 --set sparsity=0 --threads 1 --out {}",
            place.path(out).display()
        )
    };
    place.run(&args("one.safetensors")).ok();
    let (code, stderr) = run(&place, &[(2, &[], &args("two.safetensors"))]);
    assert_eq!(code, Some(0), "{stderr}");
    let bytes = |name: &str| std::fs::read(place.path(name)).unwrap();
    assert_eq!(bytes("one.safetensors"), bytes("two.safetensors"));
}

/// Correctors, whose ranks make the same flows and evaluate rollouts of the solver.
#[test]
fn trained_correctors_are_the_same() {
    for method in ["cge sparsity=0.5 layer-ratios=uniform", "cocd queries=5 decay=0.9 sparsity=0"] {
        let place = Place::new();
        let settings = format!("{} evaluator=full method={method}", flow::TINY);
        let args = |ranks: usize| {
            let folder = place.path(&format!("{ranks}")).display().to_string();
            let set = settings.split_whitespace().map(|pair| format!("--set {pair} ")).collect::<String>();
            format!("train {set} --threads 1 --data-dir {folder} --out {folder}.safetensors")
        };
        place.run(&args(0)).ok();
        let weights = |ranks: usize| std::fs::read(place.path(&format!("{ranks}.safetensors"))).unwrap();
        for ranks in [2, 3] {
            let (code, stderr) = run(&place, &[(ranks, &[], &args(ranks))]);
            assert_eq!(code, Some(0), "{stderr}");
            assert!(weights(0) == weights(ranks), "{method}, {ranks} ranks");
        }
    }
}

/// Processes that a process started.
fn children(parent: u32) -> Vec<u32> {
    let stat = |pid: u32| std::fs::read_to_string(format!("/proc/{pid}/stat")).ok();
    let processes = std::fs::read_dir("/proc").unwrap();
    let pids = processes.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse::<u32>().ok());
    let is_child = |pid: &u32| {
        let stat = stat(*pid)?;
        // After the name in parentheses: state, parent.
        let parent_of: u32 = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
        (parent_of == parent).then_some(())
    };
    let mut found: Vec<u32> = pids.filter(|pid| is_child(pid).is_some()).collect();
    found.sort_unstable();
    found
}

const LONG: &str = "method = \"cge\"\nsparsity = 0.5\nepochs = 8";

/// Starts a job, and sends a signal to its last rank when the job has brought the checkpoint to `n_epochs`; exit code
/// and stderr, or none if the job came to its end before that, or the one before it got that far already.
fn signalled(place: &Place, ranks: usize, n_epochs: usize, name: i32) -> Option<(Option<i32>, String)> {
    let folder = place.path("results/tiny/smoke");
    if checkpoint_in(&folder).is_some_and(|(_, epoch)| epoch >= n_epochs) {
        return None;
    }
    let mut command = job(place, &[(ranks, &[], "reproduce tiny --scale smoke --threads 1")]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut running = Running::new(child);
    if running.reaches(&folder, n_epochs) {
        let processes = children(running.pid());
        // Some may have ended, or end before the signal comes.
        if processes.len() == ranks {
            signal(processes[ranks - 1], name);
        }
    }
    let (code, stderr) = running.end();
    if code == Some(0) || !place.records("tiny").is_empty() {
        return None;
    }
    Some((code, stderr))
}

/// A rank that dies takes the job along; another number of ranks goes on from the checkpoint; then a polite kill of one
/// rank stops all of them in the same step, and one process goes on to the end: the numbers of a run that nobody
/// touched.
#[test]
fn a_job_that_lost_a_rank_goes_on() {
    let alone = place(LONG);
    alone.run("reproduce tiny --scale smoke --threads 1").ok();
    let [expected] = &alone.records("tiny")[..] else { panic!("one record") };

    in_time(|| {
        let place = place(LONG);
        let (code, stderr) = signalled(&place, 2, 1, libc::SIGKILL)?;
        assert_ne!(code, Some(0), "{stderr}");
        assert!(stderr.contains("Killed"), "{stderr}");

        let (code, stderr) = signalled(&place, 3, 3, libc::SIGTERM)?;
        assert_eq!(code, Some(130), "{stderr}");
        assert!(stderr.contains("going on after epoch"), "{stderr}");

        let ran = place.run("reproduce tiny --scale smoke --threads 1");
        assert!(ran.stderr.contains("going on after epoch"), "{}", ran.stderr);
        let [found] = &place.records("tiny")[..] else { panic!("one record") };
        compare_ignoring_time(expected, found).unwrap();
        Some(())
    });
}

/// Jobs are timed and modeled with every setting that the trial reads. Oracle: queries of a step are the base and one
/// probe per active coordinate; of CoCD those asked for; a model runs none.
#[test]
fn jobs_are_timed_and_modeled() {
    let experiment = |id: &str, task: &str, more: &str| {
        let small = "model = \"cnn\"\ndepth = 1\nwidth = 2\nsparsity = 0.5\nlayer-ratios = \"uniform\"";
        let own = format!("task = \"{task}\"\n{small}\nepochs = 1\nbatch-size = 10\n{more}");
        (id.to_owned(), experiment(id, "workers", "[1, 2]", &own))
    };
    let files = [
        experiment("timed", "workers", "method = \"cge\"\nevaluator = \"reuse\""),
        experiment("stale", "workers", "method = \"cocd\"\nqueries = 7\ndecay = 0.5"),
        experiment("modeled", "workers-model", "method = \"rge\"\nqueries = 9\ndirections = \"sphere\""),
    ];
    let place = Place::with(&files.each_ref().map(|(id, text)| (id.as_str(), text.clone())));
    place.run_with(&AS_ROOT, "reproduce timed stale modeled --scale smoke").ok();
    // 27·2 + 10·2 weights, half of them active, and 3 · 2 + 10 other parameters.
    for (id, queries) in [("timed", 1 + (54 + 20) / 2 + 16), ("stale", 8), ("modeled", 0)] {
        let records = place.records(id);
        assert_eq!(records.len(), 2, "{id}");
        for (record, workers) in records.iter().zip([1, 2]) {
            let [epoch] = &record.epochs[..] else { panic!("{id}: {}", record.error) };
            assert_eq!(epoch.get_count(&QUERIES), Some(queries), "{id}");
            assert!(epoch.get(&STEPS_PER_HOUR) > 0.0 && epoch.get(&SPEED_UP) > 0.0, "{id}: {epoch:?}");
            // A model has no machine; a job of either size has the same one here.
            let cores = records[0].epochs[0].get(&CORES);
            assert_eq!(
                (epoch.get(&CORES) >= 1.0, epoch.get(&CORES).to_bits()),
                (id != "modeled", cores.to_bits())
            );
            assert_eq!(epoch.get(&EXCHANGE_BYTES) > 0.0, workers > 1, "{id}: {epoch:?}");
        }
    }
}

/// Ranks that are not of one mind are refused at once.
#[test]
fn strangers_are_refused() {
    let place = place("method = \"cge\"\nsparsity = 0.0\nepochs = 1");
    let args = "reproduce tiny --scale smoke --threads 1";
    let (code, stderr) = run(&place, &[(1, &[], args), (1, &["DEEPZERO_KERNELS=portable"], args)]);
    assert_ne!(code, Some(0));
    assert!(stderr.contains("rank 1 has another set of kernels than rank 0"), "{stderr}");
    let (code, stderr) = run(&place, &[(1, &[], args), (1, &[], &format!("{args} --set width=8"))]);
    assert_ne!(code, Some(0));
    assert!(stderr.contains("does not have the trial that rank 0 runs"), "{stderr}");
    assert!(place.records("tiny").is_empty());
}
