//! The failures of `docs/reliability.md` that tenants, mappings and the answers of the sink cause.

use super::faults::Row;

pub(super) const CONTENTS: &[Row] = &[
    Row(
        "Everything at once: two replicas are killed and restarted, the API server restarts, the sink is unavailable, slow or loses answers",
        "every second is billed once",
        Ok(&["tests/chaos.rs every_second_is_billed_once_through_random_failures"]),
    ),
    Row(
        "A hostile tenant: limits of exabytes, thousands of annotations, events that make the sink fail, names of other tenants, large pods whose labels change each second; the sink is unavailable meanwhile",
        "no other tenant loses a second; each of its own seconds is delivered or listed as rejected",
        Ok(&[
            "tests/hostile.rs a_hostile_tenant_costs_no_other_tenant_a_second_and_is_itself_fully_accounted",
            "tests/contents.rs no_content_of_a_pod_keeps_its_time_from_being_billed",
        ]),
    ),
    Row(
        "A mapping, `catch`, `drop_on` or a `switch` without a match drops messages; a mapping or the sink rejects them",
        "the seconds are counted by reason and namespace; rejected usage is kept, listed, and retried under the same ids",
        Ok(&[
            "tests/fates.rs every_second_has_a_fate_with_its_reason_and_its_namespace",
            "tests/fates.rs rejected_usage_is_delivered_after_the_mapping_is_corrected",
            "tests/fates.rs rejected_usage_is_listed_and_delivered_on_request",
            "tests/fates.rs each_of_300_rejected_pods_of_1000_is_named",
        ]),
    ),
    Row(
        "One event makes the sink answer 500, whichever batch it is in",
        "the program finds it by halving the batch and rejects it while the sink accepts others; in an outage it rejects nothing",
        Ok(&[
            "tests/faults/poison.rs an_event_that_makes_the_sink_fail_does_not_stop_the_billing_of_others",
            "crates/runtime/src/tests/poison.rs one_message_that_makes_the_sink_fail_is_set_aside_and_the_others_arrive",
            "crates/runtime/src/tests/poison.rs an_outage_sets_nothing_aside_however_long_it_lasts",
            "tests/faults/poison.rs rejected_usage_survives_a_restart_and_does_not_affect_other_pods",
            "tests/faults/poison.rs a_pod_whose_events_make_the_sink_fail_may_be_deleted_meanwhile",
            "tests/faults/poison.rs a_text_that_is_too_large_when_escaped_twice_does_not_stop_the_billing_of_others",
        ]),
    ),
    Row(
        "A pod's events make the sink hang in every window",
        "once the pod is found, one of its events is tried from time to time and the others are listed as rejected; neither other pods nor windows wait",
        Ok(&[
            "crates/runtime/src/tests/poison/hanging.rs an_object_that_hangs_the_sink_in_every_window_is_found_within_minutes",
        ]),
    ),
    Row(
        "The pods of a tenant contain too much, or their labels change all the time",
        "the largest values are left out and changes of labels are merged, with a count and a log line; no second, subject or metric changes",
        Ok(&[
            "tests/hostile.rs a_hostile_tenant_costs_no_other_tenant_a_second_and_is_itself_fully_accounted",
            "crates/ledger/src/tests/history.rs observations_in_time_are_billed_exactly_within_any_budget",
        ]),
    ),
    Row(
        "The server claims the id of an event before it fails to store it",
        "the other events are delivered; the event counts as the server answers",
        Ok(&[
            "tests/faults/poison.rs if_the_server_claims_ids_before_it_fails_other_events_are_exact_and_nothing_hangs",
        ]),
    ),
    Row(
        "400, 413 or 200 from a server that is not the ingest API, or a response that is cut off",
        "neither a rejection nor a success: the events wait, `/ready` shows the reason, and they are sent again",
        Ok(&[
            "tests/faults/answers.rs a_400_in_plain_text_is_no_verdict",
            "tests/faults/answers.rs an_empty_400_is_no_verdict",
            "tests/faults/answers.rs an_empty_422_is_no_verdict",
            "tests/faults/answers.rs a_422_in_the_json_of_a_gateway_is_no_verdict",
            "tests/faults/answers.rs a_413_of_a_proxy_is_no_verdict",
            "tests/faults/answers.rs a_200_that_names_an_error_is_no_success",
            "tests/faults/answers.rs a_200_of_another_server_is_no_success",
            "tests/faults/answers.rs a_sink_that_has_accepted_nothing_yet_cannot_reject",
            "tests/faults/answers.rs a_request_whose_response_is_cut_off_is_sent_again",
            "crates/output/src/openmeter/tests.rs a_response_that_is_cut_off_is_neither_a_success_nor_a_rejection",
        ]),
    ),
    Row(
        "A mapping returns an array or text",
        "lint reports it; what lint cannot see is rejected with a reason, and the other messages are delivered",
        Ok(&["tests/lint.rs a_message_that_is_no_object_is_rejected_and_not_posted"]),
    ),
    Row(
        "A processor panics for one message",
        "that message is rejected, and the others are delivered",
        Ok(&["crates/runtime/src/tests.rs a_message_whose_processing_panics_is_rejected_alone"]),
    ),
    Row(
        "The process is paused in the middle of a mapping",
        "nothing fails: the time limit counts CPU time",
        Ok(&[
            "crates/script/src/tests/limits.rs a_process_that_is_paused_in_the_middle_of_a_mapping_fails_no_message",
        ]),
    ),
    Row(
        "The log is not read, or its reader has closed it",
        "billing continues and a stop works; lines are dropped, with a count and a log line",
        Ok(&[
            "tests/faults/streams.rs an_unread_log_blocks_neither_billing_nor_a_stop",
            "tests/faults/streams.rs a_log_with_a_closed_reader_does_not_stop_billing",
        ]),
    ),
    Row(
        "The output of DEBUG is not read",
        "billing continues; dropped messages are counted and logged",
        Ok(&[
            "tests/faults/streams.rs an_unread_debug_output_blocks_neither_billing_nor_a_stop",
            "tests/faults/streams.rs messages_that_standard_output_does_not_accept_are_counted_and_reported",
        ]),
    ),
    Row(
        "2,000 incomplete headers, 1,100 idle connections",
        "memory and descriptors are bounded; billing and `/ping` continue",
        Ok(&[
            "tests/faults/pages.rs two_thousand_incomplete_headers_cost_little_memory_and_block_no_client",
            "tests/faults/pages.rs idle_connections_take_no_descriptor_from_billing",
        ]),
    ),
    Row(
        "The address of the admin server is in use",
        "a warning; billing continues",
        Ok(&["tests/faults/pages.rs an_admin_address_in_use_does_not_stop_billing"]),
    ),
    Row(
        "The state file is deleted or replaced while it is in use",
        "the program notices, rewrites it and reports it; a second process is still refused",
        Ok(&[
            "tests/faults/state.rs a_state_file_that_is_deleted_or_replaced_is_rewritten_and_stays_locked",
        ]),
    ),
];
