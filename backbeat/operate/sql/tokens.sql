-- name: create
SELECT backbeat.create_token(%(key)s, %(user)s, %(groups)s, %(seconds)s) AS id

-- name: revoke
SELECT backbeat.revoke_token(%(id)s) AS revoked

-- name: list
SELECT id, user_name, groups, created_at, created_by, expires_at, revoked_at FROM backbeat.api_tokens ORDER BY created_at, id
