//! What the sink answers and what has to happen, as a table in which each row is a test. In every row the
//! sink recovers at the end, and the bill is exact.

use std::time::Duration;

use meterline_testkit::{
    ingest::{Behaviour, Request},
    process::Meterline,
    scene::Scene,
    tls::{Authority, Certificate, TlsFront},
};

use crate::support::{BINARY, MINUTE};

const PODS: usize = 5;

/// How the sink behaves.
enum Sink {
    /// To the first requests, one after the other.
    First(Vec<Behaviour>),
    /// To every request until what is expected has happened.
    Always(Behaviour),
    /// To every request once an event was taken, so that a verdict would count, until what is expected
    /// has happened.
    Later(Behaviour),
    /// It presents the wrong certificate until what is expected has happened. The first authority is the
    /// one that the program trusts.
    Presents(fn(&Authority, &Authority) -> Certificate),
}

use Sink::{Always, First, Later, Presents};

/// What has to happen.
#[derive(Clone, Copy)]
enum Then {
    /// `/ready` answers 503 and names this.
    Unready(&'static str),
    /// The log has a line with this.
    Logs(&'static str),
    /// No event counts as sent.
    SendsNothing,
    /// No event is rejected.
    RejectsNothing,
    /// Each of the first requests is sent again with the same bytes, and at least this many events are
    /// repeats of events that the sink had kept.
    Repeats { duplicates: usize },
    /// At least this many requests count as failed.
    CountsErrors(f64),
    /// It sends two requests at once, and connects a third time only after a long back-off. By then the
    /// sink presents a certificate that it trusts.
    BacksOff,
}

use Then::{BacksOff, CountsErrors, Logs, RejectsNothing, Repeats, SendsNothing, Unready};

fn page(status: u16, body: &str) -> Behaviour {
    Behaviour::status(status)
        .header("content-type", "text/html; charset=utf-8")
        .body(body)
}

fn json(status: u16, body: &str) -> Behaviour {
    Behaviour::status(status)
        .header("content-type", "application/json")
        .body(body)
}

/// An answer that ends before the ten bytes that it promises.
fn cut_off(status: u16, body: &str) -> Behaviour {
    let promise = Behaviour::status(status).header("content-length", "10");
    promise.body(body)
}

/// A test for each row: its name, what the sink does, what has to happen.
macro_rules! table {
    ($($(#[$doc:meta])* fn $name:ident() { $sink:expr => [$($then:expr),+ $(,)?] })+) => {$(
        $(#[$doc])*
        #[tokio::test(flavor = "multi_thread")]
        #[ignore = "needs a control plane: KUBEBUILDER_ASSETS, as CONTRIBUTING.md has it"]
        async fn $name() {
            check($sink, &[$($then),+]).await;
        }
    )+};
}

table! {
    fn a_web_page_is_no_success() {
        Always(page(200, "<html><body>Please sign in</body></html>"))
            => [Unready("web page"), Unready("Please sign in"), SendsNothing, RejectsNothing]
    }

    /// What nginx answers to HTTP at its TLS port. No ingest API has processed the events.
    fn a_web_page_is_no_verdict_either() {
        Always(page(400, "<html>The plain HTTP request was sent to HTTPS port</html>"))
            => [Unready("400"), Unready("HTTPS port"), RejectsNothing]
    }

    fn a_400_in_plain_text_is_no_verdict() {
        Later(Behaviour::status(400).body("HTTP request to an HTTPS server"))
            => [Unready("HTTPS server"), RejectsNothing]
    }

    /// The header prevents the recording ingest API from writing a problem as the real one does.
    fn an_empty_400_is_no_verdict() {
        Later(Behaviour::status(400).header("server", "proxy"))
            => [Unready("400"), RejectsNothing]
    }

    fn an_empty_422_is_no_verdict() {
        Later(Behaviour::status(422).header("server", "proxy"))
            => [Unready("422"), RejectsNothing]
    }

    fn a_422_in_the_json_of_a_gateway_is_no_verdict() {
        Later(json(422, "{\"message\": \"no route\"}"))
            => [Unready("no route"), RejectsNothing]
    }

    fn a_413_of_a_proxy_is_no_verdict() {
        Later(page(413, "<html>413 Request Entity Too Large</html>"))
            => [Unready("413"), RejectsNothing]
    }

    fn a_200_that_names_an_error_is_no_success() {
        Later(json(200, "{\"error\": \"no\"}"))
            => [Unready("200"), RejectsNothing]
    }

    fn a_200_of_another_server_is_no_success() {
        Always(Behaviour::status(200).body("ok"))
            => [Unready("200"), SendsNothing, RejectsNothing]
    }

    /// The configuration is more likely wrong than every event.
    fn a_sink_that_has_accepted_nothing_yet_cannot_reject() {
        Always(
            Behaviour::status(400)
                .header("content-type", "application/problem+json")
                .body("{\"title\": \"Bad Request\"}"),
        ) => [Unready("no event has been accepted since the start"), RejectsNothing]
    }

    fn a_request_whose_response_is_cut_off_is_sent_again() {
        First([(200, ""), (202, "{}"), (200, "{}"), (202, "")]
            .into_iter()
            .flat_map(|(status, body)| [cut_off(status, body), cut_off(status, body)])
            .collect())
            => [Logs("the response was cut off"), CountsErrors(8.0)]
    }

    /// An error after a part of the batch was taken, and connections that end after the body was sent.
    fn events_that_may_have_been_accepted_are_sent_again_with_the_same_bytes() {
        First(vec![
            Behaviour::accept_first_then(2, 500),
            Behaviour::accept_then_reset(),
            Behaviour::accept_then_drop(),
            Behaviour::drop_connection(),
        ]) => [Repeats { duplicates: 2 + 2 * PODS }]
    }

    fn an_expired_certificate_is_not_trusted() {
        Presents(|trusted, _| trusted.expired("127.0.0.1").unwrap())
            => [Unready("expired"), Logs("expired"), SendsNothing, BacksOff]
    }

    fn a_certificate_for_another_host_is_not_trusted() {
        Presents(|trusted, _| trusted.certificate("elsewhere.test").unwrap())
            => [Unready("not valid for name"), Logs("not valid for name"), SendsNothing, BacksOff]
    }

    fn a_certificate_of_an_unknown_authority_is_not_trusted() {
        Presents(|_, unknown| unknown.certificate("127.0.0.1").unwrap())
            => [Unready("UnknownIssuer"), Logs("UnknownIssuer"), SendsNothing, BacksOff]
    }
}

/// What a row needs while it runs.
struct Trial {
    scene: Scene,
    meterline: Meterline,
    /// How many requests get an answer of their own.
    first: usize,
    /// TLS in front of the sink, and the authority that the program trusts.
    tls: Option<(TlsFront, Authority)>,
}

async fn check(sink: Sink, then: &[Then]) {
    let scene = Scene::with(BINARY, PODS).await;
    let (mut first, mut later, mut tls) = (0, None, None);
    let command = match sink {
        First(behaviours) => {
            first = behaviours.len();
            for behaviour in behaviours {
                scene.ingest.respond(1, &behaviour);
            }
            scene.preset()
        }
        Always(behaviour) => {
            scene.ingest.respond_always(behaviour);
            scene.preset()
        }
        Later(behaviour) => {
            later = Some(behaviour);
            scene.preset()
        }
        Presents(certificate) => {
            let (trusted, unknown) = (Authority::new().unwrap(), Authority::new().unwrap());
            let url = scene.ingest.url();
            let front = TlsFront::start(&url, certificate(&trusted, &unknown)).await;
            let front = front.unwrap();
            let roots = scene.file("roots.pem");
            std::fs::write(&roots, trusted.pem()).unwrap();
            let (url, roots) = (front.url(), roots.display());
            let output =
                format!("url: '{url}', max_in_flight: 2, tls: {{root_cas_file: '{roots}'}}");
            tls = Some((front, trusted));
            scene.variant(|preset| preset, &output)
        }
    };
    let meterline = command.start().unwrap();
    if let Some(behaviour) = later {
        meterline.wait_ready(MINUTE).await.unwrap();
        scene.ingest.wait_for_events(1).await.unwrap();
        scene.ingest.respond_always(behaviour);
    }
    let trial = Trial {
        scene,
        meterline,
        first,
        tls,
    };
    for then in then {
        trial.happens(*then).await;
    }
    if first == 0 {
        trial.scene.ingest.respond_normally();
    }
    trial.scene.finish(&trial.meterline).await;
}

/// Whether each of the first requests was sent again with the same bytes.
fn all_were_repeated(requests: &[Request], first: usize) -> bool {
    requests.len() > first
        && requests.iter().take(first).enumerate().all(|(at, it)| {
            let mut later = requests.iter().skip(at + 1);
            later.any(|again| again.body == it.body)
        })
}

impl Trial {
    async fn happens(&self, then: Then) {
        let (ingest, meterline) = (&self.scene.ingest, &self.meterline);
        match then {
            Unready(reason) => meterline.wait_unready(reason).await.unwrap(),
            Logs(line) => drop(meterline.wait_for_log(line, MINUTE).await.unwrap()),
            SendsNothing => {
                let sent = meterline.metric("output_sent").await.unwrap();
                assert_eq!(sent.unwrap_or_default(), 0.0);
                assert!(ingest.events().is_empty());
            }
            RejectsNothing => meterline.assert_metric("output_rejected", 0.0).await,
            Repeats { duplicates } => ingest
                .wait_until(3 * MINUTE, |state| {
                    state.duplicates >= duplicates && all_were_repeated(&state.requests, self.first)
                })
                .await
                .unwrap(),
            // Each pause is twice the one before, up to half a minute.
            CountsErrors(errors) => meterline
                .wait_for_metric("output_error", 3 * MINUTE, |counted| counted >= errors)
                .await
                .unwrap(),
            BacksOff => {
                let (front, trusted) = self.tls.as_ref().unwrap();
                front.wait_for_connections(2, MINUTE).await.unwrap();
                front.present(trusted.certificate("127.0.0.1").unwrap());
                front.wait_for_connections(3, MINUTE).await.unwrap();
                let connections = front.connections();
                let pause = connections[2] - connections[0];
                assert!(pause > Duration::from_secs(25), "{pause:?}");
            }
        }
    }
}
