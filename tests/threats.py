"""What SECURITY.md promises, and the advisories of other mail libraries, each with the tests that hold it.

`test_threats` looks that every id stands in SECURITY.md and that every test is there.
"""

from __future__ import annotations

THREATS: dict[str, tuple[str, tuple[str, ...]]] = {
    "T1": (
        "A cell is never markup, a header, a recipient or another link (nodemailer GHSA-c7w3-x93f-qmm8, GHSA-vvjj-xcjg-gr5g, GHSA-268h-hp4c-crq3).",
        (
            "test_template.py::test_no_value_becomes_markup_in_markdown",
            "test_template.py::test_a_line_break_in_a_cell_is_refused_in_every_header",
            "test_template.py::test_a_cell_cannot_be_a_dangerous_link",
            "test_magics.py::test_no_value_becomes_an_option",
            "test_fuzz.py::test_what_must_hold_of_any_input_holds",
        ),
    ),
    "T2": (
        "What leaves reads back as it was meant (CVE-2024-6923, CVE-2026-1299, gh-80222; nodemailer 10.0.8: boundaries).",
        (
            "test_mime.py::test_any_display_name_stays_one_mailbox",
            "test_mime.py::test_any_custom_header_value_adds_no_header",
            "test_mime.py::test_the_gate_refuses_bytes_that_read_differently",
            "test_mime.py::test_boundaries_are_not_made_from_what_is_sent",
            "test_mime.py::test_an_address_that_a_parser_fails_on_is_an_error_of_a_person",
        ),
    ),
    "T3": (
        "An address is the one that was meant (nodemailer GHSA-mm7p-fcc7-pg87, 9.1.0; CVE-2023-27043, CVE-2019-16056), in linear time (GHSA-rcmh-qjqh-p98v, GHSA-2x7j-588g-ccc2).",
        (
            "test_addresses.py::test_an_address_is_read_as_it_was_meant",
            "test_addresses.py::test_what_is_no_single_address_is_refused_in_one_sentence_with_a_fix",
            "test_addresses.py::test_hostile_lengths_are_refused_quickly",
            "test_connection.py::test_allow_compares_whole_domains_in_their_wire_form",
        ),
    ),
    "T4": (
        "A template reaches nothing of Python (Jinja GHSA-q2x7-8rv6-6q7h, GHSA-gmj6-6f8f-6699, GHSA-cpwx-vrp4-4pq7, GHSA-h75v-3vvj-5mfj).",
        (
            "test_payloads.py::test_a_published_payload_as_a_template_reads_runs_opens_and_connects_nothing",
            "test_payloads.py::test_a_payload_in_a_cell_is_text",
        ),
    ),
    "T5": (
        "A template ends: loops, calls, text and numbers have limits.",
        (
            "test_payloads.py::test_a_template_that_would_take_all_time_or_memory_is_refused",
            "test_payloads.py::test_the_error_says_which_limit_it_was_and_where",
            "test_payloads.py::test_a_number_in_a_cell_is_not_written_out_with_a_billion_zeros",
        ),
    ),
    "T6": (
        "A cell names no file outside the template's folder, and nothing is fetched (nodemailer 8.0.9, 9.0.1).",
        (
            "test_template.py::test_an_attachments_path_is_filled_and_stays_in_its_folder",
            "test_message.py::test_a_link_does_not_lead_out_of_the_folder",
            "test_message.py::test_a_files_name_has_no_path",
        ),
    ),
    "T7": (
        "Nothing is said in clear where TLS was asked, and certificates are verified (CVE-2016-0772, CVE-2021-38371, aiosmtplib GHSA-vxj7-4xrp-5vr4).",
        (
            "test_transport.py::test_without_starttls_nothing_is_said_in_clear",
            "test_transport.py::test_an_unverified_certificate_gets_no_login_and_no_mail_and_ends_the_run",
            "test_secrets.py::test_no_tls_failure_has_it",
        ),
    ),
    "T8": (
        "No line of a mail ends the mail (SMTP smuggling, CVE-2023-51764, CVE-2023-51765, CVE-2023-51766).",
        (
            "test_transport.py::test_a_mail_arrives_octet_for_octet_dots_included",
            "test_mime.py::test_any_body_arrives_with_its_lines",
        ),
    ),
    "T9": (
        "Whatever a server answers is a reply, an error, or waited for; a wrong answer is never taken for another's.",
        (
            "test_replies.py::test_any_segmentation_gives_the_same_replies",
            "test_replies.py::test_garbage_is_a_reply_error_or_waits_for_more",
            "test_promises.py::test_two_replies_to_one_dot_put_the_mail_in_doubt",
        ),
    ),
    "T10": (
        "A password that came by a safe way is in no output, error, log, file or saved notebook.",
        (
            "test_secrets.py::test_no_error_output_log_or_file_has_a_password_whichever_way_it_came",
            "test_secrets.py::test_a_saved_notebook_that_was_run_with_a_password_in_the_environment_has_it_nowhere",
            "test_secrets.py::test_a_password_typed_at_the_prompt_is_in_no_output_and_not_in_the_history",
            "test_secrets.py::test_a_form_whose_callback_crashes_keeps_the_password_out_of_every_frame",
            "test_postgres_journal.py::test_a_password_of_the_environment_is_used_and_never_shown",
            "test_postgres_journal.py::test_a_url_that_is_none_is_not_repeated",
        ),
    ),
    "T11": (
        "A password that was typed is refused, and not repeated.",
        (
            "test_secrets.py::test_a_password_that_was_typed_is_refused_with_the_safe_ways_and_the_advice_to_change_it",
            "test_postgres_journal.py::test_a_password_is_not_typed_into_a_url",
        ),
    ),
    "T12": (
        "A preview runs nothing and loads nothing (Jupyter GHSA-6cwv-x26c-w2q4, CVE-2026-44727, CVE-2026-42557).",
        (
            "test_browser_form.py::test_a_hostile_mail_is_previewed_and_nothing_of_it_runs_or_loads",
            "test_browser_inbox.py::test_a_hostile_mail_runs_nothing_and_loads_nothing",
            "test_browser_merge.py::test_a_hostile_row_is_looked_at_and_nothing_of_it_runs",
            "test_safe_html.py::test_nothing_that_lives_gets_through",
        ),
    ),
    "T13": (
        "Whatever arrives in the sandbox is shown as what it is; it listens on loopback alone.",
        (
            "test_received.py::test_no_octets_keep_a_mail_from_being_shown",
            "test_received.py::test_a_page_of_tags_that_never_end_takes_no_time",
            "test_sandbox.py::test_it_listens_on_loopback_alone_on_a_port_of_the_systems_choice",
        ),
    ),
    "T14": (
        "Saved connections are readable by their owner alone; no secret and no text of a mail is in the journal.",
        (
            "test_connection.py::test_a_saved_connection_comes_back_without_its_secret_in_the_file",
            "test_journal.py::test_no_secret_and_no_text_is_in_the_file",
        ),
    ),
    "T15": (
        "Text in an attached workbook is never a formula (CWE-1236).",
        ("test_message.py::test_text_in_a_workbook_is_never_a_formula",),
    ),
    "T16": (
        "Nobody is mailed who was not meant: a blind copy is in no header, and what `allow` leaves out is refused.",
        (
            "test_message.py::test_a_blind_copy_is_in_the_envelope_and_nowhere_in_the_bytes",
            "test_promises.py::test_what_a_connection_allows_holds_for_a_test_run_too",
        ),
    ),
}
