//! Decides from a response whether the server accepted, rejected or failed to process the events.

use std::time::Duration;

use meterline_core::WriteError;

/// The pause before a request is repeated whose failure only an operator can correct, such as a
/// request to a server that is not trusted.
pub(crate) const SLOW: Duration = Duration::from_secs(30);

/// The protocol of the server, which defines what its responses mean.
pub(crate) enum Protocol {
    /// OpenMeter's ingest API, whose responses are specified.
    OpenMeter,
    /// Any other server, with the status codes of the configuration.
    Any(Statuses),
}

/// The status codes of the configuration. If a code is in several lists, `drop_on` takes precedence
/// over `backoff_on`, and `backoff_on` over `successful_on`.
#[derive(Debug, Default)]
pub(crate) struct Statuses {
    pub(crate) drop_on: Vec<u16>,
    pub(crate) backoff_on: Vec<u16>,
    pub(crate) successful_on: Vec<u16>,
}

/// What is read of the body of a response.
pub(crate) struct ResponseBody {
    /// One line: the `detail` of a problem (RFC 9457) if the body is one, otherwise the beginning
    /// of the body.
    pub(crate) text: String,
    /// Whether the body is a web page.
    pub(crate) is_page: bool,
    /// Whether the body is a problem: an object of the media type `application/problem+json`.
    pub(crate) is_problem: bool,
    pub(crate) is_empty: bool,
    pub(crate) end: End,
}

/// How the body of a response ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The body was read to its end.
    Complete,
    /// The body is longer than the part that is read.
    Longer,
    /// The connection closed before the end of the body, or the time limit passed.
    CutOff,
}

impl Protocol {
    /// Returns what a response means. `what` describes the response for people; `after` is the
    /// pause that it requests.
    pub(crate) fn meaning(
        &self,
        status: u16,
        body: &ResponseBody,
        what: String,
        after: Option<Duration>,
    ) -> Result<(), WriteError> {
        if body.end == End::CutOff && matches!(status, 200..=299 | 400 | 422) {
            // Whatever the received part contains, the server has not accepted or rejected the events.
            let reason = format!("{what} (the response was cut off)");
            return Err(WriteError::Failed { reason, after });
        }
        match self {
            Self::OpenMeter => open_meter(status, body, what, after),
            Self::Any(statuses) => other_server(status, body, what, after, statuses),
        }
    }
}

/// Returns what a response of OpenMeter's ingest API means. 202 and 204 are its success codes. It
/// rejects events with a problem (RFC 9457). Any other response comes from another server.
fn open_meter(
    status: u16,
    body: &ResponseBody,
    what: String,
    after: Option<Duration>,
) -> Result<(), WriteError> {
    match status {
        202 | 204 if !body.is_page => Ok(()),
        200..=299 if body.is_empty => Ok(()),
        400 | 422 if body.is_problem && body.end == End::Complete => {
            Err(WriteError::Rejected { reason: what })
        }
        200..=299 | 400 | 422 => Err(unexpected(&what, body)),
        _ => Err(no_verdict(status, what, after)),
    }
}

/// Returns what a response of any other server means.
fn other_server(
    status: u16,
    body: &ResponseBody,
    what: String,
    after: Option<Duration>,
    statuses: &Statuses,
) -> Result<(), WriteError> {
    if statuses.drop_on.contains(&status) {
        return Err(WriteError::Dropped { reason: what });
    }
    if statuses.backoff_on.contains(&status) {
        return Err(WriteError::Retry {
            reason: what,
            after,
        });
    }
    if statuses.successful_on.contains(&status) {
        return Ok(());
    }
    match status {
        // A web page comes from a proxy, or from a server on the wrong port. It neither accepts nor
        // rejects the events.
        200..=299 | 400 | 422 if body.is_page => Err(unexpected(&what, body)),
        200..=299 => Ok(()),
        400 | 422 => Err(WriteError::Rejected { reason: what }),
        _ => Err(no_verdict(status, what, after)),
    }
}

/// Returns the error for a response that does not come from the API.
fn unexpected(what: &str, body: &ResponseBody) -> WriteError {
    let how = if body.is_page {
        "with a web page"
    } else {
        "with something else"
    };
    WriteError::UnexpectedResponse {
        reason: format!(
            "{what} ({how}, not as an ingest API does; check the URL and its port, or is there a \
             proxy in between?)"
        ),
    }
}

