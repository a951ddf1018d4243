-- The jobs of the service, whoever runs them: `pgq serve`, an application's pgq.Maintenance, or `pgq maintain --once`.
--
-- runs, failures  ever. seconds, result  of the last run
-- succeeded_at    when it last ended well, to within ten seconds; failed_at, error  of the last failure
create or replace view pgq.job_status as
select j.job, j.runs, j.failures, j.succeeded_at, j.seconds, j.result, j.failed_at, j.error, j.pid, j.application_name
  from pgq.job j;
comment on view pgq.job_status is 'Jobs of the service: when they last ran, how long that took, what they did, why they failed.';
