//! Black boxes as a user meets them: both protocols, workers that do what they should not, runs that are killed, `ask` and
//! `tell`.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::cli::{Place, Ran, TIME_LIMIT};
use super::resume::{Running, signal};

/// Whether what the workers here are written in is there.
fn has_python() -> bool {
    let found = Command::new("python3").arg("--version").output().is_ok_and(|output| output.status.success());
    if !found {
        eprintln!("skipped: no python3");
    }
    found
}

fn example(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name).to_str().unwrap().to_owned()
}

/// A worker that notes every evaluation in the file `seen`, and at one of them (`at`) does something (`mode`).
const WORKER: &str = r#"
import json, math, os, subprocess, sys, time
mode, at, pause = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
def say(answer): print(json.dumps(answer), flush=True)
def f(x): return sum((i + 1) * (xi - 0.25) ** 2 for i, xi in enumerate(x))
if mode == "never-ready": say({"type": "hello"}); time.sleep(1000)
if mode == "ends": print("no licence", file=sys.stderr); sys.exit(3)
for line in sys.stdin:
    message = json.loads(line)
    if message["type"] == "init":
        assert message["protocol"] == 1 and message["dim"] == 3, message
        say({"type": "ready", "max_batch": 4})
        continue
    if message["type"] == "stop":
        open("stopped", "a").write("x")
        break
    n, id = len(message["x"]), message["id"]
    with open("seen", "a") as seen:
        for i in range(n): seen.write(f"{id + i} {message['sample']}\n")
    time.sleep(pause)
    values, answer_id = [f(x) for x in message["x"]], id
    if id <= at < id + n:
        if mode == "killed": os.kill(os.getpid(), 9)
        if mode == "falls": raise RuntimeError("it fell over")
        if mode == "hangs":
            child = subprocess.Popen(["sleep", "1000"])
            open("child", "w").write(str(child.pid))
            time.sleep(1000)
        if mode == "garbage": print("\x00{]", flush=True); continue
        if mode == "noise": print("loading ...", flush=True)
        if mode == "bytes": sys.stdout.buffer.write(b"\xff\xfe\n"); sys.stdout.flush(); continue
        if mode == "closes": os.close(1); time.sleep(1000)
        if mode == "nan": values[at - id] = math.nan
        if mode == "inf": values[at - id] = math.inf
        if mode == "none": values[at - id] = None
        if mode == "short": values.append(0.0)
        if mode == "text": values[at - id] = "1.0"
        if mode == "wrong-id": answer_id += 1000
        if mode == "no-list": say({"id": id, "f": 1.0}); continue
    say({"id": answer_id, "f": values, "error": "the cell is empty"} if None in values else {"id": answer_id, "f": values})
"#;

const SETTINGS: &str = "--set method=rge --set queries=6 --set learning-rate=0.02";

fn place() -> Place {
    let place = Place::new();
    std::fs::write(place.path("worker.py"), WORKER).unwrap();
    std::fs::write(place.path("x0.json"), "[1.0, -2, 0.5]").unwrap();
    std::fs::write(place.path("bounds.json"), "[[-3, 3], [null, 3], [0, 1]]").unwrap();
    place
}

/// The command as it runs, with a `command` that may have spaces.
fn minimize(place: &Place, command: &str, rest: &str) -> std::process::Command {
    let mut inner = place.command(&format!("minimize --x0 x0.json {rest}"));
    inner.args(["--command", command]);
    inner
}

