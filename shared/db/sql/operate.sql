-- What people do to a running system, beside deciding approvals and resolving effects.

-- name: cancel
SELECT id FROM backbeat.finish(ARRAY[%(id)s::uuid], 'cancelled', 'cancelled', %(reason)s) AS gone(id)

-- name: set_budget
SELECT backbeat.set_budget(%(scope)s, %(key)s, %(usd)s, %(tokens)s, %(by)s) AS released

-- name: throw_switch
SELECT backbeat.throw_switch(%(name)s, %(reason)s, %(by)s)

-- name: release_switch
SELECT backbeat.release_switch(%(name)s) AS released
