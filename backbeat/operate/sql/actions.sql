-- What people do to a running system, beside deciding approvals.

-- name: cancel
SELECT backbeat.cancel_task(%(id)s, %(reason)s) AS cancelled

-- name: set_budget
SELECT backbeat.set_budget(%(scope)s, %(key)s, %(usd)s, %(tokens)s::bigint, %(by)s, %(soft)s) AS released

-- name: reconcile
SELECT backbeat.reconcile_call(%(owner)s, %(key)s, %(seq)s::smallint, %(cost)s, %(tokens)s::integer, %(by)s) AS reconciled

-- name: throw_switch
SELECT backbeat.throw_switch(%(name)s, %(reason)s, %(by)s)

-- name: release_switch
SELECT backbeat.release_switch(%(name)s, %(by)s) AS released

-- name: resolve_effect
SELECT backbeat.resolve_effect(%(key)s, %(outcome)s::jsonb, %(reason)s, %(by)s) AS resolved

-- name: note_restore
SELECT backbeat.note_restore(NULL, %(by)s, %(reason)s) AS noted
