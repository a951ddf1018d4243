-- Note how a job of the service went, for pgq.job_status.
--
-- seconds  how long it took
-- result   what it did, in words
-- error    why it failed; null: it did not
-- transaction  any
create or replace function pgq._report_job(job text, seconds double precision, result text, error text, runs bigint)
returns void
language sql security definer
set search_path = pgq, pg_catalog, pg_temp
as $$
    insert into pgq.job as j (job, runs, failures, succeeded_at, seconds, result, failed_at, error)
    values (_report_job.job, _report_job.runs, (_report_job.error is not null)::int,
            case when _report_job.error is null then clock_timestamp() end, _report_job.seconds, _report_job.result,
            case when _report_job.error is not null then clock_timestamp() end, _report_job.error)
        on conflict on constraint job_pkey do update
       set runs = j.runs + excluded.runs, failures = j.failures + excluded.failures,
           succeeded_at = coalesce(excluded.succeeded_at, j.succeeded_at), seconds = excluded.seconds,
           result = coalesce(excluded.result, j.result), failed_at = coalesce(excluded.failed_at, j.failed_at),
           error = coalesce(excluded.error, j.error), pid = pg_backend_pid(),
           application_name = current_setting('application_name')
$$;
