//! What the API server's errors mean, in words that name the remedy.

use kube::runtime::watcher;

use super::limits::TooMuch;

/// Whether an API server refuses streaming lists by this.
pub(crate) fn refuses_streaming_list(error: &watcher::Error) -> bool {
    matches!(
        error,
        watcher::Error::WatchStartFailed(kube::Error::Api(status))
            if matches!(status.code, 400 | 422)
    )
}

/// What happened, in words that name the remedy.
pub(crate) fn explain(error: &watcher::Error, what: &str) -> String {
    if let Some(too_much) = TooMuch::of(error) {
        return format!(
            "what the API server answers to list or watch {what} is cut off: {too_much}"
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

/// The innermost cause, which is the one that says something ("connection refused").
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
