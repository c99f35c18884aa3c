-- Raises unless model calls and budgets are there: a name that is absent does not cast.

SELECT
    'backbeat.budget_caps'::regclass, 'backbeat.budgets'::regclass, 'backbeat.model_calls'::regclass,
    'backbeat.model_calls_open'::regclass, 'backbeat.model_calls_recent'::regclass, 'backbeat.model_calls_lost'::regclass;

SELECT
    'backbeat.attempt_cost'::regproc, 'backbeat.owner_bill'::regproc, 'backbeat.lock_budgets'::regproc,
    'backbeat.open_call'::regproc, 'backbeat.book'::regproc, 'backbeat.close_call'::regproc,
    'backbeat.lose_calls'::regproc, 'backbeat.set_budget'::regproc;
