-- Raises unless there are batches.

SELECT tag, vendor_id, looks FROM backbeat.llm_batches WHERE false;

SELECT 'backbeat.due_batches'::regproc, 'backbeat.mark_batch'::regproc, 'backbeat.resolve_batch'::regproc;
