//! The failures of `docs/reliability.md`, except those that tenants, mappings and answers cause.

/// The failure, what happens, and the tests that cause it, as `file name`; or why no test does.
pub(super) struct Row(
    pub(super) &'static str,
    pub(super) &'static str,
    pub(super) Result<&'static [&'static str], &'static str>,
);

const WATCH: &str = "tests/watch.rs cuts_and_errors_cost_no_second";
const MAIN: &str = "tests/exact_billing.rs fifty_pods_are_billed_to_the_second_through_outages";
const KILLS: &str = "tests/crashes.rs after_a_hundred_kills_nothing_is_missing_or_billed_twice";

pub(super) const FAULTS: &[Row] = &[
    Row(
        "The state file is of an earlier version, or other users of the machine may read it",
        "it is converted completely or not at all; only the user of the collector may read it",
        Ok(&[
            "crates/input/src/kubernetes_resources/state/tests/older.rs a_file_of_each_earlier_version_is_restored_completely",
            "crates/input/src/kubernetes_resources/state/tests/kept.rs only_this_user_may_read_the_file_even_if_others_could_before",
        ]),
    ),
    Row(
        "The watermark in the Lease is set ahead, or the state is older than the Lease",
        "a watermark that no replica wrote is refused and reported; what cannot be known is counted in `lost_time`",
        Ok(&[
            "tests/faults/lease.rs a_watermark_that_is_set_ahead_costs_no_second_and_is_reported",
            "tests/faults/lease.rs a_watermark_that_is_set_ahead_once_the_leader_is_killed_costs_no_second_and_is_reported",
            "tests/faults/lease.rs a_watermark_beyond_what_this_replica_handed_out_is_adopted_with_a_count",
            "tests/faults/lease.rs a_watermark_that_is_set_ahead_between_two_runs_costs_no_second",
            "tests/faults/lease.rs a_standby_takes_over_without_a_gap_if_the_watermark_was_set_ahead",
            "tests/faults/lease.rs an_unsigned_watermark_is_followed_only_with_a_count",
        ]),
    ),
    Row(
        "The state file holds a thousand rejected intervals of one pod at a start",
        "other pods are billed window by window meanwhile",
        Ok(&["tests/retries.rs retries_of_a_thousand_rejected_intervals_delay_no_honest_pod"]),
    ),
    Row(
        "The configuration reads more than before a restart, and earlier usage still has to be delivered",
        "the new configuration bills it if the object has not changed since; otherwise it is rejected with the reason, never guessed",
        Ok(&[
            "tests/projection.rs a_mapping_that_reads_more_bills_nothing_from_incomplete_contents",
            "crates/ledger/src/tests/contents.rs a_partial_content_stays_partial_before_the_last_write",
        ]),
    ),
    Row(
        "The watch lags while lists are answered promptly",
        "the program finds it by resource versions, reports it and waits; what was billed beyond an end is counted",
        Ok(&[
            "tests/faults/lag.rs a_watch_that_lags_behind_prompt_lists_is_reported_and_its_windows_wait",
        ]),
    ),
    Row(
        "An endless watch line, pages that are too large, an endless list",
        "cut off at 16 MiB, requested with fewer objects, reported",
        Ok(&[
            "tests/faults/api_server.rs a_watch_line_without_end_is_cut_off_and_the_watch_restarts",
            "tests/faults/api_server.rs pages_that_are_too_large_are_requested_with_fewer_objects",
            "tests/faults/api_server.rs an_endless_list_is_reported",
        ]),
    ),
    Row(
        "A configured namespace does not exist",
        "reported until it exists, where the program may read namespaces",
        Ok(&[
            "tests/faults/namespaces.rs a_missing_namespace_is_reported_until_it_exists_where_namespaces_may_be_read",
        ]),
    ),
    Row(
        "The API server requests a pause (429, `Retry-After`)",
        "the program waits that long",
        Ok(&["tests/watch.rs a_pause_that_the_api_server_requests_is_respected"]),
    ),
    Row(
        "The API server restarts, refuses or answers 500 or 429",
        "windows wait until the view is current again; nothing that was known is lost",
        Ok(&[MAIN, WATCH]),
    ),
    Row(
        "The API server no longer has the version of the watch (410)",
        "the program lists again; what was deleted meanwhile ends when it ended, as far as the server knows",
        Ok(&[
            "tests/watch.rs expired_versions_cost_only_what_the_server_no_longer_has",
            "tests/outages.rs pods_deleted_while_the_watch_was_down_are_billed_to_their_end",
        ]),
    ),
    Row(
        "The connection to the API server is half open",
        "noticed within 15 seconds and replaced; through a proxy with only HTTP/1.1 within 55",
        Ok(&["tests/outages.rs a_half_open_connection_costs_no_second"]),
    ),
    Row(
        "No API server, no rights",
        "it starts, reports it in the log and in `/ready`, and keeps trying",
        Ok(&["tests/pod_lifecycle.rs it_starts_without_a_server_and_without_rights"]),
    ),
    Row(
        "The service account's token, or the authority of the API server's certificate, is replaced",
        "it is read again; no second is missing",
        Ok(&[
            "tests/rotation.rs a_service_account_token_that_is_replaced_costs_no_second",
            "tests/rotation.rs another_certificate_authority_costs_no_second",
        ]),
    ),
    Row(
        "A thousand changes of pods per second",
        "bounded memory, and no log line for each",
        Ok(&["tests/load.rs a_thousand_changes_a_second_cost_no_memory_and_no_log"]),
    ),
    Row(
        "The collector is killed at any moment",
        "with a state file the same windows are sent again with the same ids",
        Ok(&[
            KILLS,
            "crates/ledger/src/tests/history.rs late_observations_are_billed_once_and_counted",
        ]),
    ),
    Row(
        "Pods come and go while the collector is down",
        "billed to the second, as long as the API server has the events; `lost_time` counts what it does not",
        Ok(&[
            "tests/crashes.rs pods_that_ran_while_the_collector_was_down_are_billed",
            "tests/faults/stop.rs billing_continues_after_a_restart_without_pod_changes",
            KILLS,
        ]),
    ),
    Row(
        "It gets a stop signal, in a window or in a retry",
        "what was read is delivered within `shutdown_timeout`; a second signal ends it at once with 130",
        Ok(&[
            "tests/sink.rs waiting_events_are_delivered_on_sigterm",
            "tests/sink.rs a_stop_that_cannot_deliver_ends_with_75_and_a_second_signal_with_130",
            "tests/faults/stop.rs stopped_at_any_moment_with_a_state_file_every_second_is_billed_once",
            "tests/faults/stop.rs stopped_at_any_moment_with_a_buffer_every_second_is_billed_once",
            "tests/faults/stop.rs a_second_signal_ends_it_at_once_while_a_request_is_held",
        ]),
    ),
    Row(
        "It gets a stop signal while messages wait in an input with processors",
        "the buffer takes them, or they are counted as lost and it ends with 75",
        Ok(&[
            "tests/faults/stop.rs messages_in_an_input_with_processors_are_stored_at_a_stop_or_counted_as_lost",
        ]),
    ),
    Row(
        "It gets a stop signal with messages in a memory buffer",
        "they are delivered within `shutdown_timeout`; the others are counted and logged, and it ends with 75",
        Ok(&[
            "tests/buffer.rs a_stop_delivers_the_memory_buffer_or_reports_it_as_lost",
            "crates/runtime/src/tests/stop.rs held_batches_are_delivered_within_the_deadline",
        ]),
    ),
    Row(
        "The state file is damaged, cut off, full of zeros, or of a later version",
        "it is moved aside and reported, and a new one begins",
        Ok(&[
            "crates/input/src/kubernetes_resources/state/tests.rs any_damage_is_noticed_and_moved_aside",
            "crates/input/src/kubernetes_resources/state/tests.rs a_file_of_a_later_version_is_moved_aside",
            "tests/crashes.rs a_second_process_is_refused_and_a_damaged_state_file_is_moved_aside",
        ]),
    ),
    Row(
        "A second process uses the state file",
        "refused with a clear error",
        Ok(&[
            "tests/crashes.rs a_second_process_is_refused_and_a_damaged_state_file_is_moved_aside",
            "crates/input/src/kubernetes_resources/state/tests.rs a_second_user_is_refused",
        ]),
    ),
    Row(
        "Several inputs share a state file, and the process is killed between two writes, or one of the ledgers is damaged",
        "each ledger is as it was written last; damage to one leaves the others, and a copy",
        Ok(&[
            "tests/broker.rs two_ledgers_in_one_state_file_survive_kills",
            "crates/input/src/kubernetes_resources/state/tests/several.rs a_crash_between_two_writes_leaves_each_ledger_as_it_was_written",
            "crates/input/src/kubernetes_resources/state/tests/several.rs after_a_failed_write_of_one_each_is_written_again_as_a_whole",
            "crates/input/src/kubernetes_resources/state/tests/several.rs damage_to_one_ledger_leaves_the_others_and_a_copy",
        ]),
    ),
    Row(
        "One of several inputs waits, ends or fails",
        "the others continue; `/ready` names one that failed",
        Ok(&[
            "crates/input/src/broker/tests.rs no_input_starves_another_and_one_that_waits_stops_none",
            "crates/input/src/broker/tests.rs it_ends_when_all_have_ended_and_an_ended_input_is_not_read_again",
            "crates/input/src/broker/tests.rs a_failed_input_stops_no_other_and_is_the_end_only_after_them",
        ]),
    ),
    Row(
        "The disk is full, or a write to it or a sync of it fails",
        "no window is sent that is not written; when the disk works again, everything is rewritten",
        Ok(&[
            "tests/faults/disk.rs on_a_full_disk_no_window_is_sent_and_none_is_lost",
            "tests/faults/disk.rs a_state_that_cannot_be_synced_is_not_trusted_and_is_rewritten",
            "crates/input/src/kubernetes_resources/state/tests.rs a_full_disk_is_an_error_and_everything_is_written_once_there_is_space",
        ]),
    ),
    Row(
        "The collector is killed with messages in a buffer",
        "they are delivered after the restart with the same ids",
        Ok(&[
            "tests/buffer.rs messages_in_a_file_buffer_survive_a_kill",
            "crates/input/src/buffer/tests.rs undelivered_messages_survive_with_their_metadata_and_identity",
        ]),
    ),
    Row(
        "The buffer's disk is full or does not sync, or a batch in it is damaged",
        "the input has to repeat the messages and nothing is dropped; a damaged batch is moved aside and the others are delivered",
        Ok(&[
            "tests/faults/disk.rs messages_that_a_buffer_on_a_full_disk_refuses_are_read_again",
            "tests/faults/disk.rs messages_that_a_buffer_could_not_sync_are_read_again",
            "tests/faults/disk.rs a_damaged_buffer_is_moved_aside_and_reported",
            "crates/input/src/buffer/tests.rs a_batch_that_a_full_disk_refuses_is_not_acknowledged_and_is_read_again",
            "crates/input/src/buffer/tests.rs a_damaged_batch_is_set_aside_and_the_others_are_delivered",
        ]),
    ),
    Row(
        "The leader is killed",
        "the other replica leads when the Lease has expired, without a gap",
        Ok(&[
            "tests/replicas.rs a_killed_leader_is_replaced_within_the_lease",
            "crates/ledger/src/tests/handover.rs no_handover_leaves_a_gap_or_an_overlap",
        ]),
    ),
    Row(
        "The leader bills with several inputs and is killed, or a process with more inputs replaces it",
        "the other replica leads with all of its inputs, and each continues at its own watermark",
        Ok(&[
            "tests/broker.rs a_killed_leader_is_replaced_for_both_ledgers",
            "tests/broker.rs an_update_to_a_process_with_more_ledgers_leaves_no_gap_and_no_overlap",
            "crates/input/src/kubernetes_resources/leader/tests.rs a_rolling_update_to_more_ledgers_and_back_leaves_no_gap_and_no_overlap",
        ]),
    ),
    Row(
        "The leader gets a stop signal",
        "it releases the Lease; the other replica leads within two seconds",
        Ok(&["tests/replicas.rs a_stopped_leader_hands_over_at_once"]),
    ),
    Row(
        "The leader is suspended and resumes; two replicas lead for a moment",
        "the one that resumes checks its Lease before it closes a window; both send the same events",
        Ok(&[
            "tests/replicas.rs a_suspended_leader_is_a_standby_when_it_resumes",
            "crates/ledger/src/tests/handover.rs no_handover_leaves_a_gap_or_an_overlap",
        ]),
    ),
    Row(
        "The sink is unavailable or answers 5xx",
        "the same bytes are sent again without limit; windows wait in the ledger and are sent oldest first",
        Ok(&[
            "tests/sink.rs a_sink_that_is_away_at_the_start_gets_every_window_later",
            MAIN,
        ]),
    ),
    Row(
        "The sink requests a pause (429, `Retry-After`)",
        "the program waits that long, up to a limit",
        Ok(&[
            "tests/sink.rs a_retry_after_in_seconds_is_respected",
            "tests/sink.rs a_retry_after_as_a_date_is_respected",
            "tests/sink.rs a_retry_after_that_has_passed_means_the_usual_pause",
            "tests/sink.rs a_retry_after_that_cannot_be_read_means_the_usual_pause",
            "tests/faults/sink.rs a_retry_after_of_years_delays_only_its_request",
        ]),
    ),
    Row(
        "The sink does not answer",
        "a request ends after `timeout` and is sent again; few requests are open, and windows wait in the ledger",
        Ok(&[
            "tests/faults/sink.rs a_request_without_a_response_ends_at_the_time_limit_and_windows_wait",
        ]),
    ),
    Row(
        "A batch is too large (413)",
        "it is halved, and the limit is kept in bytes; an event that is too large alone is rejected",
        Ok(&[
            "tests/sink.rs batches_are_halved_until_they_are_accepted",
            "tests/faults/sink.rs an_event_that_is_too_large_alone_is_rejected_without_affecting_others",
        ]),
    ),
    Row(
        "One event of many is refused (400)",
        "it is found by bisection, and only it is rejected or goes to the fallback",
        Ok(&[
            "tests/sink.rs one_refused_event_is_found_and_the_others_are_delivered",
            "tests/sink.rs refused_events_go_to_the_fallback_with_the_reason",
        ]),
    ),
    Row(
        "Most events are refused",
        "each is rejected or goes to the fallback, and `/ready` is 503 with the reason",
        Ok(&[
            "crates/runtime/src/tests/refusals.rs an_output_is_not_ready_when_most_events_are_rejected",
        ]),
    ),
    Row(
        "The fallback is unavailable",
        "refused events wait for it, at most 65,536; the other output continues",
        Ok(&[
            "crates/runtime/src/tests/stop.rs a_fallback_that_is_down_does_not_block_other_outputs",
        ]),
    ),
    Row(
        "The answer is lost after the events were taken, or an error came after some of them",
        "the same bytes are sent again, with the same ids",
        Ok(&[
            "tests/faults/answers.rs events_that_may_have_been_accepted_are_sent_again_with_the_same_bytes",
            MAIN,
        ]),
    ),
    Row(
        "The token is refused (401, 403)",
        "nothing is lost; it is not ready until there is another token",
        Ok(&["tests/sink.rs a_refused_token_keeps_the_data_until_another_one_is_there"]),
    ),
    Row(
        "A redirect, or a web page from a proxy or a wrong port, also with a 400",
        "it is not followed, and counts neither as a success nor as a rejection",
        Ok(&[
            "tests/sink.rs a_redirect_is_not_followed_and_nothing_is_lost",
            "tests/faults/answers.rs a_web_page_is_no_success",
            "tests/faults/answers.rs a_web_page_is_no_verdict_either",
        ]),
    ),
    Row(
        "The sink's certificate is expired, for another host or of an unknown authority",
        "the program retries slowly, with the reason in `/ready`; it never trusts it, and nothing is lost",
        Ok(&[
            "tests/faults/answers.rs an_expired_certificate_is_not_trusted",
            "tests/faults/answers.rs a_certificate_for_another_host_is_not_trusted",
            "tests/faults/answers.rs a_certificate_of_an_unknown_authority_is_not_trusted",
        ]),
    ),
    Row(
        "The sink was unavailable longer than `max_backlog`",
        "older usage is given up with an error and counted in `lost_time`",
        Ok(&[
            "tests/outages.rs usage_older_than_the_backlog_is_given_up_and_counted",
            "crates/ledger/src/tests/mod.rs usage_that_is_given_up_is_counted_and_not_billed",
        ]),
    ),
    Row(
        "The clock is set forward or back while it runs",
        "billing follows the time that passed, or the new time where the clock of the API server agrees with it; either is logged",
        Ok(&[
            "tests/faults/clock.rs a_clock_that_is_an_hour_wrong_bills_no_second_that_did_not_pass",
            "tests/faults/clock.rs a_clock_that_is_corrected_is_followed",
        ]),
    ),
    Row(
        "The process is suspended or gets no CPU",
        "windows that became due close when it resumes, after it has read everything that happened meanwhile",
        Ok(&[
            "tests/faults/sleep.rs pods_that_end_while_the_process_is_suspended_are_billed_to_their_end",
        ]),
    ),
    Row(
        "It is started while the clock is wrong",
        "logged when the clock of the API server differs by more than half a minute; windows follow the clock until it is corrected",
        Ok(&["tests/faults/clock.rs a_clock_that_is_corrected_is_followed"]),
    ),
    Row(
        "The name of the sink does not resolve, or resolves to another address",
        "each new connection resolves it again",
        Ok(&["tests/faults/dns.rs a_name_that_fails_or_changes_is_resolved_again"]),
    ),
    Row(
        "Two clusters report under one `source`",
        "UIDs distinguish their pods; `cluster` distinguishes clones of one backup",
        Ok(&[
            "tests/clusters.rs clones_of_one_backup_are_distinguished_by_the_name_of_their_cluster",
        ]),
    ),
    Row(
        "Short lives, restarts of containers, reused names, evictions, finished jobs",
        "each UID is billed for what it ran",
        Ok(&[
            "tests/pod_lifecycle.rs every_rule_of_a_pod_s_life_and_of_its_metrics",
            "tests/pod_lifecycle.rs pods_that_kwok_runs_are_billed_exactly",
        ]),
    ),
    Row(
        "A quantity that cannot be read, a number that is not finite",
        "that metric is left out with a count and one log line, and the event is billed; a number that is not finite is never sent",
        Ok(&[
            "tests/sink.rs a_quantity_that_cannot_be_read_is_refused_alone",
            "crates/script/src/tests/limits.rs quantities_are_kubernetes_quantities_or_errors",
            "crates/script/src/tests/limits.rs numbers_that_are_not_finite_are_never_sent",
        ]),
    ),
    Row(
        "Pods of a megabyte, odd Unicode",
        "delivered, or rejected with the reason",
        Ok(&[
            "crates/script/src/tests/limits.rs large_and_odd_pods_are_mapped_or_refused_with_a_reason",
        ]),
    ),
    Row(
        "A script that loops, recurses, waits or builds huge values",
        "limits stop it; that message is rejected",
        Ok(&[
            "crates/script/src/tests/limits.rs a_script_that_never_ends_is_stopped",
            "crates/script/src/tests/limits.rs values_nested_without_end_do_not_overflow_the_stack",
            "crates/script/src/tests/limits.rs nothing_that_waits_or_reaches_outside_can_be_called",
        ]),
    ),
    Row(
        "A script that fails for one pod, or for most",
        "that pod is rejected and the others are billed; while most fail, it is not ready, with the reason",
        Ok(&[
            "tests/faults/sink.rs a_script_that_fails_for_one_pod_rejects_it_and_for_most_is_not_ready",
        ]),
    ),
    Row(
        "No state file is configured",
        "the log and `/ready` report it",
        Ok(&["tests/faults/sink.rs a_missing_state_file_is_reported_in_the_log_and_on_ready"]),
    ),
    Row(
        "A configuration that expands without bound, or is garbage",
        "refused with a clear error",
        Ok(&[
            "crates/config/src/tests.rs bombs_are_refused",
            "tests/corpora.rs configurations_are_read_or_refused",
        ]),
    ),
    Row(
        "The configuration changes while it runs",
        "nothing until a restart: the configuration is read once, at the start",
        Err("there is no reloading; `lint` reports what a configuration would do"),
    ),
    Row(
        "Secrets in a configuration",
        "in no log line at any level, in no answer of an endpoint, in no error",
        Ok(&[
            "tests/secrets.rs a_running_program_shows_no_secret",
            "tests/secrets.rs a_lint_shows_no_secret",
            "tests/secrets.rs an_echo_shows_no_secret",
        ]),
    ),
];