fn ran(mut command: std::process::Command) -> Ran {
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran { code: output.status.code().unwrap(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

fn result(place: &Place, run: &str) -> Value {
    let mut value: Value =
        serde_json::from_slice(&std::fs::read(place.path(run).join("result.json")).unwrap()).unwrap();
    let table = value.as_object_mut().unwrap();
    for name in ["seconds_of_evaluations", "command"] {
        table.remove(name);
    }
    value
}

/// The values of a log by number; none twice.
fn values(place: &Place, run: &str) -> BTreeMap<u64, Option<f64>> {
    let text = std::fs::read_to_string(place.path(run).join("log.jsonl")).unwrap();
    let mut values = BTreeMap::new();
    for line in text.lines().skip(1) {
        let line: Value = serde_json::from_str(line).unwrap();
        if let Some(id) = line["id"].as_u64() {
            assert!(values.insert(id, line["f"].as_f64()).is_none(), "{id} twice");
        }
    }
    values
}

/// The numbers that workers were asked for, sorted.
fn seen(place: &Place) -> Vec<u64> {
    let text = std::fs::read_to_string(place.path("seen")).unwrap();
    let id = |line: &str| line.split(' ').next().unwrap().parse().unwrap();
    let mut ids: Vec<u64> = text.lines().map(id).collect();
    ids.sort_unstable();
    ids
}

/// Oracle: one worker, one point at a time. The example's worker and the shell script compute the same function.
#[test]
fn both_protocols_and_any_workers_give_the_same() {
    if !has_python() {
        return;
    }
    let place = place();
    let python = format!("python3 '{}'", example("simulator.py"));
    let shell = example("simulator.sh");
    for method in ["cge", "rge", "cocd", "pattern-search"] {
        let rest = format!("--budget 150 --bounds bounds.json --set method={method}");
        let mut runs = Vec::new();
        for (command, options) in [
            (&python, "--batch-size 1"),
            (&python, "--workers 4"),
            (&shell, "--protocol file --workers 4"),
            (&shell, "--protocol file --workers 1 --batch-size 5"),
        ] {
            let run = format!("{method}-{}", runs.len());
            ran(minimize(&place, command, &format!("{rest} {options} --run {run}"))).ok();
            let page = std::fs::read_to_string(place.path(&run).join("report.html")).unwrap();
            assert!(page.contains("<svg") && page.contains(method));
            runs.push((result(&place, &run), values(&place, &run)));
        }
        assert!(runs[0].0["best"]["value"].as_f64().unwrap() < 12.0 && runs[0].1.len() == 150, "{method}");
        assert!(runs.iter().all(|run| *run == runs[0]), "{method}: {runs:?}");
    }
}

/// Oracle: a worker that says itself that this one point has failed. All others are evaluated once.
#[test]
fn a_fault_fails_its_points_alone() {
    if !has_python() {
        return;
    }
    let mut expected = None;
    for (mode, words) in [
        ("none", "the cell is empty"),
        ("nan", "the value is null"),
        ("inf", "the value is null"),
        ("killed", "SIGKILL"),
        ("falls", "RuntimeError: it fell over"),
        ("hangs", "had not answered after 500ms and was killed"),
        ("garbage", "no object of JSON"),
        ("noise", "`loading ...`, which is no object"),
        ("bytes", "no UTF-8"),
        ("closes", "closed its stdout"),
        ("short", "2 values for 1 point"),
        ("text", "expected a number or null"),
        ("wrong-id", "expected an answer to id 17; got id 1017"),
        ("no-list", "no list f"),
    ] {
        let place = place();
        let rest = format!("--budget 60 --workers 2 --batch-size 1 --timeout 500ms --run run {SETTINGS}");
        let ran = ran(minimize(&place, &format!("python3 worker.py {mode} 17 0"), &rest));
        assert_eq!(ran.code, 0, "{mode}: {}", ran.stderr);
        let told: Vec<&str> = ran.stderr.lines().filter(|line| line.contains("evaluation ")).collect();
        assert!(told.len() == 1 && told[0].contains("evaluation 17: "), "{mode}: {}", ran.stderr);
        assert!(told[0].contains(words), "{mode}: {}", told[0]);
        assert_eq!(seen(&place), (0..60).collect::<Vec<_>>(), "{mode}");
        let found = (result(&place, "run"), values(&place, "run"));
        assert_eq!(found.1[&17], None, "{mode}");
        assert_eq!(found, *expected.get_or_insert_with(|| found.clone()), "{mode}");
        let stopped = std::fs::read(place.path("stopped")).unwrap();
        assert_eq!(stopped.len(), 2, "{mode}: both processes are told to stop");
        if mode == "hangs" {
            let child = std::fs::read_to_string(place.path("child")).unwrap();
            let state = std::fs::read_to_string(format!("/proc/{child}/stat"));
            assert!(state.is_err() || state.unwrap().contains(") Z "), "what it started is killed, too");
        }
    }
}

/// Oracle: a run without failures; retried points have the values that they would have had.
#[test]
fn failures_are_tried_again_or_end_the_run() {
    if !has_python() {
        return;
    }
    let place = place();
    let rest = |run: &str| format!("--budget 40 --batch-size 1 --run {run} {SETTINGS}");
    ran(minimize(&place, "python3 worker.py none -1 0", &rest("whole"))).ok();
    let once = r#"
import json, os, sys
for line in sys.stdin:
    m = json.loads(line)
    if m["type"] == "init": print('{"type":"ready"}', flush=True); continue
    if m["type"] == "stop": break
    if m["id"] == 9 and not os.path.exists("fell"): open("fell", "w"); sys.exit(1)
    f = [sum((i + 1) * (xi - 0.25) ** 2 for i, xi in enumerate(x)) for x in m["x"]]
    print(json.dumps({"id": m["id"], "f": f}), flush=True)
"#;
    std::fs::write(place.path("once.py"), once).unwrap();
    let retried =
        ran(minimize(&place, "python3 once.py", &format!("{} --on-failure retry:1", rest("retried"))));
    assert!(retried.stderr.contains("evaluation 9: "), "{}", retried.stderr);
    retried.ok();
    assert_eq!(values(&place, "retried"), values(&place, "whole"));
    std::fs::remove_file(place.path("fell")).unwrap();
    let abort =
        || ran(minimize(&place, "python3 once.py", &format!("{} --on-failure abort", rest("aborted"))));
    let aborted = abort();
    assert!(aborted.refusal().contains("evaluation 9 failed: "), "{}", aborted.stderr);
    assert!(!values(&place, "aborted").contains_key(&9));
    abort().ok();
    assert_eq!(values(&place, "aborted"), values(&place, "whole"));
    assert_eq!(result(&place, "aborted"), result(&place, "whole"));
}

/// Oracle: a worker that stays. One that ends itself after every answer fails nothing.
#[test]
fn workers_may_leave_between_messages() {
    if !has_python() {
        return;
    }
    let place = place();
    let rest = |run: &str| format!("--budget 30 --run {run} {SETTINGS}");
    ran(minimize(&place, "python3 worker.py none -1 0", &rest("whole"))).ok();
    let leaves = r#"
import json, sys
for line in sys.stdin:
    m = json.loads(line)
    if m["type"] == "init": print('{"type":"ready","max_batch":4}', flush=True); continue
    if m["type"] == "stop": break
    f = [sum((i + 1) * (xi - 0.25) ** 2 for i, xi in enumerate(x)) for x in m["x"]]
    print(json.dumps({"id": m["id"], "f": f}), flush=True)
    break
"#;
    std::fs::write(place.path("leaves.py"), leaves).unwrap();
    let ran = ran(minimize(&place, "python3 leaves.py", &rest("leaves")));
    assert_eq!((ran.code, values(&place, "leaves")), (0, values(&place, "whole")), "{}", ran.stderr);
}

/// Oracle: a worker whose values are the numbers that it takes its points to have. After an evaluation that ended the run,
/// numbers have gaps.
#[test]
fn points_of_a_message_are_numbered_without_gaps() {
    if !has_python() {
        return;
    }
    let place = place();
    let counts = r#"
import json, os, sys
for line in sys.stdin:
    m = json.loads(line)
    if m["type"] == "init": print('{"type":"ready","max_batch":4}', flush=True); continue
    if m["type"] == "stop": break
    f = [m["id"] + i for i in range(len(m["x"]))]
    if 1 in f and not os.path.exists("fell"): open("fell", "w"); f[f.index(1)] = None
    print(json.dumps({"id": m["id"], "f": f}), flush=True)
"#;
    std::fs::write(place.path("counts.py"), counts).unwrap();
    let run = || {
        let rest = "--budget 12 --run run --set method=cge --on-failure abort";
        ran(minimize(&place, "python3 counts.py", rest))
    };
    assert!(run().refusal().contains("evaluation 1 failed"));
    assert!(values(&place, "run").len() > 1 && !values(&place, "run").contains_key(&1));
    run().ok();
    let values = values(&place, "run");
    assert!(values.len() == 12 && values.iter().all(|(id, value)| *value == Some(*id as f64)), "{values:?}");
}

/// Oracle: the kernel, which knows no such process any more.
#[test]
fn a_second_signal_takes_commands_along() {
    let place = place();
    std::fs::write(place.path("hangs.sh"), "echo $$ > pid\nsleep 1000\n").unwrap();
    let mut command = minimize(&place, "sh hangs.sh", "--protocol file --budget 9 --run run");
    command.stderr(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let mut running = Running::new(command.spawn().unwrap());
    let since = Instant::now();
    let pid = loop {
        assert!(since.elapsed() < TIME_LIMIT);
        match std::fs::read_to_string(place.path("pid")).ok().and_then(|text| text.trim().parse::<u32>().ok())
        {
            Some(pid) => break pid,
            None => std::thread::sleep(Duration::from_millis(2)),
        }
    };
    assert!(signal(running.pid(), libc::SIGTERM));
    std::thread::sleep(Duration::from_millis(300));
    assert!(signal(running.pid(), libc::SIGTERM));
    assert_eq!(running.end().0, Some(130));
    std::thread::sleep(Duration::from_millis(300));
    let state = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    assert!(state.is_err() || state.unwrap().contains(") Z "), "it goes on without us");
}

/// Oracle: the run that nobody kills. What was in the log is not evaluated again.
#[test]
fn a_killed_run_goes_on() {
    if !has_python() {
        return;
    }
    let place = place();
    let command = "python3 worker.py none 23 0.01";
    let rest = |run: &str| format!("--budget 120 --workers 3 --batch-size 2 --run {run} {SETTINGS}");
    ran(minimize(&place, command, &rest("whole"))).ok();
    let log = place.path("killed/log.jsonl");
    let lines = || std::fs::read_to_string(&log).map_or(0, |text| text.lines().count());
    for (signal_of, least) in [(libc::SIGKILL, 20), (libc::SIGTERM, 50), (libc::SIGKILL, 80)] {
        let mut command = minimize(&place, command, &rest("killed"));
        command.stderr(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
        let mut running = Running::new(command.spawn().unwrap());
        let since = Instant::now();
        while lines() < least {
            assert!(since.elapsed() < TIME_LIMIT);
            std::thread::sleep(Duration::from_millis(2));
        }
        assert!(signal(running.pid(), signal_of));
        let (code, stderr) = running.end();
        let expected = if signal_of == libc::SIGKILL { None } else { Some(130) };
        assert_eq!(code, expected, "{stderr}");
        let before = values(&place, "killed");
        // Workers of a killed run end by themselves.
        std::thread::sleep(Duration::from_millis(100));
        std::fs::write(place.path("seen"), "").unwrap();
        assert!(before.len() >= least - 1 && before.len() < 120);
        // Half a line, as a kill in the middle of a write leaves it.
        let text = std::fs::read_to_string(&log).unwrap();
        std::fs::write(&log, format!("{text}{{\"id\":9")).unwrap();
    }
    let before = values_of_whole_lines(&log);
    ran(minimize(&place, command, &rest("killed"))).ok();
    assert!(seen(&place).iter().all(|id| !before.contains(id)));
    assert_eq!(result(&place, "killed"), result(&place, "whole"));
    assert_eq!(values(&place, "killed"), values(&place, "whole"));
}

fn values_of_whole_lines(log: &Path) -> Vec<u64> {
    let text = std::fs::read_to_string(log).unwrap();
    let ids =
        text.lines().skip(1).filter_map(|line| serde_json::from_str::<Value>(line).ok()?["id"].as_u64());
    ids.collect()
}

/// Oracle: the run that had the larger budget from the start.
#[test]
fn a_larger_budget_goes_on() {
    if !has_python() {
        return;
    }
    let place = place();
    let command = "python3 worker.py none 23 0";
    let rest = |run: &str, budget: u64| format!("--budget {budget} --run {run} {SETTINGS}");
    ran(minimize(&place, command, &rest("whole", 100))).ok();
    std::fs::write(place.path("seen"), "").unwrap();
    for budget in [31, 31, 77, 100] {
        let ran = ran(minimize(&place, command, &format!("{} --json", rest("parts", budget)))).json();
        assert_eq!(ran["n_evaluations"], budget);
        assert_eq!(ran["status"], "budget");
    }
    assert_eq!(seen(&place), (0..100).collect::<Vec<_>>());
    assert_eq!(result(&place, "parts"), result(&place, "whole"));
    let other = ran(minimize(&place, command, &format!("{} --seed 1", rest("parts", 100))));
    assert!(other.refusal().contains("seed (0 there)"), "{}", other.stderr);
    let text = std::fs::read_to_string(place.path("parts/log.jsonl")).unwrap();
    std::fs::write(place.path("parts/log.jsonl"), text.replacen("\"sample\":1", "\"sample\":2", 1)).unwrap();
    let damaged = ran(minimize(&place, command, &rest("parts", 120)));
    assert!(damaged.refusal().contains("log.jsonl: line "), "{}", damaged.stderr);
}

/// Oracle: the run on a disk that is not full.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_loses_nothing() {
    if !has_python() {
        return;
    }
    let place = place();
    let command = "python3 worker.py none 23 0";
    let rest = |run: &str| format!("--budget 150 --workers 2 --run {run} {SETTINGS}");
    ran(minimize(&place, command, &rest("whole"))).ok();
    std::fs::write(place.path("seen"), "").unwrap();
    let inner = minimize(&place, command, &rest("full"));
    let mut shell = Command::new("sh");
    shell.arg("-c").arg("trap '' XFSZ; ulimit -f 10; exec \"$0\" \"$@\"");
    shell.arg(inner.get_program()).args(inner.get_args()).current_dir(place.path(""));
    let full = ran(shell);
    assert!(full.refusal().contains("log.jsonl"), "{}", full.stderr);
    let before: Vec<u64> = values(&place, "full").into_keys().collect();
    assert!(before.len() > 5 && before.len() < 150, "{}", before.len());
    std::fs::write(place.path("seen"), "").unwrap();
    ran(minimize(&place, command, &rest("full"))).ok();
    assert!(seen(&place).iter().all(|id| !before.contains(id)));
    assert_eq!(result(&place, "full"), result(&place, "whole"));
}

/// Mistakes of a command line, and commands that cannot work.
#[test]
fn minimize_refuses_in_one_line() {
    if !has_python() {
        return;
    }
    let place = place();
    let base = format!("--budget 10 --run run {SETTINGS}");
    for (name, text) in [
        ("text.json", "[1, \"a\"]"),
        ("broken.json", "[1, "),
        ("pair.json", "[3, 1]"),
        ("short.json", "[[0, 9]]"),
    ] {
        std::fs::write(place.path(name), text).unwrap();
    }
    for (command, rest, words) in [
        ("", base.clone(), "got nothing"),
        ("'open", base.clone(), "quote"),
        ("no-such-program --x", base.clone(), "`no-such-program --x` cannot be run"),
        ("true", base.clone(), "before it was ready"),
        ("python3 worker.py ends 0 0", base.clone(), "no licence"),
        ("python3 worker.py never-ready 0 0", base.clone(), "expected {\"type\":\"ready\"}"),
        ("no-such-program", format!("{base} --protocol file"), "cannot be run"),
        ("true", format!("{base} --bounds pair.json"), "bounds.json"),
        ("true", format!("{base} --bounds short.json"), "1 pairs for 3 coordinates"),
        ("true", format!("{base} --bounds none.json"), "none.json"),
        ("true", format!("{base} --set epochs=3"), "no such setting"),
        ("true", format!("{base} --set mu=0"), "mu"),
    ] {
        let words = if rest.contains("pair.json") { "pair.json" } else { words };
        let ran = ran(minimize(&place, command, &rest));
        assert!(ran.refusal().contains(words), "{command} {rest}: {}", ran.stderr);
    }
    for name in ["text.json", "broken.json"] {
        let mut command = place.command(&format!("minimize --x0 {name} --budget 1 --run run"));
        command.args(["--command", "true"]);
        let ran = ran(command);
        assert!(ran.refusal_alone().contains(name), "{}", ran.stderr);
    }
    for rest in [
        "--budget 0",
        "--budget 5 --timeout 0s",
        "--budget 5 --on-failure retry:0",
        "--budget 5 --workers 0",
        "",
    ] {
        assert_eq!(ran(minimize(&place, "true", &format!("--run run {rest}"))).code, 2, "{rest}");
    }
    // Where all fails, the run ends before its budget, and says so.
    std::fs::write(place.path("fails.sh"), "#!/bin/sh\nwhile read -r line; do echo fail; done < \"$1\"\n")
        .unwrap();
    let rest = "--budget 500 --protocol file --batch-size 50 --run stuck --json";
    let stuck = ran(minimize(&place, "sh fails.sh", rest));
    assert_eq!(stuck.code, 3, "{}", stuck.stderr);
    assert!(stuck.stderr.lines().last().unwrap().contains("10 steps in a row"), "{}", stuck.stderr);
    // Whether or not the budget is spent as well.
    let rest = "--budget 330 --protocol file --batch-size 50 --run spent";
    assert_eq!(ran(minimize(&place, "sh fails.sh", rest)).code, 3);
    let rest = "--budget 9999 --protocol file --batch-size 50 --run search --set method=pattern-search";
    assert_eq!(ran(minimize(&place, "sh fails.sh", rest)).code, 3);
    let told = stuck.stderr.matches("says `fail`").count();
    assert_eq!(told, 20, "further failures are not told");
}

/// What a command of `file` may do wrong.
#[test]
fn files_of_points() {
    let place = place();
    let script = r#"
n=$(wc -l < "$1")
case "$DEEPZERO_ID" in
    3) case "$MODE" in
        long) echo 1; echo 2 ;;
        word) echo one ;;
        exit) echo "it is broken" >&2; exit 7 ;;
        hangs) sleep 1000 ;;
        nan) echo nan ;;
        fail) echo fail ;;
    esac ;;
    *) awk '{ print $1 * $1 + $2 * $2 + $3 * $3 }' "$1" ;;
