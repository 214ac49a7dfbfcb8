//! What every store must do, written against the operations of `Store` alone: a new store adds its
//! name to the list, and a way to open it to `bench.rs`.

mod append;
mod batch;
mod bench;
mod claim;
mod create;
mod edge;
mod erase;
mod flush;
mod inbox;
mod kill_loop;
mod lanes;
mod list;
mod nodes;
mod notices;
mod opening;
mod plans;
#[path = "../postgres/mod.rs"]
mod postgres_server;
mod proxy;
mod read;
mod restart;
#[path = "../torture/scale.rs"]
#[expect(unreachable_pub, reason = "nothing imports a test binary")]
mod scale;
mod sessions;

/// Makes a test of every case for every store.
macro_rules! conformance {
    ($($store:ident),+ => $cases:tt) => { $( conformance!(@ $store $cases); )+ };
    (@ $store:ident { $( $room:ident: $($case:ident),+ $(,)?; )+ }) => {
        mod $store {
            $( $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    crate::$room::$case(crate::bench::Bench::$store().await).await;
                }
            )+ )+
        }
    };
}

conformance!(sqlite, postgres, memory => {
    create:
        the_same_key_and_body_are_the_same_run,
        the_same_key_and_another_body_are_refused,
        two_keys_of_two_runs_are_refused,
        a_second_key_is_bound_in_the_same_commit,
        of_64_racers_with_one_key_one_makes_the_run,
        a_key_is_of_its_tenant_and_its_kind,
        what_is_told_of_a_new_run_is_what_is_stored,
        a_run_is_born_with_an_owner_or_it_is_queued,
        a_dead_node_gives_birth_to_nothing,
        a_create_that_is_sent_again_is_the_same_run;
    append:
        what_is_stored_is_read_byte_for_byte,
        a_gap_is_refused_with_nothing_of_it_committed,
        a_run_of_somebody_else_is_refused_alone_and_nine_healthy_ones_commit,
        a_dead_node_appends_nothing,
        no_start_commits_after_a_cancel_but_all_before_it_does,
        news_refuse_an_append_that_must_have_none,
        a_run_ends_once,
        an_ended_run_takes_nothing_more,
        a_batch_that_is_sent_again_is_committed_once_and_answered_alike,
        a_batch_that_comes_late_is_refused,
        a_completed_turn_ends_the_count_of_crashes;
    inbox:
        a_note_is_left_once_for_its_key_and_has_a_number,
        what_is_read_is_not_told_again,
        a_cancel_stands_in_the_row,
        a_note_queues_a_run_without_an_owner,
        who_has_ended_or_is_unknown_takes_no_note;
    claim:
        runs_are_claimed_in_order_up_to_the_slots,
        a_run_is_claimed_once_however_many_ask,
        a_claim_that_is_dropped_is_made_whole_or_not_at_all,
        what_is_not_due_waits,
        a_clock_that_was_put_back_keeps_nothing_waiting,
        runs_with_news_are_claimed_beyond_the_slots,
        nothing_waits_behind_a_suspect,
        nobody_waits_for_a_run_that_is_given_up,
        a_suspects_turn_has_its_time_when_its_place_comes,
        a_run_that_waits_for_a_slot_keeps_its_place_and_its_reason,
        a_panic_counts_as_a_crash,
        only_the_owner_lets_go,
        a_clean_stop_counts_no_crash,
        a_dead_nodes_started_runs_count_a_crash,
        the_death_of_a_node_with_a_suspect_counts_for_the_suspect_alone,
        a_dead_node_claims_nothing,
        places_in_the_queue_and_counts_are_told;
    read:
        pages_follow_each_other_through_ten_thousand_events,
        a_page_ends_at_some_megabytes,
        pages_backwards_take_a_filter,
        the_log_for_a_fold_folds_to_the_state_of_the_whole_log,
        a_run_is_found_by_its_id_and_by_its_clients_name_for_it;
    batch:
        a_batch_is_its_runs_queued_in_order,
        the_same_key_and_body_are_the_same_batch,
        a_batch_with_a_name_that_is_taken_makes_nothing,
        of_racers_with_one_key_one_makes_the_batch,
        a_note_is_left_for_several_runs;
    erase:
        an_erased_run_leaves_nothing_and_its_keys_are_free,
        a_batch_is_erased_with_its_last_run,
        a_secret_is_made_up_once,
        a_full_inbox_takes_a_cancel_and_nothing_else,
        a_page_ends_where_its_reader_says;
    list:
        each_filter_finds_its_runs_and_no_others_newest_first,
        pages_follow_each_other_whatever_is_created_or_ends_between,
        runs_are_found_by_the_labels_that_they_have_now,
        a_list_shows_what_the_last_append_said,
        places_in_the_queue_are_told,
        every_filter_answers_in_milliseconds;
});

/// What is in memory is lost with its process.
mod beyond_the_process {
    conformance!(sqlite, postgres => {
        kill_loop:
            nothing_acknowledged_is_lost_by_a_kill,
            a_store_that_acknowledged_too_early_would_be_found_out;
    });
}
