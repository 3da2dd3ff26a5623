//! Explains the API server's errors, with the remedy.

use kube::runtime::watcher;

use super::limits::TooMuch;

/// Whether this error means that the API server does not support streaming lists.
pub(crate) fn refuses_streaming_list(error: &watcher::Error) -> bool {
    matches!(
        error,
        watcher::Error::WatchStartFailed(kube::Error::Api(status))
            if matches!(status.code, 400 | 422)
    )
}

/// Whether this error means that the API server does not have the resource.
pub(crate) fn is_not_served(error: &watcher::Error) -> bool {
    is_answer(error, 404)
}

/// Whether this error means that the resource may not be read.
pub(crate) fn is_forbidden(error: &watcher::Error) -> bool {
    is_answer(error, 403)
}

fn is_answer(error: &watcher::Error, code: u16) -> bool {
    matches!(
        error,
        watcher::Error::InitialListFailed(kube::Error::Api(status))
            | watcher::Error::WatchStartFailed(kube::Error::Api(status))
            | watcher::Error::WatchFailed(kube::Error::Api(status))
            if status.code == code
    )
}

/// Describes what happened, with the remedy.
pub(crate) fn explain(error: &watcher::Error, what: &str) -> String {
    if let Some(too_much) = TooMuch::of(error) {
        return format!(
            "the API server's response to list or watch {what} was cut off: {too_much}"
        );
    }
    let cause = match error {
        watcher::Error::InitialListFailed(cause)
        | watcher::Error::WatchStartFailed(cause)
        | watcher::Error::WatchFailed(cause) => cause,
        watcher::Error::WatchError(status) => {
            return format!("the watch was ended by the API server: {}", status.message);
        }
        watcher::Error::NoResourceVersion => {
            return format!("the API server does not support watching {what}");
        }
    };
    match cause {
        kube::Error::Api(status) if status.code == 403 => format!(
            "not allowed to list and watch {what} (403: {}); grant the verbs get, list and watch \
             with a Role or ClusterRole",
            status.message
        ),
        kube::Error::Api(status) if status.code == 401 => format!(
            "the API server does not accept the credentials (401: {}); check the token in the \
             kubeconfig or the service account",
            status.message
        ),
        kube::Error::Api(status) => format!(
            "the API server answered {} to list or watch {what}: {}",
            status.code, status.message
        ),
        other => format!("the API server cannot be reached: {}", root_cause(other)),
    }
}

/// The innermost cause, which is the most specific one ("connection refused").
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    fn api(code: u16, message: &str) -> kube::Error {
        let mut status = Status::failure(message, "Test");
        status.code = code;
        kube::Error::Api(Box::new(status))
    }

    fn explained(error: kube::Error) -> String {
        explain(&watcher::Error::InitialListFailed(error), "pods")
    }

    #[test]
    fn an_error_names_the_remedy() {
        let forbidden = explained(api(403, "no"));
        assert!(
            forbidden.contains("grant the verbs get, list and watch"),
            "{forbidden}"
        );
        let unauthorized = explained(api(401, "no"));
        assert!(unauthorized.contains("check the token"), "{unauthorized}");
        assert_eq!(
            explained(api(500, "etcd is away")),
            "the API server answered 500 to list or watch pods: etcd is away"
        );
    }

    #[test]
    fn the_innermost_cause_of_a_chain_is_shown() {
        let refused = std::io::Error::new(std::io::ErrorKind::ConnectionRefused, "refused");
        assert_eq!(
            explained(kube::Error::ReadEvents(refused)),
            "the API server cannot be reached: refused"
        );
    }

    #[test]
    fn the_error_of_a_cut_off_response_names_the_possible_causes() {
        let text = explained(kube::Error::Service(TooMuch::Page.into()));
        assert!(text.contains("list or watch pods was cut off"), "{text}");
        assert!(text.contains("`label_selector`"), "{text}");
    }

    #[test]
    fn only_404_means_that_a_resource_is_not_served() {
        for (code, is_missing) in [(404, true), (403, false), (410, false), (500, false)] {
            for error in [
                watcher::Error::InitialListFailed(api(code, "no")),
                watcher::Error::WatchStartFailed(api(code, "no")),
                watcher::Error::WatchFailed(api(code, "no")),
            ] {
                assert_eq!(is_not_served(&error), is_missing, "{code}");
            }
        }
    }

    #[test]
    fn only_a_refusal_of_the_request_itself_is_one_of_streaming_lists() {
        for (code, is_refused) in [(400, true), (422, true), (403, false), (500, false)] {
            let error = watcher::Error::WatchStartFailed(api(code, "no"));
            assert_eq!(refuses_streaming_list(&error), is_refused, "{code}");
            let error = watcher::Error::InitialListFailed(api(code, "no"));
            assert!(!refuses_streaming_list(&error));
        }
    }
}
