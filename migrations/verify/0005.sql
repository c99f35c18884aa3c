-- Raises unless orchestrations, approvals and their audit are there: a name that is absent does not cast.

SELECT
    'backbeat.orchestrated_workflows'::regclass, 'backbeat.temporal_outbox'::regclass, 'backbeat.approval_requests'::regclass,
    'backbeat.approval_decisions'::regclass, 'backbeat.audit_log'::regclass, 'backbeat.audit_head'::regclass,
    'backbeat.api_tokens'::regclass, 'backbeat.orchestrated_workflows_open'::regclass, 'backbeat.orchestrated_workflows_over'::regclass, 'backbeat.temporal_outbox_open'::regclass,
    'backbeat.temporal_outbox_order'::regclass, 'backbeat.approval_requests_pending'::regclass, 'backbeat.audit_log_refusals'::regclass,
    'backbeat.audit_log_subject'::regclass, 'backbeat.calendars'::regclass, 'backbeat.presence'::regclass, 'backbeat.notifications'::regclass,
    'backbeat.approval_votes_of_people'::regclass, 'backbeat.approval_votes_of_rights'::regclass, 'backbeat.approval_decisions_of'::regclass,
    'backbeat.approval_rights'::regclass;

SELECT
    'backbeat.policy_problem'::regproc, 'backbeat.append_only'::regproc, 'backbeat.audit_hash'::regproc,
    'backbeat.audit'::regproc, 'backbeat.push_outbox'::regproc,
    'backbeat.start_workflow'::regproc, 'backbeat.lease_outbox'::regproc, 'backbeat.settle_outbox'::regproc,
    'backbeat.project_state'::regproc, 'backbeat.workflows_to_check'::regproc, 'backbeat.restart_workflow'::regproc,
    'backbeat.create_approval'::regproc, 'backbeat.signer'::regproc, 'backbeat.decide'::regproc,
    'backbeat.close_if_pending'::regproc, 'backbeat.require_approved'::regproc, 'backbeat.create_token'::regproc,
    'backbeat.revoke_token'::regproc, 'backbeat.cancel_task'::regproc, 'backbeat.rule_problem'::regproc, 'backbeat.after_time'::regproc,
    'backbeat.set_calendar'::regproc, 'backbeat.note_presence'::regproc, 'backbeat.extended'::regproc, 'backbeat.fits'::regproc,
    'backbeat.rules_at'::regproc, 'backbeat.handed_on'::regproc, 'backbeat.rights'::regproc, 'backbeat.enough'::regproc,
    'backbeat.nobody_can'::regproc, 'backbeat.tell'::regproc, 'backbeat.revise'::regproc, 'backbeat.revise_approval'::regproc,
    'backbeat.reassign'::regproc, 'backbeat.next_reminder'::regproc;

DO $$
BEGIN
    ASSERT (SELECT count(*) = 2 FROM pg_catalog.pg_trigger
            WHERE tgname = 'append_only' AND tgenabled = 'A' AND tgrelid IN (
                'backbeat.approval_decisions'::regclass, 'backbeat.audit_log'::regclass)),
        'decisions and the audit are append-only';
END
$$;
