"""What approval systems can do, cell by cell, and the tests that show that this one can: none may be lost."""

import ast

import pytest

from tests.support.tree import ROOT

APPROVALS = "integration/test_approvals_"
CELLS = {
    "n of m": f"{APPROVALS}policies.py::test_a_quorum_is_met_by_people",
    "exactly enough of a race": f"{APPROVALS}policies.py::test_of_racing_approvals_exactly_enough_count",
    "all groups must": f"{APPROVALS}policies.py::test_a_quorum_is_met_by_people",
    "users, groups": f"{APPROVALS}sql.py::test_a_quorum_counts_people",
    "one rejection": f"{APPROVALS}sql.py::test_one_rejection_closes_whatever_the_quorum",
    "only who is eligible": f"{APPROVALS}sql.py::test_a_refusal_changes_nothing_and_is_audited",
    "nobody is eligible": f"{APPROVALS}policies.py::test_nobody_eligible_is_said_at_once_and_by_whom_it_was_lost",
    "four eyes": f"{APPROVALS}policies.py::test_four_eyes_keep_requester_and_editor_from_approving",
    "four eyes, delegated": f"{APPROVALS}policies.py::test_four_eyes_see_through_a_delegation",
    "deadline": f"{APPROVALS}sql.py::test_the_deadline_is_postgres_clock",
    "deadline in working hours": f"{APPROVALS}time.py::test_a_policy_counts_its_own_calendar",
    "deadline and outage": f"{APPROVALS}time.py::test_a_deadline_that_passed_while_nobody_was_there_comes_later",
    "reminders": f"{APPROVALS}time.py::test_who_has_not_decided_is_reminded",
    "a reminder before the end": f"{APPROVALS}time.py::test_a_reminder_before_the_deadline",
    "escalation chain": f"{APPROVALS}policies.py::test_escalation_widens_who_may_decide_step_by_step",
    "default on expiry": f"{APPROVALS}policies.py::test_what_silence_means",
    "days in Temporal": "workflow/test_deadline.py::test_days_of_reminders_and_escalation_pass_by_postgres_word",
    "delegate": f"{APPROVALS}policies.py::test_a_right_that_is_handed_on_is_the_others_until_it_is_taken_back",
    "delegate for a while": f"{APPROVALS}policies.py::test_rights_are_handed_on_for_a_while_with_their_groups",
    "reassign all": f"{APPROVALS}policies.py::test_who_leaves_hands_everything_on_and_cannot_come_back_by_an_old_token",
    "claim": f"{APPROVALS}content.py::test_a_claim_is_seen_times_out_and_binds_no_decision",
    "comments": f"{APPROVALS}content.py::test_comments_are_kept_and_count_for_nothing",
    "edit": f"{APPROVALS}content.py::test_an_edit_is_a_new_revision_and_voids_votes",
    "edit, by schema": f"{APPROVALS}content.py::test_an_edit_that_does_not_fit_is_refused_and_on_record",
    "respond": "integration/test_approval_flow.py::test_requested_changes_come_back_from_whoever_wrote_it",
    "respond, n times": f"{APPROVALS}content.py::test_requested_changes_come_back_as_a_new_revision_at_most_so_often",
    "audit": f"{APPROVALS}sql.py::test_an_approval_commits_decision_audit_and_poke_together",
    "audit, tampered with": f"{APPROVALS}sql.py::test_the_chain_shows_what_was_tampered_with",
    "audit, verified and exported": "integration/test_cli_approval.py::test_the_audit_log_is_verified_and_exported",
    "duplicates": f"{APPROVALS}sql.py::test_the_same_decision_again_gives_the_first_result",
    "first wins": f"{APPROVALS}sql.py::test_of_two_racing_decisions_one_counts",
    "stale": "integration/test_cli_approval.py::test_deciding_binds_to_what_was_shown",
    "revoke": f"{APPROVALS}content.py::test_an_approval_can_be_taken_back_until_its_effect_is_begun",
    "revoke or effect": f"{APPROVALS}content.py::test_of_revoke_and_effect_one_wins",
    "cancel": "integration/test_approval_flow.py::test_cancelling_before_a_decision_closes_the_request",
    "mail": "integration/test_notify.py::test_people_get_a_mail_each_wherever_the_policy_names_them",
    "mail by TLS": "integration/test_notify.py::test_mail_goes_by_tls_to_whom_the_certificate_names",
    "chat": "integration/test_notify.py::test_a_chat_gets_text_that_mentions_nobody",
    "webhook": "integration/test_notify.py::test_a_webhook_is_signed_as_the_standard_says",
    "digest": "integration/test_notify.py::test_what_comes_within_the_window_is_one_mail",
    "withdrawn": "integration/test_notify.py::test_a_decision_withdraws_what_is_unsent_and_tells_who_was_asked",
    "links navigate": "integration/test_notify.py::test_a_webhook_is_signed_as_the_standard_says",
    "command line": "integration/test_cli_approval.py::test_everything_around_a_decision",
    "signal": "integration/test_approval_flow.py::test_a_plain_signal_is_a_request_to_decide",
    "signal, encrypted": "integration/test_codec.py::test_histories_hold_no_contents_and_a_plain_signal_still_decides",
    "bulk": "integration/test_cli_approval.py::test_many_are_decided_each_with_a_line_of_its_own",
    "any order": "integration/test_approval_machine.py::test_any_decisions_in_any_order",
}


@pytest.mark.parametrize("cell", CELLS)
def test_a_cell_has_its_test(cell: str) -> None:
    file, _, name = CELLS[cell].partition("::")
    tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
    assert name in {one.name for one in tree.body if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)}
