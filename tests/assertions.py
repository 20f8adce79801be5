"""Which test proves what correct mail demands: an assertion, and the tests without which nobody would notice its breach.

A is about framing, B about headers and parts, C about envelope and dialogue, D about bulk mail, E about notebooks.
`test_assertions` checks that each of these tests is there. An assertion without a test says why.
"""

from __future__ import annotations

#: Assertion: what it says, and the tests, each as ``file::test``.
PROVED = {
    "A1": (
        "Every line of a mail ends in CRLF, and neither stands alone (RFC 5321, 2.3.8).",
        "test_dialogue::test_whatever_a_row_holds_its_text_is_framed_as_the_standard_wants",
        "test_mime::test_any_body_arrives_with_its_lines",
        "test_transport::test_content_in_another_form_is_a_programmers_error",
    ),
    "A2": (
        "No line is longer than 998 octets; header lines are folded at 78 where they can be (RFC 5322, 2.1.1).",
        "test_dialogue::test_whatever_a_row_holds_its_text_is_framed_as_the_standard_wants",
        "test_mime::test_header_lines_are_folded_at_78_where_they_can_be",
        "test_mime::test_a_headers_name_may_be_long_and_still_no_line_is",
    ),
    "A3": (
        "A text ends with one CRLF.CRLF, and a dot at the start of a line is doubled (RFC 5321, 4.5.2).",
        "test_dialogue::test_whatever_a_row_holds_its_text_is_framed_as_the_standard_wants",
        "test_transport::test_a_mail_arrives_octet_for_octet_dots_included",
    ),
    "A4": (
        "No control characters in headers, and 7-bit unless the server was told otherwise.",
        "test_dialogue::test_whatever_a_row_holds_its_text_is_framed_as_the_standard_wants",
        "test_dialogue::test_octets_beyond_ascii_travel_only_with_smtputf8_and_said_so",
        "test_mime::test_what_no_mail_can_hold_is_refused",
    ),
    "A5": (
        "Commands, local parts, domains and paths keep the lengths of RFC 5321, 4.5.3.1.",
        "test_merge::test_the_longest_address_makes_no_command_line_longer_than_its_limit",
        "test_addresses::test_a_path_has_at_most_256_octets_and_its_parts_64_and_255",
    ),
    "B1": (
        "Each header that may be there once is there once (RFC 5322, 3.6).",
        "test_mime::test_the_headers_are_each_there_once_and_bcc_is_not",
        "test_message::test_each_refusal_names_the_field_and_the_next_step",
    ),
    "B2": ("From holds one mailbox.", "test_dialogue::test_a_mail_has_one_sender"),
    "B3": (
        "Date can be read, has a numeric zone, and is that of the send.",
        "test_mime::test_any_moment_in_any_zone_arrives",
        "test_mime::test_date_and_message_id_are_new_each_time_unless_stamped",
    ),
    "B4": (
        "A Message-ID is new for every mail and kept over its tries (RFC 5322, 3.6.4).",
        "test_dialogue::test_a_mail_that_is_tried_again_keeps_its_message_id_and_every_mail_has_its_own",
        "test_mime::test_date_and_message_id_are_new_each_time_unless_stamped",
    ),
    "B5": (
        "A blind copy is in the envelope and nowhere in the mail.",
        "test_message::test_a_blind_copy_is_in_the_envelope_and_nowhere_in_the_bytes",
        "test_mime::test_the_headers_are_each_there_once_and_bcc_is_not",
    ),
    "B6": (
        "Encoded words are short, hold whole characters, and stand where they may (RFC 2047, 2 and 5).",
        "test_mime::test_a_text_is_cut_into_the_fewest_words_that_hold_whole_characters",
        "test_mime::test_any_printable_subject_arrives_as_it_was_written",
        "test_mime::test_an_address_that_a_reader_would_decode_is_refused_by_the_gate",
    ),
    "B7": (
        "A file's name arrives, whatever its letters, and has no path (RFC 2231).",
        "test_mime::test_any_file_name_arrives_without_a_path",
        "test_message::test_a_files_name_has_no_path",
    ),
    "B8": (
        "What leaves was parsed again and compared with what was meant, on every interpreter.",
        "test_mime::test_the_gate_refuses_bytes_that_read_differently",
        "test_mime::test_the_gate_looks_at_every_part",
        "test_mime::test_any_display_name_stays_one_mailbox",
        "test_mime::test_any_custom_header_value_adds_no_header",
        "test_interpreter::test_the_gate_holds_whichever_side_of_the_cve_this_interpreter_is_on",
    ),
    "B9": (
        "An inline image is related, unique and shown (RFC 2387, RFC 2392).",
        "test_mime::test_an_inline_image_is_related_by_its_content_id",
        "test_mime::test_html_that_shows_an_image_which_is_not_there_is_refused",
        "test_mime::test_two_images_may_not_share_a_content_id_but_one_may_be_given_twice",
    ),
    "B10": (
        "Text comes first and HTML last, in lines of 76 (RFC 2046, 5.1.4; RFC 2045, 6.7).",
        "test_mime::test_text_comes_first_and_html_last_and_both_arrive",
        "test_mime::test_quoted_printable_is_what_the_standard_says",
    ),
    "B11": (
        "HTML that Gmail would cut off is warned of.",
        "test_lint::test_each_rule_finds_what_it_is_for_and_nothing_beside_it",
    ),
    "B12": (
        "Remote images, data: URIs and CSS that mail programs lack are warned of.",
        "test_lint::test_each_rule_finds_what_it_is_for_and_nothing_beside_it",
        "test_lint::test_every_row_of_the_table_names_its_source_and_programs",
    ),
    "C1": (
        "The envelope is To, Cc and Bcc of its row, each once, and nothing else.",
        "test_message::test_the_envelope_is_the_union_of_the_three_fields_and_nothing_else",
        "test_addresses::test_what_the_envelope_gets_is_one_word_with_an_ascii_domain",
        "test_merge::test_every_row_goes_once_to_its_own_address_alone",
    ),
    "C2": (
        "A row is a transaction, and no text reaches another row's recipient.",
        "test_faults::test_a_fault_costs_its_own_row_at_most",
        "test_transport::test_after_a_refused_mail_command_no_text_goes_out_on_that_connection",
    ),
    "C3": (
        "SMTPUTF8 is said when it is needed and offered, else the row is refused before MAIL (RFC 6531, 3.2).",
        "test_transport::test_smtputf8_is_said_when_needed_and_offered_and_never_otherwise",
        "test_mime::test_smtputf8_is_needed_exactly_when_a_local_part_is_not_ascii",
    ),
    "C4": (
        "SIZE is the mail's octets, and one that is too big is never begun (RFC 1870).",
        "test_dialogue::test_every_octet_of_size_is_counted_as_it_travels",
        "test_transport::test_a_mail_that_the_server_says_is_too_big_is_never_begun",
    ),
    "C5": (
        "EHLO again after STARTTLS; no login and no mail in clear; certificate, name and version hold (RFC 3207, 4.2).",
        "test_tls_faults::test_what_was_offered_in_clear_counts_no_more_after_tls",
        "test_tls_faults::test_a_merge_says_nothing_in_clear_mails_nobody_and_can_be_run_again",
        "test_tls_faults::test_a_single_mail_says_nothing_in_clear_and_is_not_sent",
        "test_tls_faults::test_what_is_put_behind_the_220_in_clear_is_taken_for_no_reply",
    ),
    "C6": (
        "Commands share a write only where that is offered, and every reply counts (RFC 2920, 3.1).",
        "test_dialogue::test_data_ends_a_group_and_so_does_every_command_that_changes_the_state",
        "test_transport::test_a_fault_means_the_same_when_commands_share_a_write",
        "test_faults::test_a_server_that_stops_offering_pipelining_gets_one_command_at_a_time",
    ),
    "C7": (
        "Reports are asked for only where they are offered, and NEVER stands alone (RFC 3461, 4.1).",
        "test_transport::test_delivery_reports_are_asked_for_where_the_server_can_pass_that_on",
        "test_transport::test_no_report_is_asked_for_where_nobody_could_or_should",
        "test_transport::test_a_wish_for_reports_that_is_none_is_refused",
    ),
    "C8": ("BDAT is not used.", "test_dialogue::test_bdat_is_never_said"),
    "C9": (
        "Timeouts can be set; the one behind the dot is 10 minutes (RFC 5321, 4.5.3.2), the others a minute on purpose.",
        "test_dialogue::test_the_reply_to_a_mail_is_waited_for_as_long_as_the_standard_wants",
        "test_faults::test_a_reply_that_comes_octet_by_octet_is_waited_for_as_long_as_was_said",
    ),
    "C10": (
        "The first digit decides (RFC 5321, 4.2.1 and 4.3.2).",
        "test_replies::test_every_code_at_every_stage_has_a_state_of_the_vocabulary",
        "test_replies::test_any_segmentation_gives_the_same_replies",
    ),
    "C11": (
        "A connection is clean between mails, given up at a 421 or when it would be idle, and left with QUIT.",
        "test_transport::test_after_an_unfinished_transaction_the_next_mail_begins_with_a_reset",
        "test_dialogue::test_a_connection_that_would_wait_longer_than_a_server_does_is_closed_in_order",
        "test_faults::test_what_becomes_of_quit_changes_no_outcome",
    ),
    "C12": (
        "A wait is never zero and bounded; what is refused for good is not tried again (RFC 5321, 4.2.1).",
        "test_dialogue::test_a_wait_for_another_try_is_never_zero_grows_and_is_bounded",
        "test_dialogue::test_a_permanent_refusal_is_asked_for_once",
        "test_faults::test_a_retry_waits_and_greylisting_for_a_minute",
    ),
    "C13": (
        "Recipients that are too many for one transaction get another (RFC 5321, 4.5.3.1.10).",
        "test_faults::test_a_fault_costs_its_own_row_at_most",
        "test_promises::test_a_row_with_too_many_recipients_for_a_mail_goes_in_several",
    ),
    "E1": (
        "A preview runs nothing and has no origin, whatever the mail.",
        "test_message::test_the_preview_locks_the_body_in_and_escapes_the_rest",
        "test_message::test_any_body_stays_inside_its_attribute",
        "test_message::test_a_preview_fetches_nothing_and_runs_nothing",
        "test_browser_form::test_a_hostile_mail_is_previewed_and_nothing_of_it_runs_or_loads",
    ),
    "E2": (
        "A secret is nowhere to be seen.",
        "test_connection::test_the_secret_is_nowhere_to_be_seen",
        "test_kernel::test_a_secret_is_in_no_output_history_or_variable",
        "test_browser_form::test_a_password_is_in_no_saved_notebook_no_widget_state_no_output_and_no_history",
        "test_journal::test_no_secret_and_no_text_is_in_the_file",
        "test_checkup::test_no_secret_is_anywhere_in_a_checkup",
    ),
    "E3": (
        "Nothing leaves before a server was named, and no merge before its campaign was.",
        "test_merge::test_the_server_is_via_then_connect_then_environment_then_sandbox",
        "test_merge::test_send_says_where_it_went_and_raises_unless_it_was_sent",
        "test_merge::test_a_merge_outside_the_sandbox_names_its_campaign",
    ),
    "E4": (
        "A frame is not changed, and outcomes keep its order and index.",
        "test_merge::test_any_kind_of_frame_is_read_and_left_as_it_was",
        "test_merge::test_the_report_joins_back_to_the_frames_own_index",
    ),
    "D1": (
        "bulk mail has one List-Unsubscribe with one https URI and one click",
        "test_bulk::test_d1_bulk_mail_has_one_address_and_the_header_for_one_click",
        "test_bulk::test_d1_bulk_mail_without_one_click_is_refused_with_the_fix",
        "test_bulk::test_d1_rows_with_one_address_for_unsubscribing_are_named",
        "test_bulk::test_d1_an_address_for_unsubscribing_that_tells_the_recipient_is_warned_of",
    ),
    "D2": (
        "both header names are signed",
        "test_signing::test_both_names_for_unsubscribing_are_signed",
    ),
    "D3": (
        "a visible link to unsubscribe",
        "test_bulk::test_d3_the_letter_shows_the_link_and_the_postal_address_in_both_parts",
        "test_bulk::test_d3_a_link_that_nobody_sees_is_warned_of",
    ),
    "D4": (
        "the From domain is aligned",
        "test_bulk::test_d4_a_signature_of_another_domain_is_warned_of",
        "test_bulk::test_d4_a_signature_of_the_domain_above_aligns",
        "test_bulk::test_d4_an_envelope_of_another_domain_needs_a_signature_of_the_from",
        "test_bulk::test_d4_a_mailbox_of_a_provider_goes_by_its_own_server",
        "test_bulk::test_d4_every_sender_of_a_merge_is_looked_at",
    ),
    "D5": (
        "no feigned reply, no name of the recipient's",
        "test_bulk::test_d5_every_row_is_looked_at_for_both",
    ),
    "D6": (
        "no list headers on what is no list",
        "test_bulk::test_d6_mail_to_single_people_has_no_header_of_lists",
    ),
    "D7": (
        "a steady rate, halved where the server asks for it",
        "test_rate::test_no_two_mails_come_closer_than_the_pace",
        "test_rate::test_no_window_holds_more_than_allowed",
        "test_rate::test_a_slow_down_halves_the_pace_at_once_and_it_climbs_back",
    ),
    "D8": (
        "no Auto-Submitted and no Precedence unless asked",
        "test_bulk::test_d8_nothing_says_by_itself_that_a_mail_is_automatic",
    ),
}

EVERY = [
    f"{letter}{n}"
    for letter, count in {"A": 5, "B": 12, "C": 13, "D": 8, "E": 4}.items()
    for n in range(1, count + 1)
]
