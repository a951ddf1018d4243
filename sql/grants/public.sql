-- Nobody but the owner runs anything here unless it is granted: some functions run with the owner's rights.
revoke execute on all routines in schema pgq from public;