/// Returns the error for a status that neither accepts nor rejects the events.
fn no_verdict(status: u16, reason: String, after: Option<Duration>) -> WriteError {
    match status {
        401 | 403 => WriteError::Unauthorized {
            reason: format!("{reason}; check the token"),
        },
        413 => WriteError::TooLarge { reason },
        425 | 429 => WriteError::Retry { reason, after },
        408 | 500..=599 => WriteError::Failed { reason, after },
        300..=399 => WriteError::UnexpectedResponse {
            reason: format!("{reason}; redirects are not followed, check the URL"),
        },
        _ => WriteError::UnexpectedResponse {
            reason: format!("{reason}; check the URL"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A response with this body, which was read to its end.
    fn answer(body: &str) -> ResponseBody {
        ResponseBody {
            text: body.to_owned(),
            is_page: body.starts_with("<html"),
            is_problem: false,
            is_empty: body.is_empty(),
            end: End::Complete,
        }
    }

    #[test]
    fn each_status_maps_to_what_the_runtime_does() {
        let all = |status: u16| {
            let any = Statuses::default();
            let why = || "why".to_owned();
            let [first, second] = [
                open_meter(status, &answer("why"), why(), None),
                other_server(status, &answer("why"), why(), None, &any),
            ];
            assert_eq!(first, second, "{status}");
            first.unwrap_err()
        };
        for status in [408, 500, 502, 503, 504] {
            assert!(matches!(all(status), WriteError::Failed { .. }), "{status}");
        }
        for status in [301, 307, 404, 405, 410] {
            assert!(
                matches!(all(status), WriteError::UnexpectedResponse { .. }),
                "{status}"
            );
        }
        assert!(matches!(all(429), WriteError::Retry { .. }));
        assert!(matches!(all(401), WriteError::Unauthorized { .. }));
        assert!(matches!(all(403), WriteError::Unauthorized { .. }));
        assert!(matches!(all(413), WriteError::TooLarge { .. }));
    }

    #[test]
    fn only_responses_of_the_api_accept_or_reject_events() {
        let meaning =
            |status: u16, body: &ResponseBody| open_meter(status, body, String::new(), None);
        let problem = ResponseBody {
            is_problem: true,
            ..answer("{}")
        };
        let long_problem = ResponseBody {
            end: End::Longer,
            is_problem: true,
            ..answer("{}")
        };
        for (status, body) in [(202, "{}"), (204, ""), (200, ""), (201, "")] {
            assert_eq!(meaning(status, &answer(body)), Ok(()), "{status} {body}");
        }
        for (status, body) in [
            (200, answer("ok")),
            (200, answer("{\"error\": 1}")),
            (202, answer("<html>")),
            (400, answer("")),
            (422, answer("{\"message\": \"no\"}")),
            (400, long_problem),
        ] {
            let meaning = meaning(status, &body);
            assert!(
                matches!(meaning, Err(WriteError::UnexpectedResponse { .. })),
                "{meaning:?}"
            );
        }
        for status in [400, 422] {
            let meaning = meaning(status, &problem);
            assert!(
                matches!(meaning, Err(WriteError::Rejected { .. })),
                "{meaning:?}"
            );
        }
    }

    #[test]
    fn a_response_that_is_cut_off_is_neither_a_success_nor_a_rejection() {
        let statuses = Statuses {
            drop_on: vec![422],
            ..Statuses::default()
        };
        for protocol in [Protocol::OpenMeter, Protocol::Any(statuses)] {
            for status in [200, 202, 204, 400, 422, 500] {
                let cut = ResponseBody {
                    end: End::CutOff,
                    is_problem: true,
                    ..answer("{}")
                };
                let meaning = protocol.meaning(status, &cut, String::new(), None);
                assert!(
                    matches!(meaning, Err(WriteError::Failed { .. })),
                    "{status}"
                );
            }
        }
    }

    #[test]
    fn the_configuration_decides_what_the_statuses_of_other_servers_mean() {
        let statuses = Statuses {
            drop_on: vec![409, 200],
            backoff_on: vec![429, 409, 400],
            successful_on: vec![303, 400],
        };
        let meaning = |status| other_server(status, &answer("x"), String::new(), None, &statuses);
        assert_eq!(meaning(201), Ok(()));
        assert_eq!(meaning(303), Ok(()));
        for status in [409, 200] {
            assert!(matches!(meaning(status), Err(WriteError::Dropped { .. })));
        }
        for status in [429, 400] {
            assert!(matches!(meaning(status), Err(WriteError::Retry { .. })));
        }
        assert!(matches!(meaning(422), Err(WriteError::Rejected { .. })));
    }
}
