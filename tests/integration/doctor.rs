//! The doctor on the CPU, and everything on a GPU where there is one. The oracle is PyTorch float64 throughout: the
//! golden values that are built into the program.

use crate::cli::Place;

#[test]
fn the_cpu_passes_every_check() {
    let ran = Place::new().run("doctor --quick");
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    for part in ["CPU", "kernels", "memory", "GPU", "MPI", "all 20 checks passed"] {
        assert!(ran.stdout.contains(part), "no {part} in\n{}", ran.stdout);
    }
    assert!(!ran.stdout.contains("MISSED") && !ran.stdout.contains("speed"));
}

#[test]
fn the_doctor_speaks_json() {
    let answer = Place::new().run("doctor --quick --json").json();
    assert_eq!(answer["device"], "cpu");
    let checks = answer["checks"].as_array().unwrap();
    assert_eq!(checks.len(), 20);
    let error = |evaluator: &str, precision: &str| {
        let is_it = |check: &&serde_json::Value| {
            check["model"] == "resnet20"
                && check["subject"]["evaluator"] == evaluator
                && check["precision"] == precision
        };
        checks.iter().find(is_it).unwrap()["relative_error"].as_f64().unwrap()
    };
    // Why tensor cores are of use: rounded to bf16 and propagated, still no worse than subtracted in f32.
    assert!(error("difference", "bf16") < 1.5 * error("full", "f32"));
    assert!(error("difference", "f32") < 0.1 * error("difference", "tf32").max(1e-3));
}

/// Oracle: the documentation of `precision`.
#[test]
fn rounded_losses_are_not_subtracted() {
    let place = Place::new();
    for args in [
        "train --set data=synthetic --set precision=bf16 --set evaluator=full",
        "train --set data=synthetic --set precision=tf32 --set evaluator=reuse",
        "train --set data=synthetic --set precision=tf32 --set method=rge --set queries=2",
        "train --set data=synthetic --set precision=bf16 --set method=fo",
        "bench cge --precision bf16 --evaluator full",
    ] {
        let ran = place.run(args);
        assert_eq!(ran.code, 1, "{args}");
        let expected = "Propagated differences of single coordinates stand that";
        assert!(ran.stderr.contains(expected), "{args}: {}", ran.stderr);
    }
    assert!(place.names("").is_empty());
}

#[cfg(feature = "cuda")]
mod on_a_gpu {
    use deepzero::{device, doctor};

    use super::*;

    /// Every evaluator, and back-propagation, in every precision.
    #[test]
    fn the_gpu_passes_every_check() {
        let Ok((gpu, name)) = device::open("cuda") else {
            eprintln!("skipped: no GPU");
            return;
        };
        let system = doctor::System::of(&gpu).unwrap();
        let memory = device::default_memory(&gpu).unwrap();
        let checks = doctor::check(&gpu, memory, |precision| system.can(precision), &mut |_| ()).unwrap();
        for check in &checks {
            assert!(check.is_passed(), "{name}: {check:?}");
        }
        // Little memory means smaller stacks, and the same bits.
        let little = doctor::check(&gpu, 1 << 20, |precision| system.can(precision), &mut |_| ()).unwrap();
        assert_eq!(little, checks);
    }

    /// Training, to the end, by every method.
    #[test]
    fn trials_run_on_the_gpu() {
        if device::open("cuda").is_err() {
            eprintln!("skipped: no GPU");
            return;
        }
        let place = Place::new();
        for method in [
            "cge",
            "cge --set precision=bf16",
            "cge --set evaluator=reuse",
            "cge --set evaluator=full",
            "rge --set queries=4",
            "cocd --set queries=40",
            "fo",
        ] {
            let args = format!(
                "train --device cuda --set data=synthetic --set model=resnet --set depth=8 --set width=4 --set \
                 n-train=64 --set n-test=64 --set batch-size=64 --set epochs=2 --set warmup-epochs=0 --set \
                 grasp-images-per-class=2 --set sparsity=0.9 --set method={method}"
            );
            let ran = place.run(&args);
            assert_eq!(ran.code, 0, "{method}: {}", ran.stderr);
        }
    }
}
