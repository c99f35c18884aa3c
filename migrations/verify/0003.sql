-- Raises unless model calls and budgets are there: a name that is absent does not cast.

SELECT
    'backbeat.budget_caps'::regclass, 'backbeat.budgets'::regclass, 'backbeat.model_calls'::regclass,
    'backbeat.model_calls_open'::regclass, 'backbeat.model_calls_recent'::regclass, 'backbeat.model_calls_lost'::regclass,
    'backbeat.budget_blocks'::regclass, 'backbeat.model_calls_block'::regclass;

SELECT
    'backbeat.payers'::regproc, 'backbeat.objection'::regproc, 'backbeat.fold'::regproc,
    'backbeat.return_blocks'::regproc, 'backbeat.lock_budgets'::regproc, 'backbeat.book'::regproc, 'backbeat.asked'::regproc,
    'backbeat.open_calls'::regproc, 'backbeat.close_calls'::regproc, 'backbeat.lose'::regproc, 'backbeat.lose_calls'::regproc,
    'backbeat.reconcile_call'::regproc, 'backbeat.set_budget'::regproc;
