-- After all functions and views, so that the roles are granted what is there.
select pgq._grant_roles();
