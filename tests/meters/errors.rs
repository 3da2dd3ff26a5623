//! Servers that fail, and tokens.

use std::{
    fmt::Write as _,
    net::TcpListener,
    time::{Duration, Instant},
};

use insta::assert_snapshot;
use meterline_testkit::meters::Reply;
use serde_json::json;

use super::{Server, run, shown};

/// What `diff` says of an answer to its only request, which may take this long.
async fn diff_of(reply: Reply, timeout: &str) -> String {
    let server = Server::v1().await;
    server.api.reply([Some(reply)]);
    let shown = server.run(&format!("diff --timeout {timeout}"));
    assert_eq!(server.api.exchanges().len(), 1, "{shown}");
    shown
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_of_the_server_name_what_to_do() {
    let json = |status, body: &str| Reply::text(status, "application/json", body.to_owned());
    let mut all = String::new();
    for (what, reply) in [
        ("a web page", Reply::page(200)),
        ("a redirect", json(302, "")),
        ("401", json(401, r#"{"detail": "unknown token"}"#)),
        ("403", json(403, r#"{"detail": "not yours"}"#)),
        ("404", Reply::page(404)),
        ("429", json(429, "")),
        ("500", json(500, r#"{"title": "Internal"}"#)),
        ("501", json(501, "")),
        ("502", Reply::page(502)),
        ("nothing", json(200, "")),
        ("an object", json(200, r#"{"items": []}"#)),
        ("too much", json(200, &" ".repeat(9_000_000))),
        ("418", json(418, "")),
    ] {
        let shown = diff_of(reply, "1m").await;
        assert!(shown.ends_with("exit 70"), "{what}: {shown}");
        writeln!(all, "{what}:\n{shown}\n").unwrap();
    }
    assert_snapshot!(all);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_does_not_come_is_not_awaited_for_long() {
    let start = Instant::now();
    let shown = diff_of(Reply::never(), "2s").await;
    assert!(start.elapsed() < Duration::from_secs(20));
    assert!(shown.contains("no answer in time"), "{shown}");
    assert!(shown.ends_with("exit 70"), "{shown}");
}

#[test]
fn a_server_that_is_unreachable_is_told() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    for (command, code) in [("diff", 70), ("apply", 1)] {
        let output = run(command, &[("OPENMETER_URL", &url)]);
        let shown = shown(&output);
        assert!(
            shown.contains(&format!("cannot reach {url}/api/v1/meters")),
            "{shown}"
        );
        assert!(shown.contains("refused"), "{shown}");
        assert_eq!(output.status.code(), Some(code), "{shown}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_comes_from_argument_variable_or_file_and_is_not_shown() {
    const TOKEN: &str = "om_hunter2";
    let server = Server::v1().await;
    server.api.require_token(TOKEN);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, format!("{TOKEN}\n")).unwrap();
    let file = format!("file://{}", file.display());
    let variables = folder.path().join("variables");
    let lines = format!("OPENMETER_URL={}\nOPENMETER_TOKEN={TOKEN}\n", server.url);
    std::fs::write(&variables, lines).unwrap();
    let url = [("OPENMETER_URL", server.url.as_str())];
    let with = |token: &'static str| [url[0], ("OPENMETER_TOKEN", token)];
    assert_eq!(run("apply", &with(TOKEN)).status.code(), Some(0));
    let good = [
        run(&format!("diff --token {TOKEN}"), &with("om_wrong")),
        run("diff", &[url[0], ("OPENMETER_TOKEN", &file)]),
        run(&format!("diff --url {} --token {file}", server.url), &[]),
        run(&format!("diff --env-file {}", variables.display()), &[]),
    ];
    for output in good {
        assert_eq!(output.status.code(), Some(0), "{}", shown(&output));
    }
    let none = shown(&run("diff", &url));
    assert!(
        none.contains("no token was sent; set the variable OPENMETER_TOKEN"),
        "{none}"
    );
    let wrong = shown(&run("apply", &with("om_wrong")));
    assert!(
        wrong.contains("check the token") && wrong.ends_with("exit 1"),
        "{wrong}"
    );
    let missing = shown(&run("diff", &with("file:///nowhere/token")));
    assert!(
        missing.contains("cannot read the token in /nowhere/token"),
        "{missing}"
    );
    // A server that repeats the token.
    let echo = json!({"detail": format!("Bearer {TOKEN} is not known")}).to_string();
    server
        .api
        .reply([Some(Reply::text(401, "application/json", echo))]);
    let echoed = shown(&run("diff", &with(TOKEN)));
    for text in [none, wrong, missing, echoed] {
        assert!(
            !text.contains(TOKEN) && !text.contains("om_wrong"),
            "{text}"
        );
    }
}