esac
"#;
    std::fs::write(place.path("sim.sh"), script).unwrap();
    let mut expected = None;
    for (mode, words) in [
        ("fail", "says `fail`"),
        ("nan", "the value is NaN"),
        ("long", "printed 2 lines for 1 point"),
        ("silent", "printed 0 lines for 1 point"),
        ("word", "`one`"),
        ("exit", "it is broken"),
        ("hangs", "had not ended after 1s"),
    ] {
        let rest = format!("--budget 30 --protocol file --timeout 1s --workers 2 --run {mode} {SETTINGS}");
        let mut command = minimize(&place, "sh sim.sh", &rest);
        command.env("MODE", mode);
        let ran = ran(command);
        assert!(ran.code == 0 && ran.stderr.contains(words), "{mode}: {}", ran.stderr);
        let told: Vec<&str> = ran.stderr.lines().filter(|line| line.contains("evaluation ")).collect();
        assert!(told.len() == 1 && told[0].contains("evaluation 3: "), "{mode}: {}", ran.stderr);
        let found = values(&place, mode);
        assert_eq!(found, *expected.get_or_insert_with(|| found.clone()), "{mode}");
    }
}

/// Oracle: the sum of the coordinates, as the worker sees them in a file.
#[test]
fn many_coordinates_travel_as_a_file() {
    if !has_python() {
        return;
    }
    let place = place();
    let d = 10_001;
    let x0: Vec<f64> = (0..d).map(|i| 1.0 / f64::from(i + 1)).collect();
    std::fs::write(place.path("x0.json"), serde_json::to_vec(&x0).unwrap()).unwrap();
    let worker = r#"
import array, json, sys
for line in sys.stdin:
    m = json.loads(line)
    if m["type"] == "init": print('{"type":"ready","max_batch":3}', flush=True); continue
    if m["type"] == "stop": break
    x = array.array("d"); x.frombytes(open(m["file"], "rb").read())
    d = len(x) // m["n"]
    f = []
    for i in range(m["n"]):
        s = 0.0
        for v in x[i * d:(i + 1) * d]: s += v * v
        f.append(s)
    print(json.dumps({"id": m["id"], "f": f}), flush=True)
"#;
    std::fs::write(place.path("large.py"), worker).unwrap();
    let rest = "--budget 18 --set method=rge --set queries=4 --workers 2 --run run";
    ran(minimize(&place, "python3 large.py", rest)).ok();
    let expected: f64 = x0.iter().fold(0.0, |sum, x| sum + x * x);
    assert_eq!(values(&place, "run")[&0].unwrap().to_bits(), expected.to_bits());
    assert_eq!(result(&place, "run")["best"]["x"]["file"], "best.f64");
    assert_eq!(std::fs::metadata(place.path("run/best.f64")).unwrap().len(), 8 * d as u64);
}

