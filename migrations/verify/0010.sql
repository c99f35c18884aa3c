-- Raises unless routes have their overrides and rates.

SELECT 'backbeat.llm_routes'::regclass, 'backbeat.llm_rate'::regclass;

SELECT 'backbeat.shrunk'::regproc, 'backbeat.admit'::regproc, 'backbeat.block_route'::regproc, 'backbeat.set_route'::regproc,
    'backbeat.set_canary'::regproc;
