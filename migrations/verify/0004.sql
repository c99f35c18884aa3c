-- Raises unless the ledger of effects is there: a name that is absent does not cast.

SELECT
    'backbeat.ledger'::regclass, 'backbeat.side_effects'::regclass, 'backbeat.side_effects_open'::regclass, 'backbeat.side_effects_origin'::regclass,
    'backbeat.side_effects_approval'::regclass;

SELECT
    'backbeat.begin_effect'::regproc, 'backbeat.finish_effect'::regproc, 'backbeat.refire_effect'::regproc,
    'backbeat.note_effect'::regproc, 'backbeat.resolve_effect'::regproc, 'backbeat.may_be_lost'::regproc;