/// Oracle: the same function through a command.
#[test]
fn ask_and_tell() {
    let place = place();
    let rest = format!("--x0 x0.json --bounds bounds.json --run lab {SETTINGS}");
    place.run(&format!("minimize {rest}")).ok();
    let f = |x: &Value| -> f64 {
        let x: Vec<f64> = x.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect();
        let mut sum = 0.0;
        x.iter().enumerate().for_each(|(i, x)| sum += (i + 1) as f64 * (x - 0.25) * (x - 0.25));
        sum
    };
    let mut n = 0;
    while n < 30 {
        let asked = place.run("ask --run lab -n 4 --json").json();
        let mut points = asked["points"].as_array().unwrap().clone();
        points.reverse();
        for point in points {
            let id = &point["id"];
            let told = place.run(&format!("tell --run lab --id {id} --f {:?}", f(&point["x"]))).ok();
            assert!(told.starts_with(&format!("{} values", n + 1)), "{told}");
            n += 1;
        }
    }
    let lab = values(&place, "lab");
    ran({
        let mut command =
            place.command(&format!("minimize {} --budget {n} --protocol file", rest.replace("lab", "cmd")));
        command.args(["--command", &example("simulator.sh")]);
        command
    })
    .ok();
    assert_eq!(lab, values(&place, "cmd"));
    // Points that are out are not handed out again, and only they can be told.
    let first = place.run("ask --run lab").ok();
    let id = serde_json::from_str::<Value>(&first).unwrap()["id"].as_u64().unwrap();
    let rest: Vec<Value> = place
        .run("ask --run lab -n 100")
        .ok()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert!(rest.iter().all(|point| point["id"].as_u64() != Some(id)));
    let empty = place.run("ask --run lab");
    assert!(
        empty.code == 0 && empty.stdout.is_empty() && empty.stderr.contains("waits for"),
        "{}",
        empty.stderr
    );
    assert!(place.run("tell --run lab --id 9999 --f 1").refusal_alone().contains("nothing was asked"));
    place.run(&format!("tell --run lab --id {id} --fail stopped")).ok();
    assert!(place.run(&format!("tell --run lab --id {id} --f 1")).refusal_alone().contains("told before"));
    assert_eq!(place.run(&format!("tell --run lab --id {id}")).code, 2);
    assert!(place.run("ask --run nowhere").refusal_alone().contains("no run here"));
    let log = std::fs::read_to_string(place.path("lab/log.jsonl")).unwrap();
    assert!(log.contains("\"error\":\"stopped\""), "{log}");
}
