//! Malicious and careless scripts.

use std::{
    cell::Cell,
    io::{BufRead, BufReader, Read},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use meterline_core::Message;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::{evaluate, map};
use crate::{Engine, Limits, Loss};

#[test]
fn nothing_that_waits_or_reaches_outside_can_be_called() {
    for name in [
        "eval",
        "sleep",
        "print",
        "debug",
        "import",
        "timestamp",
        "exit",
        "open_file",
        "env",
        "system",
        "parse_script",
        "get_fn_metadata_list",
        "back_trace",
        "read",
        "include",
    ] {
        for arguments in ["", "1", "1e300", "\"1\"", "\"/etc/passwd\"", "1, 2"] {
            for source in [
                format!("root = {name}({arguments})"),
                format!("root = Fn(\"{name}\").call({arguments})"),
                format!("let f = Fn(\"{name}\"); root = f.call({arguments})"),
                format!("root = call(Fn(\"{name}\"), {arguments})"),
            ] {
                let outcome = map(&source, &json!({}));
                assert!(outcome.is_err(), "{source} returned {outcome:?}");
            }
        }
    }
    for source in [
        "import \"x\" as x;",
        "export root;",
        "root = x::y()",
        "let x = 1; export x;",
    ] {
        assert!(map(source, &json!({})).is_err(), "{source}");
    }
}

#[test]
fn a_script_that_never_ends_is_stopped() {
    for source in [
        "loop { }",
        "while true { root = 1 }",
        "do { } until false",
        "for i in 0..9223372036854775807 { root = i }",
        "let f = |f| f.call(f); f.call(f)",
        "let f = |f, n| 1 + f.call(f, n + 1); f.call(f, 0)",
        "__script()",
        "let s = \"x\"; loop { s += s; }",
        "let s = \"xxxxxxxx\"; loop { s = s.replace_all(\"x\", s); }",
        "let a = [1]; loop { a += a; }",
        "let a = [1]; loop { a.push(a); }",
        "let m = #{}; let i = 0; loop { m[`k${i}`] = i; i += 1; }",
        "let a = []; a.pad(1000000000, 1);",
        "let s = \"\"; s.pad(1000000000, 'x');",
        "let a = []; for i in 0..10000 { a.push(i * 7919 % 10007) } \
         loop { a.sort(|x, y| x - y); }",
        "let a = []; for i in 0..9999 { a.push(i) } root = a.map_each(|x| a.sort())",
        "root = 2 ** 1000000000",
        "root = \"x\".format(1, 2, 3)",
        "let s = \"a\"; for i in 0..20 { s += s } root = s.split(\"\")",
        "let s = \"a\"; for i in 0..20 { s += s } root = s.to_chars()",
        "root = range(0, 1000000000000).len()",
    ] {
        let started = Instant::now();
        let outcome = map(source, &json!({}));
        assert!(outcome.is_err(), "{source} returned a value");
        // Far more than the limit of 250 ms, so that a slow machine passes; far less than what these
        // scripts would take.
        assert!(started.elapsed() < Duration::from_secs(20), "{source}");
    }
}

#[test]
fn values_nested_without_end_do_not_overflow_the_stack() {
    for source in [
        "let a = []; loop { a = [a]; }",
        "let a = #{}; loop { a = #{ a: a }; }",
        "root = []; loop { root = [root]; }",
        "let a = []; loop { a = [#{ a: [#{ a: a }] }]; }",
        "let a = []; for i in 0..4900 { a = [#{ a: a }]; } root = a;",
        "let a = []; for i in 0..9000 { a = [a]; } root = a == a",
        "let a = []; for i in 0..9000 { a = [a]; } root = a.unique()",
        "let a = []; for i in 0..9000 { a = [a]; } root = a.string()",
        "let a = []; for i in 0..9000 { a = [a]; } root = a.to_string()",
        "let a = []; for i in 0..9000 { a = [a]; } root = `${a}`",
        "let a = #{}; for i in 0..9000 { a = #{ a: a }; } root = a.assign(a)",
        "let a = #{}; for i in 0..9000 { a = #{ a: a }; } root = a.merge(a)",
        "let a = []; for i in 0..100 { a = [a]; a = [[[[[[[[[[a]]]]]]]]]]; } root = a",
        "let a = []; let f = |x| { a = [x]; a }; for i in 0..9000 { a = f.call(a); } root = a",
    ] {
        // The stack size of pipeline threads. An overflow would end the whole test program.
        let thread = std::thread::Builder::new().stack_size(crate::STACK_SIZE);
        let outcome = thread.spawn(move || map(source, &json!({}))).unwrap();
        let outcome = outcome.join().unwrap();
        let is_harmless = outcome.is_err() || outcome.as_ref().is_ok_and(Value::is_boolean);
        assert!(is_harmless, "{source}");
    }
    let deep = format!("root = {}1{}", "(".repeat(5_000), ")".repeat(5_000));
    assert!(map(&deep, &json!({})).is_err());
    let deep = format!("root = {}1{}", "[".repeat(5_000), "]".repeat(5_000));
    assert!(map(&deep, &json!({})).is_err());
}

#[test]
fn a_stopped_script_does_not_affect_the_next_one() {
    let engine = Engine::new(Limits::default());
    let endless = engine.compile_mapping("loop { }").unwrap();
    let good = engine.compile_mapping("root = this.a").unwrap();
    let mut message = Message::value(&json!({"a": 1}));
    for _ in 0..3 {
        assert!(endless.run(&mut message).is_err());
    }
    good.run(&mut message).unwrap();
    assert_eq!(message.tree().unwrap(), json!(1));
}

#[test]
fn quantities_are_kubernetes_quantities_or_errors() {
    let quantity = |text: &str| evaluate("this.resource_quantity()", &json!(text));
    for (text, expected) in [
        ("100m", json!(0.1)),
        ("0.5Ki", json!(512)),
        ("1E", json!(1_000_000_000_000_000_000_i64)),
        ("1e3", json!(1000)),
        ("-5", json!(-5)),
    ] {
        assert_eq!(quantity(text), Ok(expected), "{text}");
    }
    for text in ["1e400", "", "NaN"] {
        assert!(quantity(text).is_err(), "{text}");
    }
}

/// Returns a pod with this memory limit, which may be invalid.
fn pod_with_memory(memory: &str) -> Value {
    json!({"metadata": {"annotations": {"data.openmeter.io/memory_limit_bytes": "0"}}, "spec": {
        "containers": [{"resources": {
            "limits": {"cpu": "2", "memory": memory}, "requests": {"memory": "1Gi"}}}]}})
}

#[test]
fn an_invalid_number_omits_only_its_metric() {
    let source = "root = this.metadata.annotations.select_prefix(\"data.openmeter.io/\")
        .assign(pod_metrics(15), #{ memory: pod_limit(\"memory\"), seconds: 15,
            product: pod_limit_seconds(\"memory\", 15, 60),
            own: pod_limit(\"memory\") * 15 / 60 + 1 })";
    let mapping = Engine::new(Limits::default())
        .compile_mapping(source)
        .unwrap();
    for memory in ["-5", "", "NaN", "1e400"] {
        let mut message = Message::value(&pod_with_memory(memory));
        let mut notes = Vec::new();
        mapping.run_noting(&mut message, &mut notes).unwrap();
        let event = message.tree().unwrap();
        for field in [
            "memory_limit_bytes",
            "memory_limit_bytes_per_second",
            "memory_limit_gib_hours",
            "memory",
            "product",
            "own",
        ] {
            assert_eq!(event.get(field), None, "{memory}: {field}");
        }
        assert_eq!(event["cpu_limit_millicores_per_second"], 30);
        assert_eq!(event["memory_request_bytes"], 1_i64 << 30);
        assert_eq!(event["seconds"], 15);
        let [note] = notes.as_slice() else {
            panic!("{notes:?}");
        };
        assert_eq!(note.loss, Loss::Metric);
        assert!(
            note.text
                .contains("spec.containers[0].resources.limits.memory"),
            "{note:?}"
        );
    }
}

#[test]
fn parts_that_a_mapping_does_not_read_exceed_no_limit() {
    let mut resources: serde_json::Map<_, _> = (0..20_000)
        .map(|index| (format!("example.com/x{index}"), json!("0")))
        .collect();
    resources.insert("cpu".into(), json!("2"));
    let pod = json!({"spec": {"containers": [
        {"resources": {"limits": resources.clone(), "requests": resources}}]}});
    for source in [
        "let resources = this.spec.containers.index(0)?.resources;
         root = #{ cpu: resources?.limits?.cpu.resource_quantity() }",
        "root.cpu = this.spec.containers[0].resources.requests.cpu.resource_quantity()",
        "root.cpu = pod_request(\"cpu\")",
        "root.cpu = pod_metrics(15).cpu_limit_millicores",
    ] {
        assert_eq!(map(source, &pod), Ok(json!({"cpu": 2})), "{source}");
    }
    // A script that reads everything exceeds a limit, and fails only for this message.
    let error = map("root = this; root.a = root.spec.containers.len()", &pod).unwrap_err();
    assert!(error.contains("too large"), "{error}");
}

#[test]
fn every_amount_that_an_api_server_accepts_is_billed_exactly() {
    let source = "root = pod_metrics(3600); root.own = pod_limit(\"memory\") * 3600";
    let mapping = Engine::new(Limits::default())
        .compile_mapping(source)
        .unwrap();
    let mut message = Message::value(&pod_with_memory("8Ei"));
    mapping.run(&mut message).unwrap();
    let bytes = String::from_utf8(message.bytes().unwrap().into()).unwrap();
    for field in [
        "\"memory_limit_bytes\":9223372036854775807,",
        "\"memory_limit_bytes_per_second\":33204139332677192905200,",
        "\"memory_limit_gib_hours\":8589934591.999999999068677425384521484375,",
        "\"own\":33204139332677192905200}",
    ] {
        assert!(bytes.contains(field), "{field} is not in {bytes}");
    }
}

#[test]
fn numbers_that_are_not_finite_are_never_sent() {
    for source in [
        "root = 1.0e308 * 10.0",
        "root.a = 0.0 / 0.0",
        "root = [#{ a: -1.0 / 0.0 }]",
        "meta[\"x\"] = 1.0 / 0.0",
        "root = (1.0 / 0.0).string()",
        "root = #{ a: 1.0 / 0.0 }.to_json()",
        "root = [1.0 / 0.0].sum()",
        "root = (1.0 / 0.0).round()",
        "root = (0.0 / 0.0).int64()",
        "root = (1.0 / 0.0).multiply_exact(0)",
        "root = \"inf\".number()",
        "root = \"1e999\".number()",
    ] {
        let outcome = map(source, &json!({}));
        assert!(outcome.is_err(), "{source} returned {outcome:?}");
    }
}

#[test]
fn large_and_odd_pods_are_mapped_or_refused_with_a_reason() {
    let odd = "\u{0}\u{1}\u{feff}\u{202e}\u{1f469}\u{200d}\u{1f680}\u{fffd}\"\\`${x}";
    let pod = json!({
        "metadata": {
            "name": odd,
            "annotations": {"large": "é".repeat(128 << 10), odd: odd},
        },
        "spec": {"containers": vec![json!({"env": [{"name": "A", "value": "x".repeat(30_000)}]}); 30]},
    });
    let source = "root.name = this.metadata.name; root.annotations = this.metadata.annotations";
    let mapped = map(source, &pod).unwrap();
    assert_eq!(mapped["name"], pod["metadata"]["name"]);
    assert_eq!(mapped["annotations"], pod["metadata"]["annotations"]);
    assert_eq!(map("root = this", &pod), Ok(pod.clone()));

    let mut huge = pod;
    huge["spec"]["text"] = json!("x".repeat(3 << 20));
    assert_eq!(map("root = this", &huge), Ok(huge.clone()));
    assert_eq!(
        map("root = this.spec.text + \"y\"", &huge).unwrap_err(),
        "length of string is too large for a script"
    );
    assert!(map(source, &huge).is_ok());
}

#[test]
fn whole_numbers_stay_exact_beyond_64_bits() {
    let input = json!({"i": i64::MAX, "u": u64::MAX, "f": 0.1, "whole": 5.0});
    assert_eq!(map("root = this", &input), Ok(input.clone()));
    assert_eq!(
        map("root = #{ u: this.u }", &input),
        Ok(json!({"u": u64::MAX}))
    );
    assert_eq!(
        map("root = (this.u + 1) / 2", &input),
        Ok(json!(9_223_372_036_854_775_808_u64))
    );
    assert_eq!(
        map("root = this", &input).unwrap().to_string(),
        input.to_string()
    );
}

thread_local! {
    /// How often the clock below was read.
    static READINGS: Cell<u32> = const { Cell::new(0) };
    /// How often the clock jumps by a minute.
    static JUMPS: Cell<u32> = const { Cell::new(0) };
}

/// A clock that jumps by a minute between the two readings of each run, up to `JUMPS` times.
fn jumping() -> Duration {
    READINGS.set(READINGS.get() + 1);
    let jumps = (READINGS.get() / 2).min(JUMPS.get());
    Duration::from_secs(60) * jumps
}

/// Runs a script with a time limit of zero; the first `slow` runs take a minute.
fn run_with_slow_runs(slow: u32) -> (Result<Value, String>, u32) {
    READINGS.set(0);
    JUMPS.set(slow);
    crate::cpu::set_clock(jumping);
    let limits = Limits {
        time: Duration::ZERO,
        ..Limits::default()
    };
    let mapping = Engine::new(limits)
        .compile_mapping("let n = 0; while n < 20 { n += 1; } root = n")
        .unwrap();
    let mut message = Message::value(&json!({}));
    let outcome = mapping.run(&mut message).map_err(|error| error.to_string());
    (outcome.map(|_| message.tree().unwrap()), READINGS.get())
}

#[test]
fn a_run_over_its_cpu_time_fails_at_the_third_attempt() {
    for slow in 0..3 {
        let (outcome, readings) = run_with_slow_runs(slow);
        assert_eq!(outcome, Ok(json!(20)), "{slow}");
        assert!(readings > 2 * slow, "each run reads the clock: {readings}");
    }
    let (outcome, _) = run_with_slow_runs(3);
    assert_eq!(
        outcome.unwrap_err(),
        "the script used more than 0 ms of CPU time, 3 times in a row; reduce what it reads and loops over"
    );
}

#[test]
fn the_operation_limit_stops_a_loop_before_the_time_limit() {
    let engine = Engine::new(Limits {
        time: Duration::from_secs(3600),
        operations: 10_000,
        ..Limits::default()
    });
    let mapping = engine.compile_mapping("loop { }").unwrap();
    let error = mapping.run(&mut Message::value(&json!({}))).unwrap_err();
    assert_eq!(
        error.reason(),
        "the script ran more than 10000 operations; check for an endless loop"
    );
}

/// The environment variable that marks the child process.
const PAUSED: &str = "METERLINE_TEST_PAUSED";

/// The child process: maps repeatedly until its input ends.
fn map_until_the_input_ends() {
    let limits = Limits {
        // Longer than a run and shorter than the pause.
        time: Duration::from_millis(1_500),
        ..Limits::default()
    };
    let source = "let n = 0; while n < 5000 { n += 1; } root = n";
    let mapping = Engine::new(limits).compile_mapping(source).unwrap();
    let is_over = Arc::new(AtomicBool::new(false));
    let over = Arc::clone(&is_over);
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        over.store(true, Ordering::Relaxed);
    });
    let mut runs = 0;
    while !is_over.load(Ordering::Relaxed) {
        let mut message = Message::value(&json!({}));
        mapping.run(&mut message).unwrap();
        runs += 1;
        if runs == 1 {
            // The test harness writes the rest of the line.
            eprintln!("mapping");
        }
    }
}

#[test]
fn a_process_that_is_paused_in_the_middle_of_a_mapping_fails_no_message() {
    if std::env::var_os(PAUSED).is_some() {
        return map_until_the_input_ends();
    }
    let name =
        "tests::limits::a_process_that_is_paused_in_the_middle_of_a_mapping_fails_no_message";
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(PAUSED, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("mapping") {
        line.clear();
        assert_ne!(stderr.read_line(&mut line).unwrap(), 0, "it ended");
    }
    let id = Pid::from_child(&child);
    let stat = format!("/proc/{}/stat", child.id());
    for _ in 0..3 {
        // The child only maps, so this stops it in the middle of a mapping almost certainly.
        kill_process(id, Signal::STOP).unwrap();
        while !std::fs::read_to_string(&stat).unwrap().contains(") T ") {
            std::thread::yield_now();
        }
        // The pause itself, which must have no effect.
        std::thread::sleep(Duration::from_secs(2));
        kill_process(id, Signal::CONT).unwrap();
    }
    drop(child.stdin.take());
    let mut rest = String::new();
    stderr.read_to_string(&mut rest).unwrap();
    assert!(child.wait().unwrap().success(), "{rest}");
}
