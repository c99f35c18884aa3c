-- Raises unless the operators' functions are there: a name that is absent does not cast.

SELECT 'backbeat.retention'::regclass;

SELECT
    'backbeat.drop_answers'::regproc, 'backbeat.requeue_dead'::regproc, 'backbeat.discard_dead'::regproc,
    'backbeat.set_retention'::regproc, 'backbeat.retain'::regproc, 'backbeat.pause'::regproc, 'backbeat.unpause'::regproc,
    'backbeat.throw_switch'::regproc, 'backbeat.release_switch'::regproc, 'backbeat.note_restore'::regproc;
